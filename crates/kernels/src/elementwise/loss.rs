//! Softmax and cross-entropy over rows of logits; the gradient replaces the logits, so no second copy exists.
use super::{rows_per_task, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::{Simd, exp, simd_fn};
use crate::{Isa, Pool};

/// A target that carries no loss.
pub const IGNORE: u32 = u32::MAX;

/// Elements whose exponentials are summed in f32 before the sum moves to f64.
const PIECE: usize = 4096;

/// (largest element, Σ e^(x − largest)); with `STORE` every element becomes its e^(x − largest).
/// # Safety
/// `p` is valid for reading `n` floats, and for writing them with `STORE`.
#[inline(always)]
pub(super) unsafe fn max_and_sum<S: Simd, const STORE: bool>(s: S, p: *mut f32, n: usize) -> (f32, f64) {
    // SAFETY: every access ends at or before n.
    unsafe {
        let mut top = s.splat(f32::NEG_INFINITY);
        let mut largest = f32::NEG_INFINITY;
        let whole = n - n % S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            top = s.max(top, s.load(p.add(i)));
        }
        for i in whole..n {
            largest = largest.max(*p.add(i));
        }
        if whole > 0 {
            largest = largest.max(s.largest(top));
        }
        let shift = s.splat(largest);
        let mut total = 0f64;
        let mut first = 0;
        while first < n {
            let last = (first + PIECE).min(n);
            let mut sum = s.splat(0.0);
            let mut i = first;
            while i + S::LANES <= last {
                let e = exp(s, s.sub(s.load(p.add(i)), shift));
                sum = s.add(sum, e);
                if STORE {
                    s.store(p.add(i), e);
                }
                i += S::LANES;
            }
            total += f64::from(s.sum(sum));
            if i < last {
                let mut tail = [0f32; 16];
                let e = exp(s, s.sub(s.load_n(p.add(i), last - i), shift));
                s.store(tail.as_mut_ptr(), e);
                if STORE {
                    s.store_n(p.add(i), last - i, e);
                }
                total += f64::from(tail[..last - i].iter().sum::<f32>());
            }
            first = last;
        }
        (largest, total)
    }
}

simd_fn! {
    /// -log softmax(logits)[target].
    pub(crate) fn ce_row<S>(s, logits: &[f32], target: usize) -> f32 {
        // SAFETY: the slice holds its length; nothing is written without STORE.
        let (largest, total) = unsafe { max_and_sum::<S, false>(s, logits.as_ptr().cast_mut(), logits.len()) };
        (total.ln() + f64::from(largest) - f64::from(logits[target])) as f32
    }
}

simd_fn! {
    /// As `ce_row`; the row becomes (softmax − onehot(target))·scale.
    pub(crate) fn ce_gradient_row<S>(s, logits: &mut [f32], target: usize, scale: f32) -> f32 {
        let (p, n) = (logits.as_mut_ptr(), logits.len());
        let at_target = logits[target];
        // SAFETY: the slice holds n floats.
        unsafe {
            let (largest, total) = max_and_sum::<S, true>(s, p, n);
            let norm = s.splat((f64::from(scale) / total) as f32);
            sweep!(s, S, n; e = p; => p, s.mul(e, norm));
            logits[target] -= scale;
            (total.ln() + f64::from(largest) - f64::from(at_target)) as f32
        }
    }
}

simd_fn! {
    pub(crate) fn softmax_row<S>(s, x: &mut [f32]) {
        let (p, n) = (x.as_mut_ptr(), x.len());
        // SAFETY: the slice holds n floats.
        unsafe {
            let (_, total) = max_and_sum::<S, true>(s, p, n);
            let norm = s.splat((1.0 / total) as f32);
            sweep!(s, S, n; e = p; => p, s.mul(e, norm));
        }
    }
}

/// Softmax of every row of x `[t, width]`, in place.
pub fn softmax_rows(pool: &Pool, x: &mut [f32], width: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width), "x has {} elements, not whole rows of {width}", x.len());
    pool.pieces_mut(x, rows_per_task(width) * width, &|_, part| {
        part.chunks_exact_mut(width).for_each(|row| softmax_row(Isa::best(), row));
    });
}

#[track_caller]
fn check(logits: usize, vocab: usize, targets: &[u32], losses: usize) {
    same_len("logits", logits, targets.len() * vocab);
    same_len("losses", losses, targets.len());
    if let Some(t) = targets.iter().find(|t| **t != IGNORE && **t as usize >= vocab) {
        panic!("target {t} is outside the vocabulary of {vocab}");
    }
}

/// logits `[t, vocab]`, targets `[t]` → losses `[t]`: −log softmax(logits)[target], 0 where the target is [`IGNORE`].
pub fn cross_entropy(pool: &Pool, logits: &[f32], vocab: usize, targets: &[u32], losses: &mut [f32]) {
    check(logits.len(), vocab, targets, losses.len());
    pool.pieces_mut(losses, 1, &|r, loss| {
        loss[0] = match targets[r] {
            IGNORE => 0.0,
            t => ce_row(Isa::best(), &logits[r * vocab..(r + 1) * vocab], t as usize),
        };
    });
}

/// As [`cross_entropy`], and every logit becomes its gradient (softmax − onehot)·scales[row]; rows whose target is
/// [`IGNORE`] become 0.
pub fn cross_entropy_gradient(
    pool: &Pool,
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    scales: &[f32],
    losses: &mut [f32],
) {
    check(logits.len(), vocab, targets, losses.len());
    same_len("scales", scales.len(), targets.len());
    let out = Shareable(losses.as_mut_ptr());
    pool.pieces_mut(logits, vocab, &|r, row| {
        let loss = match targets[r] {
            IGNORE => {
                row.fill(0.0);
                0.0
            }
            t => ce_gradient_row(Isa::best(), row, t as usize, scales[r]),
        };
        // SAFETY: losses has one element a row and row r belongs to this task alone.
        unsafe { *out.get().add(r) = loss };
    });
}
