//! Panels for matrix tiles. A panel is 32 lines (rows of the left factor, columns of the right one), cut into steps of
//! 32 elements of k; a step is two tiles of 16 lines, each 16 rows of 64 bytes on end. What a tile row holds is the
//! [`Form`]: the left factor of the tile product wants a line's 16 words (pairs of bf16 that neighbour in k), the right
//! factor the same word of 16 lines. One is the transpose of the other as 16 x 16 words.
//!
//! Every kind of operand comes through one door, [`Load::row`]: 32 elements of a stored row as bf16, dequantised on the
//! way. Where lines are stored rows that is a tile row of the first form already; where they are stored columns, two
//! rows interleaved give two tile rows of the second. The other form costs a transposition in registers (64 shuffles
//! for 512 elements). Lines and elements past the operand become zeros.
use super::Values;
use super::pack::Operand;
use super::pack_avx512::{interleave, transpose};
use crate::amx::{STEP, TILE};
use crate::quant;
use std::arch::x86_64::*;

/// Lines of a panel, and elements of k in a step.
pub(super) const LINES: usize = 32;
pub(super) const STEP_WORDS: usize = STEP / 4;
const TILE_WORDS: usize = TILE / 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Tile row = 16 words of one line: the left factor.
    Lines,
    /// Tile row = one word of 16 lines: the right factor.
    Words,
}

/// Which panels and which steps of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub panel: usize,
    pub panels: usize,
    pub step: usize,
    pub steps: usize,
    /// Where lines are rows: steps that the same lines are fetched into L2 ahead of their use.
    pub ahead: usize,
}

/// Packs an area of an operand: step s of panel p goes to word `(p * stride + s) * STEP_WORDS` of `out`, both counted
/// from the area's first.
/// # Safety
/// The machine has the AMX level, every (line, k) below the operand's sizes lies inside its values, the area starts
/// inside the operand, and `out` is valid for the words named.
pub(super) unsafe fn pack(source: &Operand, form: Form, area: Area, out: *mut u32, stride: usize) {
    let o = *source;
    // SAFETY: passed on; the loaders' pointers belong to slices that hold the whole operand.
    unsafe {
        match o.values {
            Values::F32(v) => go(F32 { v: v.as_ptr(), stride: o.stride }, source, form, area, out, stride),
            Values::Bf16(v) => go(Bf16 { v: v.as_ptr(), stride: o.stride }, source, form, area, out, stride),
            Values::Int8 { q, scales } => {
                let l = Int8 { q: q.as_ptr(), scales: scales.as_ptr(), stride: o.stride };
                go(l, source, form, area, out, stride);
            }
            Values::Int4 { q, scales } => {
                let l = Int4 {
                    q: q.as_ptr(),
                    scales: scales.as_ptr(),
                    bytes: quant::int4_row_bytes(o.stride),
                    groups: o.stride.div_ceil(quant::INT4_GROUP),
                };
                go(l, source, form, area, out, stride);
            }
            Values::Fp8 { q, scales } => {
                let blocks = o.stride.div_ceil(quant::FP8_BLOCK);
                go(
                    Fp8 { q: q.as_ptr(), scales: scales.as_ptr(), stride: o.stride, blocks },
                    source,
                    form,
                    area,
                    out,
                    stride,
                );
            }
        }
    }
}

/// Tiles of one form → the other.
/// # Safety
/// The machine has AVX-512; `from` and `to` are valid for `tiles` tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn turn(from: *const u32, to: *mut u32, tiles: usize) {
    for t in 0..tiles {
        // SAFETY: tile t lies inside both.
        unsafe {
            let mut v = [_mm512_setzero_si512(); 16];
            for (i, x) in v.iter_mut().enumerate() {
                *x = _mm512_loadu_si512(from.add(t * TILE_WORDS + i * 16).cast());
            }
            store(transpose(v), to.add(t * TILE_WORDS));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(tile: [__m512i; 16], to: *mut u32) {
    for (i, x) in tile.into_iter().enumerate() {
        // SAFETY: the caller vouches for a tile.
        unsafe { _mm512_storeu_si512(to.add(i * 16).cast(), x) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn go<L: Load>(load: L, source: &Operand, form: Form, area: Area, out: *mut u32, stride: usize) {
    // SAFETY: passed on.
    unsafe {
        if source.lines_are_rows {
            rows(load, source, form, area, out, stride);
        } else {
            columns(load, source, form, area, out, stride);
        }
    }
}

/// Lines are stored rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn rows<L: Load>(load: L, source: &Operand, form: Form, area: Area, out: *mut u32, stride: usize) {
    for p in 0..area.panels {
        for s in 0..area.steps {
            let element = (area.step + s) * 32;
            let n = (source.k - element).min(32);
            for half in 0..2 {
                let line = (area.panel + p) * LINES + half * 16;
                let live = source.lines.saturating_sub(line).min(16);
                let mut v = [_mm512_setzero_si512(); 16];
                for (i, x) in v.iter_mut().enumerate() {
                    if i < live {
                        // SAFETY: line + i and n elements from `element` on are inside the operand.
                        *x = unsafe { load.row(line + i, element, n) };
                        fetch(load, line + i, element + 32 * area.ahead);
                    }
                }
                if form == Form::Words {
                    v = transpose(v);
                }
                // SAFETY: a tile of the step that the caller vouches for.
                unsafe { store(v, out.add((p * stride + s) * STEP_WORDS + half * TILE_WORDS)) };
            }
        }
    }
}

/// Lines are stored columns: all panels of a step together, so that rows are read in long pieces.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn columns<L: Load>(load: L, source: &Operand, form: Form, area: Area, out: *mut u32, stride: usize) {
    for s in 0..area.steps {
        for p in 0..area.panels {
            let line = (area.panel + p) * LINES;
            let live = (source.lines - line).min(LINES);
            let first = (area.step + s) * 32;
            let (mut low, mut high) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
            for w in 0..16 {
                let k = first + 2 * w;
                let zero = _mm512_setzero_si512();
                fetch(load, k + 32, line);
                fetch(load, k + 33, line);
                // SAFETY: rows below k and `live` columns from `line` on are inside the operand.
                let even = if k < source.k { unsafe { load.row(k, line, live) } } else { zero };
                // SAFETY: as above.
                let odd = if k + 1 < source.k { unsafe { load.row(k + 1, line, live) } } else { zero };
                low[w] = interleave(_mm512_inserti64x4::<1>(even, _mm512_castsi512_si256(odd)));
                high[w] = interleave(_mm512_shuffle_i64x2::<0xee>(even, odd));
            }
            if form == Form::Lines {
                (low, high) = (transpose(low), transpose(high));
            }
            // SAFETY: the two tiles of the step that the caller vouches for.
            unsafe {
                let to = out.add((p * stride + s) * STEP_WORDS);
                store(low, to);
                store(high, to.add(TILE_WORDS));
            }
        }
    }
}

/// Asks for what [`Load::row`] will read there into L2.
#[inline(always)]
fn fetch<L: Load>(load: L, r: usize, e: usize) {
    let p = load.place(r, e);
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(p);
        if L::LINES > 1 {
            _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(64));
        }
    }
}

/// Reads stored rows as bf16. Implementations are inlined into functions compiled for AVX-512 with BF16.
trait Load: Copy {
    /// Elements e..e + n of row r, zeros up to 32; e is a multiple of 32 and 1 <= n <= 32.
    /// # Safety
    /// The machine has AVX-512 with BF16, and the elements are inside the matrix.
    unsafe fn row(self, r: usize, e: usize, n: usize) -> __m512i;
    /// Cache lines of 32 elements, rounded up.
    const LINES: usize = 1;
    /// Where element e of row r lies.
    fn place(self, r: usize, e: usize) -> *const i8;
}

#[inline(always)]
fn mask32(n: usize) -> __mmask32 {
    ((1u64 << n) - 1) as __mmask32
}

/// 32 f32 → bf16, nearest even.
/// # Safety
/// The machine has AVX-512 with BF16.
#[inline(always)]
unsafe fn narrowed(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the features are the caller's word; both types are 64 plain bytes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

#[derive(Clone, Copy)]
struct F32 {
    v: *const f32,
    stride: usize,
}

impl Load for F32 {
    const LINES: usize = 2;
    #[inline(always)]
    fn place(self, r: usize, e: usize) -> *const i8 {
        self.v.wrapping_add(r * self.stride + e).cast()
    }

    #[inline(always)]
    unsafe fn row(self, r: usize, e: usize, n: usize) -> __m512i {
        // SAFETY: lanes from n on are masked off; the second address is not followed when none is left.
        unsafe {
            let p = self.v.add(r * self.stride + e);
            let mask = mask32(n);
            let low = _mm512_maskz_loadu_ps(mask as __mmask16, p);
            let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, p.wrapping_add(16));
            narrowed(low, high)
        }
    }
}

#[derive(Clone, Copy)]
struct Bf16 {
    v: *const u16,
    stride: usize,
}

impl Load for Bf16 {
    #[inline(always)]
    fn place(self, r: usize, e: usize) -> *const i8 {
        self.v.wrapping_add(r * self.stride + e).cast()
    }

    #[inline(always)]
    unsafe fn row(self, r: usize, e: usize, n: usize) -> __m512i {
        // SAFETY: lanes from n on are masked off.
        unsafe { _mm512_maskz_loadu_epi16(mask32(n), self.v.add(r * self.stride + e).cast()) }
    }
}

#[derive(Clone, Copy)]
struct Int8 {
    q: *const i8,
    scales: *const f32,
    stride: usize,
}

impl Load for Int8 {
    #[inline(always)]
    fn place(self, r: usize, e: usize) -> *const i8 {
        self.q.wrapping_add(r * self.stride + e).cast()
    }

    #[inline(always)]
    unsafe fn row(self, r: usize, e: usize, n: usize) -> __m512i {
        // SAFETY: lanes from n on are masked off; one scale a row.
        unsafe {
            let q = _mm256_maskz_loadu_epi8(mask32(n), self.q.add(r * self.stride + e));
            let scale = _mm512_set1_ps(*self.scales.add(r));
            let low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(q)));
            let high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256::<1>(q)));
            narrowed(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale))
        }
    }
}

#[derive(Clone, Copy)]
struct Int4 {
    q: *const u8,
    scales: *const u16,
    bytes: usize,
    groups: usize,
}

impl Load for Int4 {
    #[inline(always)]
    fn place(self, r: usize, e: usize) -> *const i8 {
        self.q.wrapping_add(r * self.bytes + e / 2).cast()
    }

    /// The 16 values of the group as bf16 in a table, the nibbles as its indices.
    #[inline(always)]
    unsafe fn row(self, r: usize, e: usize, n: usize) -> __m512i {
        let (group, upper) = (e / quant::INT4_GROUP, e % quant::INT4_GROUP / 32);
        // SAFETY: groups are stored whole, and each has its scale; the conversions are between plain vectors.
        unsafe {
            let scale = f32::from_bits(u32::from(*self.scales.add(r * self.groups + group)) << 16);
            let codes = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
            let values = _mm512_cvtneps_pbh(_mm512_mul_ps(codes, _mm512_set1_ps(scale)));
            let table = _mm512_castsi256_si512(std::mem::transmute::<__m256bh, __m256i>(values));
            let q = _mm256_loadu_si256(self.q.add(r * self.bytes + group * quant::INT4_GROUP / 2).cast());
            let q = _mm512_cvtepu8_epi16(q);
            let nibbles =
                if upper == 0 { _mm512_and_si512(q, _mm512_set1_epi16(15)) } else { _mm512_srli_epi16::<4>(q) };
            _mm512_maskz_permutexvar_epi16(mask32(n), nibbles, table)
        }
    }
}

#[derive(Clone, Copy)]
struct Fp8 {
    q: *const u8,
    scales: *const f32,
    stride: usize,
    blocks: usize,
}

impl Load for Fp8 {
    #[inline(always)]
    fn place(self, r: usize, e: usize) -> *const i8 {
        self.q.wrapping_add(r * self.stride + e).cast()
    }

    /// E4M3 shifted into half precision is 2^-8 of its value, denormals included; the two NaNs are put in by hand.
    #[inline(always)]
    unsafe fn row(self, r: usize, e: usize, n: usize) -> __m512i {
        // SAFETY: lanes from n on are masked off; 32 elements from a multiple of 32 on lie in one block.
        unsafe {
            let q = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask32(n), self.q.add(r * self.stride + e).cast()));
            let scale = *self.scales.add(r / quant::FP8_BLOCK * self.blocks + e / quant::FP8_BLOCK);
            let magnitude = _mm512_and_si512(q, _mm512_set1_epi16(0x7f));
            let nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
            let shifted = _mm512_mask_mov_epi16(_mm512_slli_epi16::<7>(magnitude), nan, _mm512_set1_epi16(0x7e00));
            let sign = _mm512_slli_epi16::<8>(_mm512_and_si512(q, _mm512_set1_epi16(0x80)));
            let half = _mm512_or_si512(shifted, sign);
            let widen = |h: __m256i| {
                let x = _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(256.0));
                _mm512_mul_ps(x, _mm512_set1_ps(scale))
            };
            narrowed(widen(_mm512_castsi512_si256(half)), widen(_mm512_extracti64x4_epi64::<1>(half)))
        }
    }
}
