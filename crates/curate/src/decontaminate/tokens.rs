//! A text as the sequence of token hashes that n-grams are made of, each with its bytes.

use std::ops::Range;

use crate::terms::{hash, is_cjk, mix};

/// Token hashes and where each token stands.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    pub hashes: Vec<u64>,
    pub spans: Vec<(u32, u32)>,
}

impl Tokens {
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn clear(&mut self) {
        self.hashes.clear();
        self.spans.clear();
    }

    /// Bytes from the first to the last token of a run.
    pub fn bytes(&self, run: Range<usize>) -> Range<usize> {
        self.spans[run.start].0 as usize..self.spans[run.end - 1].1 as usize
    }

    /// One hash for all tokens.
    pub fn whole(&self) -> u64 {
        self.hashes.iter().fold(self.len() as u64, |state, h| mix(state, *h))
    }

    /// Whitespace words in lower case, ASCII punctuation taken out, empty ones left out: what
    /// `text.lower().translate(no punctuation).split()` gives.
    pub fn words(&mut self, text: &str) {
        self.clear();
        let mut word = Vec::with_capacity(32);
        let (mut start, mut end) = (0, 0);
        for (at, c) in text.char_indices() {
            if c.is_whitespace() {
                self.close(&mut word, start, end);
                continue;
            }
            if c.is_ascii_punctuation() {
                continue;
            }
            if word.is_empty() {
                start = at;
            }
            end = at + c.len_utf8();
            if c.is_ascii() {
                word.push(c.to_ascii_lowercase() as u8);
            } else {
                for lower in c.to_lowercase() {
                    word.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        self.close(&mut word, start, end);
    }

    fn close(&mut self, word: &mut Vec<u8>, start: usize, end: usize) {
        if !word.is_empty() {
            self.hashes.push(hash(word));
            self.spans.push((start as u32, end as u32));
            word.clear();
        }
    }

    /// Letters and digits in lower case, one by one; half and full width alike. Gives the share of
    /// CJK characters.
    pub fn characters(&mut self, text: &str) -> f64 {
        self.clear();
        let mut cjk = 0usize;
        for (at, c) in text.char_indices() {
            // full-width forms of ASCII
            let plain = match u32::from(c) {
                wide @ 0xFF01..=0xFF5E => char::from((wide - 0xFEE0) as u8),
                _ => c,
            };
            if !plain.is_alphanumeric() {
                continue;
            }
            cjk += usize::from(is_cjk(plain));
            let lower = plain.to_lowercase().next().unwrap_or(plain);
            self.hashes.push(mix(1, u64::from(u32::from(lower))));
            self.spans.push((at as u32, (at + c.len_utf8()) as u32));
        }
        if self.len() == 0 { 0.0 } else { cjk as f64 / self.len() as f64 }
    }
}

/// Multiplier of the rolling hash: odd, so that it has an inverse modulo 2^64.
const BASE: u64 = 0xD6E8_FEB8_6659_FD93;

/// Calls `each` with (start, hash) of every run of `n` tokens: Σ tᵢ·BASE^(n−1−i) modulo 2^64,
/// rolled in one multiplication a step, then mixed.
pub fn ngrams(tokens: &[u64], n: usize, mut each: impl FnMut(usize, u64)) {
    if n == 0 || tokens.len() < n {
        return;
    }
    let top = BASE.wrapping_pow(n as u32);
    let mut state = 0u64;
    for (at, token) in tokens.iter().enumerate() {
        state = state.wrapping_mul(BASE).wrapping_add(*token);
        if at >= n {
            state = state.wrapping_sub(tokens[at - n].wrapping_mul(top));
        }
        if at + 1 >= n {
            let spread = (state ^ (state >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            each(at + 1 - n, spread ^ (spread >> 29));
        }
    }
}
