//! MinHash signatures: of each of many hash functions the smallest value over a set of shingles (Broder 1997). The
//! share of places where two signatures agree estimates the Jaccard similarity of the sets.
//!
//! The functions are h(x) = a·x + b mod 2³² with odd a, a permutation of the 32-bit numbers, over shingles that were
//! hashed well before. A block of functions stays in registers while all shingles pass; there is nothing to round, so
//! every variant gives the same numbers.
use crate::Isa;
use crate::isa::Level;
use crate::rng::Stream;

/// Functions held in registers at once: 4 vectors of AVX-512, 8 of AVX2.
const BLOCK: usize = 64;
/// Purpose of the random stream that the functions are drawn from.
const PURPOSE: u32 = 0x6d68;

/// A family of hash functions, fixed by a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinHash {
    a: Vec<u32>,
    b: Vec<u32>,
}

impl MinHash {
    /// `functions` hash functions drawn from `seed`.
    ///
    /// # Panics
    /// When `functions` is zero.
    pub fn new(functions: usize, seed: u64) -> Self {
        assert!(functions > 0, "at least one hash function");
        let random = Stream::new(seed, PURPOSE, 0);
        let draws: Vec<[u32; 4]> = (0..functions).map(|i| random.block(i as u64)).collect();
        MinHash { a: draws.iter().map(|d| d[0] | 1).collect(), b: draws.iter().map(|d| d[1]).collect() }
    }

    /// Number of functions.
    pub fn functions(&self) -> usize {
        self.a.len()
    }

    /// The signature of a set of shingles; repeated shingles change nothing. Without shingles every value is `u32::MAX`.
    ///
    /// # Panics
    /// When `signature` is not as long as there are functions.
    pub fn sign(&self, shingles: &[u32], signature: &mut [u32]) {
        self.sign_on(Isa::best(), shingles, signature);
    }

    /// [`MinHash::sign`] with a chosen instruction set.
    ///
    /// # Panics
    /// As [`MinHash::sign`].
    pub fn sign_on(&self, isa: Isa, shingles: &[u32], signature: &mut [u32]) {
        assert_eq!(signature.len(), self.functions(), "one value a function");
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => {
                // SAFETY: an `Isa` of this level exists only where AVX-512 F, BW, VL and DQ do.
                unsafe { avx512(&self.a, &self.b, shingles, signature) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                // SAFETY: an `Isa` of this level exists only where AVX2 does.
                unsafe { avx2(&self.a, &self.b, shingles, signature) }
            }
            _ => sign(&self.a, &self.b, shingles, signature),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512(a: &[u32], b: &[u32], shingles: &[u32], signature: &mut [u32]) {
    sign(a, b, shingles, signature);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(a: &[u32], b: &[u32], shingles: &[u32], signature: &mut [u32]) {
    sign(a, b, shingles, signature);
}

/// The reference; compiled once for each instruction set.
#[inline(always)]
fn sign(a: &[u32], b: &[u32], shingles: &[u32], signature: &mut [u32]) {
    signature.fill(u32::MAX);
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK)).zip(signature.chunks_exact_mut(BLOCK));
    for ((a, b), out) in blocks {
        let mut least = [u32::MAX; BLOCK];
        for &x in shingles {
            for ((least, a), b) in least.iter_mut().zip(a).zip(b) {
                *least = (*least).min(a.wrapping_mul(x).wrapping_add(*b));
            }
        }
        out.copy_from_slice(&least);
    }
    let done = a.len() / BLOCK * BLOCK;
    for ((a, b), out) in a[done..].iter().zip(&b[done..]).zip(&mut signature[done..]) {
        *out = shingles.iter().map(|x| a.wrapping_mul(*x).wrapping_add(*b)).min().unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One function after another, one shingle after another.
    fn plain(family: &MinHash, shingles: &[u32]) -> Vec<u32> {
        let value = |i: usize, x: u32| (u64::from(family.a[i]) * u64::from(x) + u64::from(family.b[i])) as u32;
        (0..family.functions()).map(|i| shingles.iter().map(|&x| value(i, x)).min().unwrap_or(u32::MAX)).collect()
    }

    fn shingles(count: u32, salt: u64) -> Vec<u32> {
        let random = Stream::new(salt, 0, 0);
        (0..count).map(|i| random.block(u64::from(i))[0]).collect()
    }

    #[test]
    fn every_variant_is_the_plain_minimum() {
        for functions in [1, 63, 64, 128, 200] {
            let family = MinHash::new(functions, 5);
            for count in [0, 1, 2, 77] {
                let set = shingles(count, 9);
                for isa in Isa::available() {
                    let mut signature = vec![0; functions];
                    family.sign_on(isa, &set, &mut signature);
                    assert_eq!(signature, plain(&family, &set), "{isa}, {functions} functions, {count} shingles");
                }
            }
        }
    }

    /// Mean over functions of agreement is the Jaccard similarity, with the deviation of a binomial.
    #[test]
    fn agreement_estimates_jaccard() {
        let family = MinHash::new(4096, 1);
        for shared in [10, 50, 90] {
            let mut one = shingles(shared, 1);
            let mut other = one.clone();
            one.extend(shingles(100 - shared, 2));
            other.extend(shingles(100 - shared, 3));
            let jaccard = f64::from(shared) / f64::from(200 - shared);
            let (mut x, mut y) = (vec![0; 4096], vec![0; 4096]);
            family.sign(&one, &mut x);
            family.sign(&other, &mut y);
            let agree = x.iter().zip(&y).filter(|(p, q)| p == q).count() as f64 / 4096.0;
            let deviation = (jaccard * (1.0 - jaccard) / 4096.0).sqrt();
            assert!((agree - jaccard).abs() < 4.0 * deviation, "{agree} for {jaccard}");
        }
    }
}
