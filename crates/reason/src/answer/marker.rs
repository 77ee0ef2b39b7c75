//! Phrases behind which an answer stands: "the answer is", "Answer:", "####", 答案是, 最终答案.
//!
//! The last one counts, because a chain may announce answers on its way. An "A:" counts only in front
//! of the last line, where solutions of some data sets put the answer, not in front of a whole chain.

use std::sync::LazyLock;

use regex::Regex;

static MARKER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix)
        \#\#\#\#
        | \banswers? (?:\s*\([^)\n]{0,60}\))? (?:\s+to\s[^.:\n]{0,80}?|\s+for\s[^.:\n]{0,80}?)? \s*(?:\*\*)?
          (?: \s(?:is|are|will\ be|would\ be|must\ be|should\ be|was|equals)\b | [:：=] )
          (?: \s+(?:therefore|thus|simply|indeed|just|that|the\ following|option|choice)\b )* \s*[:：]?
        | \b(?:final|correct)\s+answer\s*[.\n]
        | (?:最终)?(?:正确)?答案(?:应该)?(?:选项)?(?:\*\*)?\s*(?:就?是|应?为|选|[:：=])\s*[:：]?
        | 最终答案 | 答\s*[:：] | 故选\s*[:：]? | 正确选项是? \s*[:：]?
        ",
    )
    .expect("a fixed pattern")
});

/// Most markers looked back at.
const BACK: usize = 8;
/// Longest last line behind a bare "A:", in bytes.
const LABELLED: usize = 60;

/// The texts behind the markers, the last one first, each up to the next marker: what stands behind
/// the last may be nothing ("The answer (in words) is …" after the number was given).
pub fn behind(text: &str) -> Vec<&str> {
    let mut found: Vec<(usize, usize)> = MARKER.find_iter(text).map(|m| (m.start(), m.end())).collect();
    let line = text.trim_end().rsplit('\n').next().unwrap_or("").trim_start();
    let start = line.as_ptr() as usize - text.as_ptr() as usize;
    if let Some(label) = ["A:", "A：", "Ans:"].iter().find(|label| line.starts_with(**label))
        && line.len() <= LABELLED
        && found.last().is_none_or(|(_, end)| *end <= start)
    {
        found.push((start, start + label.len()));
    }
    let mut until = text.len();
    let mut texts = Vec::new();
    for (start, end) in found.into_iter().rev().take(BACK) {
        texts.push(text[end..until].trim_start_matches(|c: char| c.is_whitespace() || "*:：".contains(c)));
        until = start;
    }
    texts
}

/// The first sentence of what stands behind a marker: to the end of its line, or to a full stop that
/// ends a sentence.
pub fn sentence(text: &str) -> &str {
    let line = text.trim_start().lines().next().unwrap_or("");
    let mut end = line.len();
    for (at, c) in line.char_indices() {
        let rest = &line[at + c.len_utf8()..];
        if c == '。' || c == '！' || (c == '.' && (rest.starts_with(' ') || rest.is_empty())) {
            end = at;
            break;
        }
    }
    line[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_marker_counts() {
        for (text, expected) in [
            ("Answer: 3 at first. So the answer is 4.", "4"),
            ("The answer (arabic numerals) is 5. I hope so", "5"),
            ("so\n#### 18", "18"),
            ("Final Answer: The final answer is $19$. I hope it is correct.", "$19$"),
            ("**Final Answer:** 12", "12"),
            ("所以答案为：四十二。", "四十二"),
            ("答案是 7", "7"),
            ("2 + 2 = 4\nA: 4", "4"),
        ] {
            assert_eq!(behind(text).first().map(|t| sentence(t)), Some(expected), "{text}");
        }
        assert!(behind("A: Let's think.\nIt is 5.").is_empty());
        assert!(behind("I answered two questions").is_empty());
        assert_eq!(behind("The answer is 5. The answer (words) is five."), ["five.", "5. The "]);
    }
}
