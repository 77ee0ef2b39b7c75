//! Text → tokens → shingles, for Chinese and for languages with spaces alike: a token is one
//! character of a script without spaces, or a run of other letters and digits, lower-cased and
//! with full-width forms folded; punctuation separates. A shingle is `n` tokens in a row; a text
//! with fewer tokens is one shingle, so that short rows are compared too.

/// Multiplier of the polynomial over tokens: odd, with well-spread bits (2⁶⁴ divided by φ).
const P: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes of the tokens of some texts, with room that is used again.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<u64>);

impl Tokens {
    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds the tokens of a text.
    pub fn add(&mut self, text: &str) {
        let mut word = Word::default();
        for c in text.chars() {
            if c.is_ascii() {
                if c.is_ascii_alphanumeric() {
                    word.push(c.to_ascii_lowercase() as u32);
                } else {
                    self.0.extend(word.take());
                }
                continue;
            }
            let c = half_width(c);
            if is_unspaced(c) {
                self.0.extend(word.take());
                let mut one = Word::default();
                one.push(c as u32);
                self.0.extend(one.take());
            } else if c.is_alphanumeric() {
                c.to_lowercase().for_each(|c| word.push(c as u32));
            } else {
                self.0.extend(word.take());
            }
        }
        self.0.extend(word.take());
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A hash of all tokens in order: equal for texts that differ in case, width and punctuation
    /// alone.
    pub fn key(&self) -> u64 {
        mix(self.0.iter().fold(self.0.len() as u64, |h, t| mix(h.wrapping_mul(P).wrapping_add(*t))))
    }

    /// Hashes of the shingles of `n` tokens, in order, into `shingles`.
    ///
    /// # Panics
    /// When `n` is zero.
    pub fn shingles(&self, n: usize, shingles: &mut Vec<u32>) {
        assert!(n > 0, "a shingle has at least one token");
        shingles.clear();
        let top = (0..n).fold(1_u64, |power, _| power.wrapping_mul(P));
        let mut rolling = 0_u64;
        for (at, token) in self.0.iter().enumerate() {
            rolling = rolling.wrapping_mul(P).wrapping_add(*token);
            if at >= n {
                rolling = rolling.wrapping_sub(self.0[at - n].wrapping_mul(top));
            }
            if at + 1 >= n {
                shingles.push((mix(rolling) >> 32) as u32);
            }
        }
        if shingles.is_empty() && !self.0.is_empty() {
            shingles.push((mix(rolling) >> 32) as u32);
        }
    }
}

/// FNV-1a over code points.
struct Word {
    hash: u64,
    any: bool,
}

impl Default for Word {
    fn default() -> Self {
        Word { hash: 0xcbf2_9ce4_8422_2325, any: false }
    }
}

impl Word {
    fn push(&mut self, c: u32) {
        self.hash = (self.hash ^ u64::from(c)).wrapping_mul(0x0000_0100_0000_01b3);
        self.any = true;
    }

    fn take(&mut self) -> Option<u64> {
        let word = std::mem::take(self);
        word.any.then(|| mix(word.hash))
    }
}

/// Finaliser of MurmurHash3: every bit of the input reaches every bit of the result.
pub(crate) fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Full-width ASCII (U+FF01–FF5E) as its half-width form.
fn half_width(c: char) -> char {
    match c as u32 {
        wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// Scripts written without spaces: Han, kana, Thai, Lao, Khmer, Burmese.
pub(crate) fn is_unspaced(c: char) -> bool {
    matches!(c as u32,
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff
        | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x323af)
}

/// Jaccard similarity of two sorted sets without repetition; 1 for two empty sets.
pub fn jaccard(one: &[u32], other: &[u32]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0_usize);
    while let (Some(x), Some(y)) = (one.get(i), other.get(j)) {
        both += usize::from(x == y);
        let (next_i, next_j) = (i + usize::from(x <= y), j + usize::from(y <= x));
        (i, j) = (next_i, next_j);
    }
    let all = one.len() + other.len() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Tokens {
        let mut tokens = Tokens::default();
        tokens.add(text);
        tokens
    }

    #[test]
    fn case_width_and_punctuation_do_not_count() {
        assert_eq!(tokens("Hello,  World! 贷款ＡＢＣ１２").key(), tokens("hello world贷款abc12").key());
        assert_ne!(tokens("helloworld").key(), tokens("hello world").key());
        assert_eq!(tokens("贷款ABC 12").len(), 4);
        assert_ne!(tokens("").key(), tokens("a").key());
    }

    /// The rolling hash equals the hash of each window taken alone.
    #[test]
    fn shingles_are_windows() {
        let text = "一二三四五六七 one two three four";
        let whole = tokens(text);
        let mut rolled = Vec::new();
        whole.shingles(5, &mut rolled);
        let alone: Vec<u32> = whole
            .0
            .windows(5)
            .map(|window| {
                let mut one = Vec::new();
                Tokens(window.to_vec()).shingles(5, &mut one);
                one[0]
            })
            .collect();
        assert_eq!(rolled, alone);
        assert_eq!(rolled.len(), whole.len() - 4);
    }

    #[test]
    fn a_short_text_is_one_shingle_and_an_empty_one_none() {
        let mut out = Vec::new();
        tokens("好").shingles(5, &mut out);
        assert_eq!(out.len(), 1);
        tokens("…!").shingles(5, &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn jaccard_of_sets() {
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
        assert_eq!(jaccard(&[], &[]), 1.0);
        assert_eq!(jaccard(&[1], &[]), 0.0);
    }
}
