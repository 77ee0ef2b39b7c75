//! Tokens sorted by expert, one linear layer an expert, and the weighted sum back: y_t = Σ_k w_tk · E_k(x_t)
//! (DeepSeekMoE, eq. 9). The sums run in the order of the token's own choices, so a token's result does not depend on
//! its batch.
use super::linear::{self, Input, Saved, output};
use crate::{Activation, Context, DropoutKey, Linear, ParamId, ParamStore, Tape, Tensor, Var};
use loar_kernels::arena::Element;
use loar_kernels::gemm::{Grouped, Left, Output, Product, Term, run_grouped};
use loar_kernels::{Matrix, Pool, Values};
use std::sync::Arc;

/// Which expert each of the `t * k` slots goes to, and the slots sorted by expert (stable).
#[derive(Debug)]
pub struct Assignment {
    /// `[t * k]`, the choices of token t at `t*k ..`, best first.
    pub experts: Vec<u32>,
    pub k: usize,
    /// Sorted position → slot.
    pub order: Vec<u32>,
    /// Slot → sorted position.
    pub place: Vec<u32>,
    /// Expert e owns sorted positions `offsets[e] .. offsets[e + 1]`.
    pub offsets: Vec<usize>,
}

impl Assignment {
    pub fn new(experts: Vec<u32>, k: usize, num_experts: usize) -> Assignment {
        let mut offsets = vec![0usize; num_experts + 1];
        for e in &experts {
            offsets[*e as usize + 1] += 1;
        }
        for e in 0..num_experts {
            offsets[e + 1] += offsets[e];
        }
        let mut next = offsets.clone();
        let (mut order, mut place) = (vec![0u32; experts.len()], vec![0u32; experts.len()]);
        for (slot, e) in experts.iter().enumerate() {
            let p = next[*e as usize];
            next[*e as usize] += 1;
            order[p] = slot as u32;
            place[slot] = p as u32;
        }
        Assignment { experts, k, order, place, offsets }
    }

    /// Tokens routed to each expert.
    pub fn load(&self) -> Vec<usize> {
        self.offsets.windows(2).map(|w| w[1] - w[0]).collect()
    }
}

impl<'a> Tape<'a> {
    /// `x [t, d]` → `[t*k, d]`, one row a slot, sorted by expert, stored as x is.
    pub fn dispatch(&mut self, x: &Var, assignment: &Arc<Assignment>) -> Var {
        let pool = &self.context.pool;
        let y: Activation = match &*x.value {
            Activation::F32(x) => sorted(pool, x, assignment).into(),
            Activation::Bf16(x) => sorted(pool, x, assignment).into(),
        };
        let (d, k) = (x.cols(), assignment.k);
        let (wanted, t, assignment, x) = (x.needs_grad(), x.rows(), assignment.clone(), x.without_value());
        self.push(y, wanted, move |back, dy| {
            let pool = &back.context.pool;
            let dy = dy.widened(pool);
            let mut dx = Tensor::zeros(t, d);
            dx.fill_rows(pool, |r, row| {
                for p in &assignment.place[r * k..(r + 1) * k] {
                    for (a, b) in row.iter_mut().zip(dy.row(*p as usize)) {
                        *a += b;
                    }
                }
            });
            back.give(&x, dx);
        })
    }

    /// Applies expert e's layer to its rows of the sorted `x`.
    pub fn grouped_linear(&mut self, x: &Var, layers: Vec<&'a Linear>, assignment: &Arc<Assignment>) -> Var {
        let inp = layers[0].in_features;
        assert_eq!(x.cols(), inp, "`{}`: input width", layers[0].name);
        let trainable = layers.iter().any(|l| l.is_trainable());
        let wanted = (x.needs_grad() || trainable) && self.is_recording();
        let (ctx, params) = (self.context, self.params);
        let mut y = Activation::unfilled(x.rows(), layers[0].out_features, ctx.stores_bf16());
        let saved = forward(ctx, params, &layers, &x.value, &mut y, assignment, self.dropout, wanted);
        let (rows, bf16, assignment) = (x.rows(), x.value.is_bf16(), assignment.clone());
        let x = if trainable { x.clone() } else { x.without_value() };
        self.push(y, wanted, move |back, dy| {
            let (ctx, params) = (back.context, back.params);
            let mut dx = Activation::unfilled(if x.needs_grad() { rows } else { 0 }, inp, bf16);
            let dx_rows = x.needs_grad().then_some(&mut dx);
            let grads = backward(ctx, params, &layers, &x.value, &saved, dy, dx_rows, &assignment);
            if x.needs_grad() {
                back.give(&x, dx);
            }
            grads.into_iter().for_each(|(id, g)| back.give_param(id, g));
        })
    }

    /// `y [t*k, d]` sorted by expert, `weights [t, k]` → `[t, d]`, in f32.
    pub fn combine(&mut self, y: &Var, weights: &Var, assignment: &Arc<Assignment>) -> Var {
        let (t, k, d) = (weights.rows(), assignment.k, y.cols());
        let pool = &self.context.pool;
        let mut out = Tensor::zeros(t, d);
        {
            let (wide, w) = (y.value.widened(pool), weights.value.f32());
            out.fill_rows(pool, |r, row| {
                for (j, p) in assignment.place[r * k..(r + 1) * k].iter().enumerate() {
                    let w = w.row(r)[j];
                    for (o, v) in row.iter_mut().zip(wide.row(*p as usize)) {
                        *o += w * v;
                    }
                }
            });
        }
        let wanted = y.needs_grad() || weights.needs_grad();
        let (y, weights, assignment) = (y.clone(), weights.clone(), assignment.clone());
        self.push(out, wanted, move |back, dout| {
            let pool = &back.context.pool;
            let (dout, wide, w) = (dout.into_f32(pool), y.value.widened(pool), weights.value.f32());
            let (mut dy, mut dw) = (Tensor::unfilled(y.rows(), d), Tensor::zeros(t, k));
            dy.fill_rows(pool, |p, row| {
                let slot = assignment.order[p] as usize;
                let w = w.row(slot / k)[slot % k];
                for (dy, g) in row.iter_mut().zip(dout.row(slot / k)) {
                    *dy = w * g;
                }
            });
            dw.fill_rows(pool, |r, row| {
                for (dw, p) in row.iter_mut().zip(&assignment.place[r * k..]) {
                    *dw = dout.row(r).iter().zip(wide.row(*p as usize)).map(|(g, v)| g * v).sum();
                }
            });
            let dy = Activation::stored(dy, y.value.is_bf16(), pool);
            back.give(&y, dy);
            back.give(&weights, dw);
        })
    }
}

fn sorted<T: Element>(pool: &Pool, x: &Tensor<T>, assignment: &Assignment) -> Tensor<T> {
    let mut y = Tensor::unfilled(assignment.order.len(), x.cols);
    y.fill_rows(pool, |p, row| row.copy_from_slice(x.row(assignment.order[p] as usize / assignment.k)));
    y
}

/// Expert e's rows of a sorted matrix.
fn rows_of<'m>(x: &'m Activation, assignment: &Assignment, e: usize) -> Matrix<'m> {
    let (from, to, cols) = (assignment.offsets[e], assignment.offsets[e + 1], x.cols());
    let at = if x.rows() == 0 { 0..0 } else { from * cols..to * cols };
    let values = match x {
        Activation::F32(t) => Values::F32(&t.data[at]),
        Activation::Bf16(t) => Values::Bf16(&t.data[at]),
    };
    Matrix { values, stride: cols, transposed: false }
}

/// One output an expert, in its order.
fn split<'m>(x: &'m mut Activation, offsets: &[usize]) -> Vec<Output<'m>> {
    let cols = x.cols();
    fn cut<'m, T>(mut data: &'m mut [T], offsets: &[usize], cols: usize) -> Vec<&'m mut [T]> {
        let mut parts = Vec::with_capacity(offsets.len() - 1);
        for w in offsets.windows(2) {
            let (head, tail) = data.split_at_mut((w[1] - w[0]) * cols);
            parts.push(head);
            data = tail;
        }
        parts
    }
    match x {
        Activation::F32(t) => cut(&mut t.data, offsets, cols).into_iter().map(Output::F32).collect(),
        Activation::Bf16(t) => cut(&mut t.data, offsets, cols).into_iter().map(Output::Bf16).collect(),
    }
}

/// Whether all layers are a weight and perhaps a plain adapter: then each stage is one loop over all experts.
fn plain(layers: &[&Linear], dropout: Option<DropoutKey>) -> bool {
    layers.iter().all(|l| {
        l.bias.is_none() && l.lora.as_ref().is_none_or(|a| a.dora.is_none() && (dropout.is_none() || a.dropout == 0.0))
    })
}

/// A product for every expert that has rows, as one parallel loop. `terms(e)` are its summands.
fn grouped<'p>(
    ctx: &Context,
    sizes: &[(usize, usize)],
    terms: &'p [Vec<Term<'p>>],
    alpha: &dyn Fn(usize) -> f32,
    outputs: Vec<Output<'p>>,
) {
    let mut group: Vec<Grouped<'_>> = Vec::with_capacity(sizes.len());
    for (e, c) in outputs.into_iter().enumerate() {
        let (m, n) = sizes[e];
        if m > 0 && n > 0 && !terms[e].is_empty() {
            group.push(Grouped {
                product: Product { alpha: alpha(e), ..linear::plain(ctx, m, n, &terms[e]) },
                c,
                c_stride: n,
            });
        }
    }
    run_grouped(&ctx.pool, &mut group);
}

#[allow(clippy::too_many_arguments)]
fn forward(
    ctx: &Context,
    params: &ParamStore,
    layers: &[&Linear],
    x: &Activation,
    y: &mut Activation,
    assignment: &Assignment,
    dropout: Option<DropoutKey>,
    keep: bool,
) -> Vec<Option<Saved>> {
    let counts: Vec<usize> = assignment.load();
    let outputs = split(y, &assignment.offsets);
    if !plain(layers, dropout) {
        return (layers.iter().zip(outputs).enumerate())
            .map(|(e, (lin, y))| {
                let input = Input { rows: counts[e], matrix: rows_of(x, assignment, e), packed: None };
                (counts[e] > 0).then(|| linear::forward(ctx, params, lin, input, y, None, dropout, keep))
            })
            .collect();
    }
    let (inp, out) = (layers[0].in_features, layers[0].out_features);
    let x_of = |e: usize| Left::Matrix(rows_of(x, assignment, e));
    let mut us: Vec<Option<Activation>> = (layers.iter().zip(&counts))
        .map(|(l, n)| l.lora.as_ref().filter(|_| *n > 0).map(|l| Activation::unfilled(*n, l.rank, ctx.stores_bf16())))
        .collect();
    let lora = |e: usize| layers[e].lora.as_ref();
    let terms: Vec<Vec<Term<'_>>> = (0..layers.len())
        .map(|e| lora(e).map(|l| Term { k: inp, a: x_of(e), b: Matrix::f32(&params.get(l.a).value.data, inp).t() }))
        .map(|t| t.into_iter().collect())
        .collect();
    let sizes: Vec<(usize, usize)> =
        counts.iter().enumerate().map(|(e, n)| (*n, lora(e).map_or(0, |l| l.rank))).collect();
    grouped(ctx, &sizes, &terms, &|e| lora(e).map_or(1.0, |l| l.scaling), outputs_of(&mut us));
    let terms: Vec<Vec<Term<'_>>> = (0..layers.len())
        .map(|e| {
            let mut terms = vec![Term { k: inp, a: x_of(e), b: layers[e].weight.matrix(params).t() }];
            if let (Some(l), Some(u)) = (lora(e), &us[e]) {
                let b = Matrix::f32(&params.get(l.b).value.data, l.rank).t();
                terms.push(Term { k: l.rank, a: Left::Matrix(u.matrix()), b });
            }
            terms
        })
        .collect();
    let sizes: Vec<(usize, usize)> = counts.iter().map(|n| (*n, out)).collect();
    grouped(ctx, &sizes, &terms, &|_| 1.0, outputs);
    drop(terms);
    us.into_iter().zip(counts).map(|(u, n)| (n > 0).then(|| Saved::plain(u.filter(|_| keep)))).collect()
}

/// The targets of products; an expert without one gets an empty slice.
fn outputs_of(all: &mut [Option<Activation>]) -> Vec<Output<'_>> {
    all.iter_mut().map(|a| a.as_mut().map_or(Output::F32(&mut []), output)).collect()
}

#[allow(clippy::too_many_arguments)]
fn backward(
    ctx: &Context,
    params: &ParamStore,
    layers: &[&Linear],
    x: &Activation,
    saved: &[Option<Saved>],
    dy: Activation,
    dx: Option<&mut Activation>,
    assignment: &Assignment,
) -> Vec<(ParamId, Tensor)> {
    let counts = assignment.load();
    let (inp, out) = (layers[0].in_features, layers[0].out_features);
    let dropped = saved.iter().flatten().any(|s| !s.is_plain());
    if dropped || layers.iter().any(|l| l.bias.is_some() || l.weight.param().is_some()) {
        let mut grads = Vec::new();
        let mut dx_parts = dx.map(|dx| split(dx, &assignment.offsets).into_iter());
        for (e, lin) in layers.iter().enumerate() {
            let target = dx_parts.as_mut().and_then(Iterator::next);
            let Some(saved) = &saved[e] else { continue };
            let n = counts[e];
            let input = Input { rows: n, matrix: rows_of(x, assignment, e), packed: None };
            let own = copied(&rows_of(&dy, assignment, e), n, out);
            let bf16 = matches!(target, Some(Output::Bf16(_)));
            let (part, own_grads) = linear::backward(
                ctx,
                params,
                &[lin],
                input,
                std::slice::from_ref(saved),
                vec![own],
                target.is_some(),
                bf16,
            );
            match (part, target) {
                (Some(p), Some(Output::F32(t))) => t.copy_from_slice(&p.into_f32(&ctx.pool).data),
                (Some(p), Some(Output::Bf16(t))) => t.copy_from_slice(&p.into_bf16(&ctx.pool).data),
                _ => {}
            }
            grads.extend(own_grads);
        }
        return grads;
    }
    let dy_of = |e: usize| rows_of(&dy, assignment, e);
    let lora = |e: usize| layers[e].lora.as_ref().filter(|_| counts[e] > 0);
    let rank = |e: usize| lora(e).map_or(0, |l| l.rank);
    let experts = 0..layers.len();
    let mut dus: Vec<Option<Activation>> =
        experts.clone().map(|e| lora(e).map(|l| Activation::unfilled(counts[e], l.rank, ctx.stores_bf16()))).collect();
    let terms: Vec<Vec<Term<'_>>> = experts
        .clone()
        .map(|e| {
            let b = |l: &crate::Lora| Matrix::f32(&params.get(l.b).value.data, l.rank);
            lora(e).map(|l| Term { k: out, a: Left::Matrix(dy_of(e)), b: b(l) }).into_iter().collect()
        })
        .collect();
    let sizes: Vec<_> = experts.clone().map(|e| (counts[e], rank(e))).collect();
    grouped(ctx, &sizes, &terms, &|e| lora(e).map_or(1.0, |l| l.scaling), outputs_of(&mut dus));
    if let Some(dx) = dx {
        let terms: Vec<Vec<Term<'_>>> = experts
            .clone()
            .map(|e| {
                let mut terms = vec![Term { k: out, a: Left::Matrix(dy_of(e)), b: layers[e].weight.matrix(params) }];
                if let (Some(l), Some(du)) = (lora(e), &dus[e]) {
                    let a = Matrix::f32(&params.get(l.a).value.data, inp);
                    terms.push(Term { k: l.rank, a: Left::Matrix(du.matrix()), b: a });
                }
                terms
            })
            .collect();
        let sizes: Vec<_> = counts.iter().map(|n| (*n, inp)).collect();
        grouped(ctx, &sizes, &terms, &|_| 1.0, split(dx, &assignment.offsets));
    }
    let mut das: Vec<Option<Activation>> =
        experts.clone().map(|e| lora(e).map(|l| Activation::unfilled(l.rank, inp, false))).collect();
    let mut dbts: Vec<Option<Activation>> =
        experts.clone().map(|e| lora(e).map(|l| Activation::unfilled(l.rank, out, false))).collect();
    let terms: Vec<Vec<Term<'_>>> = experts
        .clone()
        .map(|e| {
            let du = dus[e].iter();
            du.map(|du| Term { k: counts[e], a: Left::Matrix(du.matrix().t()), b: rows_of(x, assignment, e) }).collect()
        })
        .collect();
    let sizes: Vec<_> = experts.clone().map(|e| (rank(e), inp)).collect();
    grouped(ctx, &sizes, &terms, &|_| 1.0, outputs_of(&mut das));
    let terms: Vec<Vec<Term<'_>>> = experts
        .clone()
        .map(|e| {
            let u = saved[e].iter().filter_map(|s| s.u.as_ref());
            u.map(|u| Term { k: counts[e], a: Left::Matrix(u.matrix().t()), b: dy_of(e) }).collect()
        })
        .collect();
    let sizes: Vec<_> = experts.clone().map(|e| (rank(e), out)).collect();
    grouped(ctx, &sizes, &terms, &|_| 1.0, outputs_of(&mut dbts));
    let mut grads = Vec::new();
    for (e, (da, dbt)) in das.into_iter().zip(dbts).enumerate() {
        if let (Some(l), Some(Activation::F32(da)), Some(Activation::F32(dbt))) = (lora(e), da, dbt) {
            grads.push((l.a, da));
            grads.push((l.b, linear::transposed(&ctx.pool, &dbt)));
        }
    }
    grads
}

/// Rows as an activation of their own.
fn copied(m: &Matrix<'_>, rows: usize, cols: usize) -> Activation {
    match m.values {
        Values::F32(v) => Tensor::from_buf(rows, cols, v.to_vec()).into(),
        Values::Bf16(v) => Tensor::from_buf(rows, cols, v.to_vec()).into(),
        _ => unreachable!("activations are not quantised"),
    }
}
