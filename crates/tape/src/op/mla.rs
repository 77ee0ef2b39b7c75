//! Multi-head latent attention's keys and values from the expanded latent (DeepSeek-V2, eq. 9–19): per head
//! `kv_b` rows are [k_nope (n) | v (v)], and the rotary key (r) is shared by all heads.
use crate::{Activation, Tape, Tensor, Var};
use loar_kernels::Pool;
use loar_kernels::arena::Element;

impl<'a> Tape<'a> {
    /// `kv_b [t, h*(n+v)]`, `k_pe [t, r]` → keys `[t, h*(n+r)]` = per head [k_nope | k_pe], stored as kv_b is.
    pub fn mla_keys(&mut self, kv_b: &Var, k_pe: &Var, heads: usize, n: usize, v: usize) -> Var {
        let r = k_pe.cols();
        assert_eq!(kv_b.cols(), heads * (n + v), "mla_keys: kv_b width");
        let pool = &self.context.pool;
        let y: Activation = match &*kv_b.value {
            Activation::F32(kv) => keys(pool, kv, &k_pe.value.widened(pool), n, v).into(),
            Activation::Bf16(kv) => keys(pool, kv, &(*k_pe.value).clone().into_bf16(pool), n, v).into(),
        };
        let wanted = kv_b.needs_grad() || k_pe.needs_grad();
        let (kv_b, k_pe) = (kv_b.without_value(), k_pe.without_value());
        self.push(y, wanted, move |back, dy| {
            let pool = &back.context.pool;
            let dkv: Activation = match &dy {
                Activation::F32(dy) => nope_back(pool, dy, heads, (n, r, v)).into(),
                Activation::Bf16(dy) => nope_back(pool, dy, heads, (n, r, v)).into(),
            };
            let dy = dy.into_f32(pool);
            let mut dpe = Tensor::zeros(dy.rows, r);
            dpe.fill_rows(pool, |t, pe| {
                for d in dy.row(t).chunks_exact(n + r) {
                    for (p, g) in pe.iter_mut().zip(&d[n..]) {
                        *p += g;
                    }
                }
            });
            back.give(&kv_b, dkv);
            back.give(&k_pe, dpe);
        })
    }

    /// `kv_b [t, h*(n+v)]` → values `[t, h*v]`, stored alike.
    pub fn mla_values(&mut self, kv_b: &Var, heads: usize, n: usize, v: usize) -> Var {
        let pool = &self.context.pool;
        let y: Activation = match &*kv_b.value {
            Activation::F32(kv) => values(pool, kv, heads, n, v).into(),
            Activation::Bf16(kv) => values(pool, kv, heads, n, v).into(),
        };
        let (wanted, kv_b) = (kv_b.needs_grad(), kv_b.without_value());
        self.push(y, wanted, move |back, dy| {
            let pool = &back.context.pool;
            let dkv: Activation = match &dy {
                Activation::F32(dy) => values_back(pool, dy, heads, n, v).into(),
                Activation::Bf16(dy) => values_back(pool, dy, heads, n, v).into(),
            };
            back.give(&kv_b, dkv);
        })
    }
}

fn keys<T: Element>(pool: &Pool, kv_b: &Tensor<T>, k_pe: &Tensor<T>, n: usize, v: usize) -> Tensor<T> {
    let (r, heads) = (k_pe.cols, kv_b.cols / (n + v));
    let mut y = Tensor::unfilled(kv_b.rows, heads * (n + r));
    y.fill_rows(pool, |t, row| {
        for (out, kv) in row.chunks_exact_mut(n + r).zip(kv_b.row(t).chunks_exact(n + v)) {
            out[..n].copy_from_slice(&kv[..n]);
            out[n..].copy_from_slice(k_pe.row(t));
        }
    });
    y
}

/// The gradient of kv_b through the keys: the columns of the values stay zero.
fn nope_back<T: Element>(pool: &Pool, dy: &Tensor<T>, heads: usize, (n, r, v): (usize, usize, usize)) -> Tensor<T> {
    let mut dkv = Tensor::zeroed(dy.rows, heads * (n + v));
    dkv.fill_rows(pool, |t, row| {
        for (d, kv) in dy.row(t).chunks_exact(n + r).zip(row.chunks_exact_mut(n + v)) {
            kv[..n].copy_from_slice(&d[..n]);
        }
    });
    dkv
}

fn values<T: Element>(pool: &Pool, kv_b: &Tensor<T>, heads: usize, n: usize, v: usize) -> Tensor<T> {
    let mut y = Tensor::unfilled(kv_b.rows, heads * v);
    y.fill_rows(pool, |t, row| {
        for (out, kv) in row.chunks_exact_mut(v).zip(kv_b.row(t).chunks_exact(n + v)) {
            out.copy_from_slice(&kv[n..]);
        }
    });
    y
}

fn values_back<T: Element>(pool: &Pool, dy: &Tensor<T>, heads: usize, n: usize, v: usize) -> Tensor<T> {
    let mut dkv = Tensor::zeroed(dy.rows, heads * (n + v));
    dkv.fill_rows(pool, |t, row| {
        for (d, kv) in dy.row(t).chunks_exact(v).zip(row.chunks_exact_mut(n + v)) {
            kv[n..].copy_from_slice(d);
        }
    });
    dkv
}
