//! Packing rows with AVX2: 8 x 8 blocks are transposed in registers.
use super::Values;
use super::pack::{Operand, Strip};
use super::tile::Format;
use std::arch::x86_64::*;

/// Packs the whole 8 x 8 blocks of a strip whose lines are rows; returns how many lines and words that covers.
/// # Safety
/// The machine has AVX2, `out` holds `words * width`, and the strip's live lines and words lie inside the operand.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn pack_blocks(
    format: Format,
    source: &Operand,
    strip: Strip,
    live: usize,
    out: &mut [u32],
) -> (usize, usize) {
    let (lines, words) = (live - live % 8, strip.words - strip.words % 8);
    for base in (0..lines).step_by(8) {
        for w in (0..words).step_by(8) {
            let at = (strip.line + base) * source.stride + strip.word + w;
            let mut v = [_mm256_setzero_ps(); 8];
            for (i, x) in v.iter_mut().enumerate() {
                // SAFETY: line base + i is live and words w..w + 8 exist.
                *x = unsafe {
                    match source.values {
                        Values::F32(p) => load_f32(p.as_ptr().add(at + i * source.stride), format),
                        Values::Bf16(p) => load_bf16(p.as_ptr().add(at + i * source.stride)),
                        _ => unreachable!("quantised operands are widened piece by piece"),
                    }
                };
            }
            for (j, x) in transpose(v).into_iter().enumerate() {
                // SAFETY: step w + j exists and base + 8 <= width.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add((w + j) * strip.width + base).cast(), x) };
            }
        }
    }
    (lines, words)
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_f32(p: *const f32, format: Format) -> __m256 {
    // SAFETY: the caller vouches for 8 floats.
    let x = unsafe { _mm256_loadu_ps(p) };
    if format == Format::F32 {
        return x;
    }
    // To the nearest bf16, ties to even; NaN stays NaN.
    let bits = _mm256_castps_si256(x);
    let lowest = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let sum = _mm256_add_epi32(bits, _mm256_add_epi32(lowest, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
    let chosen = _mm256_blendv_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(quiet), nan);
    _mm256_and_ps(chosen, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000u32 as i32)))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_bf16(p: *const u16) -> __m256 {
    // SAFETY: the caller vouches for 8 halves.
    let x = unsafe { _mm_loadu_si128(p.cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
}

/// Lane j of vector i becomes lane i of vector j.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    let mut t = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    // Half L of q[4i + j]: column 4L + j of rows 4i..4i + 4.
    let mut q = [_mm256_setzero_ps(); 8];
    for i in 0..2 {
        q[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
        q[4 * i + 1] = _mm256_shuffle_ps::<0xee>(t[4 * i], t[4 * i + 2]);
        q[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
        q[4 * i + 3] = _mm256_shuffle_ps::<0xee>(t[4 * i + 1], t[4 * i + 3]);
    }
    let mut out = [_mm256_setzero_ps(); 8];
    for j in 0..4 {
        out[j] = _mm256_permute2f128_ps::<0x20>(q[j], q[4 + j]);
        out[4 + j] = _mm256_permute2f128_ps::<0x31>(q[j], q[4 + j]);
    }
    out
}
