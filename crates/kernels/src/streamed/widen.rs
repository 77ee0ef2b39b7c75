//! Stored weights to f32 lanes, for each instruction set: what the dot products of [`super::vector`] are fed with.
use crate::quant::E4M3;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Scalar, Simd, narrow, widen};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Values of the sixteen nibbles before scaling.
const NIBBLES: [f32; 16] = {
    let mut values = [0f32; 16];
    let mut i = 0;
    while i < 16 {
        values[i] = i as f32 - 8.0;
        i += 1;
    }
    values
};

/// Loads of `LANES` stored numbers.
pub(crate) trait Widen: Simd {
    /// The sixteen values of an int4 group.
    type Table: Copy;
    fn table(self, scale: f32) -> Self::Table;
    /// The values of the low and of the high nibbles of `LANES` bytes.
    /// # Safety
    /// `p` is valid for `LANES` bytes.
    unsafe fn nibbles(self, p: *const u8, table: Self::Table) -> (Self::V, Self::V);
    /// # Safety
    /// `p` is valid for `LANES` bytes.
    unsafe fn int8(self, p: *const i8) -> Self::V;
    /// # Safety
    /// `p` is valid for `LANES` bytes.
    unsafe fn e4m3(self, p: *const u8) -> Self::V;
    /// # Safety
    /// `p` is valid for `LANES` elements.
    unsafe fn bf16(self, p: *const u16) -> Self::V;
    /// Rounded to bf16, kept as f32; a NaN stays one.
    fn rounded(self, v: Self::V) -> Self::V;
}

impl Widen for Scalar {
    type Table = [f32; 16];
    #[inline(always)]
    fn table(self, scale: f32) -> [f32; 16] {
        NIBBLES.map(|n| n * scale)
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8, table: [f32; 16]) -> (Self::V, Self::V) {
        // SAFETY: the caller vouches for 8 bytes.
        let bytes = unsafe { p.cast::<[u8; 8]>().read() };
        (bytes.map(|b| table[usize::from(b & 15)]), bytes.map(|b| table[usize::from(b >> 4)]))
    }
    #[inline(always)]
    unsafe fn int8(self, p: *const i8) -> Self::V {
        // SAFETY: the caller vouches for 8 bytes.
        unsafe { p.cast::<[i8; 8]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn e4m3(self, p: *const u8) -> Self::V {
        // SAFETY: the caller vouches for 8 bytes.
        unsafe { p.cast::<[u8; 8]>().read() }.map(|b| E4M3[usize::from(b)])
    }
    #[inline(always)]
    unsafe fn bf16(self, p: *const u16) -> Self::V {
        // SAFETY: the caller vouches for 8 elements; the read needs no alignment.
        unsafe { p.cast::<[u16; 8]>().read_unaligned() }.map(widen)
    }
    #[inline(always)]
    fn rounded(self, v: Self::V) -> Self::V {
        v.map(|x| widen(narrow(x)))
    }
}

/// Intrinsics behind a token that proves the instruction set; loads rest on the caller's word for the bytes.
#[cfg(target_arch = "x86_64")]
macro_rules! has {
    ($e:expr) => {{
        // SAFETY: the token proves the instruction set, and the caller vouches for what is read.
        unsafe { $e }
    }};
}

#[cfg(target_arch = "x86_64")]
impl Widen for Avx512 {
    type Table = __m512;
    #[inline(always)]
    fn table(self, scale: f32) -> __m512 {
        has!(_mm512_mul_ps(_mm512_loadu_ps(NIBBLES.as_ptr()), _mm512_set1_ps(scale)))
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8, table: __m512) -> (__m512, __m512) {
        has!({
            // The permutation looks at four bits of an index only.
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm512_srli_epi32::<4>(bytes);
            (_mm512_permutexvar_ps(bytes, table), _mm512_permutexvar_ps(high, table))
        })
    }
    #[inline(always)]
    unsafe fn int8(self, p: *const i8) -> __m512 {
        has!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))))
    }
    #[inline(always)]
    unsafe fn e4m3(self, p: *const u8) -> __m512 {
        has!({
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let magnitude = _mm512_and_si512(bytes, _mm512_set1_epi32(0x7f));
            // Exponent bias 7 to 127; of denormals the implied one is taken off again.
            let normal = _mm512_add_epi32(_mm512_slli_epi32::<20>(magnitude), _mm512_set1_epi32(120 << 23));
            let small = _mm512_castsi512_ps(_mm512_add_epi32(normal, _mm512_set1_epi32(1 << 23)));
            let denormal = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8));
            let v = _mm512_mask_sub_ps(_mm512_castsi512_ps(normal), denormal, small, _mm512_set1_ps(1.0 / 64.0));
            let nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
            let v = _mm512_mask_mov_ps(v, nan, _mm512_set1_ps(f32::NAN));
            let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x80)));
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(v), sign))
        })
    }
    #[inline(always)]
    unsafe fn bf16(self, p: *const u16) -> __m512 {
        has!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))))
    }
    #[inline(always)]
    fn rounded(self, v: __m512) -> __m512 {
        has!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let r = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000u32 as i32)));
            _mm512_mask_mov_ps(r, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), v)
        })
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen for Avx2 {
    type Table = (__m256, __m256);
    #[inline(always)]
    fn table(self, scale: f32) -> (__m256, __m256) {
        let half = |i: usize| has!(_mm256_mul_ps(_mm256_loadu_ps(NIBBLES.as_ptr().add(i)), _mm256_set1_ps(scale)));
        (half(0), half(8))
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8, (low, high): (__m256, __m256)) -> (__m256, __m256) {
        has!({
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            // The permutation looks at three bits of an index, the blend at the sign: bit 3 moved there.
            let value = |index: __m256i, fourth: __m256i| {
                let (a, b) = (_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index));
                _mm256_blendv_ps(a, b, _mm256_castsi256_ps(fourth))
            };
            (
                value(bytes, _mm256_slli_epi32::<28>(bytes)),
                value(_mm256_srli_epi32::<4>(bytes), _mm256_slli_epi32::<24>(bytes)),
            )
        })
    }
    #[inline(always)]
    unsafe fn int8(self, p: *const i8) -> __m256 {
        has!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))))
    }
    #[inline(always)]
    unsafe fn e4m3(self, p: *const u8) -> __m256 {
        has!({
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let magnitude = _mm256_and_si256(bytes, _mm256_set1_epi32(0x7f));
            let normal = _mm256_add_epi32(_mm256_slli_epi32::<20>(magnitude), _mm256_set1_epi32(120 << 23));
            let small = _mm256_castsi256_ps(_mm256_add_epi32(normal, _mm256_set1_epi32(1 << 23)));
            let small = _mm256_sub_ps(small, _mm256_set1_ps(1.0 / 64.0));
            let denormal = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude));
            let v = _mm256_blendv_ps(_mm256_castsi256_ps(normal), small, denormal);
            let nan = _mm256_castsi256_ps(_mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f)));
            let v = _mm256_blendv_ps(v, _mm256_set1_ps(f32::NAN), nan);
            let sign = _mm256_slli_epi32::<24>(_mm256_and_si256(bytes, _mm256_set1_epi32(0x80)));
            _mm256_or_ps(v, _mm256_castsi256_ps(sign))
        })
    }
    #[inline(always)]
    unsafe fn bf16(self, p: *const u16) -> __m256 {
        has!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))))
    }
    #[inline(always)]
    fn rounded(self, v: __m256) -> __m256 {
        has!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let r = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(0xffff_0000u32 as i32)));
            _mm256_blendv_ps(r, v, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v))
        })
    }
}
