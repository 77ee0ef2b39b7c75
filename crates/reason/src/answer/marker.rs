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

/// The text behind the last marker, without what closes the marker itself.
pub fn after_last(text: &str) -> Option<&str> {
    let last = MARKER.find_iter(text).last().map(|found| &text[found.end()..]);
    let line = text.trim_end().rsplit('\n').next().unwrap_or("");
    let labelled = ["A:", "A：", "Ans:"].iter().find_map(|label| line.trim_start().strip_prefix(label));
    let rest = labelled.or(last)?;
    Some(rest.trim_start_matches(|c: char| c.is_whitespace() || "*:：".contains(c)))
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
            assert_eq!(after_last(text).map(sentence), Some(expected), "{text}");
        }
        assert_eq!(after_last("A: Let's think.\nIt is 5."), None);
        assert_eq!(after_last("I answered two questions"), None);
    }
}
