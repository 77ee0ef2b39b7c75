//! The product as models need it: several terms in one sum, a left operand packed once for several products, and an
//! epilogue (scale, bias, residual, rounding to bf16) on what is still in the cache. Takes operands, writes one output.
use super::pack::Operand;
#[cfg(target_arch = "x86_64")]
use super::tiled;
use super::{Matrix, Precision, blocked, check};
use crate::pool::Shareable;
use crate::{Isa, Pool};
use std::cell::RefCell;

/// A left operand `[m, k]`, as it lies in memory or packed for several products.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    Matrix(Matrix<'a>),
    Packed(&'a Packed),
}

/// A left operand in the multiplier's own layout, for one instruction set and precision.
pub struct Packed {
    pub(super) isa: Isa,
    pub(super) precision: Precision,
    pub(super) m: usize,
    pub(super) k: usize,
    /// Panels of the layout that the instruction set and the precision multiply.
    words: Vec<u32>,
    start: usize,
}

impl Packed {
    /// Packs `a [m, k]` for products of this precision on the best instruction set.
    ///
    /// # Panics
    /// When `a` is too short for the sizes given.
    pub fn left(pool: &Pool, precision: Precision, m: usize, k: usize, a: Matrix) -> Packed {
        Packed::left_on(Isa::best(), pool, precision, m, k, a)
    }

    /// [`Packed::left`], or nothing where products read the operand where it lies as fast.
    ///
    /// # Panics
    /// As [`Packed::left`].
    pub fn left_unless_in_place(pool: &Pool, precision: Precision, m: usize, k: usize, a: Matrix) -> Option<Packed> {
        check("a", &a, m, k);
        #[cfg(target_arch = "x86_64")]
        if on_tiles(Isa::best(), precision) && tiled::in_place(&Operand::left(&a, m, k)) {
            return None;
        }
        Some(Packed::left(pool, precision, m, k, a))
    }

    /// [`Packed::left`] for a chosen instruction set; products must then run on the same.
    pub fn left_on(isa: Isa, pool: &Pool, precision: Precision, m: usize, k: usize, a: Matrix) -> Packed {
        check("a", &a, m, k);
        let source = Operand::left(&a, m, k);
        #[cfg(target_arch = "x86_64")]
        if on_tiles(isa, precision) {
            let len = tiled::packed_words(m, k);
            let (mut words, start) = buffer(len);
            // SAFETY: the level was detected, and the operand has just been checked.
            unsafe { tiled::pack_left(pool, &source, &mut words[start..start + len]) };
            return Packed { isa, precision, m, k, words, start };
        }
        let len = blocked::packed_words(isa, precision, m, k);
        let (mut words, start) = buffer(len);
        blocked::pack_left(isa, precision, pool, &source, &mut words[start..start + len]);
        Packed { isa, precision, m, k, words, start }
    }

    /// The panels, from a cache line's boundary on.
    pub(super) fn panels(&self) -> &[u32] {
        &self.words[self.start..]
    }

    /// Rows and columns of the operand.
    pub fn shape(&self) -> (usize, usize) {
        (self.m, self.k)
    }
}

thread_local! {
    /// Memory of packed operands that are gone, for the next ones: fresh pages would cost as much as the packing.
    static SPARE: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}
/// Buffers kept for reuse by a thread, the largest it had.
const SPARES: usize = 2;

/// A buffer of at least `len` words with room to start on a cache line, and where that start is.
fn buffer(len: usize) -> (Vec<u32>, usize) {
    let spare = SPARE.with_borrow_mut(|all| {
        let fits = all.iter().enumerate().filter(|(_, v)| v.len() >= len + 16);
        let best = fits.min_by_key(|(_, v)| v.len()).map(|(i, _)| i);
        best.map(|i| all.swap_remove(i))
    });
    let words = spare.unwrap_or_else(|| vec![0; len + 16]);
    let start = words.as_ptr().align_offset(64).min(16);
    (words, start)
}

impl Drop for Packed {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.words);
        // At the end of a thread there is nobody to keep it for.
        let _ = SPARE.try_with(|all| {
            let mut all = all.borrow_mut();
            all.push(words);
            if all.len() > SPARES {
                let smallest = (0..all.len()).min_by_key(|i| all[*i].len()).unwrap_or(0);
                all.swap_remove(smallest);
            }
        });
    }
}

/// One summand `a [m, k] · b [k, n]`.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub k: usize,
    pub a: Left<'a>,
    pub b: Matrix<'a>,
}

/// Where a product goes (bf16 as raw bits, rounded to nearest even once, at the end).
pub enum Output<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

/// `c[m, n] = alpha · Σ_i a_i[m, k_i]·b_i[k_i, n]`, then `+ bias[n]` on every row, `+ residual[m, n]` (rows `n` apart)
/// and `+ c` when `accumulate` (f32 outputs only), in that order.
///
/// The sum of an element runs over the terms and their k in order, in a way that depends on the k_i alone: never on m,
/// n, its place or the threads.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub terms: &'a [Term<'a>],
    pub alpha: f32,
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
    pub accumulate: bool,
    pub precision: Precision,
}

/// Output pointer whose extent has been checked.
#[derive(Clone, Copy)]
pub(super) enum Target {
    F32(Shareable<f32>),
    Bf16(Shareable<u16>),
}

/// What remains to be done to the sums of a checked product, and where they go.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub m: usize,
    pub n: usize,
    pub alpha: f32,
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
    pub accumulate: bool,
    pub c: Target,
    pub c_stride: usize,
}

impl<'a> Product<'a> {
    fn finish(&self, c: Target, c_stride: usize) -> Finish<'a> {
        Finish {
            m: self.m,
            n: self.n,
            alpha: self.alpha,
            bias: self.bias,
            residual: self.residual,
            accumulate: self.accumulate,
            c,
            c_stride,
        }
    }

    /// Writes into `c`, row-major with `c_stride >= n`; columns from `n` on are left alone, and without `accumulate`
    /// `c` is not read.
    ///
    /// # Panics
    /// When an operand, the bias, the residual or `c` is too short for the sizes and strides given, when a packed
    /// operand was packed for another shape, precision or instruction set, and when a bf16 output shall accumulate.
    pub fn run(&self, pool: &Pool, c: Output<'_>, c_stride: usize) {
        self.run_on(Isa::best(), pool, c, c_stride);
    }

    /// [`Product::run`] with a chosen instruction set, for tests and measurements.
    pub fn run_on(&self, isa: Isa, pool: &Pool, mut c: Output<'_>, c_stride: usize) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        let c = self.target(isa, &mut c, c_stride);
        // SAFETY: C and the operands have just been checked, and the borrow keeps everybody else out of C.
        unsafe { self.run_at(isa, pool, c, c_stride) }
    }

    /// The output's address, after checking it and the operands.
    #[track_caller]
    fn target(&self, isa: Isa, c: &mut Output<'_>, c_stride: usize) -> Target {
        let (len, target) = match c {
            Output::F32(c) => (c.len(), Target::F32(Shareable(c.as_mut_ptr()))),
            Output::Bf16(c) => {
                assert!(!self.accumulate, "a bf16 output cannot accumulate");
                (c.len(), Target::Bf16(Shareable(c.as_mut_ptr())))
            }
        };
        assert!(
            (self.m == 1 || c_stride >= self.n) && (self.m - 1) * c_stride + self.n <= len,
            "c of {len} elements with stride {c_stride} is too short for {} x {}",
            self.m,
            self.n
        );
        self.check(isa);
        target
    }

    /// Panics unless every operand holds what the sizes say.
    #[track_caller]
    pub(super) fn check(&self, isa: Isa) {
        for t in self.terms {
            match t.a {
                Left::Matrix(a) => check("a", &a, self.m, t.k),
                Left::Packed(p) => {
                    assert!(p.shape() == (self.m, t.k), "packed for {:?}, used as {:?}", p.shape(), (self.m, t.k));
                    assert!(
                        p.precision == self.precision && p.isa == isa,
                        "packed for {:?} on {}, used in {:?} on {isa}",
                        p.precision,
                        p.isa,
                        self.precision
                    );
                }
            }
            check("b", &t.b, t.k, self.n);
        }
        assert!(self.bias.is_none_or(|b| b.len() >= self.n), "bias is shorter than n");
        assert!(self.residual.is_none_or(|r| r.len() >= self.m * self.n), "residual is smaller than m x n");
    }

    /// # Safety
    /// `c` is valid for `m` rows of `n` elements at `c_stride`, nobody else accesses those meanwhile, and
    /// [`Product::check`] passed.
    pub(super) unsafe fn run_at(&self, isa: Isa, pool: &Pool, c: Target, c_stride: usize) {
        let finish = self.finish(c, c_stride);
        #[cfg(target_arch = "x86_64")]
        if on_tiles(isa, self.precision) {
            let plan = tiled::Plan::new(self, finish, pool.threads());
            // SAFETY: the level was detected, and C is the caller's word.
            unsafe { tiled::run(pool, &[plan]) };
            return;
        }
        // SAFETY: C is the caller's word.
        unsafe { blocked::run(self, finish, isa, pool) };
    }
}

/// Whether products of this precision run on matrix tiles.
#[cfg(target_arch = "x86_64")]
fn on_tiles(isa: Isa, precision: Precision) -> bool {
    isa.level() == crate::isa::Level::Amx && precision == Precision::Bf16
}

/// One product of a group: what to compute, where to, and the output's stride.
pub struct Grouped<'a> {
    pub product: Product<'a>,
    pub c: Output<'a>,
    pub c_stride: usize,
}

/// Many products of different sizes in one parallel loop (the experts of a layer), balanced over the threads. Each gives
/// the same bits as [`Product::run`].
///
/// # Panics
/// As [`Product::run`].
pub fn run_grouped(pool: &Pool, group: &mut [Grouped<'_>]) {
    run_grouped_on(Isa::best(), pool, group);
}

/// [`run_grouped`] with a chosen instruction set, for tests and measurements.
pub fn run_grouped_on(isa: Isa, pool: &Pool, group: &mut [Grouped<'_>]) {
    let all: Vec<_> = group
        .iter_mut()
        .filter(|g| g.product.m > 0 && g.product.n > 0)
        .map(|g| (g.product, g.product.target(isa, &mut g.c, g.c_stride), g.c_stride))
        .collect();
    #[cfg(target_arch = "x86_64")]
    let all = {
        let (tiles, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(p, ..)| on_tiles(isa, p.precision));
        let plans: Vec<_> =
            tiles.iter().map(|(p, c, stride)| tiled::Plan::new(p, p.finish(*c, *stride), pool.threads())).collect();
        // SAFETY: the level was detected, and every output was checked and is borrowed.
        unsafe { tiled::run(pool, &plans) };
        rest
    };
    // SAFETY: as above.
    let one = |(p, c, stride): &(Product, Target, usize)| unsafe { p.run_at(isa, pool, *c, *stride) };
    // Each on one thread when that keeps all threads busy to the end, more or less.
    if all.len() >= 4 * pool.threads() {
        pool.run(all.len(), &|i| one(&all[i]));
    } else {
        all.iter().for_each(one);
    }
}
