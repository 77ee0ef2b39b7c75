//! rows[g] += Σ_j weights[g][j] · value[j], over the visible positions of a page in their order: a vector of columns is
//! widened once for up to four rows, whose sums stay in registers for the whole page.
use super::{Cells, PAGE};
use crate::Isa;
use crate::isa::Level;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Scalar, widen};
use crate::streamed::Widen;

trait Format: Copy {
    /// # Safety
    /// LANES elements from `i` on exist.
    unsafe fn vector<S: Widen>(self, s: S, i: usize) -> S::V;
    fn one(self, i: usize) -> f32;
}

#[derive(Clone, Copy)]
struct Bf16<'a>(&'a [u16]);
#[derive(Clone, Copy)]
struct Int8<'a>(&'a [i8]);

impl Format for Bf16<'_> {
    #[inline(always)]
    unsafe fn vector<S: Widen>(self, s: S, i: usize) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.bf16(self.0.as_ptr().add(i)) }
    }
    #[inline(always)]
    fn one(self, i: usize) -> f32 {
        widen(self.0[i])
    }
}

impl Format for Int8<'_> {
    #[inline(always)]
    unsafe fn vector<S: Widen>(self, s: S, i: usize) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.int8(self.0.as_ptr().add(i)) }
    }
    #[inline(always)]
    fn one(self, i: usize) -> f32 {
        f32::from(self.0[i])
    }
}

/// Where a page's values lie and what is done with them.
#[derive(Clone, Copy)]
struct Page<'a> {
    stride: usize,
    visible: usize,
    dv: usize,
    /// `[group, PAGE]`
    weights: &'a [f32],
}

/// Values `at + j·stride ..` of width `dv`, j in 0..visible; `weights [group, 64]`, `rows [group, dv]`.
#[allow(clippy::too_many_arguments)]
pub(super) fn accumulate(
    isa: Isa,
    cells: &Cells,
    at: usize,
    stride: usize,
    visible: usize,
    weights: &[f32],
    dv: usize,
    rows: &mut [f32],
) {
    let group = rows.len() / dv;
    let end = at + (visible - 1) * stride + dv;
    assert!(visible > 0 && visible <= PAGE && weights.len() == group * PAGE && rows.len() == group * dv);
    let page = Page { stride, visible, dv, weights };
    match cells {
        Cells::Bf16(c) => on(isa, Bf16(&c[at..end]), page, rows),
        Cells::Int8 { q, .. } => on(isa, Int8(&q[at..end]), page, rows),
    }
}

fn on<F: Format>(isa: Isa, f: F, page: Page, rows: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    fn avx512<F: Format>(s: Avx512, f: F, page: Page, rows: &mut [f32]) {
        all(s, f, page, rows);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<F: Format>(s: Avx2, f: F, page: Page, rows: &mut [f32]) {
        all(s, f, page, rows);
    }
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level exists only where its instructions were detected.
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe { avx512(Avx512::new(), f, page, rows) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2(Avx2::new(), f, page, rows) },
        _ => all(Scalar, f, page, rows),
    }
}

#[inline(always)]
fn all<S: Widen, F: Format>(s: S, f: F, page: Page, rows: &mut [f32]) {
    let group = rows.len() / page.dv;
    let mut g = 0;
    while g < group {
        g += match group - g {
            4.. => columns::<S, F, 4>(s, f, page, g, rows),
            2 | 3 => columns::<S, F, 2>(s, f, page, g, rows),
            _ => columns::<S, F, 1>(s, f, page, g, rows),
        };
    }
}

/// Rows g..g + G; returns G.
#[inline(always)]
fn columns<S: Widen, F: Format, const G: usize>(s: S, f: F, page: Page, g: usize, rows: &mut [f32]) -> usize {
    let (dv, visible) = (page.dv, page.visible);
    assert!(rows.len() >= (g + G) * dv && page.weights.len() >= (g + G) * PAGE);
    let (weights, base) = (page.weights.as_ptr(), rows.as_mut_ptr());
    let mut c = 0;
    while c + 2 * S::LANES <= dv {
        let mut sum = [[s.splat(0.0); 2]; G];
        // SAFETY: two vectors of columns from c on lie in every row and every visible value; weights hold G rows.
        unsafe {
            for (i, sum) in sum.iter_mut().enumerate() {
                let row = base.add((g + i) * dv + c);
                *sum = [s.load(row), s.load(row.add(S::LANES))];
            }
            for j in 0..visible {
                let v = [f.vector(s, j * page.stride + c), f.vector(s, j * page.stride + c + S::LANES)];
                for (i, sum) in sum.iter_mut().enumerate() {
                    let w = s.splat(*weights.add((g + i) * PAGE + j));
                    *sum = [s.fma(w, v[0], sum[0]), s.fma(w, v[1], sum[1])];
                }
            }
            for (i, sum) in sum.iter().enumerate() {
                let row = base.add((g + i) * dv + c);
                s.store(row, sum[0]);
                s.store(row.add(S::LANES), sum[1]);
            }
        }
        c += 2 * S::LANES;
    }
    for i in g..g + G {
        for c in c..dv {
            for j in 0..visible {
                rows[i * dv + c] += page.weights[i * PAGE + j] * f.one(j * page.stride + c);
            }
        }
    }
    G
}
