//! Blocks of rows as dot products in vector lanes, written once over [`Widen`] for AVX-512, AVX2 and plain Rust.
//!
//! Four rows of W times up to four rows of x: a weight is converted once for all of them, and the independent chains
//! hide the latency of the multiply-add. The rows of a call are four runs of neighbours, and one of each run is taken at a
//! time: four long streams. A product's chain is fixed: one accumulator of `LANES` partial sums over k,
//! chunk by chunk (in a chunk the vectors at j·LANES and 32 + j·LANES in turn, the order in which int4 nibbles come),
//! then the lanes' sum.
use super::CHUNK;
use super::widen::Widen;
use crate::isa::Level;
use crate::simd::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::{Isa, Matrix, Values, quant};

/// Rows of W that share the loads of x.
const TOGETHER: usize = 4;
/// How far ahead of its use a row is asked for, in bytes.
const AHEAD: usize = 1024;

/// A stored format: where a chunk lies and how two vectors of it come out.
trait Format: Copy {
    /// Bytes of a whole chunk.
    const BYTES: usize;
    /// What a row's chunk needs besides its bytes.
    type Context<S: Widen>: Copy;
    fn context<S: Widen>(self, s: S, row: usize, chunk: usize) -> Self::Context<S>;
    /// Elements j·LANES.. and 32 + j·LANES.. of the chunk at `p`.
    /// # Safety
    /// `p` is valid for `BYTES` bytes.
    unsafe fn pair<S: Widen>(self, s: S, p: *const u8, j: usize, context: Self::Context<S>) -> (S::V, S::V);
}

#[derive(Clone, Copy)]
struct F32 {
    round: bool,
}
#[derive(Clone, Copy)]
struct Bf16;
#[derive(Clone, Copy)]
struct Int8;
#[derive(Clone, Copy)]
struct Int4<'a> {
    scales: &'a [u16],
    groups: usize,
}
#[derive(Clone, Copy)]
struct Fp8<'a> {
    scales: &'a [f32],
    blocks: usize,
}

impl Format for F32 {
    const BYTES: usize = 4 * CHUNK;
    type Context<S: Widen> = ();
    #[inline(always)]
    fn context<S: Widen>(self, _: S, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn pair<S: Widen>(self, s: S, p: *const u8, j: usize, _: ()) -> (S::V, S::V) {
        let p = p.cast::<f32>().wrapping_add(j * S::LANES);
        // SAFETY: both vectors lie in the chunk.
        let (a, b) = unsafe { (s.load(p), s.load(p.add(CHUNK / 2))) };
        if self.round { (s.rounded(a), s.rounded(b)) } else { (a, b) }
    }
}

impl Format for Bf16 {
    const BYTES: usize = 2 * CHUNK;
    type Context<S: Widen> = ();
    #[inline(always)]
    fn context<S: Widen>(self, _: S, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn pair<S: Widen>(self, s: S, p: *const u8, j: usize, _: ()) -> (S::V, S::V) {
        let p = p.cast::<u16>().wrapping_add(j * S::LANES);
        // SAFETY: both vectors lie in the chunk.
        unsafe { (s.bf16(p), s.bf16(p.add(CHUNK / 2))) }
    }
}

impl Format for Int8 {
    const BYTES: usize = CHUNK;
    type Context<S: Widen> = ();
    #[inline(always)]
    fn context<S: Widen>(self, _: S, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn pair<S: Widen>(self, s: S, p: *const u8, j: usize, _: ()) -> (S::V, S::V) {
        let p = p.cast::<i8>().wrapping_add(j * S::LANES);
        // SAFETY: both vectors lie in the chunk.
        unsafe { (s.int8(p), s.int8(p.add(CHUNK / 2))) }
    }
}

impl Format for Int4<'_> {
    const BYTES: usize = CHUNK / 2;
    type Context<S: Widen> = S::Table;
    #[inline(always)]
    fn context<S: Widen>(self, s: S, row: usize, chunk: usize) -> S::Table {
        s.table(f32::from_bits(u32::from(self.scales[row * self.groups + chunk]) << 16))
    }
    #[inline(always)]
    unsafe fn pair<S: Widen>(self, s: S, p: *const u8, j: usize, table: S::Table) -> (S::V, S::V) {
        // SAFETY: LANES bytes at j·LANES lie in the 32 bytes of the group.
        unsafe { s.nibbles(p.add(j * S::LANES), table) }
    }
}

impl Format for Fp8<'_> {
    const BYTES: usize = CHUNK;
    type Context<S: Widen> = S::V;
    #[inline(always)]
    fn context<S: Widen>(self, s: S, row: usize, chunk: usize) -> S::V {
        s.splat(self.scales[row / quant::FP8_BLOCK * self.blocks + chunk * CHUNK / quant::FP8_BLOCK])
    }
    #[inline(always)]
    unsafe fn pair<S: Widen>(self, s: S, p: *const u8, j: usize, scale: S::V) -> (S::V, S::V) {
        let p = p.wrapping_add(j * S::LANES);
        // SAFETY: both vectors lie in the chunk.
        let (a, b) = unsafe { (s.e4m3(p), s.e4m3(p.add(CHUNK / 2))) };
        (s.mul(a, scale), s.mul(b, scale))
    }
}

/// See [`super::block`]; `x [m, k padded]`, `round` when f32 weights are to be rounded to bf16.
/// # Safety
/// The weight holds rows `first..first + rows` of `k` elements; x is padded with zeros to whole chunks.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn block(
    isa: Isa,
    w: &Matrix,
    first: usize,
    rows: usize,
    k: usize,
    m: usize,
    x: &[f32],
    round: bool,
    sums: &mut [f32],
) {
    let place = |base: *const u8, stride: usize| Place { base, stride, first, rows, k, m, x };
    // SAFETY: as the caller vouches.
    unsafe {
        match w.values {
            Values::F32(v) => on(isa, F32 { round }, place(v.as_ptr().cast(), 4 * w.stride), sums),
            Values::Bf16(v) => on(isa, Bf16, place(v.as_ptr().cast(), 2 * w.stride), sums),
            Values::Int8 { q, .. } => on(isa, Int8, place(q.as_ptr().cast(), w.stride), sums),
            Values::Int4 { q, scales } => {
                let groups = k.div_ceil(quant::INT4_GROUP);
                on(isa, Int4 { scales, groups }, place(q.as_ptr(), quant::int4_row_bytes(k)), sums);
            }
            Values::Fp8 { q, scales } => {
                let blocks = k.div_ceil(quant::FP8_BLOCK);
                on(isa, Fp8 { scales, blocks }, place(q.as_ptr(), w.stride), sums);
            }
        }
    }
}

/// Where the block's operands lie; `stride` in bytes.
#[derive(Clone, Copy)]
struct Place<'a> {
    base: *const u8,
    stride: usize,
    first: usize,
    rows: usize,
    k: usize,
    m: usize,
    x: &'a [f32],
}

unsafe fn on<F: Format>(isa: Isa, f: F, p: Place, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    unsafe fn avx512<F: Format>(s: Avx512, f: F, p: Place, sums: &mut [f32]) {
        // SAFETY: as the caller vouches.
        unsafe { rows(s, f, p, sums) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<F: Format>(s: Avx2, f: F, p: Place, sums: &mut [f32]) {
        // SAFETY: as the caller vouches.
        unsafe { rows(s, f, p, sums) }
    }
    // SAFETY: an `Isa` exists only where its instructions were detected; the rest as the caller vouches.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => avx512(Avx512::new(), f, p, sums),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(Avx2::new(), f, p, sums),
            _ => rows(Scalar, f, p, sums),
        }
    }
}

#[inline(always)]
unsafe fn rows<S: Widen, F: Format>(s: S, f: F, p: Place, sums: &mut [f32]) {
    // Sixteen accumulators fill AVX-512's registers half; eight leave AVX2 room for operands.
    let widest = if S::LANES == 16 { 4 } else { 2 };
    for r in 0..p.rows.div_ceil(TOGETHER) {
        let mut j = 0;
        while j < p.m {
            let left = (p.m - j).min(widest);
            // SAFETY: as the caller vouches.
            unsafe {
                j += match left {
                    4 => dots::<S, F, 4>(s, f, p, r, j, sums),
                    2 | 3 => dots::<S, F, 2>(s, f, p, r, j, sums),
                    _ => dots::<S, F, 1>(s, f, p, r, j, sums),
                };
            }
        }
    }
}

/// Row r of each of the block's four runs times rows j..j + X of x; returns X.
#[inline(always)]
unsafe fn dots<S: Widen, F: Format, const X: usize>(
    s: S,
    f: F,
    p: Place,
    r: usize,
    j: usize,
    sums: &mut [f32],
) -> usize {
    let padded = p.k.next_multiple_of(CHUNK);
    let run = p.rows.div_ceil(TOGETHER);
    // A shorter last run computes the last row again: no second kernel for the ragged end.
    let row = [0, 1, 2, 3].map(|i| p.first + (i * run + r).min(p.rows - 1));
    let mut sum = [[s.splat(0.0); X]; TOGETHER];
    let mut tail = [[0u32; CHUNK]; TOGETHER];
    for chunk in 0..padded / CHUNK {
        let whole = chunk * CHUNK + CHUNK <= p.k || F::BYTES < CHUNK;
        let mut at = [std::ptr::null::<u8>(); TOGETHER];
        for i in 0..TOGETHER {
            // SAFETY: the chunk begins inside the row.
            let from = unsafe { p.base.add(row[i] * p.stride + chunk * F::BYTES) };
            at[i] = from;
            prefetch(from.wrapping_add(AHEAD));
            if !whole {
                // SAFETY: what is left of the row is readable, and is less than a chunk.
                unsafe {
                    let left = (p.k - chunk * CHUNK) * (F::BYTES / CHUNK);
                    std::ptr::copy_nonoverlapping(from, tail[i].as_mut_ptr().cast(), left);
                }
                at[i] = tail[i].as_ptr().cast();
            }
        }
        let mut context = [f.context(s, row[0], chunk); TOGETHER];
        for i in 1..TOGETHER {
            context[i] = f.context(s, row[i], chunk);
        }
        for v in 0..CHUNK / 2 / S::LANES {
            let mut xs = [(s.splat(0.0), s.splat(0.0)); X];
            for (i, x) in xs.iter_mut().enumerate() {
                // SAFETY: row j + i of x is padded to whole chunks.
                *x = unsafe {
                    let q = p.x.as_ptr().add((j + i) * padded + chunk * CHUNK + v * S::LANES);
                    (s.load(q), s.load(q.add(CHUNK / 2)))
                };
            }
            for i in 0..TOGETHER {
                // SAFETY: a whole chunk is readable at `at`.
                let (a, b) = unsafe { f.pair(s, at[i], v, context[i]) };
                for (sum, x) in sum[i].iter_mut().zip(&xs) {
                    *sum = s.fma(b, x.1, s.fma(a, x.0, *sum));
                }
            }
        }
    }
    for (i, line) in sum.iter().enumerate().take_while(|(i, _)| i * run + r < p.rows) {
        for (x, v) in line.iter().enumerate() {
            sums[(i * run + r) * p.m + j + x] = s.sum(*v);
        }
    }
    X
}

/// Asks for a line; the address need not exist.
#[inline(always)]
pub(super) fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that never faults; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
