//! One vector vocabulary for AVX-512, AVX2+FMA and plain Rust: kernels are written once over [`Simd`] and compiled
//! per instruction set by [`simd_fn!`]. Takes pointers and vectors; never decides which set is used.
//!
//! `fma` is fused on x86 vectors and a multiply and an add in plain Rust, so sets may differ in the last bit; within
//! a set every lane does the same arithmetic, which is what the bitwise guarantees of this crate rest on.
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A token of an instruction set the machine has, and its vector operations on f32 lanes.
pub(crate) trait Simd: Copy {
    type V: Copy;
    const LANES: usize;
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` is valid for reading `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Lanes from `n` on are zero.
    /// # Safety
    /// `p` is valid for reading `n <= LANES` floats.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `p` is valid for writing `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// `p` is valid for writing `n <= LANES` floats.
    unsafe fn store_n(self, p: *mut f32, n: usize, v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even; |a| < 2^22.
    fn round(self, a: Self::V) -> Self::V;
    /// a·2^n for integral n in -151..=129, rounded once.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;
    /// 1 / a to 2e-7 relative, 0 where that is below 1e-37.
    fn reciprocal(self, a: Self::V) -> Self::V;
    /// Sum of the lanes in an order fixed for the set.
    fn sum(self, a: Self::V) -> f32;
    fn largest(self, a: Self::V) -> f32;
    /// bf16, widened.
    /// # Safety
    /// `p` is valid for reading `n <= LANES` bf16; lanes from `n` on are zero.
    unsafe fn load_bf16(self, p: *const u16, n: usize) -> Self::V;
    /// Rounded to nearest even; a NaN stays one.
    /// # Safety
    /// `p` is valid for writing `n <= LANES` bf16.
    unsafe fn store_bf16(self, p: *mut u16, n: usize, v: Self::V);
    /// `n` pairs of bf16: the elements at even and at odd places.
    /// # Safety
    /// `p` is valid for reading `2 * n` bf16, `n <= LANES`; lanes from `n` on are zero.
    unsafe fn load_pairs(self, p: *const u16, n: usize) -> (Self::V, Self::V);
    /// # Safety
    /// `p` is valid for writing `2 * n` bf16, `n <= LANES`.
    unsafe fn store_pairs(self, p: *mut u16, n: usize, even: Self::V, odd: Self::V);
}

/// What kernels read and write as lanes of f32: f32 itself, and bf16 as raw bits.
pub(crate) trait Element: Copy {
    /// # Safety
    /// As [`Simd::load_n`].
    unsafe fn load<S: Simd>(s: S, p: *const Self, n: usize) -> S::V;
    /// # Safety
    /// As [`Simd::store_n`].
    unsafe fn store<S: Simd>(s: S, p: *mut Self, n: usize, v: S::V);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { if n == S::LANES { s.load(p) } else { s.load_n(p, n) } }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, n: usize, v: S::V) {
        // SAFETY: as the caller vouches.
        unsafe { if n == S::LANES { s.store(p, v) } else { s.store_n(p, n, v) } }
    }
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16, n: usize) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.load_bf16(p, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u16, n: usize, v: S::V) {
        // SAFETY: as the caller vouches.
        unsafe { s.store_bf16(p, n, v) }
    }
}

/// One value to bf16 bits, round to nearest even; the same bits as `half::bf16::from_f32`.
#[inline(always)]
pub(crate) fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) as u16 | 0x40 } else { rounded }
}

#[inline(always)]
pub(crate) fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// e^x to 2e-7 relative: x = n·ln 2 + r with |r| ≤ 0.347, e^r by its series to r^7/7! (next term 5e-9), then scaled
/// by 2^n, which gives correctly rounded denormals, 0 below -104, infinity above 88.72 and NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // max/min return their second operand for NaN: it passes through.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts; the first has 9 trailing zero bits, so n times it is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.scale2(p, n)
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.reciprocal(s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
}

/// Plain Rust on 8 lanes; compilers turn it into whatever the target has.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

macro_rules! lanes {
    ($f:expr) => {{
        let mut out = [0f32; 8];
        for (i, o) in out.iter_mut().enumerate() {
            *o = $f(i);
        }
        out
    }};
}

impl Simd for Scalar {
    type V = [f32; 8];
    const LANES: usize = 8;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for 8 floats; arrays of f32 have the alignment of f32.
        unsafe { *p.cast::<[f32; 8]>() }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller vouches for n floats, and only those are read.
        lanes!(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for 8 floats.
        unsafe { *p.cast::<[f32; 8]>() = v }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: Self::V) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for n floats, and i < n.
            unsafe { *p.add(i) = *x }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i: usize| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i: usize| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i: usize| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i: usize| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes!(|i: usize| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i: usize| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i: usize| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        lanes!(|i: usize| a[i].sqrt())
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding 1.5·2^23 leaves no fraction bits; the rounding mode is to nearest even. NaN stays NaN.
        const SHIFT: f32 = 12_582_912.0;
        lanes!(|i: usize| (a[i] + SHIFT) - SHIFT)
    }
    #[inline(always)]
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V {
        // In two steps, each a normal number.
        let pow2 = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        lanes!(|i: usize| {
            let (n, half) = (n[i] as i32, n[i] as i32 >> 1);
            a[i] * pow2(half) * pow2(n - half)
        })
    }
    #[inline(always)]
    fn reciprocal(self, a: Self::V) -> Self::V {
        lanes!(|i: usize| 1.0 / a[i])
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16, n: usize) -> Self::V {
        // SAFETY: the caller vouches for n bf16, and only those are read.
        lanes!(|i| if i < n { unsafe { widen(*p.add(i)) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, n: usize, v: Self::V) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for n bf16, and i < n.
            unsafe { *p.add(i) = narrow(*x) }
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u16, n: usize) -> (Self::V, Self::V) {
        let (mut even, mut odd) = ([0f32; 8], [0f32; 8]);
        for i in 0..n {
            // SAFETY: the caller vouches for 2n bf16, and i < n.
            unsafe { (even[i], odd[i]) = (widen(*p.add(2 * i)), widen(*p.add(2 * i + 1))) }
        }
        (even, odd)
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u16, n: usize, even: Self::V, odd: Self::V) {
        for i in 0..n {
            // SAFETY: the caller vouches for 2n bf16, and i < n.
            unsafe { (*p.add(2 * i), *p.add(2 * i + 1)) = (narrow(even[i]), narrow(odd[i])) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// # Safety
    /// The machine has AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Avx2(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// # Safety
    /// The machine has AVX-512 F, BW, VL and DQ.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Avx512(())
    }
}

/// Calls of arithmetic intrinsics, which need nothing but the instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! has {
    ($e:expr) => {{
        // SAFETY: holding the token proves the machine has the instruction set.
        unsafe { $e }
    }};
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        has!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for 8 floats; the load needs no alignment.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for 8 floats.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m256) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        has!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        has!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        has!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        has!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        has!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        has!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        has!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        has!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        has!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale2(self, a: __m256, n: __m256) -> __m256 {
        has!({
            // In two steps, each a normal number.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
            _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        })
    }
    #[inline(always)]
    fn reciprocal(self, a: __m256) -> __m256 {
        has!(_mm256_div_ps(_mm256_set1_ps(1.0), a))
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        has!({
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        has!({
            let x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16, n: usize) -> __m256 {
        // There is no masked load of 16-bit words.
        let mut part = [0u16; 8];
        let mut from = p;
        if n < 8 {
            // SAFETY: the caller vouches for n bf16.
            unsafe { std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), n) }
            from = part.as_ptr();
        }
        // SAFETY: 8 words are readable, of the caller's or of `part`.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, n: usize, v: __m256) {
        has!({
            let r = narrow8(v);
            let words = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(r, r)));
            if n == 8 {
                _mm_storeu_si128(p.cast(), words);
            } else {
                let mut part = [0u16; 8];
                _mm_storeu_si128(part.as_mut_ptr().cast(), words);
                std::ptr::copy_nonoverlapping(part.as_ptr(), p, n);
            }
        })
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u16, n: usize) -> (__m256, __m256) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe { split8(_mm256_maskload_epi32(p.cast(), mask8(n))) }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u16, n: usize, even: __m256, odd: __m256) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe {
            let both = _mm256_or_si256(narrow8(even), _mm256_slli_epi32::<16>(narrow8(odd)));
            _mm256_maskstore_epi32(p.cast(), mask8(n), both);
        }
    }
}

/// The bf16 of each lane in its low half, as [`narrow`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn narrow8(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let high = _mm256_srli_epi32::<16>(bits);
    let bias = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
    let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v)))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn split8(pairs: __m256i) -> (__m256, __m256) {
    let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32));
    (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd))
}

/// As `narrow8`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn narrow16(v: __m512) -> __m512i {
    let bits = _mm512_castps_si512(v);
    let high = _mm512_srli_epi32::<16>(bits);
    let bias = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
    _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), high, _mm512_set1_epi32(0x40))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn mask8(n: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// The lowest `n` (at most 16) bits set.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        has!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for 16 floats; the load needs no alignment.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for 16 floats.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        has!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        has!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        has!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        has!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale2(self, a: __m512, n: __m512) -> __m512 {
        has!(_mm512_scalef_ps(a, n))
    }
    #[inline(always)]
    fn reciprocal(self, a: __m512) -> __m512 {
        has!({
            // 14 bits and one step of Newton's; a quarter of a division's time. Where a is infinite r is 0 and the step
            // would give NaN.
            let r = _mm512_rcp14_ps(a);
            let better = _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.0)), r);
            let step = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, _mm512_set1_ps(f32::INFINITY));
            _mm512_mask_mov_ps(r, step, better)
        })
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        has!({
            let x = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        has!(_mm512_reduce_max_ps(a))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16, n: usize) -> __m512 {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe {
            let words =
                if n == 16 { _mm256_loadu_si256(p.cast()) } else { _mm256_maskz_loadu_epi16(mask16(n), p.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, n: usize, v: __m512) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe {
            let words = _mm512_cvtepi32_epi16(narrow16(v));
            if n == 16 {
                _mm256_storeu_si256(p.cast(), words);
            } else {
                _mm256_mask_storeu_epi16(p.cast(), mask16(n), words);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u16, n: usize) -> (__m512, __m512) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe {
            let pairs = _mm512_maskz_loadu_epi32(mask16(n), p.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32 as i32));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd))
        }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u16, n: usize, even: __m512, odd: __m512) {
        // SAFETY: lanes from n on are masked off and not accessed.
        unsafe {
            let both = _mm512_or_si512(narrow16(even), _mm512_slli_epi32::<16>(narrow16(odd)));
            _mm512_mask_storeu_epi32(p.cast(), mask16(n), both);
        }
    }
}

/// Defines `fn name(isa, args…)` whose body is compiled once per instruction set with `$s: $S` as its token.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$S:ident>($s:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::isa::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$S: $crate::simd::Simd>($s: $S $(, $arg: $ty)*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512(s: $crate::simd::Avx512 $(, $arg: $ty)*) $(-> $ret)? {
                body(s $(, $arg)*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2(s: $crate::simd::Avx2 $(, $arg: $ty)*) $(-> $ret)? {
                body(s $(, $arg)*)
            }
            match isa.level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this level exists only where the instructions were detected.
                $crate::isa::Level::Avx512 | $crate::isa::Level::Avx512Bf16 | $crate::isa::Level::Amx => unsafe {
                    avx512($crate::simd::Avx512::new() $(, $arg)*)
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::isa::Level::Avx2 => unsafe { avx2($crate::simd::Avx2::new() $(, $arg)*) },
                _ => body($crate::simd::Scalar $(, $arg)*),
            }
        }
    };
}
pub(crate) use simd_fn;

simd_fn! {
    /// e^x of every element in place.
    pub(crate) fn exp_slice<S>(s, x: &mut [f32]) {
        let n = x.len();
        let p = x.as_mut_ptr();
        let mut i = 0;
        while i < n {
            let c = (n - i).min(S::LANES);
            // SAFETY: i + c <= n.
            unsafe { s.store_n(p.add(i), c, exp(s, s.load_n(p.add(i), c))) };
            i += c;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn exp_is_accurate_on_every_set() {
        for isa in Isa::available() {
            let mut worst = 0f64;
            let xs: Vec<f32> = (0..400_000).map(|i| -87.3 + i as f32 * (176.0 / 400_000.0)).collect();
            let mut ys = xs.clone();
            exp_slice(isa, &mut ys);
            for (x, y) in xs.iter().zip(&ys) {
                let want = f64::from(*x).exp();
                worst = worst.max((f64::from(*y) - want).abs() / want);
            }
            assert!(worst <= 2e-7, "{isa}: {worst:e}");
            let mut edge = [f32::NEG_INFINITY, -200.0, 0.0, 200.0, f32::INFINITY, f32::NAN, -0.0];
            exp_slice(isa, &mut edge);
            assert_eq!(edge[..5], [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY], "{isa}");
            assert!(edge[5].is_nan() && edge[6] == 1.0, "{isa}");
        }
    }

    simd_fn! {
        fn sigmoid_slice<S>(s, x: &mut [f32]) {
            let p = x.as_mut_ptr();
            // SAFETY: the slice holds its length.
            unsafe { crate::elementwise::sweep!(s, S, x.len(); v = p; => p, sigmoid(s, v)) }
        }
    }

    #[test]
    fn sigmoid_is_accurate_on_every_set() {
        for isa in Isa::available() {
            let xs: Vec<f32> = (0..100_000).map(|i| -80.0 + i as f32 * (160.0 / 100_000.0)).collect();
            let mut ys = xs.clone();
            sigmoid_slice(isa, &mut ys);
            for (x, y) in xs.iter().zip(&ys) {
                let want = 1.0 / (1.0 + (-f64::from(*x)).exp());
                assert!((f64::from(*y) - want).abs() <= 6e-7 * want, "{isa} {x}: {y} for {want}");
            }
            let mut edge = [f32::NEG_INFINITY, -200.0, -88.5, 200.0, f32::INFINITY, f32::NAN];
            sigmoid_slice(isa, &mut edge);
            assert!(edge[0] == 0.0 && edge[1] == 0.0 && edge[2] < 1e-37 && edge[3..5] == [1.0, 1.0], "{isa} {edge:?}");
            assert!(edge[5].is_nan(), "{isa}");
        }
    }
}
