//! Operands as tiles, and results back into rows. Tails are filled with zeros.
use super::{Rows, TILE, narrow2, pairing};
use std::arch::x86_64::*;

#[inline(always)]
fn mask32(n: usize) -> __mmask32 {
    if n >= 32 { !0 } else { (1 << n) - 1 }
}

/// 32 elements of a row from column `from` on, zeros past its `width`.
/// # Safety
/// `data` holds `width` elements from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load(data: &[u16], at: usize, width: usize, from: usize) -> __m512i {
    debug_assert!(at + width <= data.len());
    if from >= width {
        return _mm512_setzero_si512();
    }
    // SAFETY: the row lies inside `data`; lanes past its end are masked off and not accessed.
    unsafe { _mm512_maskz_loadu_epi16(mask32(width - from), data.as_ptr().add(at + from).cast()) }
}

/// Where rows `from..from + N` start and how wide they are; rows from `end` on have no width.
#[inline(always)]
fn starts<const N: usize>(rows: &Rows, from: usize, end: usize) -> [(usize, usize); N] {
    let (mut walk, mut all) = (rows.from(from), [(0, 0); N]);
    for row in all.iter_mut().take(end.saturating_sub(from)) {
        *row = (walk.step(), rows.width);
    }
    all
}

/// `data`'s rows `from..end` as left tiles: `[tile of 16 rows][step of 32 columns]`, over `count` rows (a multiple of 16)
/// and `steps` steps.
/// # Safety
/// `data` holds rows `from..end`; `out` has room for the tiles.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn left(
    data: &[u16],
    rows: &Rows,
    from: usize,
    end: usize,
    count: usize,
    steps: usize,
    out: *mut u8,
) {
    for tile in 0..count / 16 {
        for (r, (at, width)) in starts::<16>(rows, from + tile * 16, end).into_iter().enumerate() {
            for step in 0..steps {
                let to = (tile * steps + step) * TILE + r * 64;
                // SAFETY: as the caller vouches.
                unsafe { _mm512_store_si512(out.add(to).cast(), load(data, at, width, step * 32)) }
            }
        }
    }
}

/// The transpose of rows `from..end` as left tiles: `[tile of 16 columns][step of 32 rows]`, over `count` rows (a
/// multiple of 32) and `width` columns (a multiple of 32).
/// # Safety
/// As [`left`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn left_crosswise(
    data: &[u16],
    rows: &Rows,
    from: usize,
    end: usize,
    count: usize,
    width: usize,
    out: *mut u8,
) {
    let steps = count / 32;
    for step in 0..steps {
        let at = starts::<32>(rows, from + step * 32, end);
        for column in (0..width).step_by(32) {
            let (mut low, mut high) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
            for j in 0..16 {
                // SAFETY: as the caller vouches.
                let [x, y] = [at[2 * j], at[2 * j + 1]].map(|(at, width)| unsafe { load(data, at, width, column) });
                (low[j], high[j]) = pairs(x, y);
            }
            for (half, block) in [&mut low, &mut high].into_iter().enumerate() {
                transpose(block);
                // SAFETY: `out` has room for the tile.
                unsafe { store(block, out.add(((column / 16 + half) * steps + step) * TILE)) }
            }
        }
    }
}

/// Rows `from..end` as right tiles of their transpose: `[tile of 16 rows][step of 32 columns]`, line j of a tile holding
/// columns 2j and 2j + 1 of each row; `tiles` tiles of rows, `steps` steps.
/// # Safety
/// As [`left`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn right_crosswise(
    data: &[u16],
    rows: &Rows,
    from: usize,
    end: usize,
    tiles: usize,
    steps: usize,
    out: *mut u8,
) {
    for tile in 0..tiles {
        let at = starts::<16>(rows, from + tile * 16, end);
        for step in 0..steps {
            let mut block = [_mm512_setzero_si512(); 16];
            for (line, (at, width)) in block.iter_mut().zip(at) {
                // SAFETY: as the caller vouches.
                *line = unsafe { load(data, at, width, step * 32) };
            }
            transpose(&mut block);
            // SAFETY: `out` has room for the tile.
            unsafe { store(&block, out.add((tile * steps + step) * TILE)) }
        }
    }
}

/// 32 rows from `from` on as right tiles: `[tile of 16 columns]`, line j holding rows 2j and 2j + 1; `width` columns (a
/// multiple of 32).
/// # Safety
/// As [`left`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn right(data: &[u16], rows: &Rows, from: usize, end: usize, width: usize, out: *mut u8) {
    let at = starts::<32>(rows, from, end);
    for column in (0..width).step_by(32) {
        for j in 0..16 {
            // SAFETY: as the caller vouches; `out` has room for the tiles.
            unsafe {
                let [(a, a_width), (b, b_width)] = [at[2 * j], at[2 * j + 1]];
                let (low, high) = pairs(load(data, a, a_width, column), load(data, b, b_width, column));
                _mm512_store_si512(out.add(column / 16 * TILE + j * 64).cast(), low);
                _mm512_store_si512(out.add((column / 16 + 1) * TILE + j * 64).cast(), high);
            }
        }
    }
}

/// # Safety
/// `out` is on a 64-byte boundary and has room for a tile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(block: &[__m512i; 16], out: *mut u8) {
    for (j, line) in block.iter().enumerate() {
        // SAFETY: as the caller vouches.
        unsafe { _mm512_store_si512(out.add(j * 64).cast(), *line) }
    }
}

/// Interleaves two rows of 32: pairs 0..16 and pairs 16..32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pairs(x: __m512i, y: __m512i) -> (__m512i, __m512i) {
    let (mut low, mut high) = ([0u16; 32], [0u16; 32]);
    for i in 0..32 {
        low[i] = (i / 2 + i % 2 * 32) as u16;
        high[i] = low[i] + 16;
    }
    // SAFETY: both are 64 bytes of plain integers.
    let [low, high] = unsafe { [low, high].map(|o| std::mem::transmute::<[u16; 32], __m512i>(o)) };
    (_mm512_permutex2var_epi16(x, low, y), _mm512_permutex2var_epi16(x, high, y))
}

/// Writes the transposed block `x` `[width rounded up to 32][32]`, each column times its factor, to rows `from..end` (at
/// most 32) as bf16.
/// # Safety
/// `x` and `factors` (32) are readable, and nobody else uses those rows of `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(super) unsafe fn write_transposed(
    x: *const f32,
    factors: *const f32,
    rows: &Rows,
    from: usize,
    end: usize,
    out: *mut u16,
) {
    let pairing = pairing();
    for half in 0..2 {
        // SAFETY: 32 factors.
        let factor = unsafe { _mm512_loadu_ps(factors.add(half * 16)) };
        let at = starts::<16>(rows, from + half * 16, end);
        for column in (0..rows.width).step_by(32) {
            let mut block = [_mm512_setzero_si512(); 16];
            for (j, line) in block.iter_mut().enumerate() {
                // SAFETY: rows column..column + 32 of x exist.
                let [even, odd] = [0, 1].map(|u| unsafe {
                    let v = _mm512_loadu_ps(x.add((column + 2 * j + u) * 32 + half * 16));
                    _mm512_mul_ps(v, factor)
                });
                *line = _mm512_permutexvar_epi16(pairing, narrow2(even, odd));
            }
            transpose(&mut block);
            for (line, (at, width)) in block.iter().zip(at) {
                // SAFETY: lanes past the row's end are masked off, of rows past the last all; the row is the caller's.
                unsafe {
                    let to = out.wrapping_add(at + column);
                    _mm512_mask_storeu_epi16(to.cast(), mask32(width.saturating_sub(column)), *line);
                }
            }
        }
    }
}

/// Writes row `x` times `factor` as bf16.
/// # Safety
/// `x` holds `n` rounded up to 32 floats, `out` is writable for `n`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn write_row(x: *const f32, factor: f32, n: usize, out: *mut u16) {
    let f = _mm512_set1_ps(factor);
    for i in (0..n).step_by(32) {
        // SAFETY: as the caller vouches; lanes past n are masked off.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.add(i)), _mm512_loadu_ps(x.add(i + 16)));
            let line = narrow2(_mm512_mul_ps(low, f), _mm512_mul_ps(high, f));
            _mm512_mask_storeu_epi16(out.add(i).cast(), mask32(n - i), line);
        }
    }
}

/// Transposes a 16 x 16 block of 32-bit lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(r: &mut [__m512i; 16]) {
    let mut t = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // After this, 128-bit lane L of r[4i + c] holds column 4L + c of rows 4i..4i + 4.
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for c in 0..4 {
        let even = _mm512_shuffle_i32x4::<0x88>(r[c], r[4 + c]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(r[c], r[4 + c]);
        let even2 = _mm512_shuffle_i32x4::<0x88>(r[8 + c], r[12 + c]);
        let odd2 = _mm512_shuffle_i32x4::<0xdd>(r[8 + c], r[12 + c]);
        r[c] = _mm512_shuffle_i32x4::<0x88>(even, even2);
        r[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, odd2);
        r[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even, even2);
        r[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd, odd2);
    }
}
