//! Linear layers with a fused low-rank adapter over a frozen (or trainable) weight:
//! y = x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ (Hu et al. 2021, eq. 3); with DoRA z = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, y = (m/n)⊙z + b where
//! n = ‖W + s·B·A‖ by row carries no gradient (Liu et al. 2024, §4.3).
//! Backward with W frozen: dx = dy·W + drop(s·(dy·B)·A), dB = s·dyᵀ·(x·Aᵀ), dA = s·(dy·B)ᵀ·drop(x): ΔW is never formed.
//!
//! The adapter rides in the same sum: with u = s·x·Aᵀ, y = [x | u]·[W | B]ᵀ is one product of two terms, and layers that
//! share x (q, k, v; gate, up) share its packing and give dx = Σ_i [dy_i | du_i]·[W_i ; A_i] as one product.
use crate::{Activation, Context, DropoutKey, Linear, Lora, ParamId, ParamStore, Tape, Tensor, Var};
use loar_kernels::gemm::{Left, Output, Packed, Product, Term};
use loar_kernels::{Matrix, Pool, Precision, elementwise, rng::Stream};

/// How results are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// As the context stores activations.
    Context,
    /// In f32, for what a norm or a sum takes.
    F32,
}

/// What backward needs besides x.
pub(crate) struct Saved {
    /// s·drop(x)·Aᵀ `[t, r]`.
    pub(crate) u: Option<Activation>,
    /// DoRA: z `[t, out]` and the row norms n.
    dora: Option<(Tensor, Vec<f32>)>,
    dropout: Option<DropoutKey>,
}

impl Saved {
    /// Of a layer without DoRA and dropout.
    pub(crate) fn plain(u: Option<Activation>) -> Saved {
        Saved { u, dora: None, dropout: None }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.dora.is_none() && self.dropout.is_none()
    }
}

/// The rows a layer is applied to.
#[derive(Clone, Copy)]
pub(crate) struct Input<'x> {
    pub rows: usize,
    pub matrix: Matrix<'x>,
    pub packed: Option<&'x Packed>,
}

impl<'x> Input<'x> {
    pub(crate) fn left(&self) -> Left<'x> {
        match self.packed {
            Some(p) => Left::Packed(p),
            None => Left::Matrix(self.matrix),
        }
    }

    fn widened(&self) -> Vec<f32> {
        let cols = self.matrix.stride;
        let mut out = vec![0f32; self.rows * cols];
        for (r, row) in out.chunks_exact_mut(cols.max(1)).enumerate() {
            self.matrix.values.row_into(cols, r, row);
        }
        out
    }
}

/// An activation's numbers as the target of a product.
pub(crate) fn output(a: &mut Activation) -> Output<'_> {
    match a {
        Activation::F32(t) => Output::F32(&mut t.data),
        Activation::Bf16(t) => Output::Bf16(&mut t.data),
    }
}

/// The adapter's input with entries zeroed and the rest scaled up; the same call on a gradient is its backward pass.
/// The mask is keyed by run, module and micro-batch.
fn dropped(ctx: &Context, l: &Lora, key: DropoutKey, x: &[f32]) -> Vec<f32> {
    let stream = Stream::new(key.seed ^ l.stream, PURPOSE_DROPOUT, key.micro_step as u32);
    let mut y = vec![0f32; x.len()];
    elementwise::dropout(&ctx.pool, x, l.dropout, stream, 0, &mut y);
    y
}

/// Keeps dropout masks apart from every other use of the seed.
const PURPOSE_DROPOUT: u32 = 0xd209;

/// ‖W + s·B·A‖ by row without forming it: ‖w‖² + 2s·b·(A·wᵀ) + s²·b·(A·Aᵀ)·bᵀ.
fn dora_norms(ctx: &Context, params: &ParamStore, lin: &Linear, l: &Lora, base_norm2: &[f32]) -> Vec<f32> {
    let (a, b) = (&params.get(l.a).value, &params.get(l.b).value);
    let (r, out, inp) = (l.rank, lin.out_features, lin.in_features);
    let mut wa = vec![0f32; out * r];
    ctx.gemm_in(
        Precision::F32,
        out,
        r,
        inp,
        lin.weight.matrix(params),
        Matrix::f32(&a.data, inp).t(),
        1.0,
        false,
        &mut wa,
    );
    let mut aa = vec![0f32; r * r];
    ctx.gemm_in(
        Precision::F32,
        r,
        r,
        inp,
        Matrix::f32(&a.data, inp),
        Matrix::f32(&a.data, inp).t(),
        1.0,
        false,
        &mut aa,
    );
    let s = f64::from(l.scaling);
    (0..out)
        .map(|o| {
            let bo = b.row(o);
            let cross: f64 = bo.iter().zip(&wa[o * r..]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let quad: f64 = (0..r)
                .map(|i| {
                    f64::from(bo[i])
                        * bo.iter().zip(&aa[i * r..]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
                })
                .sum();
            (f64::from(base_norm2[o]) + 2.0 * s * cross + s * s * quad).sqrt() as f32
        })
        .collect()
}

impl Linear {
    /// DoRA's factor of every output, m / ‖W + s·B·A‖, for callers that compute the layer themselves.
    pub fn dora_scale(&self, ctx: &Context, params: &ParamStore) -> Option<Vec<f32>> {
        let l = self.lora.as_ref()?;
        let d = l.dora.as_ref()?;
        let norms = dora_norms(ctx, params, self, l, &d.base_norm2);
        Some(params.get(d.magnitude).value.data.iter().zip(&norms).map(|(m, n)| m / n).collect())
    }
}

/// A product with nothing but its terms.
pub(crate) fn plain<'p>(ctx: &Context, m: usize, n: usize, terms: &'p [Term<'p>]) -> Product<'p> {
    Product { m, n, terms, alpha: 1.0, bias: None, residual: None, accumulate: false, precision: ctx.precision }
}

/// Writes y `[t, out]`, plus `residual` if given; `keep` says whether backward will follow.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward(
    ctx: &Context,
    params: &ParamStore,
    lin: &Linear,
    x: Input<'_>,
    y: Output<'_>,
    residual: Option<&[f32]>,
    dropout: Option<DropoutKey>,
    keep: bool,
) -> Saved {
    let (t, inp, out) = (x.rows, lin.in_features, lin.out_features);
    let mut saved = Saved { u: None, dora: None, dropout: None };
    let mut terms = vec![Term { k: inp, a: x.left(), b: lin.weight.matrix(params).t() }];
    let mut u = None;
    if let Some(l) = &lin.lora {
        saved.dropout = dropout.filter(|_| l.dropout > 0.0);
        let masked = saved.dropout.map(|key| dropped(ctx, l, key, &x.widened()));
        let left = masked.as_ref().map_or(x.left(), |m| Left::Matrix(Matrix::f32(m, inp)));
        let mut product = Activation::unfilled(t, l.rank, ctx.stores_bf16());
        let term = [Term { k: inp, a: left, b: Matrix::f32(&params.get(l.a).value.data, inp).t() }];
        Product { alpha: l.scaling, ..plain(ctx, t, l.rank, &term) }.run(&ctx.pool, output(&mut product), l.rank);
        u = Some(product);
    }
    if let (Some(l), Some(u)) = (&lin.lora, &u) {
        let b = Matrix::f32(&params.get(l.b).value.data, l.rank).t();
        terms.push(Term { k: l.rank, a: Left::Matrix(u.matrix()), b });
    }
    let bias = lin.bias.as_ref().map(|b| b.to_f32(params));
    match lin.lora.as_ref().and_then(|l| l.dora.as_ref().map(|d| (l, d))) {
        None => {
            let product = Product { bias: bias.as_deref(), residual, ..plain(ctx, t, out, &terms) };
            product.run(&ctx.pool, y, out);
        }
        Some((l, d)) => {
            let mut z = Tensor::unfilled(t, out);
            plain(ctx, t, out, &terms).run(&ctx.pool, Output::F32(&mut z.data), out);
            let norms = dora_norms(ctx, params, lin, l, &d.base_norm2);
            let m = &params.get(d.magnitude).value.data;
            let value = |r: usize, o: usize| {
                let y = z.data[r * out + o] * (m[o] / norms[o]) + bias.as_ref().map_or(0.0, |b| b[o]);
                y + residual.map_or(0.0, |x| x[r * out + o])
            };
            match y {
                Output::F32(y) => y.iter_mut().enumerate().for_each(|(i, y)| *y = value(i / out, i % out)),
                Output::Bf16(y) => {
                    let bits = |i: usize| half::bf16::from_f32(value(i / out, i % out)).to_bits();
                    y.iter_mut().enumerate().for_each(|(i, y)| *y = bits(i));
                }
            }
            saved.dora = keep.then_some((z, norms));
        }
    }
    saved.u = u.filter(|_| keep);
    saved
}

/// dx `[t, in]` if wanted, and the gradients of the parameters of layers that share x. `dx_bf16` says how dx is stored.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    ctx: &Context,
    params: &ParamStore,
    lins: &[&Linear],
    x: Input<'_>,
    saved: &[Saved],
    mut dys: Vec<Activation>,
    want_dx: bool,
    dx_bf16: bool,
) -> (Option<Activation>, Vec<(ParamId, Tensor)>) {
    let (t, inp) = (x.rows, lins[0].in_features);
    let mut grads = Vec::new();
    for ((lin, saved), dy) in lins.iter().zip(saved).zip(&mut dys) {
        let out = lin.out_features;
        if let Some(id) = lin.bias.as_ref().and_then(|b| b.param()) {
            let mut db = Tensor::zeros(out, 1);
            elementwise::sum_rows(&ctx.pool, &dy.widened(&ctx.pool).data, &mut db.data);
            grads.push((id, db));
        }
        if let (Some((z, norms)), Some(l)) = (&saved.dora, &lin.lora)
            && let Some(d) = &l.dora
        {
            let m = &params.get(d.magnitude).value.data;
            let mut dm = Tensor::zeros(out, 1);
            let mut dz = dy.widened(&ctx.pool).into_owned();
            for (row, z) in dz.data.chunks_exact_mut(out).zip(z.data.chunks_exact(out)) {
                for (o, (g, z)) in row.iter_mut().zip(z).enumerate() {
                    dm.data[o] += *g * z / norms[o];
                    *g *= m[o] / norms[o];
                }
            }
            grads.push((d.magnitude, dm));
            *dy = dz.into();
        }
    }
    // Each dy meets W (for dx) and B (for du): packed once, if at all.
    let packed: Vec<Option<Packed>> = lins
        .iter()
        .zip(&dys)
        .map(|(lin, dy)| {
            let twice = want_dx && lin.lora.is_some();
            let pack = || Packed::left_unless_in_place(&ctx.pool, ctx.precision, t, lin.out_features, dy.matrix());
            twice.then(pack).flatten()
        })
        .collect();
    let left = |i: usize| packed[i].as_ref().map_or(Left::Matrix(dys[i].matrix()), Left::Packed);
    let mut dus: Vec<Option<Activation>> = Vec::with_capacity(lins.len());
    for (i, lin) in lins.iter().enumerate() {
        dus.push(lin.lora.as_ref().map(|l| {
            let mut du = Activation::unfilled(t, l.rank, ctx.stores_bf16());
            let term = [Term { k: lin.out_features, a: left(i), b: Matrix::f32(&params.get(l.b).value.data, l.rank) }];
            Product { alpha: l.scaling, ..plain(ctx, t, l.rank, &term) }.run(&ctx.pool, output(&mut du), l.rank);
            du
        }));
    }
    let dx = want_dx.then(|| {
        let mut terms = Vec::new();
        for (i, lin) in lins.iter().enumerate() {
            terms.push(Term { k: lin.out_features, a: left(i), b: lin.weight.matrix(params) });
            if let (Some(l), Some(du), None) = (&lin.lora, &dus[i], saved[i].dropout) {
                let a = Matrix::f32(&params.get(l.a).value.data, inp);
                terms.push(Term { k: l.rank, a: Left::Matrix(du.matrix()), b: a });
            }
        }
        let masked = saved.iter().any(|s| s.dropout.is_some());
        let mut dx = Activation::unfilled(t, inp, dx_bf16 && !masked);
        plain(ctx, t, inp, &terms).run(&ctx.pool, output(&mut dx), inp);
        for (i, lin) in lins.iter().enumerate() {
            if let (Some(l), Some(du), Some(key), Activation::F32(dx)) = (&lin.lora, &dus[i], saved[i].dropout, &mut dx)
            {
                let mut through = vec![0f32; t * inp];
                let a = Matrix::f32(&params.get(l.a).value.data, inp);
                let term = [Term { k: l.rank, a: Left::Matrix(du.matrix()), b: a }];
                plain(ctx, t, inp, &term).run(&ctx.pool, Output::F32(&mut through), inp);
                elementwise::add(&ctx.pool, &dropped(ctx, l, key, &through), &mut dx.data);
            }
        }
        dx
    });
    drop(packed);
    for (i, lin) in lins.iter().enumerate() {
        let (out, dy) = (lin.out_features, dys[i].matrix());
        if let Some(id) = lin.weight.param() {
            let mut dw = Tensor::unfilled(out, inp);
            let term = [Term { k: t, a: Left::Matrix(dy.t()), b: x.matrix }];
            plain(ctx, out, inp, &term).run(&ctx.pool, Output::F32(&mut dw.data), inp);
            grads.push((id, dw));
        }
        if let (Some(l), Some(u), Some(du)) = (&lin.lora, &saved[i].u, &dus[i]) {
            let masked = saved[i].dropout.map(|key| dropped(ctx, l, key, &x.widened()));
            let mut da = Tensor::unfilled(l.rank, inp);
            let x = masked.as_ref().map_or(x.matrix, |m| Matrix::f32(m, inp));
            let term = [Term { k: t, a: Left::Matrix(du.matrix().t()), b: x }];
            plain(ctx, l.rank, inp, &term).run(&ctx.pool, Output::F32(&mut da.data), inp);
            // r rows of `out` columns suit the multiplier better than `out` rows of r.
            let mut dbt = Tensor::unfilled(l.rank, out);
            let term = [Term { k: t, a: Left::Matrix(u.matrix().t()), b: dy }];
            plain(ctx, l.rank, out, &term).run(&ctx.pool, Output::F32(&mut dbt.data), out);
            grads.push((l.a, da));
            grads.push((l.b, transposed(&ctx.pool, &dbt)));
        }
    }
    (dx, grads)
}

pub(crate) fn transposed(pool: &Pool, x: &Tensor) -> Tensor {
    let mut y = Tensor::unfilled(x.cols, x.rows);
    y.fill_rows(pool, |c, row| {
        for (v, x) in row.iter_mut().zip(x.data[c..].iter().step_by(x.cols)) {
            *v = *x;
        }
    });
    y
}

/// All layers on one x: the results, and what backward needs.
pub(crate) fn forward_many(
    ctx: &Context,
    params: &ParamStore,
    lins: &[(&Linear, Store)],
    x: &Activation,
    residual: Option<&Tensor>,
    dropout: Option<DropoutKey>,
    keep: bool,
) -> (Vec<Activation>, Vec<Saved>) {
    let t = x.rows();
    let products = lins.iter().map(|(l, _)| 1 + usize::from(l.lora.is_some())).sum::<usize>();
    let pack = || Packed::left_unless_in_place(&ctx.pool, ctx.precision, t, x.cols(), x.matrix());
    let packed = (products > 1).then(pack).flatten();
    let input = Input { rows: t, matrix: x.matrix(), packed: packed.as_ref() };
    lins.iter()
        .map(|(lin, store)| {
            assert_eq!(x.cols(), lin.in_features, "`{}`: input width", lin.name);
            let bf16 = ctx.stores_bf16() && *store == Store::Context;
            let mut y = Activation::unfilled(t, lin.out_features, bf16);
            let residual = residual.map(|r| &r.data[..]);
            let saved = forward(ctx, params, lin, input, output(&mut y), residual, dropout, keep);
            (y, saved)
        })
        .unzip()
}

impl<'a> Tape<'a> {
    /// `x [t, in]` → `[t, out]`.
    pub fn linear(&mut self, x: &Var, lin: &'a Linear) -> Var {
        self.linears(x, vec![(lin, Store::Context)]).remove(0)
    }

    /// Several layers on one x, which is read and packed once.
    pub fn linears(&mut self, x: &Var, lins: Vec<(&'a Linear, Store)>) -> Vec<Var> {
        let trainable = lins.iter().any(|(l, _)| l.is_trainable());
        let wanted = (x.needs_grad() || trainable) && self.is_recording();
        let (ys, saved) = forward_many(self.context, self.params, &lins, &x.value, None, self.dropout, wanted);
        let t = x.rows();
        // Frozen layers need only the route back, not their input.
        let x = if trainable { x.clone() } else { x.without_value() };
        self.push_many(ys, wanted, move |back, dys| {
            let lins: Vec<&Linear> = lins.iter().map(|(l, _)| *l).collect();
            let dys = present(&lins, t, dys);
            let input = Input { rows: t, matrix: x.value.matrix(), packed: None };
            let (dx, grads) =
                backward(back.context, back.params, &lins, input, &saved, dys, x.needs_grad(), x.value.is_bf16());
            dx.into_iter().for_each(|dx| back.give(&x, dx));
            grads.into_iter().for_each(|(id, g)| back.give_param(id, g));
        })
    }

    /// residual + layer(x), in f32.
    pub fn linear_add(&mut self, x: &Var, lin: &'a Linear, residual: &Var) -> Var {
        let wanted = (x.needs_grad() || residual.needs_grad() || lin.is_trainable()) && self.is_recording();
        let lins = [(lin, Store::F32)];
        let (ctx, params) = (self.context, self.params);
        let sum = residual.value.f32();
        let (mut ys, saved) = forward_many(ctx, params, &lins, &x.value, Some(sum), self.dropout, wanted);
        let t = x.rows();
        let (x, residual) = (if lin.is_trainable() { x.clone() } else { x.without_value() }, residual.without_value());
        self.push(ys.remove(0), wanted, move |back, dy| {
            if x.needs_grad() || lin.is_trainable() {
                let input = Input { rows: t, matrix: x.value.matrix(), packed: None };
                let bf16 = back.context.stores_bf16();
                let own = dy.operand(bf16, &back.context.pool);
                let (dx, grads) =
                    backward(back.context, back.params, &[lin], input, &saved, vec![own], x.needs_grad(), bf16);
                dx.into_iter().for_each(|dx| back.give(&x, dx));
                grads.into_iter().for_each(|(id, g)| back.give_param(id, g));
            }
            back.give(&residual, dy);
        })
    }

    /// residual + down(silu(gate) ⊙ up), in f32; the product of gate and up is computed again in the backward pass.
    pub fn swiglu_linear_add(&mut self, gate: &Var, up: &Var, down: &'a Linear, residual: &Var) -> Var {
        let inputs = gate.needs_grad() || up.needs_grad();
        let wanted = (inputs || residual.needs_grad() || down.is_trainable()) && self.is_recording();
        let (ctx, params) = (self.context, self.params);
        let lins = [(down, Store::F32)];
        let (mut ys, saved) = {
            let x = super::swiglu::forward(ctx, &gate.value, &up.value);
            forward_many(ctx, params, &lins, &x, Some(residual.value.f32()), self.dropout, wanted)
        };
        let (gate, up, residual) = (gate.clone(), up.clone(), residual.without_value());
        self.push(ys.remove(0), wanted, move |back, dy| {
            if inputs || down.is_trainable() {
                let (ctx, bf16) = (back.context, back.context.stores_bf16());
                let own = dy.operand(bf16, &ctx.pool);
                let (dx, grads) = {
                    let x = super::swiglu::forward(ctx, &gate.value, &up.value);
                    let input = Input { rows: x.rows(), matrix: x.matrix(), packed: None };
                    backward(ctx, back.params, &[down], input, &saved, vec![own], inputs, bf16)
                };
                grads.into_iter().for_each(|(id, g)| back.give_param(id, g));
                if let Some(dx) = dx {
                    let (dg, du) = super::swiglu::backward(ctx, &gate.value, &up.value, dx);
                    back.give(&gate, dg);
                    back.give(&up, du);
                }
            }
            back.give(&residual, dy);
        })
    }

    /// Layers on the norm of x; the norm is computed again in the backward pass, so only x is kept.
    pub fn norm_linears(
        &mut self,
        x: &Var,
        norm: &'a crate::Weight,
        eps: f32,
        lins: Vec<(&'a Linear, Store)>,
    ) -> Vec<Var> {
        let trainable = lins.iter().any(|(l, _)| l.is_trainable());
        let wanted = (x.needs_grad() || trainable || norm.param().is_some()) && self.is_recording();
        let (ctx, params) = (self.context, self.params);
        let w = norm.to_f32(params);
        let (ys, saved, inv_rms) = {
            let (n, inv_rms) = super::rms_norm::forward(ctx, x.value.f32(), &w, eps);
            let (ys, saved) = forward_many(ctx, params, &lins, &n, None, self.dropout, wanted);
            (ys, saved, inv_rms)
        };
        let (t, x) = (x.rows(), x.clone());
        self.push_many(ys, wanted, move |back, dys| {
            let (ctx, pool) = (back.context, &back.context.pool);
            let lins: Vec<&Linear> = lins.iter().map(|(l, _)| *l).collect();
            let dys = present(&lins, t, dys);
            let want_dn = x.needs_grad() || norm.param().is_some();
            let n = trainable.then(|| super::rms_norm::forward(ctx, x.value.f32(), &w, eps).0);
            let nothing = Activation::from(Tensor::zeros(0, 0));
            let input = Input { rows: t, matrix: n.as_ref().unwrap_or(&nothing).matrix(), packed: None };
            let (dn, grads) = backward(ctx, back.params, &lins, input, &saved, dys, want_dn, false);
            drop(n);
            grads.into_iter().for_each(|(id, g)| back.give_param(id, g));
            if let Some(dn) = dn {
                let dn = dn.into_f32(pool);
                let mut dw = norm.param().map(|_| Tensor::zeros(w.len(), 1));
                let dw_data = dw.as_mut().map(|t| &mut t.data[..]);
                let mut dx = back.take(&x).map(|g| g.into_f32(pool)).unwrap_or_else(|| Tensor::zeros(t, w.len()));
                elementwise::rmsnorm_backward_add(
                    pool,
                    &x.value.f32().data,
                    &w,
                    &inv_rms,
                    &dn.data,
                    &mut dx.data,
                    dw_data,
                );
                if let (Some(id), Some(dw)) = (norm.param(), dw) {
                    back.give_param(id, dw);
                }
                back.give(&x, dx);
            }
        })
    }
}

/// Zeros where a result was not used.
fn present(lins: &[&Linear], t: usize, dys: Vec<Option<Activation>>) -> Vec<Activation> {
    let zeros = |l: &Linear| Tensor::zeros(t, l.out_features).into();
    dys.into_iter().zip(lins).map(|(dy, l)| dy.unwrap_or_else(|| zeros(l))).collect()
}
