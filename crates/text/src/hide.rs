//! Keeps control-token strings inside data apart from those that the template writes.
//!
//! Takes the texts of a conversation, gives them with every control string replaced by one
//! private-use character that the data does not contain, and puts them back after rendering. The
//! ids of a rendering then have control tokens only where the template (or the model's own form)
//! put them. Never changes the text that is seen in the end.

use crate::tokenizer::{Special, Tokenizer, TokenizerError};
use serde_json::Value;
use std::collections::HashSet;

/// Think tags are hidden even where they are no tokens: templates look for them in content.
pub(crate) const OPEN: &str = "<think>";
/// See [`OPEN`].
pub(crate) const CLOSE: &str = "</think>";

/// Private-use characters standing for strings, for one conversation.
pub(crate) struct Hidden<'a> {
    tokenizer: &'a Tokenizer,
    /// Data may place control tokens: nothing is hidden.
    allow: bool,
    taken: HashSet<char>,
    next: u32,
    strings: Vec<(char, String)>,
}

/// Supplementary private use areas A and B.
const FIRST: u32 = 0xF_0000;
const LAST: u32 = 0x10_FFFD;

impl<'a> Hidden<'a> {
    /// `data` is everything that will be rendered: its own private-use characters stay as they are.
    pub fn new<'t>(tokenizer: &'a Tokenizer, allow: bool, data: impl Iterator<Item = &'t str>) -> Self {
        let taken = data.flat_map(str::chars).filter(|c| *c as u32 >= FIRST).collect();
        Hidden { tokenizer, allow, taken, next: FIRST, strings: Vec::new() }
    }

    /// A character that occurs nowhere in the data; `None` when all 131068 are taken.
    pub fn fresh(&mut self) -> Option<char> {
        while self.next <= LAST {
            let c = char::from_u32(self.next);
            self.next += 1;
            if let Some(c) = c.filter(|c| !self.taken.contains(c)) {
                return Some(c);
            }
        }
        None
    }

    /// The text with its control strings hidden.
    pub fn hide(&mut self, text: &str) -> Result<String, TokenizerError> {
        if self.allow {
            return Ok(text.to_string());
        }
        let control = self.tokenizer.parts().control.find_all(text).into_iter().map(|hit| hit.range);
        let think = [OPEN, CLOSE].iter().flat_map(|t| text.match_indices(t).map(|(at, _)| at..at + t.len()));
        let mut ranges: Vec<_> = control.chain(think).collect();
        ranges.sort_by_key(|r| (r.start, std::cmp::Reverse(r.end)));
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for range in ranges {
            // Overlaps: the leftmost longest wins, as when tokenizing.
            let Some(before) = text.get(from..range.start) else {
                continue;
            };
            out.push_str(before);
            out.push(self.stand_in(text.get(range.clone()).unwrap_or_default())?);
            from = range.end;
        }
        out.push_str(text.get(from..).unwrap_or_default());
        Ok(out)
    }

    fn stand_in(&mut self, text: &str) -> Result<char, TokenizerError> {
        if let Some((c, _)) = self.strings.iter().find(|(_, s)| s == text) {
            return Ok(*c);
        }
        let Some(c) = self.fresh() else {
            return Err(TokenizerError::Encode {
                reason:
                    "the text uses every private-use character of Unicode, so its control strings cannot be kept apart"
                        .into(),
            });
        };
        self.strings.push((c, text.to_string()));
        Ok(c)
    }

    /// As [`Hidden::hide`] for every string and key inside a JSON value.
    pub fn hide_value(&mut self, value: &Value) -> Result<Value, TokenizerError> {
        Ok(match value {
            Value::String(s) => Value::String(self.hide(s)?),
            Value::Array(list) => Value::Array(list.iter().map(|v| self.hide_value(v)).collect::<Result<_, _>>()?),
            Value::Object(map) => {
                let mut out = serde_json::Map::new();
                for (key, item) in map {
                    out.insert(self.hide(key)?, self.hide_value(item)?);
                }
                Value::Object(out)
            }
            other => other.clone(),
        })
    }

    /// The text with its control strings back.
    pub fn restore(&self, text: &str) -> String {
        if self.strings.is_empty() {
            return text.to_string();
        }
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match self.strings.iter().find(|(stand_in, _)| *stand_in == c) {
                Some((_, string)) => out.push_str(string),
                None => out.push(c),
            }
        }
        out
    }

    /// Ids of a text with hidden strings: visible control strings are control tokens, all else is
    /// plain text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut from = 0;
        for hit in self.tokenizer.parts().control.find_all(text) {
            self.encode_plain(text.get(from..hit.range.start).unwrap_or_default(), &mut ids)?;
            ids.push(hit.id);
            from = hit.range.end;
        }
        self.encode_plain(text.get(from..).unwrap_or_default(), &mut ids)?;
        Ok(ids)
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if !text.is_empty() {
            ids.extend(self.tokenizer.encode(&self.restore(text), Special::AsText)?);
        }
        Ok(())
    }
}

/// Every string inside a JSON value, keys included.
pub(crate) fn strings_of<'v>(value: &'v Value, out: &mut Vec<&'v str>) {
    match value {
        Value::String(s) => out.push(s),
        Value::Array(list) => list.iter().for_each(|v| strings_of(v, out)),
        Value::Object(map) => {
            for (key, item) in map {
                out.push(key);
                strings_of(item, out);
            }
        }
        _ => {}
    }
}
