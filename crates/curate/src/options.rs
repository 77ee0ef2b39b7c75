//! What is wrong with a stage's options: every fault at once, each with the key, the line where
//! there is one, what stands there and what to write instead.

/// One fault of the options of a stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`{}: {found}; {mend}", line.map(|line| format!(" (line {line})")).unwrap_or_default())]
pub struct OptionFault {
    /// The option, dotted (`rules.min_chars`).
    pub key: String,
    /// Line in the file that holds it, from 1, where it is known.
    pub line: Option<usize>,
    /// What stands there.
    pub found: String,
    /// What to do.
    pub mend: String,
}

impl OptionFault {
    /// A fault without a line.
    pub fn new(key: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        OptionFault { key: key.into(), line: None, found: found.into(), mend: mend.into() }
    }
    /// With the line it stands in.
    #[must_use]
    pub fn line(self, line: usize) -> Self {
        OptionFault { line: Some(line), ..self }
    }
}

/// Line of a byte of a text, from 1.
pub(crate) fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// The known name nearest to a mistyped one, when it is near enough to be meant.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let scored = known.into_iter().map(|other| (distance(name, other), other));
    let (distance, other) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.chars().count() / 3).then_some(other)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (corner + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            corner = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_where_what_and_how_to_mend() {
        let fault = OptionFault::new("rules.toml: rule 2, max", "`ten`", "write a number").line(7);
        assert_eq!(fault.to_string(), "`rules.toml: rule 2, max` (line 7): `ten`; write a number");
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        let known = ["mean-word-length", "chars", "words"];
        assert_eq!(nearest("char", known), Some("chars"));
        assert_eq!(nearest("mean-word-lenght", known), Some("mean-word-length"));
        assert_eq!(nearest("perplexity", known), None);
    }
}
