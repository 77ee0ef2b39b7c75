//! Choices: the letters of the options an answer picks, however it writes them.
//!
//! "B", "(b)", "B. 12 km", "option B", "选B", "\text{(B)}", several as "A, C and D", "ACD". When the
//! option texts are known, an answer that repeats exactly one of them is its letter.

use std::sync::LazyLock;

use regex::Regex;

use super::fold;

/// The letters picked, in order of the alphabet, and the text behind a single one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub letters: Vec<char>,
    pub text: Option<String>,
}

/// Last letter that names an option.
const LAST: char = 'J';

static WHOLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)^ (?: (?i:option|choice|answer|选项?|答案)\s*[:：]?\s* )?
        [(\[（【]? \s* (?<letter>[A-Za-z]) \s* (?: [)\]）】.:：]+ \s* (?<text>.*) | (?<end>) ) $",
    )
    .expect("a fixed pattern")
});

static SEVERAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)^ (?: (?i:options|choices|选项?)\s* )? (?:
        (?: [(\[]?[A-J][)\]]? (?: \s*(?:,|;|、|，|&|和|与|及|and)\s* (?:and\s+)? | \s+ | (?-x:) ) )+ ) $",
    )
    .expect("a fixed pattern")
});

/// Standing alone: nothing alphanumeric on either side. An article is not a letter of an option.
static ALONE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?:^|[^A-Za-z0-9_'’\\])([(\[（]?)([A-J])([)\]）]?)(\s+[a-z]+)?").expect("a fixed pattern")
});

/// A whole answer that names options.
pub fn read(text: &str, options: &[String], known: bool) -> Option<Choice> {
    let text = plain(text);
    let text = text.trim();
    let in_range = |c: char| c <= LAST || (options.is_empty() && known && c.is_ascii_uppercase());
    if known && SEVERAL.is_match(text) {
        let mut letters: Vec<char> = text.chars().filter(|c| ('A'..=LAST).contains(c)).collect();
        letters.sort_unstable();
        letters.dedup();
        if letters.len() > 1 {
            return Some(Choice { letters, text: None });
        }
    }
    if let Some(found) = WHOLE.captures(text) {
        let written = found["letter"].chars().next().unwrap_or('a');
        let letter = written.to_ascii_uppercase();
        let behind = found.name("text").map(|t| t.as_str().trim()).filter(|t| !t.is_empty());
        // "a" alone is a letter of an option only where options are asked for
        let enough = known || (written.is_ascii_uppercase() && behind.is_none());
        if enough && in_range(letter) {
            return Some(Choice { letters: vec![letter], text: behind.map(fold::words) });
        }
    }
    by_text(text, options)
}

/// The option whose text an answer repeats, when there is exactly one.
fn by_text(text: &str, options: &[String]) -> Option<Choice> {
    let folded = fold::words(text);
    let mut same = options.iter().take(26).enumerate().filter(|(_, o)| fold::words(o) == folded);
    let (index, _) = same.next()?;
    if same.next().is_some() {
        return None;
    }
    Some(Choice { letters: vec![(b'A' + index as u8) as char], text: Some(folded) })
}

/// The letter a text begins with: "A. Because B is not valid".
pub fn leading(text: &str) -> Option<char> {
    let text = text.trim_start_matches(['(', '[', '*']);
    let letter = text.chars().next().filter(|c| ('A'..=LAST).contains(c))?;
    text[1..].starts_with(['.', ')', ']', ':']).then_some(letter)
}

/// Option letters standing alone in a text, in order.
pub fn all(text: &str) -> Vec<char> {
    let text = plain(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(captures) = ALONE.captures_at(&text, at) {
        let (Some(whole), Some(letter)) = (captures.get(0), captures.get(2)) else { break };
        let next = text[letter.end()..].chars().next();
        let bare = captures[1].is_empty() && captures[3].is_empty();
        let word = captures.get(4).map(|w| w.as_str().trim());
        let article =
            bare && word.is_some_and(|w| w != "or" && w != "and") && (letter.as_str() == "A" || letter.as_str() == "I");
        if !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '\'' || c == '’') && !article {
            found.extend(letter.as_str().chars());
        }
        at = letter.end().max(whole.start() + 1);
    }
    found
}

/// Without LaTeX and Markdown around the letters.
fn plain(text: &str) -> String {
    let mut text = fold::characters(text);
    for command in ["\\text", "\\textbf", "\\mathrm", "\\mathbf", "\\mathsf", "\\mbox", "\\left", "\\right"] {
        if text.contains(command) {
            text = text.replace(command, "");
        }
    }
    text.replace(['$', '*', '{', '}', '`', '"'], "").trim().trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(text: &str) -> Option<String> {
        read(text, &[], true).map(|c| c.letters.into_iter().collect())
    }

    #[test]
    fn letters_are_read_in_their_usual_forms() {
        for text in ["B", "(B)", "B.", "b)", "B. 12 km", "\\text{(B)}", "**B**", "Option B", "选B", "（B）"] {
            assert_eq!(letters(text).as_deref(), Some("B"), "{text}");
        }
        for text in ["A, C and D", "ACD", "A、C、D", "D C A", "(A), (C), (D)"] {
            assert_eq!(letters(text).as_deref(), Some("ACD"), "{text}");
        }
        for text in ["", "Because", "12", "because B"] {
            assert_eq!(letters(text), None, "{text}");
        }
    }

    #[test]
    fn an_option_repeated_is_its_letter() {
        let options = ["red".to_string(), "dark blue".to_string()];
        assert_eq!(read("Dark blue.", &options, true).map(|c| c.letters), Some(vec!['B']));
        assert_eq!(read("green", &options, true), None);
    }

    #[test]
    fn letters_inside_words_and_articles_are_not_choices() {
        assert_eq!(all("Among A through E, the answer is C."), ['E', 'C']);
        assert_eq!(all("A bird is (B)"), ['B']);
        assert_eq!(all("AZYUK2A"), [' '; 0]);
    }
}
