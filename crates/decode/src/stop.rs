//! Stop texts in a stream of pieces.
//!
//! Takes the text as it becomes known, gives the part that is certainly before any stop text. A
//! stop text may be cut across any number of pieces; text that may still turn out to be its
//! beginning is held back.

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopScan {
    /// Text that is now certain.
    pub text: String,
    /// A stop text was found right after `text`; nothing further may be fed.
    pub stopped: bool,
}

/// Watches one stream for several stop texts.
#[derive(Debug, Clone)]
pub struct StopScanner {
    stops: Vec<String>,
    held: String,
}

impl StopScanner {
    /// `stops` must not hold an empty text.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Feeds the next piece. The earliest stop text wins; of those that begin at the same place it
    /// does not matter which.
    pub fn push(&mut self, piece: &str) -> StopScan {
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min();
        if let Some(at) = found {
            // A longer stop text that begins earlier may still be incomplete; the text ends at the
            // one that is complete first, so that no answer waits for text that may never come.
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return StopScan { text, stopped: true };
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        StopScan { text: std::mem::replace(&mut self.held, tail), stopped: false }
    }

    /// The text held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|n| stop.is_char_boundary(*n) && text.is_char_boundary(text.len() - n) && text.ends_with(&stop[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&str], stops: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut scanner = StopScanner::new(&stops);
        let mut out = Vec::new();
        for p in pieces {
            let s = scanner.push(p);
            out.push(s.text);
            if s.stopped {
                return (out, true);
            }
        }
        out.push(scanner.finish());
        (out, false)
    }

    #[test]
    fn a_stop_cut_across_pieces_is_found_and_never_shown() {
        let (out, stopped) = scan(&["one", " E", "N", "D and more"], &["END"]);
        assert!(stopped);
        assert_eq!(out, ["one", " ", "", ""]);
    }

    #[test]
    fn a_false_start_is_given_back() {
        let (out, stopped) = scan(&["a E", "N", "x"], &["END"]);
        assert!(!stopped);
        assert_eq!(out.concat(), "a ENx");
        assert_eq!(out[0], "a ");
    }

    #[test]
    fn every_cut_of_a_text_gives_the_same_result() {
        let text = "aab aabaab 终止语 tail";
        let stops = ["aabaab 终止", "语 t"];
        for i in 0..=text.len() {
            for j in i..=text.len() {
                if text.is_char_boundary(i) && text.is_char_boundary(j) {
                    let (out, stopped) = scan(&[&text[..i], &text[i..j], &text[j..]], &stops);
                    assert!(stopped);
                    assert_eq!(out.concat(), "aab ", "cut at {i} and {j}");
                }
            }
        }
    }

    #[test]
    fn text_without_stops_passes_through() {
        assert_eq!(scan(&["a", "b"], &[]).0, ["a", "b", ""]);
        let (out, stopped) = scan(&["the E"], &["END"]);
        assert!(!stopped);
        assert_eq!(out, ["the ", "E"]);
    }
}
