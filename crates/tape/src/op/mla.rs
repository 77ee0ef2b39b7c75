//! Multi-head latent attention's keys and values from the expanded latent (DeepSeek-V2, eq. 9–19): per head
//! `kv_b` rows are [k_nope (n) | v (v)], and the rotary key (r) is shared by all heads.
use crate::{Tape, Tensor, Var};

impl<'a> Tape<'a> {
    /// `kv_b [t, h*(n+v)]`, `k_pe [t, r]` → keys `[t, h*(n+r)]` = per head [k_nope | k_pe].
    pub fn mla_keys(&mut self, kv_b: &Var, k_pe: &Var, heads: usize, n: usize, v: usize) -> Var {
        let r = k_pe.cols();
        assert_eq!(kv_b.cols(), heads * (n + v), "mla_keys: kv_b width");
        let mut y = Tensor::zeros(kv_b.rows(), heads * (n + r));
        for t in 0..kv_b.rows() {
            let pe = k_pe.value.row(t);
            for (out, kv) in y.row_mut(t).chunks_exact_mut(n + r).zip(kv_b.value.row(t).chunks_exact(n + v)) {
                out[..n].copy_from_slice(&kv[..n]);
                out[n..].copy_from_slice(pe);
            }
        }
        let wanted = kv_b.needs_grad() || k_pe.needs_grad();
        let (kv_b, k_pe) = (kv_b.without_value(), k_pe.without_value());
        self.push(y, wanted, move |back, dy| {
            let (mut dkv, mut dpe) = (Tensor::zeros(dy.rows, heads * (n + v)), Tensor::zeros(dy.rows, r));
            for t in 0..dy.rows {
                let pe = dpe.row_mut(t);
                for (d, kv) in dy.row(t).chunks_exact(n + r).zip(dkv.row_mut(t).chunks_exact_mut(n + v)) {
                    kv[..n].copy_from_slice(&d[..n]);
                    for (p, g) in pe.iter_mut().zip(&d[n..]) {
                        *p += g;
                    }
                }
            }
            back.give(&kv_b, dkv);
            back.give(&k_pe, dpe);
        })
    }

    /// `kv_b [t, h*(n+v)]` → values `[t, h*v]`.
    pub fn mla_values(&mut self, kv_b: &Var, heads: usize, n: usize, v: usize) -> Var {
        let mut y = Tensor::zeros(kv_b.rows(), heads * v);
        for t in 0..kv_b.rows() {
            for (out, kv) in y.row_mut(t).chunks_exact_mut(v).zip(kv_b.value.row(t).chunks_exact(n + v)) {
                out.copy_from_slice(&kv[n..]);
            }
        }
        let (wanted, kv_b) = (kv_b.needs_grad(), kv_b.without_value());
        self.push(y, wanted, move |back, dy| {
            let mut dkv = Tensor::zeros(dy.rows, heads * (n + v));
            for t in 0..dy.rows {
                for (d, kv) in dy.row(t).chunks_exact(v).zip(dkv.row_mut(t).chunks_exact_mut(n + v)) {
                    kv[n..].copy_from_slice(d);
                }
            }
            back.give(&kv_b, dkv);
        })
    }
}
