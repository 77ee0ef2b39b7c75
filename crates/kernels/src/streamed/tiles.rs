//! Blocks of 16 rows on matrix tiles (AMX): rows of W are the left tile, up to 16 rows of x the right one.
//!
//! The rows of a call are cut into 16 runs of neighbours, and block b is the b-th row of every run: each lane of the tile
//! then reads one long stretch of memory, which is what the hardware's prefetcher follows. (Blocks of 16 neighbouring
//! rows of 1.5 KiB read at 23 GB/s, one stretch for all lanes at 20, sixteen at 30 of the 30 that memory gave.)
//!
//! Two chunks of 64 elements of k at a time are converted to bf16 into a ring in L1 (two tiles a chunk) two steps before
//! they are multiplied; after every fourth row a tile of an earlier step is multiplied, so that both kinds of work are
//! always in flight, from one block of rows into the next. The even and the odd tiles of
//! a row are two chains, added at the end: a chain is bound by the multiplier's latency (52 cycles a tile), and two
//! keep up with memory. The right tile has as many columns as there are rows of x, so one row of x costs its own bytes
//! and not those of 16. Codes of int8, int4 and fp8 enter as they are; of int4 and fp8 each chunk is a chain of its own
//! that is scaled and added to the f32 sums (rounding scaled int4 weights instead took twice the instructions).
//!
//! One row of x leaves columns free, and int4 uses four of them ([`spread`]): four steps share a sum tile, each in its
//! own column, because x has zeros in the other three, which add nothing. The tile is stored, scaled and added up once
//! in four steps, in the order of the other row counts and so with their bits.
use super::{CHUNK, ROWS};
use crate::amx::{Config, configure};
use crate::scratch::{SPREAD as SPREAD_X, with};
use crate::{Matrix, Values, quant};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Bytes of a tile.
const TILE: usize = 1024;
/// How many steps conversion runs ahead of multiplication. A tile load cannot take its data from stores that are still
/// on their way, so those must have left the core's window: two steps are some 900 instructions.
const LEAD: usize = 2;
/// Steps of two chunks.
const RING: usize = (LEAD + 1) * 4 * TILE;
/// Steps that share the sum tiles where one row of x is spread over as many columns.
const SPREAD: usize = 4;
/// How far ahead of its use a row is asked for, in bytes.
const AHEAD: usize = 512;

#[repr(C, align(64))]
struct Ring([u8; RING]);

#[repr(C, align(64))]
struct Sums([f32; 4 * ROWS * ROWS]);

/// A stored format: bytes of a chunk, and its 64 elements as two vectors of bf16.
trait Format: Copy {
    const BYTES: usize;
    /// Whether every chunk of a row has a scale, applied to its sum.
    const SCALED: bool = false;
    /// The 64 elements of `chunk` of row `row`, stored at `p`.
    /// # Safety
    /// `p` is valid for `BYTES` bytes, and the machine has AVX-512 with BF16.
    unsafe fn convert(self, p: *const u8, row: usize, chunk: usize) -> (__m512i, __m512i);
    /// As `convert` for this chunk and the next.
    /// # Safety
    /// `p` is valid for `2 * BYTES` bytes, and the machine has AVX-512 with BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn convert_two(self, p: *const u8, row: usize, chunk: usize) -> [__m512i; 4] {
        // SAFETY: as the caller vouches.
        let ((a, b), (c, d)) =
            unsafe { (self.convert(p, row, chunk), self.convert(p.add(Self::BYTES), row, chunk + 1)) };
        [a, b, c, d]
    }
    /// Whether the products of one row of x are spread over columns, which takes `eight_scales`.
    const SPREADS: bool = false;
    /// Scales of `chunk` and of the next ones as bf16, eight together, zeros after the row's end.
    /// # Safety
    /// The row and `chunk` lie in the matrix, and the machine has AVX-512.
    unsafe fn eight_scales(self, _row: usize, _chunk: usize) -> __m128i {
        unreachable!("only formats that are spread have scales by eight")
    }
    /// Scales of `chunk` and of the next one (0 if there is none) for the block's rows.
    /// # Safety
    /// The rows and `chunk` lie in the matrix, and the machine has AVX-512.
    unsafe fn scales(self, _block: Block, _chunk: usize) -> [__m512; 2] {
        unreachable!("only formats that are scaled have scales")
    }
    /// Asks for line `line` of each row's scales, where rows have their own.
    #[inline(always)]
    fn ask(self, _block: Block, _line: usize) {}
}

#[derive(Clone, Copy)]
struct F32;
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

/// `low` in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn narrow_pair(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

impl Format for F32 {
    const BYTES: usize = 4 * CHUNK;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn convert(self, p: *const u8, _: usize, _: usize) -> (__m512i, __m512i) {
        let p = p.cast::<f32>();
        // SAFETY: four vectors are the chunk.
        unsafe {
            (
                narrow_pair(_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16))),
                narrow_pair(_mm512_loadu_ps(p.add(32)), _mm512_loadu_ps(p.add(48))),
            )
        }
    }
}

impl Format for Bf16 {
    const BYTES: usize = 2 * CHUNK;
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn convert(self, p: *const u8, _: usize, _: usize) -> (__m512i, __m512i) {
        // SAFETY: two vectors are the chunk.
        unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast())) }
    }
}

impl Format for Int8 {
    const BYTES: usize = CHUNK;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn convert(self, p: *const u8, _: usize, _: usize) -> (__m512i, __m512i) {
        // SAFETY: 16 bytes at each quarter of the chunk.
        let quarter =
            |i: usize| unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(16 * i).cast()))) };
        (narrow_pair(quarter(0), quarter(1)), narrow_pair(quarter(2), quarter(3)))
    }
}

impl Format for Int4<'_> {
    const BYTES: usize = CHUNK / 2;
    const SCALED: bool = quant::INT4_GROUP == CHUNK;
    const SPREADS: bool = Self::SCALED;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn convert(self, p: *const u8, _: usize, _: usize) -> (__m512i, __m512i) {
        let codes = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
        // Twice the same sixteen: the permutation looks at five bits of an index, and only four are the nibble's.
        let table = narrow_pair(codes, codes);
        // SAFETY: 32 bytes are the chunk.
        let bytes = unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast())) };
        (_mm512_permutexvar_epi16(bytes, table), _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(bytes), table))
    }
    #[inline(always)]
    fn ask(self, block: Block, line: usize) {
        // A row's scales may begin in the middle of a line.
        if 32 * line < self.groups + 32 {
            for lane in 0..ROWS {
                let first = self.scales.as_ptr().wrapping_add(block.row(lane) * self.groups);
                super::vector::prefetch(first.cast::<u8>().wrapping_add(64 * line));
            }
        }
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn eight_scales(self, row: usize, chunk: usize) -> __m128i {
        let there = 0xffu32 >> (8 - (self.groups - chunk).min(8));
        // SAFETY: the row has that many scales from `chunk` on; masked elements are not read.
        unsafe { _mm_maskz_loadu_epi16(there as u8, self.scales.as_ptr().add(row * self.groups + chunk).cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn scales(self, block: Block, chunk: usize) -> [__m512; 2] {
        let first = block.first * self.groups + chunk;
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let row = _mm512_mullo_epi32(lane, _mm512_set1_epi32(block.step as i32));
        let row = _mm512_min_epi32(row, _mm512_set1_epi32((block.last - block.first) as i32));
        let at = _mm512_mullo_epi32(row, _mm512_set1_epi32(2 * self.groups as i32));
        let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
        if chunk + 1 < self.groups {
            // SAFETY: every row has scales of both chunks, side by side.
            let both = unsafe { _mm512_i32gather_epi32::<1>(at, self.scales.as_ptr().add(first).cast()) };
            let (a, b) = (_mm512_slli_epi32::<16>(both), _mm512_and_si512(both, high));
            return [_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)];
        }
        if chunk > 0 {
            // SAFETY: as above, with the chunk before.
            let both = unsafe { _mm512_i32gather_epi32::<1>(at, self.scales.as_ptr().add(first - 1).cast()) };
            return [_mm512_castsi512_ps(_mm512_and_si512(both, high)), _mm512_setzero_ps()];
        }
        let mut wide = [0u32; ROWS];
        for (i, w) in wide.iter_mut().enumerate() {
            *w = u32::from(self.scales[block.row(i)]) << 16;
        }
        // SAFETY: sixteen words.
        [_mm512_castsi512_ps(unsafe { _mm512_loadu_si512(wide.as_ptr().cast()) }), _mm512_setzero_ps()]
    }
}

impl Format for Fp8<'_> {
    const BYTES: usize = CHUNK;
    const SCALED: bool = quant::FP8_BLOCK.is_multiple_of(CHUNK) && quant::FP8_BLOCK.is_multiple_of(ROWS);
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn convert(self, p: *const u8, _: usize, _: usize) -> (__m512i, __m512i) {
        // Denormals m·2^-9 as bf16, m in 0..8: 2^-9, 2^-8, 1.5·2^-8, 2^-7, …
        const DENORMALS: [u16; 32] = {
            let mut values = [0u16; 32];
            let mut i = 0;
            while i < 32 {
                values[i] = ((i % 8) as f32 / 512.0).to_bits().wrapping_shr(16) as u16;
                i += 1;
            }
            values
        };
        let half = |i: usize| {
            // SAFETY: 32 bytes at each half of the chunk, and 64 of the constant.
            let (bytes, denormals) = unsafe {
                (
                    _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.add(32 * i).cast())),
                    _mm512_loadu_si512(DENORMALS.as_ptr().cast()),
                )
            };
            let magnitude = _mm512_and_si512(bytes, _mm512_set1_epi16(0x7f));
            // Exponent bias 7 to 127.
            let normal = _mm512_add_epi16(_mm512_slli_epi16::<4>(magnitude), _mm512_set1_epi16(120 << 7));
            let small = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
            let v = _mm512_mask_permutexvar_epi16(normal, small, magnitude, denormals);
            let nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
            let v = _mm512_mask_blend_epi16(nan, v, _mm512_set1_epi16(0x7fc0));
            _mm512_or_si512(v, _mm512_slli_epi16::<8>(_mm512_and_si512(bytes, _mm512_set1_epi16(0x80))))
        };
        (half(0), half(1))
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn scales(self, block: Block, chunk: usize) -> [__m512; 2] {
        let scale = |row: usize, chunk: usize| {
            let block = chunk * CHUNK / quant::FP8_BLOCK;
            if block < self.blocks { self.scales[row / quant::FP8_BLOCK * self.blocks + block] } else { 0.0 }
        };
        let (mut a, mut b) = ([0f32; ROWS], [0f32; ROWS]);
        for (i, (a, b)) in a.iter_mut().zip(&mut b).enumerate() {
            let row = block.row(i);
            (*a, *b) = (scale(row, chunk), scale(row, chunk + 1));
        }
        // SAFETY: sixteen floats each.
        unsafe { [_mm512_loadu_ps(a.as_ptr()), _mm512_loadu_ps(b.as_ptr())] }
    }
}

/// Rows of x in the column tiles that this thread's tiles are configured for; (0, 0) at the start of a task, when
/// anybody may have configured them.
pub(super) type Shape = [usize; 2];

/// See [`super::block`]; `x` as pairs, `[k padded / 2][rows]` for each column tile of up to 16 rows.
/// # Safety
/// The machine has AMX; the weight holds rows `first..first + rows` of `k` elements; x has `m` rows, padded with zeros
/// to whole chunks.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn block(
    shape: &mut Shape,
    w: &Matrix,
    first: usize,
    rows: usize,
    k: usize,
    m: usize,
    x: &[u32],
    sums: &mut [f32],
) {
    let place = |base: *const u8, stride: usize| Place { base, stride, first, rows, k, m };
    // SAFETY: as the caller vouches.
    unsafe {
        match w.values {
            Values::F32(v) => run(shape, F32, place(v.as_ptr().cast(), 4 * w.stride), x, sums),
            Values::Bf16(v) => run(shape, Bf16, place(v.as_ptr().cast(), 2 * w.stride), x, sums),
            Values::Int8 { q, .. } => run(shape, Int8, place(q.as_ptr().cast(), w.stride), x, sums),
            Values::Int4 { q, scales } => {
                let groups = k.div_ceil(quant::INT4_GROUP);
                run(shape, Int4 { scales, groups }, place(q.as_ptr(), quant::int4_row_bytes(k)), x, sums);
            }
            Values::Fp8 { q, scales } => {
                let blocks = k.div_ceil(quant::FP8_BLOCK);
                run(shape, Fp8 { scales, blocks }, place(q.as_ptr(), w.stride), x, sums);
            }
        }
    }
}

/// Where the block lies; `stride` in bytes.
#[derive(Clone, Copy)]
struct Place {
    base: *const u8,
    stride: usize,
    first: usize,
    rows: usize,
    k: usize,
    m: usize,
}

/// Rows of x in each of two column tiles, and where their pairs lie.
#[derive(Clone, Copy)]
struct Columns<'a> {
    first: usize,
    count: [usize; 2],
    pairs: [*const u32; 2],
    /// The row of W that each float of a block's `[16][rows of x]` belongs to, for either column tile.
    row_of: &'a [[[u32; ROWS]; ROWS]; 2],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn run<F: Format>(shape: &mut Shape, f: F, p: Place, x: &[u32], sums: &mut [f32]) {
    let chunks = p.k.div_ceil(CHUNK);
    if F::SPREADS && p.m == 1 {
        return with(&SPREAD_X, 2 * chunks * ROWS * SPREAD, |wide| {
            // SAFETY: as the caller vouches; `wide` holds x for as many columns as `count` says.
            unsafe {
                spread(x, wide);
                let c = Columns {
                    first: 0,
                    count: [SPREAD, 0],
                    pairs: [wide.as_ptr(); 2],
                    row_of: &[[[0; ROWS]; ROWS]; 2],
                };
                columns_of::<F, false, SPREAD>(shape, f, p, c, sums);
            }
        });
    }
    let mut row_of = [[[0u32; ROWS]; ROWS]; 2];
    for first in (0..p.m).step_by(2 * ROWS) {
        let count = [ROWS.min(p.m - first), ROWS.min(p.m.saturating_sub(first + ROWS))];
        for (row_of, count) in row_of.iter_mut().zip(count) {
            for (i, row) in row_of.as_flattened_mut().iter_mut().enumerate().take(ROWS * count) {
                *row = (i / count) as u32;
            }
        }
        let start = |i: usize| x.as_ptr().wrapping_add(i * chunks * CHUNK / 2);
        let columns = Columns { first, count, pairs: [start(first), start(first + ROWS)], row_of: &row_of };
        // SAFETY: as the caller vouches.
        unsafe {
            if count[1] == 0 {
                columns_of::<F, false, 1>(shape, f, p, columns, sums);
            } else {
                columns_of::<F, true, 1>(shape, f, p, columns, sums);
            }
        }
    }
}

/// One row of x, `x` pairs in whole chunks, for tiles of [`SPREAD`] columns: pair by pair in the column of its step, zeros
/// in the others.
/// # Safety
/// `wide` has `SPREAD` times as many words as `x`, and the machine has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn spread(x: &[u32], wide: &mut [u32]) {
    for (t, (pairs, wide)) in x.chunks_exact(ROWS).zip(wide.chunks_exact_mut(ROWS * SPREAD)).enumerate() {
        let column = 0x1111 << (t / 4 % SPREAD);
        let quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        for (i, to) in wide.chunks_exact_mut(ROWS).enumerate() {
            let which = _mm512_add_epi32(quarter, _mm512_set1_epi32(4 * i as i32));
            // SAFETY: sixteen words each.
            unsafe {
                let v = _mm512_loadu_si512(pairs.as_ptr().cast());
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_maskz_permutexvar_epi32(column, which, v));
            }
        }
    }
}

/// `SHARING`: how many steps share the sum tiles, each in its column.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn columns_of<F: Format, const TWO: bool, const SHARING: usize>(
    shape: &mut Shape,
    f: F,
    p: Place,
    c: Columns,
    sums: &mut [f32],
) {
    let mut config = Config::FULL;
    let bytes = c.count.map(|n| 4 * n as u16);
    // tmm0, tmm1: even and odd chain of the first columns, tmm2, tmm3 of the second; tmm4, tmm5: W; tmm6, tmm7: x.
    let second = if TWO { bytes[1] } else { bytes[0] };
    for (i, b) in [bytes[0], bytes[0], second, second, 64, 64, bytes[0], second].into_iter().enumerate() {
        config.columns[i] = b;
    }
    let chunks = p.k.div_ceil(CHUNK);
    let steps = chunks.div_ceil(2);
    // Steps whose two chunks are there in full; an int4 group always is.
    let whole_steps = if F::BYTES < CHUNK { chunks / 2 } else { p.k / (2 * CHUNK) };
    let mut ring = MaybeUninit::<Ring>::uninit();
    let (mut out, mut block_sums) = (MaybeUninit::<Sums>::uninit(), MaybeUninit::<Sums>::uninit());
    let (ring, out) = (ring.as_mut_ptr().cast::<u8>(), out.as_mut_ptr().cast::<f32>());
    let block_sums = block_sums.as_mut_ptr().cast::<f32>();
    // SAFETY: the machine has AMX; tiles read what was converted into the ring, and x's pairs, which are padded to
    // whole chunks; `collect` reads what `store` wrote.
    unsafe {
        if *shape != c.count {
            configure(&config);
            *shape = c.count;
        }
        crate::amx::zero();
        let slot = |step: usize| ring.add(step % (LEAD + 1) * 4 * TILE);
        let x = |tile: usize| [0, 1].map(|i| c.pairs[i].wrapping_add(tile * ROWS * c.count[i]).cast::<u8>());
        // Steps of all blocks in one row: the next block is converted while the last one is multiplied.
        let total = p.blocks() * steps;
        let (mut block, mut step) = (0, 0);
        let (mut done_block, mut done) = (0, 0);
        let mut pending = None;
        let gather = |done, sums: &mut [f32]| {
            if SHARING > 1 {
                collect_shared(f, (out, block_sums), p, done, sums);
            } else {
                collect::<F, TWO>(f, (out, block_sums), p, done, c, sums);
            }
        };
        for i in 0..total + LEAD {
            let (to, from) = (slot(i), slot(i + 1));
            let tile = 4 * done;
            let tiles = if i >= LEAD { 4.min(2 * chunks - tile) } else { 0 };
            if F::SCALED && i < total {
                f.ask(p.block(block + 1), step);
            }
            if i < total && step < whole_steps && tiles == 4 {
                let lines = Lines::new::<F>(p, p.block(block), step);
                lines.convert(f, 0, to);
                multiply::<F, TWO>(0, from, x(tile), c.count);
                lines.convert(f, 4, to);
                multiply::<F, TWO>(1, from, x(tile + 1), c.count);
                lines.convert(f, 8, to);
                multiply::<F, TWO>(2, from, x(tile + 2), c.count);
                lines.convert(f, 12, to);
                multiply::<F, TWO>(3, from, x(tile + 3), c.count);
            } else {
                if i < total && step < whole_steps {
                    let lines = Lines::new::<F>(p, p.block(block), step);
                    (0..ROWS).step_by(4).for_each(|r| lines.convert(f, r, to));
                } else if i < total {
                    ragged(f, p, p.block(block), 2 * step, to);
                }
                (0..tiles).for_each(|t| multiply::<F, TWO>(t, from, x(tile + t), c.count));
            }
            if i < total {
                step += 1;
                if step == steps {
                    (block, step) = (block + 1, 0);
                }
            }
            // What was stored a step ago has arrived by now.
            if let Some(done) = pending.take() {
                gather(done, sums);
            }
            if i >= LEAD {
                if F::SCALED && (done + 1).is_multiple_of(SHARING) || done + 1 == steps {
                    store::<TWO>(out, c.count);
                    crate::amx::zero();
                    pending = Some((done_block, done));
                }
                done += 1;
                if done == steps {
                    (done_block, done) = (done_block + 1, 0);
                }
            }
        }
        if let Some(done) = pending {
            gather(done, sums);
        }
    }
}

/// Sixteen rows of the weight, `step` apart, from `first` on; rows past `last` (the call's last one) repeat it.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    step: usize,
    last: usize,
}

impl Block {
    #[inline(always)]
    fn row(self, lane: usize) -> usize {
        (self.first + lane * self.step).min(self.last)
    }
}

impl Place {
    /// How many blocks the rows of the call make.
    fn blocks(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Lane i of all blocks together is one stream: rows i·blocks.. in their order.
    #[inline(always)]
    fn block(&self, index: usize) -> Block {
        Block { first: self.first + index, step: self.blocks(), last: self.first + self.rows - 1 }
    }
}

/// Where a step's two whole chunks lie in the rows of a block.
#[derive(Clone, Copy)]
struct Lines {
    /// The chunk in row 0 of the matrix.
    base: *const u8,
    stride: usize,
    block: Block,
    chunk: usize,
}

impl Lines {
    #[inline(always)]
    fn new<F: Format>(p: Place, block: Block, step: usize) -> Lines {
        let chunk = 2 * step;
        Lines { base: p.base.wrapping_add(chunk * F::BYTES), stride: p.stride, block, chunk }
    }

    /// Converts rows `r..r + 4` into four tiles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn convert<F: Format>(self, f: F, r: usize, to: *mut u8) {
        for i in 0..4 {
            let row = self.block.row(r + i);
            let line = self.base.wrapping_add(row * self.stride);
            for j in 0..(2 * F::BYTES).div_ceil(64) {
                super::vector::prefetch(line.wrapping_add(AHEAD + 64 * j));
            }
            // SAFETY: both chunks lie in the row, and the four tiles at `to`.
            unsafe {
                for (j, v) in f.convert_two(line, row, self.chunk).into_iter().enumerate() {
                    _mm512_store_si512(to.add(j * TILE + (r + i) * 64).cast(), v);
                }
            }
        }
    }
}

/// Converts what is left of all rows from `chunk` on (less than two chunks) into tiles, filled up with zeros.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn ragged<F: Format>(f: F, p: Place, block: Block, chunk: usize, to: *mut u8) {
    for r in 0..ROWS {
        let row = block.row(r);
        for (i, chunk) in (chunk..p.k.div_ceil(CHUNK)).enumerate() {
            let mut tail = [0u8; 4 * CHUNK];
            let elements = CHUNK.min(p.k - chunk * CHUNK);
            let left = if F::BYTES < CHUNK { F::BYTES } else { elements * (F::BYTES / CHUNK) };
            // SAFETY: the chunk begins inside the row, and what is left of the row is readable.
            unsafe {
                let from = p.base.add(row * p.stride + chunk * F::BYTES);
                std::ptr::copy_nonoverlapping(from, tail.as_mut_ptr(), left);
                let (even, odd) = f.convert(tail.as_ptr(), row, chunk);
                let to = to.add(i * 2 * TILE + r * 64);
                _mm512_store_si512(to.cast(), even);
                _mm512_store_si512(to.add(TILE).cast(), odd);
            }
        }
    }
}

/// `$name`: the tile of W at `w` times those of x, added to the chains `$first` and (with two column tiles) `$second`.
macro_rules! product {
    ($name:ident, $w:literal, $first:literal, $second:literal) => {
        #[inline(always)]
        unsafe fn $name<const TWO: bool>(w: *const u8, x: [*const u8; 2], count: [usize; 2]) {
            // SAFETY: reads a tile of the ring and one of each column tile of x; tile registers belong to this file.
            unsafe {
                asm!(
                    concat!("tileloadd ", $w, ", [{w} + {s}*1]"),
                    "tileloadd tmm6, [{x} + {t}*1]",
                    concat!("tdpbf16ps ", $first, ", ", $w, ", tmm6"),
                    w = in(reg) w,
                    s = in(reg) 64usize,
                    x = in(reg) x[0],
                    t = in(reg) 4 * count[0],
                    options(nostack, readonly)
                );
                if TWO {
                    asm!(
                        "tileloadd tmm7, [{x} + {t}*1]",
                        concat!("tdpbf16ps ", $second, ", ", $w, ", tmm7"),
                        x = in(reg) x[1],
                        t = in(reg) 4 * count[1],
                        options(nostack, readonly)
                    );
                }
            }
        }
    };
}
product!(first_even, "tmm4", "tmm0", "tmm2");
product!(first_odd, "tmm5", "tmm0", "tmm2");
product!(second_even, "tmm4", "tmm1", "tmm3");
product!(second_odd, "tmm5", "tmm1", "tmm3");

/// Tile `t` of a step: into the first or second chain by its place in the chunk, or, where chunks have scales, by its
/// chunk.
#[inline(always)]
unsafe fn multiply<F: Format, const TWO: bool>(t: usize, from: *const u8, x: [*const u8; 2], count: [usize; 2]) {
    let w = from.wrapping_add(t * TILE);
    // SAFETY: as the caller vouches.
    unsafe {
        match (t, F::SCALED) {
            (0, _) => first_even::<TWO>(w, x, count),
            (1, true) => first_odd::<TWO>(w, x, count),
            (1, false) => second_odd::<TWO>(w, x, count),
            (2, true) => second_even::<TWO>(w, x, count),
            (2, false) => first_even::<TWO>(w, x, count),
            _ => second_odd::<TWO>(w, x, count),
        }
    }
}

/// The chains, `[16][columns]` each at a multiple of 256 floats: rows close together, because every line of L1 that a
/// block touches costs it a line of weights.
#[inline(always)]
unsafe fn store<const TWO: bool>(p: *mut f32, count: [usize; 2]) {
    // SAFETY: each tile is at most 16 rows of 64 bytes.
    unsafe {
        asm!(
            "tilestored [{p} + {s}*1], tmm0",
            "tilestored [{p} + {s}*1 + 1024], tmm1",
            p = in(reg) p,
            s = in(reg) 4 * count[0],
            options(nostack)
        );
        if TWO {
            asm!(
                "tilestored [{p} + {s}*1 + 2048], tmm2",
                "tilestored [{p} + {s}*1 + 3072], tmm3",
                p = in(reg) p,
                s = in(reg) 4 * count[1],
                options(nostack)
            );
        }
    }
}

/// The two chains of a step into the block's sums `[16][columns]`: added to each other, or each by its chunk's scales and
/// to what is there from earlier steps; after the last step to where the rows belong in `sums`. Rows of x lie behind one
/// another in `out` as in `block_sums`, and whole vectors are taken across rows of W: the loads of one row would
/// otherwise meet the unfinished stores of the row before in the same line.
/// # Safety
/// `out` was written by [`store`] and `block_sums` by this function for earlier steps; the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn collect<F: Format, const TWO: bool>(
    f: F,
    (out, block_sums): (*const f32, *mut f32),
    p: Place,
    (index, step): (usize, usize),
    c: Columns,
    sums: &mut [f32],
) {
    let block = p.block(index);
    let last = step + 1 == p.k.div_ceil(CHUNK).div_ceil(2);
    // SAFETY: the block's rows and the step's first chunk lie in the matrix, and the columns in use were stored.
    unsafe {
        let [a, b] = if F::SCALED { f.scales(block, 2 * step) } else { [_mm512_setzero_ps(), _mm512_setzero_ps()] };
        for t in 0..1 + usize::from(TWO) {
            let (from, to) = (out.add(2 * t * ROWS * ROWS), block_sums.add(t * ROWS * ROWS));
            for v in 0..c.count[t] {
                let (t0, t1) = (_mm512_loadu_ps(from.add(v * ROWS)), _mm512_loadu_ps(from.add((ROWS + v) * ROWS)));
                let mut sum = _mm512_add_ps(t0, t1);
                if F::SCALED {
                    let row = _mm512_loadu_si512(c.row_of[t][v].as_ptr().cast());
                    let (a, b) = (_mm512_permutexvar_ps(row, a), _mm512_permutexvar_ps(row, b));
                    sum = _mm512_add_ps(_mm512_mul_ps(t0, a), _mm512_mul_ps(t1, b));
                    if step > 0 {
                        sum = _mm512_add_ps(_mm512_loadu_ps(to.add(v * ROWS)), sum);
                    }
                }
                _mm512_storeu_ps(to.add(v * ROWS), sum);
            }
            if last {
                for (lane, row) in (index..p.rows).step_by(block.step).enumerate() {
                    let line = &mut sums[row * p.m + c.first + t * ROWS..][..c.count[t]];
                    for (j, s) in line.iter_mut().enumerate() {
                        *s = *to.add(lane * c.count[t] + j);
                    }
                }
            }
        }
    }
}

/// As [`collect`] for one row of x and the up to [`SPREAD`] steps, the last of which is `step`, that share the chains:
/// column i of either chain is the i-th of these steps. The block's sums are kept with row 4·i + l at 4·l + i.
/// # Safety
/// As [`collect`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn collect_shared<F: Format>(
    f: F,
    (out, block_sums): (*const f32, *mut f32),
    p: Place,
    (index, step): (usize, usize),
    sums: &mut [f32],
) {
    let block = p.block(index);
    let first = step - step % SPREAD;
    let upper = _mm512_set1_epi32(0xffff_0000u32 as i32);
    let mut scaled = [_mm512_setzero_ps(); SPREAD];
    // SAFETY: the block's rows and the steps' chunks lie in the matrix; `out` holds `[16][SPREAD]` of either chain.
    unsafe {
        // Rows 4·i.., each a quarter of the vector: its sums of the steps.
        for (i, sum) in scaled.iter_mut().enumerate() {
            let row = |l: usize| f.eight_scales(block.row(4 * i + l), 2 * first);
            let both = _mm512_castsi128_si512(row(0));
            let both = _mm512_inserti32x4::<1>(both, row(1));
            let both = _mm512_inserti32x4::<2>(both, row(2));
            let both = _mm512_inserti32x4::<3>(both, row(3));
            let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both));
            let odd = _mm512_castsi512_ps(_mm512_and_si512(both, upper));
            let (t0, t1) = (_mm512_loadu_ps(out.add(i * ROWS)), _mm512_loadu_ps(out.add((ROWS + i) * ROWS)));
            *sum = _mm512_add_ps(_mm512_mul_ps(t0, even), _mm512_mul_ps(t1, odd));
        }
        // Transposed in each quarter: a vector a step.
        let [a, b, c, d] = scaled.map(|v| _mm512_castps_pd(v));
        let low = |x, y| _mm512_castps_pd(_mm512_unpacklo_ps(_mm512_castpd_ps(x), _mm512_castpd_ps(y)));
        let high = |x, y| _mm512_castps_pd(_mm512_unpackhi_ps(_mm512_castpd_ps(x), _mm512_castpd_ps(y)));
        let (ab, cd, ab_high, cd_high) = (low(a, b), low(c, d), high(a, b), high(c, d));
        let by_step = [
            _mm512_unpacklo_pd(ab, cd),
            _mm512_unpackhi_pd(ab, cd),
            _mm512_unpacklo_pd(ab_high, cd_high),
            _mm512_unpackhi_pd(ab_high, cd_high),
        ]
        .map(|v| _mm512_castpd_ps(v));
        let mut sum = _mm512_loadu_ps(block_sums);
        for (i, s) in by_step.into_iter().enumerate().take(step - first + 1) {
            sum = if first + i == 0 { s } else { _mm512_add_ps(sum, s) };
        }
        _mm512_storeu_ps(block_sums, sum);
        if step + 1 == p.k.div_ceil(CHUNK).div_ceil(2) {
            for (lane, row) in (index..p.rows).step_by(block.step).enumerate() {
                sums[row] = *block_sums.add(4 * (lane % 4) + lane / 4);
            }
        }
    }
}
