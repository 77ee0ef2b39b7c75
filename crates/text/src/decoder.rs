//! Ids to text, one at a time.
//!
//! Takes tokens as they are generated, gives text as soon as its characters are complete. Gives
//! in sum what decoding everything at once gives.

use crate::tokenizer::Tokenizer;

/// Decodes token by token; incomplete UTF-8 is held back.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    held: Vec<u8>,
}

impl<'a> StreamDecoder<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        StreamDecoder { tokenizer, skip_special, held: Vec::new() }
    }

    /// Text that became complete with this token.
    pub fn push(&mut self, id: u32) -> String {
        if !(self.skip_special && self.tokenizer.is_special(id)) {
            self.held.extend_from_slice(self.tokenizer.token_bytes(id));
        }
        let mut out = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(text) => {
                    out.push_str(text);
                    self.held.clear();
                    return out;
                }
                Err(fault) => {
                    let (valid, rest) = self.held.split_at(fault.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = fault.error_len() else {
                        self.held = rest.to_vec();
                        return out;
                    };
                    out.push('\u{FFFD}');
                    self.held = rest.get(bad..).unwrap_or_default().to_vec();
                }
            }
        }
    }

    /// What is left at the end; a cut character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let out = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        out
    }
}
