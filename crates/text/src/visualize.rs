//! A token row for the terminal: trained text stands out from masked text.
//!
//! Takes a row, gives one string. Never lets control characters of the data through to the
//! terminal.

use crate::row::TokenRow;
use crate::tokenizer::Tokenizer;
use std::fmt::Write;

const TRAINED: &str = "\x1b[1;32m";
const MASKED: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Masked text dim and trained text green (`color`), or trained text between `⟦` and `⟧`; newlines
/// are kept and shown as `⏎`. The last line counts tokens.
pub fn visualize(tokenizer: &Tokenizer, row: &TokenRow, color: bool) -> String {
    let mut out = String::new();
    let pairs: Vec<(u32, bool)> = row.ids.iter().copied().zip(row.train.iter().copied()).collect();
    for run in pairs.chunk_by(|a, b| a.1 == b.1) {
        let trained = run.first().is_some_and(|(_, train)| *train);
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        let text = safe(&tokenizer.decode(&ids, false));
        let (open, close) = match (color, trained) {
            (true, true) => (TRAINED, RESET),
            (true, false) => (MASKED, RESET),
            (false, true) => ("⟦", "⟧"),
            (false, false) => ("", ""),
        };
        let _ = write!(out, "{open}{text}{close}");
    }
    let s = &row.stats;
    let _ = write!(
        out,
        "\n{} tokens: {} trained, {} masked as prompt, {} masked as history\n",
        row.ids.len(),
        s.trained,
        s.masked_prompt,
        s.masked_history
    );
    out
}

/// Control characters as their pictures (U+2400 …), so that data cannot steer the terminal.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("⏎\n"),
            '\t' => out.push('\t'),
            c if (c as u32) < 0x20 => out.extend(char::from_u32(0x2400 + c as u32)),
            '\u{7f}' => out.push('\u{2421}'),
            // C1 controls, and the marks that turn the direction of text.
            '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}
