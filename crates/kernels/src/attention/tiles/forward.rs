//! Forward pass: one task per part of the columns of a document and key/value head; blocks of keys outermost, so a block
//! is packed once for all columns of the task.
use super::pack::{left, left_crosswise, right_crosswise, write_transposed};
use super::{
    COLUMNS, Columns, KEYS, Parts, Product, Queue, Rows, TILE, exp2, narrow2, pairing, seen, span, spread, tiles,
};
use crate::Pool;
use crate::amx;
use crate::attention::{AttentionShape, Segment};
use crate::pool::Shareable;
use crate::scratch::{TILES, with};
use std::arch::x86_64::*;

/// How far, as a power of two, weights may exceed 1 before a column's sums are rescaled to its new maximum.
const SLACK: f32 = 8.0;

struct Pass<'a> {
    s: &'a AttentionShape,
    q: &'a [u16],
    k: &'a [u16],
    v: &'a [u16],
    out: Shareable<u16>,
    lse: Shareable<f32>,
}

/// # Safety
/// The machine has AMX; `check` passed for these arguments.
#[allow(clippy::too_many_arguments)]
pub(in crate::attention) unsafe fn forward(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[u16],
    k: &[u16],
    v: &[u16],
    out: &mut [u16],
    lse: &mut [f32],
) {
    let parts = spread(s, segments, span(s, segments, pool.threads()));
    let pass = Pass { s, q, k, v, out: Shareable(out.as_mut_ptr()), lse: Shareable(lse.as_mut_ptr()) };
    pool.run(parts.len(), &|t| {
        let columns = &parts[t];
        // SAFETY: the caller vouches for AMX (with which the AVX-512 sets are detected) and the sizes; parts have
        // different columns, and segments share no query row.
        with(&TILES, words(s, columns.blocks()), |memory| unsafe { pass.part(columns, memory) });
    });
}

/// Working memory for `blocks` blocks of columns.
fn words(s: &AttentionShape, blocks: usize) -> usize {
    let (dqk, dv) = (s.head_dim_qk.next_multiple_of(32), s.head_dim_v.next_multiple_of(32));
    let keys = KEYS / 2 * (dqk + dv) + 3 * KEYS * COLUMNS;
    keys + blocks * COLUMNS * (dqk / 2 + dv + 3)
}

impl Pass<'_> {
    /// # Safety
    /// The machine has the sets named, and the rows of `out` and `lse` of these columns belong to the caller.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn part(&self, c: &Columns, memory: &mut [u32]) {
        let (s, blocks) = (self.s, c.blocks());
        let (dqk, dv) = (s.head_dim_qk.next_multiple_of(32), s.head_dim_v.next_multiple_of(32));
        let mut parts = Parts::new(memory);
        let keys: *mut u8 = parts.take(KEYS * dqk * 2);
        let values: *mut u8 = parts.take(KEYS * dv * 2);
        let scores: [*mut f32; 2] = parts.twice(KEYS * COLUMNS * 4);
        let weights: [*mut u8; 2] = parts.twice(KEYS * COLUMNS * 2);
        let queries: *mut u8 = parts.take(blocks * COLUMNS * dqk * 2);
        let sums: *mut f32 = parts.take(blocks * COLUMNS * dv * 4);
        let states: *mut State = parts.take(blocks * size_of::<State>());
        let (q_rows, o_rows) = (
            Rows::queries(s, &c.segment, c.kv_head, s.head_dim_qk),
            Rows::queries(s, &c.segment, c.kv_head, s.head_dim_v),
        );
        let (k_rows, v_rows) =
            (Rows::keys(s, &c.segment, c.kv_head, s.head_dim_qk), Rows::keys(s, &c.segment, c.kv_head, s.head_dim_v));
        let factor = s.scale * std::f32::consts::LOG2_E;
        // SAFETY: every pointer is a part of `memory` of the size just taken, indexed within it; rows of q, k, v were
        // checked against the arrays; tiles are configured here and nothing below configures them again.
        unsafe {
            amx::configure(&amx::Config::FULL);
            let mut queue = Queue::new();
            for j in 0..blocks {
                let from = c.from + j * COLUMNS;
                right_crosswise(self.q, &q_rows, from, c.to, 2, dqk / 32, queries.add(j * COLUMNS * dqk * 2));
                let limit = std::array::from_fn(|i| c.limit((from + i).min(c.to - 1)) as i32);
                states.add(j).write(State { reference: [f32::NEG_INFINITY; COLUMNS], sum: [0.0; COLUMNS], limit });
            }
            let last = c.most(blocks - 1);
            let mut first_block = 0;
            for key in (0..last).step_by(KEYS) {
                let end = (key + KEYS).min(last);
                left(self.k, &k_rows, key, end, KEYS, dqk / 32, keys);
                left_crosswise(self.v, &v_rows, key, end, KEYS, dv, values);
                while c.most(first_block) <= key {
                    first_block += 1;
                }
                let count = |j: usize| KEYS.min(c.most(j) - key).next_multiple_of(32);
                let score = |queue: &mut Queue, j: usize| {
                    let b = tiles(queries.add(j * COLUMNS * dqk * 2), dqk * 32, TILE);
                    for r in (0..count(j)).step_by(32) {
                        let a = tiles(keys.add(r * dqk * 2), dqk * 32, TILE);
                        let c = scores[j % 2].add(r * COLUMNS);
                        queue.push(Product { c, stride: COLUMNS, a, b, steps: dqk / 32, fresh: true });
                    }
                };
                let collect = |queue: &mut Queue, j: usize| {
                    let b = tiles(weights[j % 2], KEYS * 32, TILE);
                    for n in (0..dv).step_by(32) {
                        let a = tiles(values.add(n * KEYS * 2), KEYS * 32, TILE);
                        let c = sums.add((j * dv + n) * COLUMNS);
                        queue.push(Product { c, stride: COLUMNS, a, b, steps: count(j) / 32, fresh: key == 0 });
                    }
                };
                // Weights of block j are worked out while the tiles do scores of j + 1 and sums of j - 1.
                score(&mut queue, first_block);
                queue.run_all();
                for j in first_block..blocks {
                    if j + 1 < blocks {
                        score(&mut queue, j + 1);
                    }
                    if j > first_block {
                        collect(&mut queue, j - 1);
                    }
                    let (state, sum) = (&mut *states.add(j), sums.add(j * COLUMNS * dv));
                    soften(scores[j % 2], count(j), key, factor, state, sum, dv, weights[j % 2], &mut queue);
                }
                collect(&mut queue, blocks - 1);
                queue.run_all();
            }
            amx::release();
            for j in 0..blocks {
                let from = c.from + j * COLUMNS;
                let state = &*states.add(j);
                let inverse = state.sum.map(|x| 1.0 / x);
                let sum = sums.add(j * COLUMNS * dv);
                write_transposed(sum, inverse.as_ptr(), &o_rows, from, c.to, self.out.get());
                for i in 0..COLUMNS.min(c.to - from) {
                    let l = state.reference[i] * std::f32::consts::LN_2 + state.sum[i].ln();
                    *self.lse.get().add(o_rows.index(from + i)) = l;
                }
            }
        }
    }
}

/// Where 32 columns stand.
#[repr(C, align(64))]
struct State {
    /// Weights are 2^(score·factor − reference).
    reference: [f32; COLUMNS],
    sum: [f32; COLUMNS],
    /// Keys seen.
    limit: [i32; COLUMNS],
}

/// Scores `[count][32]` of the keys from `key` on become weights, packed as right tiles `[tile of 16 columns][step of 32
/// keys]`, while the tiles do what `queue` holds; `sums` `[dv][32]` and the state follow where a column's reference moves.
/// # Safety
/// `scores`, `sums` and `weights` are good for those sizes; `count` is a multiple of 32; `queue` may run and touches none
/// of them.
#[allow(clippy::too_many_arguments)]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn soften(
    scores: *const f32,
    count: usize,
    key: usize,
    factor: f32,
    state: &mut State,
    sums: *mut f32,
    dv: usize,
    weights: *mut u8,
    queue: &mut Queue,
) {
    // SAFETY: as the caller vouches; the state's arrays hold two vectors each.
    unsafe {
        let limits = [0, 16].map(|i| {
            let limit = _mm512_loadu_si512(state.limit.as_ptr().add(i).cast());
            _mm512_sub_epi32(limit, _mm512_set1_epi32(key as i32))
        });
        let all = _mm512_set1_epi32(count as i32);
        let whole = limits.iter().all(|l| _mm512_cmplt_epi32_mask(*l, all) == 0);
        let f = _mm512_set1_ps(factor);
        let mut references = [_mm512_setzero_ps(); 2];
        for t in 0..2 {
            let mut top = [_mm512_set1_ps(f32::NEG_INFINITY); 4];
            for i in (0..count).step_by(4) {
                for (u, top) in top.iter_mut().enumerate() {
                    let x = _mm512_load_ps(scores.add((i + u) * COLUMNS + t * 16));
                    let seen = if whole { !0 } else { seen(limits[t], i + u) };
                    *top = _mm512_mask_max_ps(*top, seen, *top, x);
                }
            }
            let top = _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
            let largest = _mm512_mul_ps(top, f);
            let at = state.reference.as_mut_ptr().add(t * 16);
            let before = _mm512_load_ps(at);
            let moves = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_add_ps(before, _mm512_set1_ps(SLACK)));
            references[t] = before;
            if moves != 0 {
                references[t] = _mm512_mask_mov_ps(before, moves, largest);
                _mm512_store_ps(at, references[t]);
                if key > 0 {
                    let shrink = exp2(_mm512_sub_ps(before, largest));
                    let shrink = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), moves, shrink);
                    let sum = state.sum.as_mut_ptr().add(t * 16);
                    _mm512_store_ps(sum, _mm512_mul_ps(_mm512_load_ps(sum), shrink));
                    for n in 0..dv {
                        let o = sums.add(n * COLUMNS + t * 16);
                        _mm512_store_ps(o, _mm512_mul_ps(_mm512_load_ps(o), shrink));
                    }
                }
            }
        }
        let pairing = pairing();
        let mut totals = [[_mm512_setzero_ps(); 2]; 2];
        // Half steps are spread evenly over the pairs of keys.
        let (halves, mut due) = (queue.left(), 0);
        for i in (0..count).step_by(2) {
            due += 2 * halves;
            while due >= count {
                due -= count;
                queue.run_half();
            }
            for t in 0..2 {
                let mut p = [_mm512_setzero_ps(); 2];
                for u in 0..2 {
                    let x = _mm512_load_ps(scores.add((i + u) * COLUMNS + t * 16));
                    let e = exp2(_mm512_fmsub_ps(x, f, references[t]));
                    p[u] = if whole { e } else { _mm512_maskz_mov_ps(seen(limits[t], i + u), e) };
                    totals[t][u] = _mm512_add_ps(totals[t][u], p[u]);
                }
                let line = _mm512_permutexvar_epi16(pairing, narrow2(p[0], p[1]));
                let tile = t * (KEYS / 32) + i / 32;
                _mm512_store_si512(weights.add(tile * TILE + i % 32 / 2 * 64).cast(), line);
            }
        }
        queue.run_all();
        for (t, [even, odd]) in totals.into_iter().enumerate() {
            let sum = state.sum.as_mut_ptr().add(t * 16);
            let total = _mm512_add_ps(even, odd);
            _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), total));
        }
    }
}
