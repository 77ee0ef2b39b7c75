//! The innermost loops: one tile of C from one panel of A and one of B. Takes packed panels, adds to or overwrites C;
//! knows nothing of matrices. Tiles of fewer rows do the same arithmetic per element as full ones.
use crate::isa::Level;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Scalar, Simd};

/// One tile's work. A's panel is `[words][MR]`, B's `[words][NR]`, each word an f32 or two bf16 of neighbouring k.
pub(super) struct Tile {
    pub words: usize,
    pub a: *const u32,
    pub b: *const u32,
    pub c: *mut f32,
    pub c_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub alpha: f32,
    /// Add to C instead of overwriting it.
    pub add: bool,
}

/// # Safety
/// The panels hold `words` steps, C is valid for `rows` x `columns` at `c_stride`, `rows` and `columns` fit the
/// kernel, and the machine has its instructions.
pub(super) type Kernel = unsafe fn(&Tile);

/// What a word of a panel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// One f32.
    F32,
    /// One f32 that went through bf16.
    Rounded,
    /// bf16 of k (low half) and k + 1.
    Pairs,
}

/// Panel heights and widths of an instruction set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Rows of A in a panel.
    pub mr: usize,
    /// Columns of B in a panel.
    pub nr: usize,
}

/// AVX-512: 14 x 2 accumulators, 2 of B, 1 spare make 31 of 32 registers.
const MR_512: usize = 14;
/// AVX2: 6 x 2 accumulators, 2 of B, 1 of A make 15 of 16 registers.
const MR_256: usize = 6;
const MR_SCALAR: usize = 4;

/// The panels for a product with `n` columns; narrow ones do not pay for two vectors of columns.
pub(super) fn geometry(level: Level, n: usize) -> Geometry {
    let (mr, lanes) = match level {
        Level::Scalar => (MR_SCALAR, 8),
        Level::Avx2 => (MR_256, 8),
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => (MR_512, 16),
    };
    let vectors = if n <= lanes || level == Level::Scalar { 1 } else { 2 };
    Geometry { mr, nr: vectors * lanes }
}

#[inline(always)]
unsafe fn f32_tile<S: Simd, const MR: usize, const R: usize, const NV: usize>(s: S, t: &Tile) {
    let mut acc = [[s.splat(0.0); NV]; R];
    let (mut a, mut b) = (t.a.cast::<f32>(), t.b.cast::<f32>());
    for _ in 0..t.words {
        let mut bv = [s.splat(0.0); NV];
        // SAFETY: the panels hold `words` steps of MR and NV·LANES floats.
        unsafe {
            for (v, x) in bv.iter_mut().enumerate() {
                *x = s.load(b.add(v * S::LANES));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let av = s.splat(*a.add(i));
                for v in 0..NV {
                    row[v] = s.fma(av, bv[v], row[v]);
                }
            }
            a = a.add(MR);
            b = b.add(NV * S::LANES);
        }
    }
    // SAFETY: the caller vouches for C.
    unsafe { write(s, t, &acc) }
}

/// C (+)= alpha·acc. Multiply and add are never fused here, so C's addition is the same however it came about.
#[inline(always)]
unsafe fn write<S: Simd, const R: usize, const NV: usize>(s: S, t: &Tile, acc: &[[S::V; NV]; R]) {
    let alpha = s.splat(t.alpha);
    for (i, row) in acc.iter().enumerate() {
        if i >= t.rows {
            break;
        }
        for (v, x) in row.iter().enumerate() {
            let first = v * S::LANES;
            if first >= t.columns {
                break;
            }
            let x = s.mul(alpha, *x);
            // SAFETY: row i < rows and the columns touched are below `columns`.
            unsafe {
                let p = t.c.add(i * t.c_stride + first);
                if t.columns - first >= S::LANES {
                    s.store(p, if t.add { s.add(s.load(p), x) } else { x });
                } else {
                    let n = t.columns - first;
                    s.store_n(p, n, if t.add { s.add(s.load_n(p, n), x) } else { x });
                }
            }
        }
    }
}

unsafe fn scalar<const R: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on.
    unsafe { f32_tile::<Scalar, MR_SCALAR, R, NV>(Scalar, t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on; the features are those of this function.
    unsafe { f32_tile::<Avx2, MR_256, R, NV>(Avx2::new(), t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn avx512<const R: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on; the features are those of this function.
    unsafe { f32_tile::<Avx512, MR_512, R, NV>(Avx512::new(), t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn bf16<const R: usize, const NV: usize>(t: &Tile) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); NV]; R];
    let (mut a, mut b) = (t.a.cast::<i32>(), t.b);
    for _ in 0..t.words {
        // SAFETY: the panels hold `words` steps of MR_512 and NV·16 words; __m512i and __m512bh are 64 plain bytes.
        unsafe {
            let mut bv: [__m512bh; NV] = [std::mem::transmute::<__m512i, __m512bh>(_mm512_setzero_si512()); NV];
            for (v, x) in bv.iter_mut().enumerate() {
                *x = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(v * 16).cast()));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let av = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*a.add(i)));
                for v in 0..NV {
                    row[v] = _mm512_dpbf16_ps(row[v], av, bv[v]);
                }
            }
            a = a.add(MR_512);
            b = b.add(NV * 16);
        }
    }
    // SAFETY: passed on; the features are those of this function.
    unsafe { write(Avx512::new(), t, &acc) }
}

/// The kernel for a tile of `rows` rows; it may compute (never store) a few more.
pub(super) fn kernel(level: Level, format: Format, nr: usize, rows: usize) -> Kernel {
    macro_rules! pick {
        ($f:ident, $lanes:expr, [$($r:literal),*]) => {
            match nr / $lanes {
                1 => { $(if rows <= $r { return $f::<$r, 1>; })* }
                _ => { $(if rows <= $r { return $f::<$r, 2>; })* }
            }
        };
    }
    match (level, format) {
        #[cfg(target_arch = "x86_64")]
        (_, Format::Pairs) => pick!(bf16, 16, [1, 2, 3, 4, 6, 8, 10, 12, 14]),
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, _) => pick!(avx512, 16, [1, 2, 3, 4, 6, 8, 10, 12, 14]),
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, _) => pick!(avx2, 8, [1, 2, 4, 6]),
        _ => pick!(scalar, 8, [1, 2, 4]),
    }
    unreachable!("a panel has no {rows} rows")
}
