//! The obvious loops in f64.
use super::{Cells, Heads, PAGE, PageShape, Query, narrow, widen};

/// What [`super::attend`] computes, from the same stored numbers.
pub fn reference(shape: &PageShape, heads: &Heads, queries: &[Query], q: &[f32]) -> Vec<f64> {
    let group = heads.num_heads / shape.kv_heads;
    let mut out = vec![0f64; queries.len() * heads.num_heads * heads.dv];
    for (row, out) in out.chunks_exact_mut(heads.dv).enumerate() {
        let (query, head) = (&queries[row / heads.num_heads], row % heads.num_heads / group);
        let q: Vec<f64> = q[row * shape.k..(row + 1) * shape.k].iter().map(|x| f64::from(widen(narrow(*x)))).collect();
        let [keys, values, key_scale, value_scale] = shape.places(head);
        let at = |j: usize, first: usize, scale: usize, i: usize| match query.pages[j / PAGE] {
            Cells::Bf16(c) => f64::from(widen(c[first + i])),
            Cells::Int8 { q, scales } => f64::from(q[first + i]) * f64::from(scales[scale + j % PAGE]),
        };
        let scores: Vec<f64> = (0..query.len)
            .map(|j| {
                let key = keys + j % PAGE * shape.k;
                let dot: f64 = q.iter().enumerate().map(|(i, q)| q * at(j, key, key_scale, i)).sum();
                dot * f64::from(heads.scale)
            })
            .collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        for (j, s) in scores.iter().enumerate() {
            let value = values + j % PAGE * shape.value_stride();
            for (c, o) in out.iter_mut().enumerate() {
                *o += (s - top).exp() / total * at(j, value, value_scale, c);
            }
        }
    }
    out
}
