//! Random numbers by position: the value at (seed, purpose, step, index) needs no state and no order of drawing, so
//! any thread may draw any of them. Philox4x32-10 (Salmon et al., SC 2011). Only IEEE basic operations are used, so
//! every platform gives the same bits.
use std::f64::consts::{FRAC_1_SQRT_2, LN_2, TAU};

/// One stream of numbers: `seed` of the run, `purpose` (which use of randomness), `step` (which draw of it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub seed: u64,
    pub purpose: u32,
    pub step: u32,
}

impl Stream {
    pub fn new(seed: u64, purpose: u32, step: u32) -> Stream {
        Stream { seed, purpose, step }
    }

    /// The four 32-bit words of block `block`; `u32_at(4 * block + i)` is word `i`.
    #[inline]
    pub fn block(&self, block: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.purpose, self.step];
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// The words of the 16 blocks from `block` on, word by word: `[i][j]` is word `i` of block `block + j`. The same
    /// bits as [`Stream::block`], in a form compilers turn into vector code.
    #[inline(always)]
    pub(crate) fn blocks16(&self, block: u64) -> [[u32; 16]; 4] {
        let at: [u64; 16] = std::array::from_fn(|j| block.wrapping_add(j as u64));
        let mut c = [at.map(|b| b as u32), at.map(|b| (b >> 32) as u32), [self.purpose; 16], [self.step; 16]];
        let mut k = [self.seed as u32, (self.seed >> 32) as u32];
        for _ in 0..10 {
            let before = c;
            for j in 0..16 {
                let (p, q) = (u64::from(before[0][j]) * M0, u64::from(before[2][j]) * M1);
                c[0][j] = (q >> 32) as u32 ^ before[1][j] ^ k[0];
                c[1][j] = q as u32;
                c[2][j] = (p >> 32) as u32 ^ before[3][j] ^ k[1];
                c[3][j] = p as u32;
            }
            k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
        }
        c
    }

    pub fn u32_at(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// 64 bits at `index`, from a block of its own half (independent of `u32_at` only across purposes).
    pub fn u64_at(&self, index: u64) -> u64 {
        let b = self.block(index / 2);
        let i = (index % 2 * 2) as usize;
        u64::from(b[i]) | u64::from(b[i + 1]) << 32
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&self, index: u64) -> f32 {
        unit(self.u32_at(index))
    }

    /// Uniform integer in `0..bound` (bound > 0), by multiply-shift of 64 bits: bias below bound / 2^64.
    pub fn below(&self, index: u64, bound: u64) -> u64 {
        ((u128::from(self.u64_at(index)) * u128::from(bound)) >> 64) as u64
    }

    /// Standard normal (Box–Muller in f64, rounded once).
    pub fn normal(&self, index: u64) -> f32 {
        let b = self.block(index / 2);
        let (u, v) = (u64::from(b[0]) << 32 | u64::from(b[1]), u64::from(b[2]) << 32 | u64::from(b[3]));
        // u in (0, 1] so that the logarithm is finite; 53 bits each.
        let u = ((u >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let v = (v >> 11) as f64 / (1u64 << 53) as f64;
        let radius = (-2.0 * ln(u)).sqrt();
        let (sin, cos) = sin_cos_turn(v);
        (radius * if index.is_multiple_of(2) { cos } else { sin }) as f32
    }

    /// Fills `out` with `uniform(first + i) * (high - low) + low`.
    pub fn fill_uniform(&self, first: u64, low: f32, high: f32, out: &mut [f32]) {
        for (i, x) in out.iter_mut().enumerate() {
            *x = low + (high - low) * self.uniform(first + i as u64);
        }
    }

    /// Fills `out` with `normal(first + i) * std`.
    pub fn fill_normal(&self, first: u64, std: f32, out: &mut [f32]) {
        for (i, x) in out.iter_mut().enumerate() {
            *x = std * self.normal(first + i as u64);
        }
    }

    /// A permutation of `0..n` (Fisher–Yates).
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

/// The top 24 bits of `word` as a fraction in [0, 1).
#[inline]
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Multipliers and key increments of Philox4x32.
const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

#[inline]
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (p, q) = (u64::from(c[0]) * M0, u64::from(c[2]) * M1);
        c = [(q >> 32) as u32 ^ c[1] ^ k[0], q as u32, (p >> 32) as u32 ^ c[3] ^ k[1], p as u32];
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}

/// Natural logarithm for normal x > 0: x = 2^e·m with m in [1/√2, √2), ln m = 2·atanh((m−1)/(m+1)) by its series.
/// |t| ≤ 0.172, so the first dropped term t^24/25 is below 2^-64.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m * FRAC_1_SQRT_2 >= 1.0 {
        m *= 0.5;
        e += 1;
    }
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let mut s = 0.0;
    for d in (1..=23).rev().step_by(2) {
        s = s * t2 + 1.0 / d as f64;
    }
    e as f64 * LN_2 + 2.0 * t * s
}

/// (sin, cos) of `turn` whole turns, 0 ≤ turn < 1: reduced to an eighth of a turn, then Taylor series to 1e-17.
fn sin_cos_turn(turn: f64) -> (f64, f64) {
    let quarter = (turn * 4.0 + 0.5).floor();
    let a = (turn - quarter * 0.25) * TAU;
    let a2 = a * a;
    let (mut s, mut c) = (0.0, 0.0);
    for i in (0..=8).rev() {
        let n = (2 * i) as f64;
        s = 1.0 - s * a2 / ((n + 2.0) * (n + 3.0));
        c = 1.0 - c * a2 / ((n + 1.0) * (n + 2.0));
    }
    let s = s * a;
    match quarter as i64 % 4 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors` for philox4x32-10.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn sixteen_blocks_are_sixteen_blocks() {
        let s = Stream::new(u64::MAX - 5, 3, 9);
        for first in [0, 7, u64::from(u32::MAX) - 8] {
            let many = s.blocks16(first);
            for (j, block) in (first..first + 16).enumerate() {
                assert_eq!(s.block(block), many.map(|word| word[j]));
            }
        }
    }

    #[test]
    fn own_functions_match_the_platform() {
        for i in 1..20_000 {
            let x = i as f64 / 20_000.0;
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * (1.0 + x.ln().abs()), "ln {x}");
            let (s, c) = sin_cos_turn(x);
            assert!((s - (x * TAU).sin()).abs() < 2e-15 && (c - (x * TAU).cos()).abs() < 2e-15, "turn {x}");
        }
    }

    #[test]
    fn moments() {
        let s = Stream::new(7, 1, 2);
        let n = 100_000u64;
        let (mut u1, mut n1, mut n2, mut n4) = (0f64, 0f64, 0f64, 0f64);
        for i in 0..n {
            let u = s.uniform(i);
            assert!((0.0..1.0).contains(&u));
            u1 += f64::from(u);
            let z = f64::from(s.normal(i));
            n1 += z;
            n2 += z * z;
            n4 += z.powi(4);
        }
        let n = n as f64;
        assert!((u1 / n - 0.5).abs() < 0.005 && (n1 / n).abs() < 0.015);
        assert!((n2 / n - 1.0).abs() < 0.02 && (n4 / n - 3.0).abs() < 0.15);
    }

    #[test]
    fn streams_differ_and_permutation_is_one() {
        let a = Stream::new(1, 0, 0);
        assert_ne!(a.block(0), Stream::new(2, 0, 0).block(0));
        assert_ne!(a.block(0), Stream::new(1, 1, 0).block(0));
        assert_ne!(a.block(0), Stream::new(1, 0, 1).block(0));
        let mut p = a.permutation(1000);
        assert_ne!(p[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        p.sort_unstable();
        assert!(p.iter().enumerate().all(|(i, v)| i == *v));
    }
}
