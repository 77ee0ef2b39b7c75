//! Attention: grouped heads, key and value widths that differ, several documents, queries behind a longer cache.
use super::*;
use crate::{AttentionShape, Segment};

fn naive(s: &AttentionShape, segments: &[Segment], q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (h, kv, dq, dv) = (s.num_heads, s.num_key_value_heads, s.head_dim_qk, s.head_dim_v);
    let rows = q.len() / (h * dq);
    let mut out = vec![0.0; rows * h * dv];
    for seg in segments {
        for i in 0..seg.q_len {
            let row = seg.q_start + i;
            let sees = seg.k_len - seg.q_len + i + 1;
            for head in 0..h {
                let group = head / (h / kv);
                let scores: Vec<f64> = (0..sees)
                    .map(|j| {
                        (0..dq)
                            .map(|d| q[(row * h + head) * dq + d] * k[((seg.k_start + j) * kv + group) * dq + d])
                            .sum::<f64>()
                            * f64::from(s.scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|x| (x - max).exp()).sum();
                for d in 0..dv {
                    out[(row * h + head) * dv + d] = (0..sees)
                        .map(|j| (scores[j] - max).exp() / total * v[((seg.k_start + j) * kv + group) * dv + d])
                        .sum();
                }
            }
        }
    }
    out
}

fn packed(lengths: &[usize]) -> (usize, Arc<Vec<Segment>>) {
    let mut start = 0;
    let segments = lengths
        .iter()
        .map(|len| {
            start += len;
            Segment { q_start: start - len, q_len: *len, k_start: start - len, k_len: *len }
        })
        .collect();
    (start, Arc::new(segments))
}

#[test]
fn grouped_heads_and_unequal_widths_over_several_documents() {
    for (h, kv, dq, dv, lengths) in
        [(4, 2, 3, 3, &[3usize, 1, 4][..]), (2, 2, 5, 3, &[4, 2]), (3, 1, 2, 4, &[6]), (2, 1, 4, 2, &[1, 1, 1])]
    {
        let (t, segments) = packed(lengths);
        let shape =
            AttentionShape { num_heads: h, num_key_value_heads: kv, head_dim_qk: dq, head_dim_v: dv, scale: 0.7 };
        Case::new("attention", vec![normal(1, t, h * dq), normal(2, t, kv * dq), normal(3, t, kv * dv)], &[]).check(
            |tape, x| tape.attention(shape, &segments, &x[0], &x[1], &x[2]),
            |x, _| naive(&shape, &segments, &x[0], &x[1], &x[2]),
        );
    }
}

#[test]
fn a_document_longer_than_a_block_of_keys() {
    // Blocks are 64 keys: 70 positions cross one border. Values only; gradients by the kernel's own reference.
    let (t, segments) = packed(&[70, 3]);
    let shape = AttentionShape { num_heads: 2, num_key_value_heads: 1, head_dim_qk: 6, head_dim_v: 4, scale: 0.4 };
    let (q, k, v) = (normal(1, t, 12), normal(2, t, 6), normal(3, t, 4));
    let context = Context::new(2, Precision::F32);
    let params = ParamStore::default();
    let mut tape = Tape::eval(&context, &params);
    let y = tape.attention(
        shape,
        &segments,
        &Var::constant(q.clone()),
        &Var::constant(k.clone()),
        &Var::constant(v.clone()),
    );
    close("attention", &wide(y.value.f32()), &naive(&shape, &segments, &wide(&q), &wide(&k), &wide(&v)), 1e-5);
}

#[test]
fn queries_behind_a_cache_see_the_past() {
    let shape = AttentionShape { num_heads: 2, num_key_value_heads: 2, head_dim_qk: 3, head_dim_v: 5, scale: 0.5 };
    let (k, v) = (normal(2, 7, 6), normal(3, 7, 10));
    let q = normal(1, 2, 6);
    let context = Context::new(1, Precision::F32);
    let segment = [Segment { q_start: 0, q_len: 2, k_start: 0, k_len: 7 }];
    let y = crate::op::attend(&context.pool, &shape, &segment, &q, &k.data, &v.data);
    close("attend", &wide(&y), &naive(&shape, &segment, &wide(&q), &wide(&k), &wide(&v)), 1e-5);
}

#[test]
fn only_what_wants_a_gradient_gets_one() {
    let (t, segments) = packed(&[3, 2]);
    let shape = AttentionShape { num_heads: 2, num_key_value_heads: 2, head_dim_qk: 3, head_dim_v: 3, scale: 1.0 };
    let (k, v) = (normal(2, t, 6), normal(3, t, 6));
    Case::new("attention, q alone", vec![normal(1, t, 6)], &[]).check(
        |tape, x| tape.attention(shape, &segments, &x[0], &Var::constant(k.clone()), &Var::constant(v.clone())),
        |x, _| naive(&shape, &segments, &x[0], &wide(&k), &wide(&v)),
    );
}
