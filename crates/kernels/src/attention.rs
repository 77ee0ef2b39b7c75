//! Causal attention over packed documents of different lengths, with grouped key/value heads and head sizes that
//! differ between keys and values (MLA). softmax(q·kᵀ·scale)·v.
use crate::Pool;

#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub num_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim_qk: usize,
    pub head_dim_v: usize,
    pub scale: f32,
}

/// One document: its queries are rows `q_start..q_start+q_len` of q, its keys rows `k_start..k_start+k_len` of k and v.
/// Query i sees keys `0 ..= k_len - q_len + i` of its document (the queries are the last `q_len` positions).
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub q_start: usize,
    pub q_len: usize,
    pub k_start: usize,
    pub k_len: usize,
}

/// q `[Tq, H, dqk]`, k `[Tk, KV, dqk]`, v `[Tk, KV, dv]` → out `[Tq, H, dv]`, lse `[Tq, H]` (log-sum-exp of the scaled scores).
#[allow(clippy::too_many_arguments)]
pub fn forward(
    _pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (h_n, kv_n, dq, dv) = (s.num_heads, s.num_key_value_heads, s.head_dim_qk, s.head_dim_v);
    for g in segments {
        for i in 0..g.q_len {
            for h in 0..h_n {
                let kh = h / (h_n / kv_n);
                let n = g.k_len - g.q_len + i + 1;
                let qr = &q[((g.q_start + i) * h_n + h) * dq..][..dq];
                let scores: Vec<f32> = (0..n)
                    .map(|j| {
                        qr.iter().zip(&k[((g.k_start + j) * kv_n + kh) * dq..][..dq]).map(|(a, b)| a * b).sum::<f32>()
                            * s.scale
                    })
                    .collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|x| (x - max).exp()).sum();
                let l = max + sum.ln();
                lse[(g.q_start + i) * h_n + h] = l;
                let o = &mut out[((g.q_start + i) * h_n + h) * dv..][..dv];
                o.fill(0.0);
                for (j, x) in scores.iter().enumerate() {
                    let p = (x - l).exp();
                    for (o, v) in o.iter_mut().zip(&v[((g.k_start + j) * kv_n + kh) * dv..][..dv]) {
                        *o += p * v;
                    }
                }
            }
        }
    }
}

/// Gradients of `forward` with respect to q, k and v; dq, dk, dv are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    _pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (h_n, kv_n, dqk, dvn) = (s.num_heads, s.num_key_value_heads, s.head_dim_qk, s.head_dim_v);
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    for g in segments {
        for i in 0..g.q_len {
            for h in 0..h_n {
                let kh = h / (h_n / kv_n);
                let n = g.k_len - g.q_len + i + 1;
                let qi = ((g.q_start + i) * h_n + h) * dqk;
                let oi = ((g.q_start + i) * h_n + h) * dvn;
                let (o, d) = (&out[oi..][..dvn], &dout[oi..][..dvn]);
                let delta: f32 = o.iter().zip(d).map(|(a, b)| a * b).sum();
                let l = lse[(g.q_start + i) * h_n + h];
                for j in 0..n {
                    let ki = ((g.k_start + j) * kv_n + kh) * dqk;
                    let vi = ((g.k_start + j) * kv_n + kh) * dvn;
                    let score: f32 =
                        q[qi..qi + dqk].iter().zip(&k[ki..ki + dqk]).map(|(a, b)| a * b).sum::<f32>() * s.scale;
                    let p = (score - l).exp();
                    let dp: f32 = d.iter().zip(&v[vi..vi + dvn]).map(|(a, b)| a * b).sum();
                    let ds = p * (dp - delta) * s.scale;
                    for c in 0..dqk {
                        dq[qi + c] += ds * k[ki + c];
                        dk[ki + c] += ds * q[qi + c];
                    }
                    for c in 0..dvn {
                        dv[vi + c] += p * d[c];
                    }
                }
            }
        }
    }
}
