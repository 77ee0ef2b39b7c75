//! Linear layer with a fused low-rank adapter over a frozen (or trainable) weight:
//! y = x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ (Hu et al. 2021, eq. 3); with DoRA z = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, y = (m/n)⊙z + b where
//! n = ‖W + s·B·A‖ by row carries no gradient (Liu et al. 2024, §4.3).
//! Backward with W frozen: dx = dy·W + drop(s·(dy·B)·A), dB = s·dyᵀ·(x·Aᵀ), dA = s·(dy·B)ᵀ·drop(x): ΔW is never formed.
use crate::{Context, DropoutKey, Linear, Lora, ParamId, ParamStore, Tape, Tensor, Var};
use loar_kernels::{Matrix, Precision, elementwise, rng::Stream};

/// What backward needs besides x.
pub(crate) struct Saved {
    /// drop(x)·Aᵀ `[t, r]`.
    u: Option<Tensor>,
    /// DoRA: z `[t, out]` and the row norms n.
    dora: Option<(Tensor, Vec<f32>)>,
    dropout: Option<DropoutKey>,
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

/// Writes y `[t, out]`; `keep` says whether backward will follow.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward(
    ctx: &Context,
    params: &ParamStore,
    lin: &Linear,
    x: &[f32],
    t: usize,
    y: &mut [f32],
    dropout: Option<DropoutKey>,
    keep: bool,
) -> Saved {
    let (inp, out) = (lin.in_features, lin.out_features);
    let x_m = Matrix::f32(x, inp);
    ctx.gemm(t, out, inp, x_m, lin.weight.matrix(params).t(), 1.0, false, y);
    let mut saved = Saved { u: None, dora: None, dropout: None };
    if let Some(l) = &lin.lora {
        let (a, b) = (&params.get(l.a).value, &params.get(l.b).value);
        saved.dropout = dropout.filter(|_| l.dropout > 0.0);
        let masked = saved.dropout.map(|key| dropped(ctx, l, key, x));
        let mut u = Tensor::zeros(t, l.rank);
        ctx.gemm(
            t,
            l.rank,
            inp,
            Matrix::f32(masked.as_deref().unwrap_or(x), inp),
            Matrix::f32(&a.data, inp).t(),
            1.0,
            false,
            &mut u.data,
        );
        ctx.gemm(t, out, l.rank, Matrix::f32(&u.data, l.rank), Matrix::f32(&b.data, l.rank).t(), l.scaling, true, y);
        if let Some(d) = &l.dora {
            let norms = dora_norms(ctx, params, lin, l, &d.base_norm2);
            let z = keep.then(|| Tensor::new(t, out, y.to_vec()));
            let m = &params.get(d.magnitude).value.data;
            for row in y.chunks_exact_mut(out) {
                for ((y, m), n) in row.iter_mut().zip(m).zip(&norms) {
                    *y *= m / n;
                }
            }
            saved.dora = z.map(|z| (z, norms));
        }
        saved.u = keep.then_some(u);
    }
    if let Some(bias) = &lin.bias {
        elementwise::add_rows(&ctx.pool, &bias.to_f32(params), y);
    }
    saved
}

/// dx `[t, in]` if wanted, and the gradients of the layer's parameters.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    ctx: &Context,
    params: &ParamStore,
    lin: &Linear,
    x: &[f32],
    t: usize,
    saved: &Saved,
    dy: &[f32],
    want_dx: bool,
) -> (Option<Tensor>, Vec<(ParamId, Tensor)>) {
    let (inp, out) = (lin.in_features, lin.out_features);
    let mut grads = Vec::new();
    if let Some(id) = lin.bias.as_ref().and_then(|b| b.param()) {
        let mut db = Tensor::zeros(out, 1);
        elementwise::sum_rows(&ctx.pool, dy, &mut db.data);
        grads.push((id, db));
    }
    let mut dz_own = None;
    if let (Some((z, norms)), Some(l)) = (&saved.dora, &lin.lora)
        && let Some(d) = &l.dora
    {
        let m = &params.get(d.magnitude).value.data;
        let mut dm = Tensor::zeros(out, 1);
        let mut dz = dy.to_vec();
        for (row, z) in dz.chunks_exact_mut(out).zip(z.data.chunks_exact(out)) {
            for (o, (g, z)) in row.iter_mut().zip(z).enumerate() {
                dm.data[o] += *g * z / norms[o];
                *g *= m[o] / norms[o];
            }
        }
        grads.push((d.magnitude, dm));
        dz_own = Some(dz);
    }
    let dy = dz_own.as_deref().unwrap_or(dy);
    let dy_m = Matrix::f32(dy, out);
    let mut dx = want_dx.then(|| {
        let mut dx = Tensor::zeros(t, inp);
        ctx.gemm(t, inp, out, dy_m, lin.weight.matrix(params), 1.0, false, &mut dx.data);
        dx
    });
    if let Some(id) = lin.weight.param() {
        let mut dw = Tensor::zeros(out, inp);
        ctx.gemm(out, inp, t, dy_m.t(), Matrix::f32(x, inp), 1.0, false, &mut dw.data);
        grads.push((id, dw));
    }
    if let (Some(l), Some(u)) = (&lin.lora, &saved.u) {
        let (a, b) = (&params.get(l.a).value, &params.get(l.b).value);
        let mut du = Tensor::zeros(t, l.rank);
        ctx.gemm(t, l.rank, out, dy_m, Matrix::f32(&b.data, l.rank), l.scaling, false, &mut du.data);
        let mut db = Tensor::zeros(out, l.rank);
        ctx.gemm(out, l.rank, t, dy_m.t(), Matrix::f32(&u.data, l.rank), l.scaling, false, &mut db.data);
        let masked = saved.dropout.map(|key| dropped(ctx, l, key, x));
        let mut da = Tensor::zeros(l.rank, inp);
        ctx.gemm(
            l.rank,
            inp,
            t,
            Matrix::f32(&du.data, l.rank).t(),
            Matrix::f32(masked.as_deref().unwrap_or(x), inp),
            1.0,
            false,
            &mut da.data,
        );
        grads.push((l.a, da));
        grads.push((l.b, db));
        if let Some(dx) = &mut dx {
            match saved.dropout {
                None => ctx.gemm(
                    t,
                    inp,
                    l.rank,
                    Matrix::f32(&du.data, l.rank),
                    Matrix::f32(&a.data, inp),
                    1.0,
                    true,
                    &mut dx.data,
                ),
                Some(key) => {
                    let mut dxa = vec![0f32; t * inp];
                    ctx.gemm(
                        t,
                        inp,
                        l.rank,
                        Matrix::f32(&du.data, l.rank),
                        Matrix::f32(&a.data, inp),
                        1.0,
                        false,
                        &mut dxa,
                    );
                    elementwise::add(&ctx.pool, &dropped(ctx, l, key, &dxa), &mut dx.data);
                }
            }
        }
    }
    (dx, grads)
}

impl<'a> Tape<'a> {
    /// `x [t, in]` → `[t, out]`.
    pub fn linear(&mut self, x: &Var, lin: &'a Linear) -> Var {
        assert_eq!(x.cols(), lin.in_features, "`{}`: input width", lin.name);
        let t = x.rows();
        let wanted = (x.needs_grad() || lin.is_trainable()) && self.is_recording();
        let mut y = Tensor::zeros(t, lin.out_features);
        let saved = forward(self.context, self.params, lin, &x.value.data, t, &mut y.data, self.dropout, wanted);
        // A frozen layer needs only the route back, not its input.
        let x = if lin.is_trainable() { x.clone() } else { x.without_value() };
        self.push(y, wanted, move |back, dy| {
            let (dx, grads) =
                backward(back.context, back.params, lin, &x.value.data, t, &saved, &dy.data, x.needs_grad());
            if let Some(dx) = dx {
                back.give(&x, dx);
            }
            for (id, g) in grads {
                back.give_param(id, g);
            }
        })
    }
}
