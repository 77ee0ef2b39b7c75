//! Cross-entropy over logits that come a strip of columns at a time. A strip turns into e^(z − its row's largest), kept
//! as bf16 with the largest and the sum beside it in full precision; when all strips are there, a row's loss is exact
//! and its gradient softmax(z) − onehot is each strip times one factor, rounded to bf16 as the next product takes it.
//! The f32 logits of a row never exist together, and no product is computed twice.
use super::loss::max_and_sum;
use super::{rows_per_task, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::{narrow, simd_fn};
use crate::{Isa, Pool};

/// What remains of a row's strip: its largest logit, and Σ e^(z − largest).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StripSum {
    pub largest: f32,
    pub sum: f64,
}

simd_fn! {
    /// z becomes e^(z − largest), and e the same in bf16.
    pub(crate) fn exp_row<S>(s, z: &mut [f32], e: &mut [u16]) -> StripSum {
        let n = z.len().min(e.len());
        let (p, q) = (z.as_mut_ptr(), e.as_mut_ptr());
        // SAFETY: both slices hold n elements.
        unsafe {
            let (largest, sum) = max_and_sum::<S, true>(s, p, n);
            sweep!(s, S, n; v = p; => q, v);
            StripSum { largest, sum }
        }
    }
}

simd_fn! {
    pub(crate) fn scale_bf16<S>(s, x: &mut [u16], factor: f32) {
        let (p, n, f) = (x.as_mut_ptr(), x.len(), s.splat(factor));
        // SAFETY: the slice holds n elements.
        unsafe { sweep!(s, S, n; v = p; => p, s.mul(v, f)) }
    }
}

/// Takes strip `[t, width]` of logits, the columns from `first` on: writes e^(z − largest) to the same columns of
/// e `[t, vocab]`, and what is needed later to `sums [t]`; `at_target[r]` becomes row r's logit of its target if that is
/// in the strip. z is used up.
#[allow(clippy::too_many_arguments)]
pub fn exp_strip(
    pool: &Pool,
    z: &mut [f32],
    first: usize,
    e: &mut [u16],
    vocab: usize,
    targets: &[u32],
    sums: &mut [StripSum],
    at_target: &mut [f32],
) {
    let rows = targets.len();
    let width = z.len() / rows.max(1);
    same_len("z", z.len(), rows * width);
    same_len("e", e.len(), rows * vocab);
    same_len("sums", sums.len(), rows);
    same_len("at_target", at_target.len(), rows);
    assert!(first + width <= vocab, "columns {first} + {width} of {vocab}");
    let per_task = rows_per_task(width);
    let (e, sums, at) = (Shareable(e.as_mut_ptr()), Shareable(sums.as_mut_ptr()), Shareable(at_target.as_mut_ptr()));
    pool.pieces_mut(z, per_task * width.max(1), &|i, part| {
        for (j, z) in part.chunks_exact_mut(width).enumerate() {
            let r = i * per_task + j;
            let target = (targets[r] as usize).wrapping_sub(first);
            // SAFETY: row r of e, sums and at_target exists (checked above) and belongs to this task alone.
            unsafe {
                if target < width {
                    *at.get().add(r) = z[target];
                }
                let e = std::slice::from_raw_parts_mut(e.get().add(r * vocab + first), width);
                *sums.get().add(r) = exp_row(Isa::best(), z, e);
            }
        }
    });
}

/// After all strips (of `strip` columns, the last may be narrower; `sums [strips, t]`): e becomes softmax − onehot, and
/// `losses[r]` −log softmax at the target.
#[allow(clippy::too_many_arguments)]
pub fn exp_to_gradient(
    pool: &Pool,
    e: &mut [u16],
    vocab: usize,
    strip: usize,
    targets: &[u32],
    sums: &[StripSum],
    at_target: &[f32],
    losses: &mut [f32],
) {
    let rows = targets.len();
    let strips = vocab.div_ceil(strip);
    same_len("e", e.len(), rows * vocab);
    same_len("sums", sums.len(), strips * rows);
    same_len("at_target", at_target.len(), rows);
    same_len("losses", losses.len(), rows);
    if let Some(t) = targets.iter().find(|t| **t as usize >= vocab) {
        panic!("target {t} is outside the vocabulary of {vocab}");
    }
    let out = Shareable(losses.as_mut_ptr());
    pool.pieces_mut(e, vocab, &|r, e| {
        let of = |i: usize| sums[i * rows + r];
        let largest = (0..strips).map(|i| of(i).largest).fold(f32::NEG_INFINITY, f32::max);
        let from = |x: f32| f64::from(x) - f64::from(largest);
        let total: f64 = (0..strips).map(|i| of(i).sum * from(of(i).largest).exp()).sum();
        for (i, part) in e.chunks_mut(strip).enumerate() {
            scale_bf16(Isa::best(), part, (from(of(i).largest).exp() / total) as f32);
        }
        let at = from(at_target[r]);
        e[targets[r] as usize] = narrow((at.exp() / total - 1.0) as f32);
        // SAFETY: losses has one element a row and row r belongs to this task alone.
        unsafe { *out.get().add(r) = (total.ln() - at) as f32 };
    });
}

#[cfg(test)]
mod tests {
    use super::super::{cross_entropy, cross_entropy_gradient};
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn strips_give_the_loss_of_whole_rows_and_their_gradient_in_bf16() {
        let (rows, vocab, strip) = (5, 1003, 128);
        let mut z = vec![0f32; rows * vocab];
        Stream::new(1, 2, 3).fill_normal(0, 6.0, &mut z);
        let targets = [0u32, 127, 128, 1002, 500];
        let (mut want_loss, mut whole) = (vec![0f32; rows], z.clone());
        let pool = Pool::new(3);
        cross_entropy(&pool, &z, vocab, &targets, &mut want_loss);
        cross_entropy_gradient(&pool, &mut whole, vocab, &targets, &[1.0; 5], &mut vec![0f32; rows]);
        let run = |threads| {
            let pool = Pool::new(threads);
            let (mut e, mut at) = (vec![0u16; rows * vocab], vec![f32::NAN; rows]);
            let mut sums = vec![StripSum::default(); rows * vocab.div_ceil(strip)];
            for (i, first) in (0..vocab).step_by(strip).enumerate() {
                let width = strip.min(vocab - first);
                let mut part: Vec<f32> =
                    (0..rows).flat_map(|r| z[r * vocab + first..r * vocab + first + width].to_vec()).collect();
                let sums = &mut sums[i * rows..(i + 1) * rows];
                exp_strip(&pool, &mut part, first, &mut e, vocab, &targets, sums, &mut at);
            }
            let mut losses = vec![0f32; rows];
            exp_to_gradient(&pool, &mut e, vocab, strip, &targets, &sums, &at, &mut losses);
            (e, losses)
        };
        let (e, losses) = run(1);
        for (got, want) in losses.iter().zip(&want_loss) {
            assert!((got - want).abs() <= 2e-6 * want.abs().max(1.0), "loss {got}, expected {want}");
        }
        for (i, (got, want)) in e.iter().zip(&whole).enumerate() {
            // Rounded twice: two half steps of 8 bits.
            let got = half::bf16::from_bits(*got).to_f32();
            assert!((got - want).abs() <= want.abs() / 127.0 + 1e-30, "entry {i}: {got}, expected {want}");
        }
        assert_eq!(run(1), run(4));
    }
}
