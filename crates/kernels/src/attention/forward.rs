//! Forward pass: one task per block of queries of a head (or per query, for all heads of a group, when decoding).
use super::{AttentionShape, KEYS, Number, QUERIES, Segment, inline_pool};
use crate::gemm::{Gemm, Matrix};
use crate::pool::Shareable;
use crate::scratch::{TILES, with_f32};
use crate::simd::{exp, simd_fn};
use crate::{Isa, Pool};

/// Rows that lie at one stride in q and out and share a key/value head: queries `first..` of head `head`, or heads
/// `head..` of query `first`. Row (t, h) of q, out and lse has index t·H + h.
struct Rows {
    segment: Segment,
    first: usize,
    head: usize,
    count: usize,
    over_heads: bool,
    /// Every query sees every key of its segment.
    bidirectional: bool,
}

impl Rows {
    fn index(&self, s: &AttentionShape, r: usize) -> usize {
        let (i, h) = if self.over_heads { (0, r) } else { (r, 0) };
        (self.segment.q_start + self.first + i) * s.num_heads + self.head + h
    }
    fn limit(&self, r: usize) -> usize {
        if self.bidirectional {
            return self.segment.k_len;
        }
        self.segment.limit(self.first + if self.over_heads { 0 } else { r })
    }
}

fn tasks(s: &AttentionShape, segments: &[Segment], bidirectional: bool) -> Vec<Rows> {
    let group = s.num_heads / s.num_key_value_heads;
    let mut all = vec![];
    for segment in segments {
        let segment = *segment;
        if segment.q_len < group {
            for first in 0..segment.q_len {
                for head in (0..s.num_heads).step_by(group) {
                    all.push(Rows { segment, first, head, count: group, over_heads: true, bidirectional });
                }
            }
        } else {
            // The last queries see most keys: long tasks first.
            for first in (0..segment.q_len).step_by(QUERIES).rev() {
                for head in 0..s.num_heads {
                    let count = QUERIES.min(segment.q_len - first);
                    all.push(Rows { segment, first, head, count, over_heads: false, bidirectional });
                }
            }
        }
    }
    all
}

#[allow(clippy::too_many_arguments)]
pub(super) fn run<E: Number>(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    bidirectional: bool,
    q: &[E],
    k: &[E],
    v: &[E],
    out: &mut [E],
    lse: &mut [f32],
) {
    let tasks = tasks(s, segments, bidirectional);
    let (out, lse) = (Shareable(out.as_mut_ptr()), Shareable(lse.as_mut_ptr()));
    pool.run(tasks.len(), &|t| {
        let rows = &tasks[t];
        with_f32(&TILES, rows.count * (KEYS + 3 + s.head_dim_v), |tile| {
            // SAFETY: `check` made sure that every row of the segment exists in out and lse and that segments do not
            // overlap; tasks of one segment have different queries or heads.
            unsafe { task(isa, s, rows, q, k, v, out.get(), lse.get(), tile) }
        });
    });
}

/// # Safety
/// `out` and `lse` are valid at the rows of `rows` and nobody else uses those meanwhile.
#[allow(clippy::too_many_arguments)]
unsafe fn task<E: Number>(
    isa: Isa,
    s: &AttentionShape,
    rows: &Rows,
    q: &[E],
    k: &[E],
    v: &[E],
    out: *mut E,
    lse: *mut f32,
    tile: &mut [f32],
) {
    let (dqk, dv, kv_heads) = (s.head_dim_qk, s.head_dim_v, s.num_key_value_heads);
    let kv_head = rows.head / (s.num_heads / kv_heads);
    let row_step = if rows.over_heads { 1 } else { s.num_heads };
    let (scores, state) = tile.split_at_mut(rows.count * KEYS);
    let (largest, state) = state.split_at_mut(rows.count);
    let (sum, state) = state.split_at_mut(rows.count);
    let (shrink, sums) = state.split_at_mut(rows.count);
    largest.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    let most = rows.limit(rows.count - 1);
    for first in (0..most).step_by(KEYS) {
        let keys = KEYS.min(most - first);
        // Rows before `live` see no key of this block.
        let live = (0..rows.count).find(|r| rows.limit(*r) > first).unwrap_or(rows.count);
        let count = rows.count - live;
        let key_row = (rows.segment.k_start + first) * kv_heads + kv_head;
        let q_row = rows.index(s, live);
        Gemm {
            m: count,
            n: keys,
            k: dqk,
            a: E::matrix(&q[q_row * dqk..], row_step * dqk),
            b: E::matrix(&k[key_row * dqk..], kv_heads * dqk).t(),
            alpha: s.scale,
            accumulate: false,
            precision: E::precision(isa),
        }
        .run_on(isa, inline_pool(), &mut scores[live * KEYS..], KEYS);
        let block = Block { rows, first, keys, live };
        softmax_block(isa, &block, scores, largest, sum, shrink);
        for (r, factor) in shrink.iter().enumerate().skip(live).filter(|(_, f)| first > 0 && **f != 1.0) {
            multiply(isa, &mut sums[r * dv..(r + 1) * dv], *factor);
        }
        Gemm {
            m: count,
            n: dv,
            k: keys,
            a: Matrix::f32(&scores[live * KEYS..], KEYS),
            b: E::matrix(&v[key_row * dv..], kv_heads * dv),
            alpha: 1.0,
            accumulate: first > 0,
            precision: E::precision(isa),
        }
        .run_on(isa, inline_pool(), &mut sums[live * dv..], dv);
    }
    for r in 0..rows.count {
        let row = rows.index(s, r);
        // SAFETY: the caller vouches for the row.
        unsafe {
            let o = std::slice::from_raw_parts_mut(out.add(row * dv), dv);
            E::write(isa, &sums[r * dv..(r + 1) * dv], 1.0 / sum[r], o);
            *lse.add(row) = largest[r] + sum[r].ln();
        }
    }
}

simd_fn! {
    fn multiply<S>(s, x: &mut [f32], factor: f32) {
        let _ = s;
        x.iter_mut().for_each(|v| *v *= factor);
    }
}

struct Block<'a> {
    rows: &'a Rows,
    first: usize,
    keys: usize,
    live: usize,
}

simd_fn! {
    /// Turns the visible scores of every live row into weights e^(score − largest) and the others into 0, moving the
    /// rows' running maximum and sum; `shrink` is the factor for what was summed before.
    fn softmax_block<S>(s, b: &Block, scores: &mut [f32], largest: &mut [f32], sum: &mut [f32], shrink: &mut [f32]) {
        assert!(KEYS.is_multiple_of(S::LANES));
        for r in b.live..b.rows.count {
            let visible = b.keys.min(b.rows.limit(r) - b.first);
            let row = &mut scores[r * KEYS..(r + 1) * KEYS];
            // Whole vectors hold every visible score; what lies past them is never multiplied unless another row of
            // the block sees it, and then it must be 0.
            let end = visible.next_multiple_of(S::LANES);
            row[visible..end].fill(f32::NEG_INFINITY);
            row[end..].fill(0.0);
            let p = row.as_mut_ptr();
            let mut top = s.splat(largest[r]);
            let mut total = s.splat(0.0);
            // SAFETY: the row holds KEYS floats and end <= KEYS is whole vectors; `lane` holds at least one vector.
            unsafe {
                for i in (0..end).step_by(S::LANES) {
                    top = s.max(top, s.load(p.add(i)));
                }
                let new = s.largest(top);
                let shift = s.splat(new);
                for i in (0..end).step_by(S::LANES) {
                    let e = exp(s, s.sub(s.load(p.add(i)), shift));
                    s.store(p.add(i), e);
                    total = s.add(total, e);
                }
                if new == largest[r] {
                    shrink[r] = 1.0;
                } else {
                    let mut lane = [0f32; 16];
                    s.store(lane.as_mut_ptr(), exp(s, s.sub(s.splat(largest[r]), shift)));
                    shrink[r] = lane[0];
                }
                sum[r] = sum[r] * shrink[r] + s.sum(total);
                largest[r] = new;
            }
        }
    }
}
