//! Backward pass. Scores are computed again block by block from lse; with P the weights and D = Σ dout∘out a row:
//! dv = Pᵀ·dout, ds = P∘(dout·vᵀ − D)·scale, dq = ds·k, dk = dsᵀ·q.
//!
//! dq sums over key blocks in order; dk and dv sum over (query block, head of the group) in order. With enough
//! documents and heads one task does all of a key/value head of a document; else dq and dk/dv are separate passes
//! over more tasks. Both give the same bits.
use super::{AttentionShape, KEYS, Number, QUERIES, Segment, apart, check, exact, inline_pool};
use crate::gemm::{Gemm, Matrix};
use crate::pool::Shareable;
use crate::scratch::{TILES, with_f32};
use crate::simd::{exp, simd_fn};
use crate::{Isa, Pool};

pub(super) struct Inputs<'a, E> {
    pub q: &'a [E],
    pub k: &'a [E],
    pub v: &'a [E],
    pub out: &'a [E],
    pub lse: &'a [f32],
    pub dout: &'a [E],
}

impl<E> Inputs<'_, E> {
    /// Panics unless these arrays and gradients of q, k and v of the lengths given fit the shape and the segments, which
    /// must share no row.
    #[track_caller]
    pub fn check(&self, s: &AttentionShape, segments: &[Segment], gradients: [usize; 3]) {
        let lengths = [self.q.len(), self.k.len(), self.v.len()];
        check(s, segments, lengths, self.out.len(), self.lse.len());
        apart("key", segments.iter().map(|g| (g.k_start, g.k_len)).collect());
        exact("dout", self.dout.len(), self.out.len());
        for ((name, length), expected) in ["dq", "dk", "dv"].into_iter().zip(gradients).zip(lengths) {
            exact(name, length, expected);
        }
    }
}

struct Pass<'a, E> {
    isa: Isa,
    s: AttentionShape,
    x: &'a Inputs<'a, E>,
    delta: &'a [f32],
    dq: Shareable<f32>,
    dk: Shareable<f32>,
    dv: Shareable<f32>,
}

/// A block of queries of one head against a block of keys.
#[derive(Clone, Copy)]
struct Block<'a> {
    segment: &'a Segment,
    head: usize,
    query: usize,
    key: usize,
    want_q: bool,
    want_kv: bool,
}

#[allow(clippy::too_many_arguments)]
pub(super) fn run<E: Number>(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    x: &Inputs<E>,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let (heads, kv_heads, width) = (s.num_heads, s.num_key_value_heads, s.head_dim_v);
    let mut delta = vec![0f32; x.lse.len()];
    let rows = crate::elementwise::rows_per_task(width);
    pool.pieces_mut(&mut delta, rows, &|i, part| {
        for (j, d) in part.iter_mut().enumerate() {
            let at = (i * rows + j) * width;
            *d = E::dot(isa, &x.out[at..at + width], &x.dout[at..at + width]);
        }
    });
    let pass = Pass {
        isa,
        s: *s,
        x,
        delta: &delta,
        dq: Shareable(dq.as_mut_ptr()),
        dk: Shareable(dk.as_mut_ptr()),
        dv: Shareable(dv.as_mut_ptr()),
    };
    let group = heads / kv_heads;
    let units = segments.len() * kv_heads;
    if units >= 2 * pool.threads() || pool.threads() == 1 {
        pool.run(units, &|t| {
            let (segment, kv_head) = (&segments[t / kv_heads], t % kv_heads);
            for key in (0..segment.k_len).step_by(KEYS) {
                pass.columns(segment, kv_head, group, key, true);
            }
        });
        return;
    }
    let mut by_query = vec![];
    let mut by_key = vec![];
    for segment in segments {
        for query in (0..segment.q_len).step_by(QUERIES).rev() {
            by_query.extend((0..heads).map(|head| (segment, head, query)));
        }
        for key in (0..segment.k_len).step_by(KEYS) {
            by_key.extend((0..kv_heads).map(|kv_head| (segment, kv_head, key)));
        }
    }
    // One loop over both kinds of task: they write different arrays.
    pool.run(by_query.len() + by_key.len(), &|t| {
        if let Some((segment, head, query)) = by_query.get(t).copied() {
            let most = segment.limit((query + QUERIES).min(segment.q_len) - 1);
            for key in (0..most).step_by(KEYS) {
                pass.block(Block { segment, head, query, key, want_q: true, want_kv: false });
            }
        } else {
            let (segment, kv_head, key) = by_key[t - by_query.len()];
            pass.columns(segment, kv_head, group, key, false);
        }
    });
}

impl<E: Number> Pass<'_, E> {
    /// One block of keys against all queries that see it.
    fn columns(&self, segment: &Segment, kv_head: usize, group: usize, key: usize, want_q: bool) {
        for query in (0..segment.q_len).step_by(QUERIES) {
            for head in kv_head * group..(kv_head + 1) * group {
                self.block(Block { segment, head, query, key, want_q, want_kv: true });
            }
        }
    }

    fn block(&self, b: Block) {
        let (s, g, x) = (&self.s, b.segment, self.x);
        let (heads, kv_heads, dqk, dv) = (s.num_heads, s.num_key_value_heads, s.head_dim_qk, s.head_dim_v);
        let end = (b.query + QUERIES).min(g.q_len);
        let Some(first) = (b.query..end).find(|i| g.limit(*i) > b.key) else { return };
        let rows = end - first;
        let keys = KEYS.min(g.limit(end - 1) - b.key);
        let row = (g.q_start + first) * heads + b.head;
        let key_row = (g.k_start + b.key) * kv_heads + b.head / (heads / kv_heads);
        let q = E::matrix(&x.q[row * dqk..], heads * dqk);
        let dout = E::matrix(&x.dout[row * dv..], heads * dv);
        let k = E::matrix(&x.k[key_row * dqk..], kv_heads * dqk);
        let v = E::matrix(&x.v[key_row * dv..], kv_heads * dv);
        with_f32(&TILES, 2 * rows * KEYS, |tile| {
            let (p, ds) = tile.split_at_mut(rows * KEYS);
            let product = |m, n, k, a, b, alpha, accumulate| Gemm {
                m,
                n,
                k,
                a,
                b,
                alpha,
                accumulate,
                precision: E::precision(self.isa),
            };
            product(rows, keys, dqk, q, k.t(), s.scale, false).run_on(self.isa, inline_pool(), p, KEYS);
            product(rows, keys, dv, dout, v.t(), 1.0, false).run_on(self.isa, inline_pool(), ds, KEYS);
            for r in 0..rows {
                let visible = keys.min(g.limit(first + r) - b.key);
                let at = r * KEYS..r * KEYS + keys;
                let i = row + r * heads;
                weights(self.isa, &mut p[at.clone()], &mut ds[at], visible, self.x.lse[i], self.delta[i], s.scale);
            }
            let (p, ds) = (Matrix::f32(p, KEYS), Matrix::f32(ds, KEYS));
            let run = |g: Gemm, c: &Shareable<f32>, at: usize, stride: usize| {
                // SAFETY: rows of this block's head lie `stride` apart inside the array (sizes were checked); dq rows
                // belong to the task of this query block or document, dk and dv rows to that of this key block or
                // document, and segments share no row.
                unsafe { g.run_at(self.isa, inline_pool(), c.get().add(at), stride) }
            };
            if b.want_q {
                run(product(rows, dqk, keys, ds, k, 1.0, true), &self.dq, row * dqk, heads * dqk);
            }
            if b.want_kv {
                run(product(keys, dv, rows, p.t(), dout, 1.0, true), &self.dv, key_row * dv, kv_heads * dv);
                run(product(keys, dqk, rows, ds.t(), q, 1.0, true), &self.dk, key_row * dqk, kv_heads * dqk);
            }
        });
    }
}

simd_fn! {
    /// Scores become weights and `dout·v` becomes ds for the first `visible` keys; the others become 0.
    fn weights<S>(s, p: &mut [f32], ds: &mut [f32], visible: usize, lse: f32, delta: f32, scale: f32) {
        p[visible..].fill(0.0);
        ds[visible..].fill(0.0);
        assert!(visible <= p.len() && visible <= ds.len());
        let (a, b) = (p.as_mut_ptr(), ds.as_mut_ptr());
        let (l, d, f) = (s.splat(lse), s.splat(delta), s.splat(scale));
        // SAFETY: both slices hold at least `visible` floats.
        unsafe {
            crate::elementwise::sweep!(s, S, visible; x = a, g = b;
                w = exp(s, s.sub(x, l));
                => a, w;
                => b, s.mul(s.mul(w, s.sub(g, d)), f))
        }
    }
}
