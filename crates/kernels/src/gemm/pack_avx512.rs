//! Packing with AVX-512: 16 x 16 blocks of words are transposed in registers, so a row-major weight is read once,
//! in whole cache lines, at memory speed.
use super::Values;
use super::pack::{Operand, Strip};
use super::tile::Format;
use crate::isa::Isa;
use crate::simd::mask16;
use std::arch::x86_64::*;

/// Arguments of one packer: `live <= width` lines from `source` on, `elements` of k from there.
struct Job<T> {
    source: *const T,
    stride: usize,
    live: usize,
    width: usize,
    elements: usize,
    words: usize,
    out: *mut u32,
}

pub(super) fn pack(isa: Isa, format: Format, source: &Operand, strip: Strip, out: &mut [u32]) {
    let per_word = if format == Format::Pairs { 2 } else { 1 };
    let first = strip.word * per_word;
    let elements = (strip.words * per_word).min(source.k.saturating_sub(first));
    if elements == 0 {
        out.fill(0);
        return;
    }
    let at = match source.lines_are_rows {
        true => strip.line * source.stride + first,
        false => first * source.stride + strip.line,
    };
    let live = strip.width.min(source.lines - strip.line);
    let rows = source.lines_are_rows;
    macro_rules! go {
        ($v:ident, $crosswise:ident, $along:ident) => {{
            let job = Job {
                source: $v[at..].as_ptr(),
                stride: source.stride,
                live,
                width: strip.width,
                elements,
                words: strip.words,
                out: out.as_mut_ptr(),
            };
            // SAFETY: the product's checks say that every (line, k) lies inside the values, `pack` that out holds
            // words·width, and the caller that the machine has AVX-512 (with BF16 for pairs: see below).
            unsafe { if rows { $crosswise(&job) } else { $along(&job) } }
        }};
    }
    debug_assert!(format != Format::Pairs || isa.level() == crate::isa::Level::Avx512Bf16);
    match (source.values, format) {
        (Values::F32(v), Format::F32) => go!(v, f32_crosswise, f32_along),
        (Values::F32(v), Format::Rounded) => go!(v, rounded_crosswise, rounded_along),
        (Values::F32(v), Format::Pairs) => go!(v, f32_pairs_crosswise, f32_pairs_along),
        (Values::Bf16(v), Format::Pairs) => go!(v, pairs_crosswise, pairs_along),
        (Values::Bf16(v), _) => go!(v, widened_crosswise, widened_along),
        _ => unreachable!("quantised operands are widened piece by piece"),
    }
}

/// Lines are rows: 16 words of up to 16 lines are loaded, transposed and stored as 16 steps of the panel.
macro_rules! crosswise {
    ($name:ident, $t:ty, $per_word:literal, $load:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(job: &Job<$t>) {
            for base in (0..job.width).step_by(16) {
                let lanes = (job.width - base).min(16);
                let live = job.live.saturating_sub(base).min(lanes);
                for w in (0..job.words).step_by(16) {
                    let mut v = [_mm512_setzero_si512(); 16];
                    let left = job.elements.saturating_sub(w * $per_word);
                    for (i, x) in v.iter_mut().enumerate() {
                        if i < live {
                            // SAFETY: line base + i is live and at most `left` elements are read.
                            *x = unsafe { $load(job.source.add((base + i) * job.stride + w * $per_word), left) };
                        }
                    }
                    let v = transpose(v);
                    for (j, x) in v.iter().enumerate() {
                        if w + j < job.words {
                            // SAFETY: step w + j exists and base + lanes <= width.
                            unsafe {
                                let to = job.out.add((w + j) * job.width + base);
                                _mm512_mask_storeu_epi32(to.cast(), mask16(lanes), *x);
                            }
                        }
                    }
                }
            }
        }
    };
}

/// Lines are columns: each step of the panel is a piece of one row (or of two, interleaved).
macro_rules! along {
    ($name:ident, $t:ty, $per_word:literal, $load:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(job: &Job<$t>) {
            for w in 0..job.words {
                let left = job.elements.saturating_sub(w * $per_word);
                for base in (0..job.width).step_by(16) {
                    let lanes = (job.width - base).min(16);
                    let live = job.live.saturating_sub(base).min(lanes);
                    // SAFETY: rows below `elements` and `live` columns from base on are inside the operand; the
                    // loader reads no others. Step w exists and base + lanes <= width.
                    unsafe {
                        let row = job.source.wrapping_add(w * $per_word * job.stride + base);
                        let x = $load(row, job.stride, left, live);
                        let to = job.out.add(w * job.width + base);
                        _mm512_mask_storeu_epi32(to.cast(), mask16(lanes), x);
                    }
                }
            }
        }
    };
}

crosswise!(f32_crosswise, f32, 1, load_f32, "avx512f,avx512bw,avx512vl,avx512dq");
crosswise!(rounded_crosswise, f32, 1, load_rounded, "avx512f,avx512bw,avx512vl,avx512dq");
crosswise!(pairs_crosswise, u16, 2, load_pairs, "avx512f,avx512bw,avx512vl,avx512dq");
crosswise!(f32_pairs_crosswise, f32, 2, load_f32_pairs, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16");
/// bf16 lines that are rows, widened: pairs are transposed as they lie and split afterwards, which halves the shuffles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn widened_crosswise(job: &Job<u16>) {
    let top = _mm512_set1_epi32(0xffff_0000u32 as i32);
    for base in (0..job.width).step_by(16) {
        let lanes = (job.width - base).min(16);
        let live = job.live.saturating_sub(base).min(lanes);
        for k in (0..job.words).step_by(32) {
            let mut v = [_mm512_setzero_si512(); 16];
            let left = job.elements.saturating_sub(k);
            for (i, x) in v.iter_mut().enumerate() {
                if i < live {
                    // SAFETY: line base + i is live and at most `left` elements are read.
                    *x = unsafe { load_pairs(job.source.add((base + i) * job.stride + k), left) };
                }
            }
            for (j, x) in transpose(v).iter().enumerate() {
                for (half, x) in [_mm512_slli_epi32::<16>(*x), _mm512_and_si512(*x, top)].into_iter().enumerate() {
                    let step = k + 2 * j + half;
                    if step < job.words {
                        // SAFETY: the step exists and base + lanes <= width.
                        unsafe {
                            let to = job.out.add(step * job.width + base);
                            _mm512_mask_storeu_epi32(to.cast(), mask16(lanes), x);
                        }
                    }
                }
            }
        }
    }
}

along!(f32_along, f32, 1, row_f32, "avx512f,avx512bw,avx512vl,avx512dq");
along!(rounded_along, f32, 1, row_rounded, "avx512f,avx512bw,avx512vl,avx512dq");
along!(widened_along, u16, 1, row_widened, "avx512f,avx512bw,avx512vl,avx512dq");
along!(pairs_along, u16, 2, row_pairs, "avx512f,avx512bw,avx512vl,avx512dq");
along!(f32_pairs_along, f32, 2, row_f32_pairs, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16");

#[inline(always)]
fn mask32(n: usize) -> __mmask32 {
    ((1u64 << n.min(32)) - 1) as __mmask32
}

// The loaders read at most `left` elements (`live` columns, `left` rows for the row_ ones); the rest is zero.

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_f32(p: *const f32, left: usize) -> __m512i {
    // SAFETY: only the first `left` lanes are read.
    unsafe { _mm512_castps_si512(_mm512_maskz_loadu_ps(mask16(left), p)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_rounded(p: *const f32, left: usize) -> __m512i {
    // SAFETY: as above.
    round(unsafe { load_f32(p, left) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_widened(p: *const u16, left: usize) -> __m512i {
    // SAFETY: only the first `left` lanes are read.
    let x = unsafe { _mm256_maskz_loadu_epi16(mask16(left), p.cast()) };
    _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_pairs(p: *const u16, left: usize) -> __m512i {
    // SAFETY: only the first `left` lanes are read.
    unsafe { _mm512_maskz_loadu_epi16(mask32(left), p.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn load_f32_pairs(p: *const f32, left: usize) -> __m512i {
    // SAFETY: only the first `left` lanes are read (the second address is not followed when none is left).
    unsafe {
        let low = _mm512_maskz_loadu_ps(mask16(left), p);
        let high = _mm512_maskz_loadu_ps(mask16(left.saturating_sub(16)), p.wrapping_add(16));
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn row_f32(p: *const f32, _stride: usize, left: usize, live: usize) -> __m512i {
    // SAFETY: `live` lanes of an existing row.
    unsafe { load_f32(p, if left > 0 { live } else { 0 }) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn row_rounded(p: *const f32, _stride: usize, left: usize, live: usize) -> __m512i {
    // SAFETY: `live` lanes of an existing row.
    unsafe { load_rounded(p, if left > 0 { live } else { 0 }) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn row_widened(p: *const u16, _stride: usize, left: usize, live: usize) -> __m512i {
    // SAFETY: `live` lanes of an existing row.
    unsafe { load_widened(p, if left > 0 { live } else { 0 }) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn row_pairs(p: *const u16, stride: usize, left: usize, live: usize) -> __m512i {
    // SAFETY: `live` lanes of rows that exist; a masked-off row's address is not followed.
    unsafe {
        let low = _mm256_maskz_loadu_epi16(mask16(if left > 0 { live } else { 0 }), p.cast());
        let high = _mm256_maskz_loadu_epi16(mask16(if left > 1 { live } else { 0 }), p.wrapping_add(stride).cast());
        interleave(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn row_f32_pairs(p: *const f32, stride: usize, left: usize, live: usize) -> __m512i {
    // SAFETY: `live` lanes of rows that exist; a masked-off row's address is not followed.
    unsafe {
        let low = _mm512_maskz_loadu_ps(mask16(if left > 0 { live } else { 0 }), p);
        let high = _mm512_maskz_loadu_ps(mask16(if left > 1 { live } else { 0 }), p.wrapping_add(stride));
        interleave(std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)))
    }
}

/// 16 halves of row k, then 16 of row k + 1 → 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn interleave(x: __m512i) -> __m512i {
    const ORDER: [i16; 32] = {
        let mut order = [0i16; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = i as i16;
            order[2 * i + 1] = 16 + i as i16;
            i += 1;
        }
        order
    };
    // SAFETY: an array of 32 i16 is 64 plain bytes.
    _mm512_permutexvar_epi16(unsafe { std::mem::transmute::<[i16; 32], __m512i>(ORDER) }, x)
}

/// f32 bits → the nearest bf16 (ties to even) as f32 bits; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn round(x: __m512i) -> __m512i {
    let top = _mm512_set1_epi32(0xffff_0000u32 as i32);
    let lowest = _mm512_and_si512(_mm512_srli_epi32::<16>(x), _mm512_set1_epi32(1));
    let sum = _mm512_add_epi32(x, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7fff)));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(_mm512_castsi512_ps(x), _mm512_castsi512_ps(x));
    let quiet = _mm512_or_si512(x, _mm512_set1_epi32(0x40_0000));
    _mm512_and_si512(_mm512_mask_mov_epi32(sum, nan, quiet), top)
}

/// Word j of vector i becomes word i of vector j.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // Lane L of q[4i + j]: column 4L + j of rows 4i..4i + 4.
    let mut q = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        q[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        q[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        q[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        q[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    let mut out = [_mm512_setzero_si512(); 16];
    for j in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(q[j], q[4 + j]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(q[8 + j], q[12 + j]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(q[j], q[4 + j]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(q[8 + j], q[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    out
}
