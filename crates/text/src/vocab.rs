//! Tables over a vocabulary: the bytes of each id, and the control tokens with their strings.
//!
//! Takes the vocabulary and added tokens of a tokenizer, gives byte look-ups and a leftmost-longest
//! search for control strings. Never decides how a string is encoded.

use std::collections::HashMap;
use std::ops::Range;
use tokenizers::AddedToken;

/// Added tokens that are text, not markup: the older vocabularies add single letters that their
/// byte pairs lack (ø, ö, … at 100002 of DeepSeek LLM), and some add runs of spaces.
pub(crate) fn is_text_token(token: &AddedToken) -> bool {
    !token.special && token.content.chars().all(|c| c.is_alphanumeric() || c.is_whitespace())
}

/// Bytes of every id, in one block.
pub(crate) struct ByteTable {
    block: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl ByteTable {
    /// Pieces are spelled in GPT-2's byte alphabet; added tokens verbatim.
    pub fn new(vocab: &HashMap<String, u32>, added: &[(u32, AddedToken)]) -> Self {
        let size = vocab.values().chain(added.iter().map(|(id, _)| id)).max().map_or(0, |id| *id as usize + 1);
        let alphabet = byte_alphabet();
        let mut table = ByteTable { block: Vec::new(), ranges: vec![0..0; size] };
        for (piece, id) in vocab {
            let start = table.block.len();
            for c in piece.chars() {
                match alphabet.get(&c) {
                    Some(byte) => table.block.push(*byte),
                    None => table.block.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            table.put(*id, start);
        }
        for (id, token) in added {
            let start = table.block.len();
            table.block.extend_from_slice(token.content.as_bytes());
            table.put(*id, start);
        }
        table
    }

    fn put(&mut self, id: u32, start: usize) {
        if let Some(range) = self.ranges.get_mut(id as usize) {
            *range = start..self.block.len();
        }
    }

    pub fn get(&self, id: u32) -> &[u8] {
        self.ranges.get(id as usize).and_then(|r| self.block.get(r.clone())).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }
}

/// GPT-2's bijection of bytes and printable characters, from character to byte: printable
/// Latin-1 stands for itself, the 68 others follow from U+0100 in byte order.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut map = HashMap::new();
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let c = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or('\0')
        };
        map.insert(c, byte);
    }
    map
}

/// A control token found in a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hit {
    /// Byte range, with the spaces that `lstrip` and `rstrip` take.
    pub range: Range<usize>,
    pub id: u32,
}

struct Entry {
    content: String,
    id: u32,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
}

/// Control tokens by id and by string.
pub(crate) struct ControlSet {
    special: HashMap<u32, bool>,
    /// By first character, longest string first.
    by_first: HashMap<char, Vec<Entry>>,
}

impl ControlSet {
    pub fn new<'a>(tokens: impl Iterator<Item = &'a (u32, AddedToken)>) -> Self {
        let mut set = ControlSet { special: HashMap::new(), by_first: HashMap::new() };
        for (id, token) in tokens {
            let Some(first) = token.content.chars().next() else {
                continue;
            };
            set.special.insert(*id, token.special);
            set.by_first.entry(first).or_default().push(Entry {
                content: token.content.clone(),
                id: *id,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                single_word: token.single_word,
            });
        }
        for list in set.by_first.values_mut() {
            list.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then(a.id.cmp(&b.id)));
        }
        set
    }

    pub fn has_id(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(&id).copied().unwrap_or(false)
    }

    pub fn strings(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_first.values().flatten().map(|e| (e.content.as_str(), e.id))
    }

    /// First hit, or none.
    pub fn find(&self, text: &str) -> Option<Hit> {
        self.find_from(text, 0)
    }

    /// All hits, left to right, longest first at one place, none overlapping.
    pub fn find_all(&self, text: &str) -> Vec<Hit> {
        let mut hits = Vec::new();
        let mut from = 0;
        while let Some(hit) = self.find_from(text, from) {
            from = hit.range.end;
            hits.push(hit);
        }
        hits
    }

    fn find_from(&self, text: &str, from: usize) -> Option<Hit> {
        let rest = text.get(from..)?;
        for (at, c) in rest.char_indices() {
            let Some(list) = self.by_first.get(&c) else {
                continue;
            };
            let tail = &rest[at..];
            let Some(entry) = list.iter().find(|e| tail.starts_with(e.content.as_str())) else {
                continue;
            };
            let (mut start, mut end) = (from + at, from + at + entry.content.len());
            let (before, after) = (&text[..start], &text[end..]);
            if entry.single_word && (before.ends_with(is_word) || after.starts_with(is_word)) {
                continue;
            }
            if entry.lstrip {
                start = before.trim_end().len().max(from);
            }
            if entry.rstrip {
                end += after.len() - after.trim_start().len();
            }
            return Some(Hit { range: start..end, id: entry.id });
        }
        None
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
