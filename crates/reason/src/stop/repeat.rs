//! Runaway thoughts: a text that repeats its own end.
//!
//! A loop of period p is found when the last `repeats`·p tokens repeat with that period, for every p in
//! 1..=256. For each period the detector keeps how long token t has equalled token t − p; a token costs 256
//! comparisons, whatever the length of the text. Short periods occur in honest text (a ruled line, 000,
//! an indentation), so the repeated part must also be at least `least` tokens long.

/// Longest period that is looked for.
pub const PERIODS: usize = 256;

/// What repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loop {
    /// Tokens of one turn.
    pub period: usize,
    /// Tokens at the end of the text that repeat with it, the first turn included.
    pub length: usize,
}

/// The detector; feed it each token once.
#[derive(Debug, Clone)]
pub struct Repeat {
    repeats: usize,
    least: usize,
    /// The last `PERIODS` tokens, a ring.
    last: Vec<u32>,
    at: usize,
    seen: usize,
    /// For each period, how many tokens in a row equalled the one a period before.
    run: Vec<usize>,
}

impl Default for Repeat {
    /// Three turns and at least 48 tokens.
    fn default() -> Self {
        Self::new(3, 48)
    }
}

impl Repeat {
    /// A detector of `repeats` turns (at least two) that together have at least `least` tokens.
    pub fn new(repeats: usize, least: usize) -> Self {
        Self { repeats: repeats.max(2), least, last: vec![0; PERIODS], at: 0, seen: 0, run: vec![0; PERIODS] }
    }

    /// The next token; the loop with the shortest period that the text now ends in.
    pub fn push(&mut self, token: u32) -> Option<Loop> {
        let mut found = None;
        let known = self.seen.min(PERIODS);
        for period in 1..=known {
            let before = self.last[(self.at + PERIODS - period) % PERIODS];
            let run = &mut self.run[period - 1];
            *run = if before == token { *run + 1 } else { 0 };
            let length = *run + period;
            if found.is_none() && *run > 0 && length >= self.repeats * period && length >= self.least {
                found = Some(Loop { period, length });
            }
        }
        self.last[self.at] = token;
        self.at = (self.at + 1) % PERIODS;
        self.seen += 1;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by looking at the whole text.
    fn plainly(text: &[u32], repeats: usize, least: usize) -> Option<usize> {
        (1..=PERIODS).find(|&p| {
            let length = (repeats * p).max(least);
            length <= text.len() && p < text.len() && {
                let tail = &text[text.len() - length..];
                length > p && (p..length).all(|i| tail[i] == tail[i - p])
            }
        })
    }

    #[test]
    fn it_finds_what_a_look_at_the_whole_text_finds() {
        let mut state = 7_u32;
        for (alphabet, least) in [(2, 3), (3, 12), (50, 48)] {
            let mut detector = Repeat::new(3, least);
            let mut text: Vec<u32> = Vec::new();
            for t in 0..1500 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // From time to time the text begins to repeat its last few tokens.
                let token =
                    if t % 500 > 200 && t > 20 { text[t - 1 - (t / 500) * 7] } else { (state >> 16) % alphabet };
                text.push(token);
                let found = detector.push(token).map(|l| l.period);
                assert_eq!(found, plainly(&text, 3, least), "token {t}, alphabet {alphabet}");
            }
        }
    }

    #[test]
    fn short_repetitions_are_honest_and_long_periods_are_seen() {
        let mut detector = Repeat::default();
        assert!((0..40).all(|_| detector.push(9).is_none()), "a ruled line");
        let mut detector = Repeat::default();
        let mut at = None;
        for t in 0..1000_u32 {
            if let (None, Some(found)) = (at, detector.push(t % 256)) {
                at = Some((t + 1, found));
            }
        }
        assert_eq!(at, Some((768, Loop { period: 256, length: 768 })));
        let mut detector = Repeat::default();
        assert!((0..2000_u32).all(|t| detector.push(t % 257).is_none()), "longer than the longest period");
    }
}
