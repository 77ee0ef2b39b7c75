//! Repetition. Gopher's measures (Rae et al. 2021, table A1) as datatrove computes them: a piece
//! counts as duplicate when it stood before; repeated n-grams are found greedily, skipping `n`
//! pieces after a hit, so that no character counts twice. n-grams are compared by 64-bit hashes of
//! their pieces, rolled along the text.

/// Share of pieces, and number of characters of pieces, that stood before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Duplicates {
    /// Pieces.
    pub pieces: usize,
    /// Pieces that repeat an earlier one.
    pub repeated: usize,
    /// Characters of all pieces.
    pub chars: usize,
    /// Characters of those that repeat.
    pub repeated_chars: usize,
}

impl Duplicates {
    /// Counts over pieces.
    pub fn of<'t>(pieces: impl Iterator<Item = &'t str> + Clone) -> Duplicates {
        let mut seen = Seen::new(pieces.clone().count());
        let mut found = Duplicates::default();
        for piece in pieces {
            let chars = char_count(piece);
            found.pieces += 1;
            found.chars += chars;
            if !seen.insert(hash(piece.as_bytes())) {
                found.repeated += 1;
                found.repeated_chars += chars;
            }
        }
        found
    }
}

/// Characters of a text: bytes that do not continue one.
pub fn char_count(text: &str) -> usize {
    text.bytes().filter(|b| (*b as i8) >= -0x40).count()
}

/// Hashes seen so far, open addressing.
struct Seen {
    table: Vec<u64>,
    mask: usize,
}

impl Seen {
    fn new(items: usize) -> Seen {
        let size = (items * 2).next_power_of_two().max(16);
        Seen { table: vec![0; size], mask: size - 1 }
    }

    /// False when it was there already.
    fn insert(&mut self, hash: u64) -> bool {
        let hash = hash.max(1);
        let mut at = (hash ^ (hash >> 32)) as usize & self.mask;
        loop {
            match self.table[at] {
                0 => {
                    self.table[at] = hash;
                    return true;
                }
                there if there == hash => return false,
                _ => at = (at + 1) & self.mask,
            }
        }
    }
}

const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

/// Hash of bytes, eight at a time.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        state = mix(state ^ word).wrapping_mul(BASE);
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(state ^ u64::from_le_bytes(last)).wrapping_mul(BASE)
}

/// Pieces (words, characters) as hashes with their lengths in characters.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    hashes: Vec<u64>,
    lens: Vec<u32>,
}

impl Pieces {
    /// From words.
    pub fn words<'t>(words: impl Iterator<Item = &'t str>) -> Pieces {
        let mut pieces = Pieces::default();
        for word in words {
            pieces.hashes.push(hash(word.as_bytes()));
            pieces.lens.push(u32::try_from(char_count(word)).unwrap_or(u32::MAX));
        }
        pieces
    }

    /// Calls with start and hash of every run of `n` pieces.
    fn runs(&self, n: usize, mut each: impl FnMut(usize, u64) -> usize) {
        let top = (0..n).fold(1u64, |power, _| power.wrapping_mul(BASE));
        let mut rolled = 0u64;
        let mut skip_until = 0;
        for (at, hash) in self.hashes.iter().enumerate() {
            rolled = rolled.wrapping_mul(BASE).wrapping_add(*hash);
            if at >= n {
                rolled = rolled.wrapping_sub(self.hashes[at - n].wrapping_mul(top));
            }
            if at + 1 >= n && at + 1 - n >= skip_until {
                skip_until = each(at + 1 - n, mix(rolled));
            }
        }
    }

    /// Characters in runs of `n` pieces that stood before, nothing between the pieces counted.
    pub fn repeated_chars(&self, n: usize) -> usize {
        let mut seen = Seen::new(self.hashes.len());
        let mut chars = 0;
        self.runs(n, |start, hash| {
            if seen.insert(hash) {
                return start + 1;
            }
            chars += self.lens[start..start + n].iter().map(|len| *len as usize).sum::<usize>();
            start + n
        });
        chars
    }

    /// Length, one space between pieces, times count of the most frequent run of `n` pieces; the
    /// first of several. 0 when there is no run.
    pub fn top_chars(&self, n: usize) -> usize {
        let runs = (self.hashes.len() + 1).saturating_sub(n);
        let mut all: Vec<(u64, u32)> = Vec::with_capacity(runs);
        self.runs(n, |start, hash| {
            all.push((hash, u32::try_from(start).unwrap_or(u32::MAX)));
            start + 1
        });
        all.sort_unstable();
        let groups = all.chunk_by(|a, b| a.0 == b.0).map(|group| (group.len(), group[0].1));
        let top = groups.max_by_key(|(count, first)| (*count, std::cmp::Reverse(*first)));
        top.map_or(0, |(count, first)| {
            let first = first as usize;
            let chars = self.lens[first..first + n].iter().map(|len| *len as usize).sum::<usize>();
            (chars + n - 1) * count
        })
    }
}

/// Share of characters in runs of `n` characters that stood before.
pub fn repeated_char_share(text: &str, n: usize, chars: usize) -> f64 {
    if chars < n || chars == 0 {
        return 0.0;
    }
    let mut pieces = Pieces { hashes: Vec::with_capacity(chars), lens: Vec::new() };
    pieces.hashes.extend(text.chars().map(|c| mix(u64::from(u32::from(c)).wrapping_mul(BASE))));
    let mut seen = Seen::new(chars);
    let mut repeated = 0;
    pieces.runs(n, |start, hash| {
        if seen.insert(hash) {
            return start + 1;
        }
        repeated += n;
        start + n
    });
    repeated as f64 / chars as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    /// The definitions, over strings.
    fn greedy(words: &[String], n: usize) -> usize {
        let (mut seen, mut chars, mut at) = (HashSet::new(), 0, 0);
        while at + n <= words.len() {
            let run = words[at..at + n].join("\0");
            if seen.insert(run) {
                at += 1;
            } else {
                chars += words[at..at + n].iter().map(|w| w.chars().count()).sum::<usize>();
                at += n;
            }
        }
        chars
    }

    fn top(words: &[String], n: usize) -> usize {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for (at, run) in words.windows(n).enumerate() {
            counts.entry(run.join(" ")).or_insert((0, at)).0 += 1;
        }
        let best = counts.iter().max_by_key(|(_, (count, at))| (*count, std::cmp::Reverse(*at)));
        best.map_or(0, |(run, (count, _))| run.chars().count() * count)
    }

    proptest! {
        #[test]
        fn hashes_say_what_strings_say(words in prop::collection::vec("[ab法]{1,2}", 0..60), n in 1usize..7) {
            let pieces = Pieces::words(words.iter().map(String::as_str));
            prop_assert_eq!(pieces.repeated_chars(n), greedy(&words, n));
            prop_assert_eq!(pieces.top_chars(n), top(&words, n));
            let text = words.concat();
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let share = repeated_char_share(&text, n, chars.len());
            let expected = if chars.is_empty() { 0.0 } else { greedy(&chars, n) as f64 / chars.len() as f64 };
            prop_assert_eq!(share, expected);
        }
    }

    #[test]
    fn duplicates_count_pieces_and_characters() {
        let found = Duplicates::of(["法院", "b", "法院", "法院"].into_iter());
        assert_eq!(found, Duplicates { pieces: 4, repeated: 2, chars: 7, repeated_chars: 4 });
    }
}
