//! Yes and no, in English and Chinese.

use super::fold;

const YES: [&str; 14] =
    ["yes", "true", "correct", "right", "y", "t", "是", "是的", "对", "正确", "真", "√", "✓", "对的"];
const NO: [&str; 14] =
    ["no", "false", "incorrect", "wrong", "n", "f", "否", "不", "错", "错误", "假", "不是", "不对", "✗"];

/// A whole answer that says yes or no. With `kind` known, single letters count too.
pub fn read(text: &str, known: bool) -> Option<bool> {
    let word = fold::words(text);
    let word = word.trim_end_matches(['.', '。']);
    if word.is_empty() || (!known && word.len() == 1) {
        return None;
    }
    if YES.contains(&word) {
        Some(true)
    } else if NO.contains(&word) {
        Some(false)
    } else {
        None
    }
}

/// Every yes or no in a text, in order. 不是 is one word; "not correct" is no.
pub fn all(text: &str) -> Vec<bool> {
    let lower = fold::characters(text).to_lowercase();
    let mut found = Vec::new();
    let mut negated = false;
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        let truth = match word {
            "yes" | "true" | "correct" => Some(true),
            "no" | "false" | "incorrect" => Some(false),
            _ if word.is_ascii() => None,
            _ => read(word, true).or_else(|| chinese(word)),
        };
        found.extend(truth.map(|t| t != negated));
        negated = word == "not";
    }
    found
}

/// A Chinese clause that begins or ends with the word.
fn chinese(clause: &str) -> Option<bool> {
    let of = |words: &[&str], value: bool| {
        words.iter().any(|w| clause.starts_with(w) || clause.ends_with(w)).then_some(value)
    };
    of(&["不是", "不对", "错误", "错", "否"], false).or_else(|| of(&["是的", "正确", "对的"], true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_are_read_in_both_languages() {
        assert_eq!(read("Yes.", false), Some(true));
        assert_eq!(read("否", true), Some(false));
        assert_eq!(read("no one", false), None);
        assert_eq!(read("n", false), None);
        assert_eq!(all("Yes, or rather no"), [true, false]);
        assert_eq!(all("That is not correct"), [false]);
        assert_eq!(all("不是，他没有去"), [false]);
    }
}
