//! The obvious loops over every pair, in f64: what every variant is measured against.
use super::{AttentionShape, Segment};

/// (out `[Tq, H, dv]`, lse `[Tq, H]`); rows of no segment are 0.
pub fn reference_forward(
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let rows = q.len() / s.head_dim_qk;
    let (mut out, mut lse) = (vec![0f64; rows * s.head_dim_v], vec![0f64; rows]);
    each_row(s, segments, |row, kv_rows| {
        let scores = scores(s, q, k, row, &kv_rows);
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let l = top + scores.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        lse[row] = l;
        for (x, kv) in scores.iter().zip(&kv_rows) {
            for c in 0..s.head_dim_v {
                out[row * s.head_dim_v + c] += (x - l).exp() * f64::from(v[kv * s.head_dim_v + c]);
            }
        }
    });
    (out, lse)
}

/// (dq, dk, dv)
pub fn reference_backward(
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (dqk, dvn) = (s.head_dim_qk, s.head_dim_v);
    let (out, lse) = reference_forward(s, segments, q, k, v);
    let (mut dq, mut dk, mut dv) = (vec![0f64; q.len()], vec![0f64; k.len()], vec![0f64; v.len()]);
    each_row(s, segments, |row, kv_rows| {
        let d = &dout[row * dvn..(row + 1) * dvn];
        let delta: f64 = d.iter().zip(&out[row * dvn..]).map(|(a, b)| f64::from(*a) * b).sum();
        for (x, kv) in scores(s, q, k, row, &kv_rows).iter().zip(&kv_rows) {
            let p = (x - lse[row]).exp();
            let dp: f64 = d.iter().zip(&v[kv * dvn..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let ds = p * (dp - delta) * f64::from(s.scale);
            for c in 0..dqk {
                dq[row * dqk + c] += ds * f64::from(k[kv * dqk + c]);
                dk[kv * dqk + c] += ds * f64::from(q[row * dqk + c]);
            }
            for c in 0..dvn {
                dv[kv * dvn + c] += p * f64::from(d[c]);
            }
        }
    });
    (dq, dk, dv)
}

/// What errors of rounded operands scale with: the sums of [`reference_forward`]'s out and of [`reference_backward`]'s
/// dq, dk, dv over the magnitudes of their terms.
pub fn reference_magnitudes(
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
) -> [Vec<f64>; 4] {
    let (dqk, dvn) = (s.head_dim_qk, s.head_dim_v);
    let magnitudes: Vec<f32> = v.iter().map(|x| x.abs()).collect();
    let (out, lse) = reference_forward(s, segments, q, k, &magnitudes);
    let (mut dq, mut dk, mut dv) = (vec![0f64; q.len()], vec![0f64; k.len()], vec![0f64; v.len()]);
    each_row(s, segments, |row, kv_rows| {
        let d = &dout[row * dvn..(row + 1) * dvn];
        let delta: f64 = d.iter().zip(&out[row * dvn..]).map(|(a, b)| f64::from(a.abs()) * b).sum();
        for (x, kv) in scores(s, q, k, row, &kv_rows).iter().zip(&kv_rows) {
            let p = (x - lse[row]).exp();
            let dp: f64 = d.iter().zip(&v[kv * dvn..]).map(|(a, b)| f64::from((a * b).abs())).sum();
            let ds = p * (dp + delta) * f64::from(s.scale.abs());
            for c in 0..dqk {
                dq[row * dqk + c] += ds * f64::from(k[kv * dqk + c].abs());
                dk[kv * dqk + c] += ds * f64::from(q[row * dqk + c].abs());
            }
            for c in 0..dvn {
                dv[kv * dvn + c] += p * f64::from(d[c].abs());
            }
        }
    });
    [out, dq, dk, dv]
}

/// Calls `f` with every query row (t·H + h) and the key rows (t·KV + kv head) it sees.
fn each_row(s: &AttentionShape, segments: &[Segment], mut f: impl FnMut(usize, Vec<usize>)) {
    let group = s.num_heads / s.num_key_value_heads;
    for g in segments {
        for i in 0..g.q_len {
            for h in 0..s.num_heads {
                let kv = (0..g.limit(i)).map(|j| (g.k_start + j) * s.num_key_value_heads + h / group).collect();
                f((g.q_start + i) * s.num_heads + h, kv);
            }
        }
    }
}

fn scores(s: &AttentionShape, q: &[f32], k: &[f32], row: usize, kv_rows: &[usize]) -> Vec<f64> {
    let d = s.head_dim_qk;
    let q = &q[row * d..(row + 1) * d];
    let dot = |kv: &usize| -> f64 { q.iter().zip(&k[kv * d..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    kv_rows.iter().map(|kv| dot(kv) * f64::from(s.scale)).collect()
}
