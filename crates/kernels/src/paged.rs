//! Attention of single queries (decoding) over keys and values that lie in pages of 64 positions, with grouped heads.
//!
//! A page holds, for one layer, each key/value head's 64 keys and then its 64 values, bf16 or int8 with one scale a
//! row: what a head reads is contiguous. Latent attention (DeepSeek-V2 §2.1, absorbed) is the case of one head whose
//! values are the first columns of its keys. All query heads of a group meet a page together: scores are a product of
//! few rows ([`crate::streamed`]), the softmax runs in f32 with a running maximum, and values are summed in f32.
//!
//! Contexts are cut into spans of a fixed number of pages that are computed apart (in parallel) and combined in their
//! order, so the result of a query depends on its own keys alone: not on the batch, the threads or the spans of others.
mod reference;
#[cfg(test)]
mod tests;
mod values;

use crate::pool::Shareable;
use crate::scratch::{LOCAL, with};
use crate::simd::{exp, narrow, simd_fn, widen};
use crate::streamed::{Call, ROWS, block};
use crate::{Isa, Matrix, Pool, Precision, Values};
pub use reference::reference;

/// Positions of a page.
pub const PAGE: usize = 64;
/// Pages of a span. Part of the result's definition.
const SPAN: usize = 8;

/// What a page holds of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    pub kv_heads: usize,
    /// Width of a key.
    pub k: usize,
    /// Width of a value that is stored; 0 where values are the first columns of the keys.
    pub v: usize,
}

impl PageShape {
    /// Numbers stored of one layer.
    pub fn elements(&self) -> usize {
        self.kv_heads * PAGE * (self.k + self.v)
    }

    /// Scales of one layer in int8: a key's and a value's for every head and position.
    pub fn scales(&self) -> usize {
        self.kv_heads * PAGE * if self.v > 0 { 2 } else { 1 }
    }

    /// Where the keys of a head begin, where its values do, and the same of its scales.
    fn places(&self, head: usize) -> [usize; 4] {
        let first = head * PAGE * (self.k + self.v);
        let (values, scale) = if self.v > 0 { (first + PAGE * self.k, 2 * head * PAGE) } else { (first, head * PAGE) };
        [first, values, scale, if self.v > 0 { scale + PAGE } else { scale }]
    }

    /// Distance between values.
    fn value_stride(&self) -> usize {
        if self.v > 0 { self.v } else { self.k }
    }
}

/// One layer of a page.
#[derive(Clone, Copy, Debug)]
pub enum Cells<'a> {
    Bf16(&'a [u16]),
    Int8 { q: &'a [i8], scales: &'a [f32] },
}

/// One layer of a page, to be written.
#[derive(Debug)]
pub enum CellsMut<'a> {
    Bf16(&'a mut [u16]),
    Int8 { q: &'a mut [i8], scales: &'a mut [f32] },
}

impl CellsMut<'_> {
    /// Writes position `slot`: `k [kv_heads, k]`, `v [kv_heads, v]`.
    pub fn store(&mut self, shape: &PageShape, slot: usize, k: &[f32], v: &[f32]) {
        assert!(slot < PAGE && k.len() == shape.kv_heads * shape.k && v.len() == shape.kv_heads * shape.v);
        for head in 0..shape.kv_heads {
            let [keys, values, key_scale, value_scale] = shape.places(head);
            self.line(keys + slot * shape.k, key_scale + slot, &k[head * shape.k..(head + 1) * shape.k]);
            if shape.v > 0 {
                self.line(values + slot * shape.v, value_scale + slot, &v[head * shape.v..(head + 1) * shape.v]);
            }
        }
    }

    fn line(&mut self, at: usize, scale_at: usize, x: &[f32]) {
        match self {
            CellsMut::Bf16(cells) => cells[at..at + x.len()].iter_mut().zip(x).for_each(|(c, v)| *c = narrow(*v)),
            CellsMut::Int8 { q, scales } => {
                let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                q[at..at + x.len()].iter_mut().zip(x).for_each(|(q, v)| *q = (v * inverse).round_ties_even() as i8);
                // A number that is not one stays visible: codes have no NaN, the scale has.
                scales[scale_at] = if x.iter().all(|v| v.is_finite()) { largest / 127.0 } else { f32::NAN };
            }
        }
    }
}

impl Cells<'_> {
    /// Key and value (nothing when `shape.v` is 0) of position `slot` and `head` as bf16.
    pub fn load(&self, shape: &PageShape, slot: usize, head: usize, k: &mut [u16], v: &mut [u16]) {
        let [keys, values, key_scale, value_scale] = shape.places(head);
        self.read(keys + slot * shape.k, key_scale + slot, k);
        if shape.v > 0 {
            self.read(values + slot * shape.v, value_scale + slot, v);
        }
    }

    fn read(&self, at: usize, scale_at: usize, out: &mut [u16]) {
        match self {
            Cells::Bf16(cells) => out.copy_from_slice(&cells[at..at + out.len()]),
            Cells::Int8 { q, scales } => {
                out.iter_mut().zip(&q[at..]).for_each(|(o, q)| *o = narrow(f32::from(*q) * scales[scale_at]));
            }
        }
    }

    fn fits(&self, shape: &PageShape) -> bool {
        match self {
            Cells::Bf16(cells) => cells.len() == shape.elements(),
            Cells::Int8 { q, scales } => q.len() == shape.elements() && scales.len() == shape.scales(),
        }
    }
}

/// One query row's keys: the first `len` positions of its pages.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub pages: &'a [Cells<'a>],
    pub len: usize,
}

/// Heads and widths of the queries and the outputs.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub num_heads: usize,
    /// Width of an output head: `PageShape::v`, or the columns of a key that are its value.
    pub dv: usize,
    pub scale: f32,
}

/// softmax(q·kᵀ·scale)·v for every query row: q `[queries, heads, k]` (rounded to bf16) → out `[queries, heads, dv]`.
///
/// # Panics
/// When heads do not divide into groups, a query has no key or too few pages, or a slice has the wrong length.
pub fn attend(pool: &Pool, shape: &PageShape, heads: &Heads, queries: &[Query], q: &[f32], out: &mut [f32]) {
    attend_on(Isa::best(), pool, shape, heads, queries, q, out);
}

/// A span of one query's pages for one key/value head.
struct Task {
    query: usize,
    kv_head: usize,
    /// Pages before the span.
    first: usize,
    /// Where its partial result begins.
    at: usize,
}

/// [`attend`] with a chosen instruction set, for tests and measurements.
pub fn attend_on(
    isa: Isa,
    pool: &Pool,
    shape: &PageShape,
    heads: &Heads,
    queries: &[Query],
    q: &[f32],
    out: &mut [f32],
) {
    let (n, h, dv) = (queries.len(), heads.num_heads, heads.dv);
    assert!(shape.kv_heads > 0 && h.is_multiple_of(shape.kv_heads), "{h} heads over {} key heads", shape.kv_heads);
    assert!(if shape.v > 0 { dv == shape.v } else { dv <= shape.k }, "values of width {dv} in {shape:?}");
    assert!(q.len() == n * h * shape.k && out.len() == n * h * dv, "q or out does not fit {n} queries of {h} heads");
    for query in queries {
        assert!(query.len > 0 && query.len.div_ceil(PAGE) <= query.pages.len(), "a query without keys");
        assert!(query.pages.iter().all(|p| p.fits(shape)), "a page does not fit {shape:?}");
    }
    let group = h / shape.kv_heads;
    // A partial result: the group's unnormalised rows, then their maxima and sums.
    let size = group * (dv + 2);
    let mut tasks = Vec::new();
    let mut starts = Vec::with_capacity(n * shape.kv_heads + 1);
    for (i, query) in queries.iter().enumerate() {
        for kv_head in 0..shape.kv_heads {
            starts.push(tasks.len());
            for first in (0..query.len.div_ceil(PAGE)).step_by(SPAN) {
                tasks.push(Task { query: i, kv_head, first, at: tasks.len() * size });
            }
        }
    }
    starts.push(tasks.len());
    let mut partial = vec![0f32; tasks.len() * size];
    let all = Shareable(partial.as_mut_ptr());
    pool.run(tasks.len(), &|t| {
        let task = &tasks[t];
        // SAFETY: each task has its own part of `partial`.
        let part = unsafe { std::slice::from_raw_parts_mut(all.get().add(task.at), size) };
        let first = (task.query * h + task.kv_head * group) * shape.k;
        span(isa, shape, heads, &queries[task.query], task, &q[first..first + group * shape.k], part);
    });
    for (line, bounds) in out.chunks_exact_mut(group * dv).zip(starts.windows(2)) {
        combine(isa, line, &partial[bounds[0] * size..bounds[1] * size], group, dv);
    }
}

/// One span: part = rows Σ e^(s − max)·v `[group, dv]`, maxima `[group]`, sums `[group]`.
fn span(isa: Isa, shape: &PageShape, heads: &Heads, query: &Query, task: &Task, q: &[f32], part: &mut [f32]) {
    let (k, dv) = (shape.k, heads.dv);
    let group = q.len() / k;
    let call = Call { isa, precision: Precision::Bf16, m: group };
    let (rows, state) = part.split_at_mut(group * dv);
    let (largest, sum) = state.split_at_mut(group);
    largest.fill(f32::NEG_INFINITY);
    let [keys_at, values_at, key_scale, value_scale] = shape.places(task.kv_head);
    let mut tiles = [0, 0];
    let words = call.words(k).next_multiple_of(ROWS);
    with(&LOCAL, words + 2 * PAGE * group, |scratch| {
        let (packed, rest) = scratch.split_at_mut(words);
        let inputs = call.pack(q, k, packed);
        let (scores, weights) = bytemuck::cast_slice_mut::<u32, f32>(rest).split_at_mut(PAGE * group);
        let pages = query.len.div_ceil(PAGE).min(task.first + SPAN);
        for (page, cells) in query.pages.iter().enumerate().take(pages).skip(task.first) {
            let visible = PAGE.min(query.len - page * PAGE);
            let values = match cells {
                Cells::Bf16(c) => Values::Bf16(&c[keys_at..keys_at + PAGE * k]),
                Cells::Int8 { q, scales } => {
                    Values::Int8 { q: &q[keys_at..keys_at + PAGE * k], scales: &scales[key_scale..key_scale + PAGE] }
                }
            };
            let keys = Matrix { values, stride: k, transposed: false };
            // SAFETY: the page holds 64 keys of this head, and `inputs` were packed for this call.
            unsafe { block(&call, &mut tiles, &keys, 0, visible, k, inputs, &mut scores[..visible * group]) };
            for g in 0..group {
                let w = &mut weights[g * PAGE..(g + 1) * PAGE];
                for (j, w) in w.iter_mut().enumerate() {
                    *w = if j < visible { scores[j * group + g] * heads.scale } else { f32::NEG_INFINITY };
                }
                let shrink = softmax_page(isa, w, &mut largest[g], &mut sum[g]);
                if shrink != 1.0 {
                    rows[g * dv..(g + 1) * dv].iter_mut().for_each(|r| *r *= shrink);
                }
                if let Cells::Int8 { scales, .. } = cells {
                    w.iter_mut().zip(&scales[value_scale..]).for_each(|(w, s)| *w *= s);
                }
            }
            values::accumulate(isa, cells, values_at, shape.value_stride(), visible, weights, dv, rows);
        }
    });
}

simd_fn! {
    /// Turns a page's scores into weights e^(score − largest), moving the running maximum and sum; returns the factor
    /// for what was summed before.
    fn softmax_page<S>(s, w: &mut [f32], largest: &mut f32, sum: &mut f32) -> f32 {
        assert!(w.len() == PAGE);
        let p = w.as_mut_ptr();
        let mut top = s.splat(*largest);
        let mut total = s.splat(0.0);
        // SAFETY: a page is whole vectors; `lane` holds at least one.
        unsafe {
            for i in (0..PAGE).step_by(S::LANES) {
                top = s.max(top, s.load(p.add(i)));
            }
            let new = s.largest(top);
            let shift = s.splat(new);
            for i in (0..PAGE).step_by(S::LANES) {
                let e = exp(s, s.sub(s.load(p.add(i)), shift));
                s.store(p.add(i), e);
                total = s.add(total, e);
            }
            let mut lane = [0f32; 16];
            s.store(lane.as_mut_ptr(), exp(s, s.sub(s.splat(*largest), shift)));
            let shrink = if new == *largest { 1.0 } else { lane[0] };
            *sum = *sum * shrink + s.sum(total);
            *largest = new;
            shrink
        }
    }
}

simd_fn! {
    /// Spans in their order: Σ rows·e^(max − overall) / Σ sums·e^(max − overall).
    fn combine<S>(s, out: &mut [f32], partial: &[f32], group: usize, dv: usize) {
        let _ = s;
        let size = group * (dv + 2);
        for (g, out) in out.chunks_exact_mut(dv).enumerate() {
            let state = |part: &[f32]| (part[group * dv + g], part[group * (dv + 1) + g]);
            let top = partial.chunks_exact(size).map(|p| state(p).0).fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0f32;
            out.fill(0.0);
            for part in partial.chunks_exact(size) {
                let (largest, sum) = state(part);
                let factor = (largest - top).exp();
                total += sum * factor;
                for (o, v) in out.iter_mut().zip(&part[g * dv..(g + 1) * dv]) {
                    *o += v * factor;
                }
            }
            let inverse = 1.0 / total;
            out.iter_mut().for_each(|o| *o *= inverse);
        }
    }
}
