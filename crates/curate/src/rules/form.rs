//! Form of a text: damage done by decoding, endings that were cut off, sentences, and the contracts
//! an answer must keep (JSON, a label, a number, a fence, a list).

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::facts::{CLOSERS, ENDS, ends_with_mark, plain_lines};

/// How many marks of text decoded in the wrong encoding. UTF-8 read as Latin-1 or Windows-1252
/// leaves a letter from À to ï followed by a character from U+0080 to U+00BF (or what Windows-1252
/// shows for it); UTF-8 read as GBK, and memory never written, leave set phrases.
pub(crate) fn mojibake(text: &str) -> usize {
    static PHRASES: LazyLock<AhoCorasick> = LazyLock::new(|| {
        let phrases = ["锟斤拷", "烫烫烫", "屯屯屯", "锘", "鈥", "涓€", "銆", "ï»¿"];
        AhoCorasick::new(phrases).expect("eight phrases")
    });
    let leads = memchr::memchr_iter(0xC3, text.as_bytes()).filter(|at| {
        let mut chars = text[*at..].chars();
        // À..ß begin two bytes, à..ï three, ð..ô four; the byte C3 itself begins a character.
        chars.next().is_some_and(|lead| ('Â'..='ô').contains(&lead)) && chars.next().is_some_and(is_continuation)
    });
    leads.count() + PHRASES.find_iter(text).count()
}

/// What bytes 80 to BF look like in Latin-1 or Windows-1252.
fn is_continuation(c: char) -> bool {
    matches!(
        c,
        '\u{80}'
            ..='\u{BF}'
                | '€'
                | '‚'
                | 'ƒ'
                | '„'
                | '…'
                | '†'
                | '‡'
                | 'ˆ'
                | '‰'
                | 'Š'
                | '‹'
                | 'Œ'
                | 'Ž'
                | '‘'
                | '’'
                | '“'
                | '”'
                | '•'
                | '–'
                | '—'
                | '˜'
                | '™'
                | 'š'
                | '›'
                | 'œ'
                | 'ž'
                | 'Ÿ'
    ) && !matches!(c, '\u{A0}' | '»' | '’' | '”' | '–' | '—' | '…') // what may follow an accented letter
}

/// Whether the text ends as a finished one: a mark, something closed, a digit, a fence.
pub(crate) fn ended(text: &str) -> bool {
    let text = text.trim_end();
    let last = text.chars().next_back().unwrap_or(' ');
    text.ends_with(ENDS)
        || text.ends_with(CLOSERS)
        || last.is_numeric()
        || matches!(last, '~' | '～' | '%' | '％' | '|' | '$' | '℃')
        || u32::from(last) >= 0x1_F000
}

/// Whether the text ends in the middle of a sentence.
pub(crate) fn dangling(text: &str) -> bool {
    const WORDS: [&str; 14] =
        ["and", "or", "but", "the", "a", "an", "of", "to", "with", "because", "that", "which", "for", "is"];
    const HAN: [&str; 8] = ["以及", "并且", "而且", "因为", "但是", "或者", "如果", "例如"];
    let text = text.trim_end();
    if text.ends_with([',', '，', '、', '(', '（', '[', '{', '【', '《', '“', '「', '=', '+', '&']) {
        return true;
    }
    if HAN.iter().any(|word| text.ends_with(word)) {
        return true;
    }
    let word = text.rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    word.len() <= 7 && text.contains(' ') && WORDS.contains(&word)
}

/// Lines that begin with three backticks or tildes.
fn fences(text: &str) -> usize {
    let has = |mark: &[u8]| memchr::memmem::find(text.as_bytes(), mark).is_some();
    if !has(b"```") && !has(b"~~~") {
        return 0;
    }
    text.lines().filter(|line| line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~")).count()
}

pub(crate) fn open_fence(text: &str) -> bool {
    fences(text) % 2 == 1
}

pub(crate) fn closed_fences(text: &str) -> usize {
    fences(text) / 2
}

/// Brackets that nothing closes; what closes without an opening (list marks, faces) is left out.
pub(crate) fn open_brackets(text: &str) -> usize {
    let mut open: Vec<char> = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        for c in line.chars() {
            let close = match c {
                '(' | '（' => ')',
                '[' | '［' => ']',
                '{' | '｛' => '}',
                '【' => '】',
                '《' => '》',
                '「' => '」',
                '“' => '”',
                _ => {
                    let c = match c {
                        '）' => ')',
                        '］' => ']',
                        '｝' => '}',
                        c => c,
                    };
                    if let Some(at) = open.iter().rposition(|o| *o == c) {
                        open.truncate(at);
                    }
                    continue;
                }
            };
            open.push(close);
        }
    }
    open.len()
}

/// Sentences in the lines that C4 keeps.
pub(crate) fn c4_sentences(text: &str) -> usize {
    const POLICY: [&str; 7] = [
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
        "javascript",
    ];
    let kept = text.lines().map(str::trim).filter(|line| {
        let ended = line.ends_with(['.', '?', '!', '"', '\'']) && !line.ends_with("...");
        let lower = line.to_lowercase();
        ended
            && line.split_whitespace().count() >= 3
            && line.split_whitespace().all(|word| word.chars().count() <= 1000)
            && !POLICY.iter().any(|phrase| lower.contains(phrase))
    });
    kept.map(sentences).sum()
}

/// A mark, then white space or the end, ends a sentence; full width marks end one anywhere.
fn sentences(line: &str) -> usize {
    let mut count = 0;
    let mut open = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let full = matches!(c, '。' | '？' | '！');
        let ends = full
            || matches!(c, '.' | '?' | '!')
                && chars.peek().is_none_or(|next| next.is_whitespace() || CLOSERS.contains(next));
        if ends && open {
            count += 1;
            open = false;
        } else if c.is_alphanumeric() {
            open = true;
        }
    }
    count + usize::from(open)
}

/// Share of lines, blank ones left out, for which something holds.
pub(crate) fn line_share(text: &str, holds: impl Fn(&str) -> bool) -> Option<f64> {
    let (mut lines, mut held) = (0usize, 0usize);
    for line in plain_lines(text) {
        lines += 1;
        held += usize::from(holds(line));
    }
    (lines > 0).then(|| held as f64 / lines as f64)
}

pub(crate) fn ended_line(line: &str) -> bool {
    ends_with_mark(line)
}

/// The answer itself: the inside of a fenced block, when the text is nothing else.
fn bare(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    match inner.split_once('\n') {
        Some((_, body)) if !body.contains("```") => body.trim(),
        _ => text,
    }
}

pub(crate) fn is_json(text: &str) -> bool {
    let bare = bare(text);
    bare.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(bare).is_ok()
}

/// Share of names that are keys of the object.
pub(crate) fn json_keys(text: &str, names: &[String]) -> f64 {
    let map: serde_json::Map<String, serde_json::Value> = match serde_json::from_str(bare(text)) {
        Ok(map) => map,
        Err(_) => return 0.0,
    };
    names.iter().filter(|name| map.contains_key(*name)).count() as f64 / names.len().max(1) as f64
}

pub(crate) fn is_label(text: &str, labels: &[String]) -> bool {
    let text = text.trim().trim_end_matches(ENDS).trim_end();
    labels.iter().any(|label| label == text)
}

/// Whether the text is a number or ends in one: `#### 72`, `答案是 3.5 元。`
pub(crate) fn ends_in_number(text: &str) -> bool {
    let text = text.trim_end().trim_end_matches(ENDS).trim_end_matches(CLOSERS).trim_end();
    // At most four characters of a unit.
    let unit = text.chars().rev().take_while(|c| !c.is_numeric()).count();
    unit <= 4 && text.chars().rev().nth(unit).is_some_and(char::is_numeric)
}

pub(crate) fn list_items(text: &str) -> usize {
    text.lines()
        .filter(|line| {
            let line = line.trim_start();
            if line.starts_with("- ")
                || line.starts_with("* ")
                || line.starts_with(['•', '·', '①', '②', '③', '④', '⑤', '⑥', '⑦', '⑧', '⑨', '⑩'])
            {
                return true;
            }
            let digits = line.bytes().take_while(u8::is_ascii_digit).count();
            let rest = &line[digits..];
            let numbered = (1..=3).contains(&digits) && rest.starts_with(['.', '、', ')', '）', '．']);
            let han = line.trim_start_matches(['一', '二', '三', '四', '五', '六', '七', '八', '九', '十']);
            numbered || (han.len() < line.len() && han.starts_with('、'))
        })
        .count()
}

/// Characters inside web addresses.
pub(crate) fn url_chars(text: &str) -> usize {
    let mut chars = 0;
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&text.as_bytes()[at..], b"://").map(|found| at + found) {
        let scheme = text[at..found].bytes().rev().take_while(u8::is_ascii_alphabetic).count();
        let rest = &text[found + 3..];
        let end = rest.find(|c: char| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>')).unwrap_or(rest.len());
        chars += if scheme > 0 { scheme + 3 + end } else { 0 };
        at = found + 3 + end;
    }
    chars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_the_wrong_encoding_shows() {
        for bad in ["æ³•å¾‹", "itâ€™s", "cafÃ©", "锟斤拷锟斤拷", "烫烫烫烫"] {
            assert!(mojibake(bad) > 0, "{bad}");
        }
        for good in ["法律", "it’s", "café", "Ünïcödé", "“ô”", "à «", "naïve…", "烫手", "锟"] {
            assert_eq!(mojibake(good), 0, "{good}");
        }
        // The definition: any Chinese text read as Latin-1.
        let latin1: String = "人民法院".bytes().map(char::from).collect();
        assert!(mojibake(&latin1) >= 4);
    }

    #[test]
    fn endings_are_told() {
        for text in ["好的。", "Done.", "he said “no.”", "#### 72", "```\nx\n```", "f(x)", "完成😀", "50%"] {
            assert!(ended(text) && !dangling(text), "{text}");
        }
        for text in ["首先，", "such as (", "原告主张，被告应当赔偿，以及", "because of the"] {
            assert!(dangling(text), "{text}");
        }
        assert!(!ended("the court then decid") && !dangling("the court then decid"));
    }

    #[test]
    fn fences_and_brackets_are_balanced_or_not() {
        assert!(open_fence("```rust\nfn main() {}") && !open_fence("```\nx\n```") && !open_fence("a `b`"));
        assert_eq!(closed_fences("```\na\n```\n```\nb\n```"), 2);
        assert_eq!(open_brackets("（一）甲方（乙方"), 1);
        assert_eq!(open_brackets("a) b) :-) [x]"), 0);
        assert_eq!(open_brackets("```\n((((\n```"), 0);
    }

    #[test]
    fn contracts_are_checked() {
        assert!(is_json("{\"a\": [1]}") && is_json("```json\n{\"a\": 1}\n```") && is_json(" [1, 2] "));
        assert!(!is_json("{\"a\": 1}。") && !is_json("{'a': 1}") && !is_json("42"));
        let keys = ["intent".to_owned(), "slots".to_owned()];
        assert_eq!(json_keys("{\"intent\": 1}", &keys), 0.5);
        assert_eq!(json_keys("intent", &keys), 0.0);
        assert!(is_label("正面。", &["正面".into()]) && !is_label("较正面", &["正面".into()]));
        assert!(ends_in_number("#### 72") && ends_in_number("答案是 3.5 元。") && ends_in_number("42"));
        assert!(!ends_in_number("no number") && !ends_in_number("7 of the people"));
        assert_eq!(list_items("1. a\n2) b\n- c\n三、d\n一个\n1.5"), 5);
        assert_eq!(list_items("a\nb"), 0);
    }

    #[test]
    fn addresses_and_sentences_are_measured() {
        assert_eq!(url_chars("see https://a.cn/b?c=1 和http://x.cn，好"), 18 + 11);
        assert_eq!(url_chars("a://"), 4);
        assert_eq!(url_chars("no: //x"), 0);
        assert_eq!(sentences("One. Two? Three."), 3);
        assert_eq!(sentences("Version 1.5 is out"), 1);
    }
}
