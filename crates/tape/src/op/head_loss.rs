//! Output head and cross-entropy in one, on labelled tokens only and a chunk of rows at a time:
//! L = Σ_t logsumexp(z_t) − z_t[target], z = h·Wᵀ. Logits of a chunk turn into their gradient softmax(z) − onehot in
//! place, so the whole `[t, vocab]` matrix never exists (as in Liger's fused linear cross-entropy; Hsu et al. 2024).
use super::linear::{self, Input};
use crate::{Activation, Context, Linear, ParamId, ParamStore, Tape, Tensor, Var};
use loar_kernels::arena::Element;
use loar_kernels::elementwise::{StripSum, cross_entropy, cross_entropy_gradient, exp_strip, exp_to_gradient};
use loar_kernels::gemm::{Left, Output, Packed, Term};
use loar_kernels::{Matrix, Pool};

/// Bytes of one chunk of rows. Every chunk reads the whole head twice, so few large ones are faster.
const CHUNK_BYTES: usize = 320 << 20;
/// Columns of f32 logits that exist at a time while a frozen head trains in bf16.
const STRIP: usize = 4096;

/// Rows of a chunk and the bytes it takes, for `labels` rows over `vocab` columns. `strips` says that logits are kept as
/// bf16 ([`loar_kernels::elementwise::exp_strip`]), else they are f32.
pub fn head_chunk(labels: usize, vocab: usize, strips: bool) -> (usize, usize) {
    let row = if strips { 2 * vocab + 4 * STRIP.min(vocab) } else { 4 * vocab };
    let most = (CHUNK_BYTES / row.max(1)).max(1);
    // Even chunks: the last one is no remainder.
    let rows = labels.div_ceil(labels.div_ceil(most).max(1)).max(1);
    (rows, rows * row)
}

pub struct HeadLoss {
    /// Sum of the losses, to be seeded with the weight of one token (`[1, 1]`).
    pub total: Var,
    /// Negative log-likelihood of each labelled token, in the order of the targets.
    pub per_token: Vec<f32>,
}

impl HeadLoss {
    pub fn sum(&self) -> f64 {
        self.per_token.iter().map(|x| f64::from(*x)).sum()
    }
}

impl<'a> Tape<'a> {
    /// `h [t, d]`; `targets`: (row of h, token that should follow).
    pub fn head_loss(&mut self, h: &Var, head: &'a Linear, targets: &[(usize, u32)]) -> HeadLoss {
        let (d, vocab, n) = (h.cols(), head.out_features, targets.len());
        let wanted = (h.needs_grad() || head.is_trainable()) && self.is_recording();
        let frozen = head.lora.is_none() && head.bias.is_none() && head.weight.param().is_none();
        let strips = frozen && wanted && self.context.stores_bf16();
        let (chunk, _) = head_chunk(n, vocab, strips);
        let (ctx, params) = (self.context, self.params);
        let mut per_token = Vec::with_capacity(n);
        let mut dh = Tensor::zeros(if wanted && h.needs_grad() { h.rows() } else { 0 }, d);
        let mut param_grads: Vec<(ParamId, Tensor)> = Vec::new();
        for part in targets.chunks(chunk) {
            let x: Activation = match &*h.value {
                Activation::F32(h) => gathered(&ctx.pool, h, part).into(),
                Activation::Bf16(h) => gathered(&ctx.pool, h, part).into(),
            };
            let tokens: Vec<u32> = part.iter().map(|(_, token)| *token).collect();
            let mut losses = vec![0f32; part.len()];
            if strips {
                let dx = by_strips(ctx, params, head, &x, &tokens, &mut losses);
                per_token.extend(losses);
                scatter(&mut dh, part, &dx);
                continue;
            }
            let input = Input { rows: part.len(), matrix: x.matrix(), packed: None };
            let mut z = Tensor::unfilled(part.len(), vocab);
            let saved = linear::forward(ctx, params, head, input, Output::F32(&mut z.data), None, self.dropout, wanted);
            if wanted {
                cross_entropy_gradient(&ctx.pool, &mut z.data, vocab, &tokens, &vec![1.0; part.len()], &mut losses);
            } else {
                cross_entropy(&ctx.pool, &z.data, vocab, &tokens, &mut losses);
            }
            per_token.extend(losses);
            if wanted {
                let dz = vec![Activation::F32(z)];
                let (dx, grads) = linear::backward(ctx, params, &[head], input, &[saved], dz, h.needs_grad(), false);
                if let Some(dx) = dx {
                    scatter(&mut dh, part, dx.f32());
                }
                for (id, g) in grads {
                    match param_grads.iter_mut().find(|(i, _)| *i == id) {
                        Some((_, sum)) => sum.add_assign(&g),
                        None => param_grads.push((id, g)),
                    }
                }
            }
        }
        let total = Tensor::new(1, 1, vec![per_token.iter().map(|x| f64::from(*x)).sum::<f64>() as f32]);
        let h = h.without_value();
        let total = self.push(total, wanted, move |back, seed| {
            let s = seed.f32().data[0];
            if h.needs_grad() {
                dh.scale(s);
                back.give(&h, dh);
            }
            for (id, mut g) in param_grads {
                g.scale(s);
                back.give_param(id, g);
            }
        });
        HeadLoss { total, per_token }
    }
}

/// Adds row i of dx to the row of the i-th target.
fn scatter(dh: &mut Tensor, targets: &[(usize, u32)], dx: &Tensor) {
    for (i, (row, _)) in targets.iter().enumerate() {
        for (a, b) in dh.row_mut(*row).iter_mut().zip(dx.row(i)) {
            *a += b;
        }
    }
}

/// Losses of the rows of x under a frozen head, and their gradient with respect to x.
fn by_strips(
    ctx: &Context,
    params: &ParamStore,
    head: &Linear,
    x: &Activation,
    targets: &[u32],
    losses: &mut [f32],
) -> Tensor {
    let (rows, d, vocab, pool) = (x.rows(), x.cols(), head.out_features, &ctx.pool);
    let packed = Packed::left(pool, ctx.precision, rows, d, x.matrix());
    let mut e = Tensor::<u16>::unfilled(rows, vocab);
    let mut at_target = vec![f32::NAN; rows];
    let mut sums = vec![StripSum::default(); rows * vocab.div_ceil(STRIP)];
    for (first, sums) in (0..vocab).step_by(STRIP).zip(sums.chunks_exact_mut(rows)) {
        let width = STRIP.min(vocab - first);
        let mut z = Tensor::unfilled(rows, width);
        let term = [Term { k: d, a: Left::Packed(&packed), b: head.weight.matrix(params).from_row(first).t() }];
        linear::plain(ctx, rows, width, &term).run(pool, Output::F32(&mut z.data), width);
        exp_strip(pool, &mut z.data, first, &mut e.data, vocab, targets, sums, &mut at_target);
    }
    drop(packed);
    exp_to_gradient(pool, &mut e.data, vocab, STRIP, targets, &sums, &at_target, losses);
    let mut dx = Tensor::unfilled(rows, d);
    let term = [Term { k: vocab, a: Left::Matrix(Matrix::bf16(&e.data, vocab)), b: head.weight.matrix(params) }];
    linear::plain(ctx, rows, d, &term).run(pool, Output::F32(&mut dx.data), d);
    dx
}

/// The rows that carry a target.
fn gathered<T: Element>(pool: &Pool, h: &Tensor<T>, targets: &[(usize, u32)]) -> Tensor<T> {
    let mut x = Tensor::unfilled(targets.len(), h.cols);
    x.fill_rows(pool, |i, row| row.copy_from_slice(h.row(targets[i].0)));
    x
}
