//! Terms of a text in either language, without a dictionary: words of letters and digits in lower
//! case, and for Chinese, Japanese and Korean every pair of neighbouring characters (a single one
//! where it stands alone). Terms are 64-bit hashes; a text is walked once and nothing is allocated
//! for a term. Lexical vectors of these terms stand in where no embedding model is given.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Gives the key as it is: keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// A map whose keys are hashes.
pub type HashKeyed<V> = HashMap<u64, V, BuildHasherDefault<Identity>>;

/// Multiplier of the mixing step: 2^64 / golden ratio, made odd.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// Folds one more value into a hash.
#[inline]
pub fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ value ^ MIX).wrapping_mul(u128::from(MIX ^ value.rotate_left(32) | 1));
    (product as u64) ^ ((product >> 64) as u64)
}

/// Hash of bytes, the same on every machine.
#[inline]
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        state = mix(state, u64::from_le_bytes(*chunk));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(state, u64::from_le_bytes(last))
}

/// Scripts written without spaces between words: Han, kana, Hangul and their extensions.
#[inline]
pub fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// Share of CJK characters among letters and digits; 0 without either.
pub fn cjk_share(text: &str) -> f64 {
    let (mut cjk, mut all) = (0usize, 0usize);
    for c in text.chars() {
        let is = is_cjk(c);
        cjk += usize::from(is);
        all += usize::from(is || c.is_alphanumeric());
    }
    if all == 0 { 0.0 } else { cjk as f64 / all as f64 }
}

/// Calls `each` with the hash of every term of the first `limit` bytes or so.
pub fn terms(text: &str, limit: usize, mut each: impl FnMut(u64)) {
    let mut word = [0u8; 32];
    let mut len = 0;
    let mut before: Option<char> = None;
    let mut alone = false;
    let mut done = 0;
    for c in text.chars() {
        done += c.len_utf8();
        if done > limit {
            break;
        }
        if is_cjk(c) {
            if len > 0 {
                each(hash(&word[..len]));
                len = 0;
            }
            match before {
                Some(b) => each(mix(u64::from(u32::from(b)), u64::from(u32::from(c)))),
                None => alone = true,
            }
            alone &= before.is_none();
            before = Some(c);
            continue;
        }
        if alone && let Some(b) = before {
            each(mix(0, u64::from(u32::from(b))));
        }
        (before, alone) = (None, false);
        if c.is_ascii_alphanumeric() {
            if len < word.len() {
                word[len] = c.to_ascii_lowercase() as u8;
                len += 1;
            }
        } else if c.is_alphanumeric() {
            for lower in c.to_lowercase() {
                let mut utf8 = [0; 4];
                let bytes = lower.encode_utf8(&mut utf8).as_bytes();
                if len + bytes.len() <= word.len() {
                    word[len..len + bytes.len()].copy_from_slice(bytes);
                    len += bytes.len();
                }
            }
        } else if len > 0 && c != '\'' {
            each(hash(&word[..len]));
            len = 0;
        }
    }
    if len > 0 {
        each(hash(&word[..len]));
    }
    if alone && let Some(b) = before {
        each(mix(0, u64::from(u32::from(b))));
    }
}

/// A signed hashed vector of terms with `dims` places and length 1 (all zero without terms). Term
/// counts enter as 1 + ln n; the sign of a term is a bit of its hash, so that terms that share a
/// place cancel rather than add (Weinberger et al., 2009).
pub fn lexical_vector(text: &str, dims: usize, limit: usize) -> Vec<f32> {
    let mut all = Vec::new();
    terms(text, limit, |term| all.push(term));
    all.sort_unstable();
    let mut vector = vec![0.0f32; dims];
    for run in all.chunk_by(|a, b| a == b) {
        let weight = 1.0 + (run.len() as f32).ln();
        let sign = if run[0] >> 63 == 0 { 1.0 } else { -1.0 };
        vector[(run[0] % dims as u64) as usize] += sign * weight;
    }
    normalise(&mut vector);
    vector
}

/// Scales to length 1; leaves a zero vector as it is.
pub fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|v| *v /= norm);
    }
}

/// Sum of products, in eight lanes so that compilers vectorise it; the order is fixed.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (left, left_rest) = a.as_chunks::<8>();
    let (right, right_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for (x, y) in left.iter().zip(right) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<u64> {
        let mut all = Vec::new();
        terms(text, usize::MAX, |t| all.push(t));
        all
    }

    #[test]
    fn words_fold_case_and_chinese_goes_by_pairs() {
        assert_eq!(of("Hello, WORLD"), of("hello world"));
        assert_eq!(of("情感分析").len(), 3);
        assert_eq!(of("好 a 好").len(), 3);
        assert_eq!(of("用 Python3 写").len(), 3);
        assert_ne!(of("ab"), of("ba"));
        assert_eq!(of("Él"), of("él"));
        assert!(of("，。!").is_empty());
    }

    #[test]
    fn equal_texts_have_cosine_one_and_foreign_ones_about_zero() {
        let v = |t: &str| lexical_vector(t, 256, usize::MAX);
        let a = v("Natalia sold clips to 48 of her friends in April");
        assert!((dot(&a, &a) - 1.0).abs() < 1e-6);
        assert!(dot(&a, &v("请写出以下案件的判决")).abs() < 0.3);
        assert!(dot(&a, &v("natalia sold clips to 50 of her friends in May")) > 0.6);
    }
}
