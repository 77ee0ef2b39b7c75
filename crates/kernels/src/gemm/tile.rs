//! The innermost loops: one tile of sums from one panel of A and one of B. Takes packed panels, keeps the sums for the
//! next block of k or finishes them into C. Tiles of fewer rows do the same arithmetic per element as full ones.
use super::product::{Finish, Target};
use crate::isa::Level;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Element, Scalar, Simd};

/// One tile's work. A's panel is `[words][MR]`, B's `[words][NR]`, each word an f32 or two bf16 of neighbouring k.
pub(super) struct Tile<'a> {
    pub words: usize,
    pub a: *const u32,
    /// Where A is read in place, row-major f32: words between its rows. Unused with a panel.
    pub a_stride: usize,
    pub b: *const u32,
    pub rows: usize,
    pub columns: usize,
    /// Where sums wait for the next block of k; used when `add` or not finished here.
    pub sums: *mut f32,
    pub sums_stride: usize,
    /// Earlier blocks are in `sums`.
    pub add: bool,
    /// After the last block, what to do with the sums, and the tile's place in C.
    pub finish: Option<(&'a Finish<'a>, usize, usize)>,
}

/// # Safety
/// The panels (or `rows` rows of A in place) hold `words` steps; the sums, if used, are valid for `rows` x `columns`; C, bias and residual are those of
/// a checked product with the tile inside; `rows` and `columns` fit the kernel, and the machine has its instructions.
pub(super) type Kernel = unsafe fn(&Tile<'_>);

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

/// Asks for the cache line of an address, which need not be valid.
#[inline(always)]
pub(super) fn prefetch<const L2: bool>(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::*;
        if L2 { _mm_prefetch::<_MM_HINT_T1>(p.cast()) } else { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// The sums are wanted when the multiplications are done, a thousand cycles or two later: time enough to bring them.
#[inline(always)]
fn fetch_sums(t: &Tile) {
    for i in 0..t.rows {
        let row = t.sums.wrapping_add(i * t.sums_stride);
        (0..t.columns).step_by(16).for_each(|j| prefetch::<false>(row.wrapping_add(j).cast()));
        prefetch::<false>(row.wrapping_add(t.columns - 1).cast());
    }
}

/// Steps of k between two turns of the loop: as many as the compiler unrolls for so many sums.
const fn unrolled(sums: usize) -> usize {
    if sums <= 12 { 8 } else { 1 }
}
/// Addresses of A: one for three rows, which is what an instruction reaches from one register with 0, 1 and 2 strides.
const BASES: usize = MR_512.div_ceil(3);

#[inline(always)]
unsafe fn f32_tile<S: Simd, const MR: usize, const R: usize, const NV: usize, const IN_PLACE: bool>(s: S, t: &Tile) {
    fetch_sums(t);
    let mut acc = [[s.splat(0.0); NV]; R];
    let first = t.a.cast::<f32>();
    let mut a: [_; BASES] = std::array::from_fn(|g| first.wrapping_add(3 * g * t.a_stride));
    let mut b = t.b.cast::<f32>();
    // A macro and plain loops over indices: so the compiler unrolls all of it and keeps the sums in registers.
    macro_rules! steps {
        ($count:expr) => {
            // SAFETY: the panels (or rows) hold `words` steps, which is what the caller vouches for.
            unsafe {
                for u in 0..$count {
                    let mut bv = [s.splat(0.0); NV];
                    for v in 0..NV {
                        bv[v] = s.load(b.add((u * NV + v) * S::LANES));
                    }
                    for g in 0..BASES {
                        for r in 0..3 {
                            let i = 3 * g + r;
                            if i < R {
                                let at = if IN_PLACE { a[g].add(r * t.a_stride + u) } else { a[0].add(u * MR + i) };
                                let av = s.splat(*at);
                                for v in 0..NV {
                                    acc[i][v] = s.fma(av, bv[v], acc[i][v]);
                                }
                            }
                        }
                    }
                }
                for g in 0..BASES {
                    a[g] = a[g].wrapping_add($count * if IN_PLACE { 1 } else { MR });
                }
                b = b.add($count * NV * S::LANES);
            }
        };
    }
    for _ in 0..t.words / unrolled(R * NV) {
        steps!(unrolled(R * NV));
    }
    for _ in 0..t.words % unrolled(R * NV) {
        steps!(1);
    }
    // SAFETY: passed on.
    unsafe { write(s, t, &acc) }
}

/// Adds up the sums and keeps or finishes them. Multiply and add are never fused here, so the value does not depend on
/// the set or on how it came about.
#[inline(always)]
unsafe fn write<S: Simd, const R: usize, const NV: usize>(s: S, t: &Tile, acc: &[[S::V; NV]; R]) {
    for (i, row) in acc.iter().enumerate() {
        if i >= t.rows {
            break;
        }
        for (v, x) in row.iter().enumerate() {
            let first = v * S::LANES;
            if first >= t.columns {
                break;
            }
            let (mut x, n) = (*x, (t.columns - first).min(S::LANES));
            // SAFETY: row i < rows and the columns touched are below `columns`, all of them inside what the caller
            // vouches for.
            unsafe {
                if t.add {
                    x = s.add(<f32 as Element>::load(s, t.sums.add(i * t.sums_stride + first), n), x);
                }
                let Some((f, r, c)) = t.finish else {
                    <f32 as Element>::store(s, t.sums.add(i * t.sums_stride + first), n, x);
                    continue;
                };
                let (r, c) = (r + i, c + first);
                x = s.mul(s.splat(f.alpha), x);
                if let Some(b) = f.bias {
                    x = s.add(x, <f32 as Element>::load(s, b.as_ptr().add(c), n));
                }
                if let Some(p) = f.residual {
                    x = s.add(x, <f32 as Element>::load(s, p.as_ptr().add(r * f.n + c), n));
                }
                let at = r * f.c_stride + c;
                match f.c {
                    Target::F32(p) => {
                        let p = p.get().add(at);
                        if f.accumulate {
                            x = s.add(x, <f32 as Element>::load(s, p, n));
                        }
                        <f32 as Element>::store(s, p, n, x);
                    }
                    Target::Bf16(p) => <u16 as Element>::store(s, p.get().add(at), n, x),
                }
            }
        }
    }
}

unsafe fn scalar<const R: usize, const NV: usize, const IN_PLACE: bool>(t: &Tile) {
    // SAFETY: passed on.
    unsafe { f32_tile::<Scalar, MR_SCALAR, R, NV, IN_PLACE>(Scalar, t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize, const NV: usize, const IN_PLACE: bool>(t: &Tile) {
    // SAFETY: passed on; the features are those of this function.
    unsafe { f32_tile::<Avx2, MR_256, R, NV, IN_PLACE>(Avx2::new(), t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn avx512<const R: usize, const NV: usize, const IN_PLACE: bool>(t: &Tile) {
    // SAFETY: passed on; the features are those of this function.
    unsafe { f32_tile::<Avx512, MR_512, R, NV, IN_PLACE>(Avx512::new(), t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn bf16<const R: usize, const NV: usize, const IN_PLACE: bool>(t: &Tile) {
    use std::arch::x86_64::*;
    fetch_sums(t);
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

/// The largest height of a kernel that is at most `rows`: kernels that read A in place must not see a row more.
pub(super) fn height(level: Level, rows: usize) -> usize {
    let all: &[usize] = match level {
        Level::Scalar => &[1, 2, 4],
        Level::Avx2 => &[1, 2, 4, 6],
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => &[1, 2, 3, 4, 6, 8, 10, 12, 14],
    };
    all.iter().copied().filter(|h| *h <= rows).max().unwrap_or(1)
}

/// The kernel for a tile of `rows` rows. With a panel it may compute (never store) a few more; `in_place` it wants a
/// [`height`].
pub(super) fn kernel(level: Level, format: Format, nr: usize, rows: usize, in_place: bool) -> Kernel {
    macro_rules! pick {
        ($f:ident, $lanes:expr, [$($r:literal),*]) => {
            match (nr / $lanes, in_place) {
                (1, false) => { $(if rows <= $r { return $f::<$r, 1, false>; })* }
                (1, true) => { $(if rows == $r { return $f::<$r, 1, true>; })* }
                (_, false) => { $(if rows <= $r { return $f::<$r, 2, false>; })* }
                (_, true) => { $(if rows == $r { return $f::<$r, 2, true>; })* }
            }
        };
    }
    assert!(!in_place || format == Format::F32, "only f32 is read in place");
    match (level, format) {
        #[cfg(target_arch = "x86_64")]
        (_, Format::Pairs) => pick!(bf16, 16, [1, 2, 3, 4, 6, 8, 10, 12, 14]),
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, _) => pick!(avx512, 16, [1, 2, 3, 4, 6, 8, 10, 12, 14]),
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, _) => pick!(avx2, 8, [1, 2, 4, 6]),
        _ => pick!(scalar, 8, [1, 2, 4]),
    }
    unreachable!("no kernel of {rows} rows")
}
