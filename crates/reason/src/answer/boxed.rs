//! `\boxed{…}`: what a solution frames as its answer.
//!
//! The last box counts, with balanced braces; boxes in a row with nothing but a few words of joining
//! between them are one list. A box inside a box belongs to the outer one. A box that never closes is
//! cut off, and no answer. One pass over the text.

use std::ops::Range;

/// Longest text between two boxes that belong together, in bytes.
const JOIN: usize = 40;

/// The boxes that hold the answer, in order; empty when there is none.
pub fn last(text: &str) -> Vec<&str> {
    let found = all(text);
    let mut first = found.len().saturating_sub(1);
    while first > 0 && joined(&text[found[first - 1].end + 1..opening(text, &found[first])]) {
        first -= 1;
    }
    found[first..].iter().map(|r| text[r.clone()].trim()).collect()
}

/// Where the box with this content, a part of `text`, ends: behind its closing brace.
pub fn end(text: &str, content: &str) -> usize {
    let at = (content.as_ptr() as usize).saturating_sub(text.as_ptr() as usize) + content.len();
    text[at..].find('}').map_or(text.len(), |brace| at + brace + 1)
}

/// Where the command of a box begins.
fn opening(text: &str, inner: &Range<usize>) -> usize {
    text[..inner.start].rfind('\\').unwrap_or(inner.start)
}

/// Whether the text between two boxes only joins them: no letters, or an "and", "or" or comma among few words
/// ("\\boxed{1} papers and \\boxed{2} bins", "y_1 = \\boxed{…} and y_2 = \\boxed{…}"). A new paragraph or
/// sentence does not.
fn joined(between: &str) -> bool {
    if between.len() > JOIN || between.contains("\n\n") || between.contains(". ") {
        return false;
    }
    let words: Vec<&str> = between
        .split(|c: char| !c.is_alphabetic())
        .filter(|w| !w.is_empty() && !["quad", "qquad", "text", "left", "right"].contains(w))
        .collect();
    let joins = |w: &&str| ["and", "or", "和", "或"].contains(w);
    if between.contains('=') {
        return words.iter().any(joins) && words.iter().all(|w| joins(w) || w.len() == 1);
    }
    words.is_empty() || words.iter().any(joins)
}

/// Contents of every outermost box.
fn all(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    // one entry an open brace: where the box it opens begins, if it opens one
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                let command = ["\\boxed{", "\\fbox{", "\\boxed {"].iter().find(|c| text[at..].starts_with(**c));
                if let Some(command) = command {
                    at += command.len();
                    open.push(Some(at));
                } else {
                    // an escaped brace is no brace, and a line break no escape
                    at += if bytes.get(at + 1).is_some_and(|b| b"{}".contains(b)) { 2 } else { 1 };
                }
                continue;
            }
            b'{' => open.push(None),
            b'}' => {
                if let Some(Some(start)) = open.pop() {
                    while found.last().is_some_and(|inner| inner.start >= start) {
                        found.pop();
                    }
                    found.push(start..at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::last;

    #[test]
    fn the_last_balanced_box_counts() {
        assert_eq!(last(r"first \boxed{1}. Then, after thinking again, \boxed{\frac{1}{2}}."), [r"\frac{1}{2}"]);
        assert_eq!(last(r"\boxed{\{1, 2\}}"), [r"\{1, 2\}"]);
        assert_eq!(last(r"\boxed{3} and then \boxed{4"), ["3"]);
        assert_eq!(last("none"), [""; 0]);
    }

    #[test]
    fn boxes_in_a_row_are_a_list() {
        assert_eq!(last(r"\boxed{1}, \boxed{2} and \boxed{3}"), ["1", "2", "3"]);
        assert_eq!(last("\\boxed{1} no no no no no no no no \\boxed{2}"), ["2"]);
        assert_eq!(last(r"\boxed{\boxed{1}}"), [r"\boxed{1}"]);
    }
}
