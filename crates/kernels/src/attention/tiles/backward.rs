//! Backward pass. With P from the scores and lse, and D = Σ dout∘out a column: dPᵀ = V·dOᵀ, dSᵀ = Pᵀ∘(dPᵀ − D),
//! dV = Pᵀ·dO, dK = dSᵀ·Q·scale, dQᵀ = Kᵀ·dSᵀ·scale.
//!
//! A part takes a range of keys of one head against a range of the columns, [`SPAN`] columns at a time (their operands
//! stay in the second-level cache), under those one block of keys at a time. Sums of dk and dv stay in f32 for all keys
//! of the part, those of dq for the columns at hand. With enough documents and heads a part is all of a document and
//! key/value head; else parts for dq (some columns, all keys) and for dk and dv (some keys, all columns) are separate
//! and the scores are computed twice. Both give the same bits: a sum runs over its blocks of 32 in ascending order,
//! cut at the same places, and blocks left out would add zeros.
use super::pack::{left, left_crosswise, pairs, right, right_crosswise, write_row, write_transposed};
use super::{COLUMNS, Columns, KEYS, Parts, Product, Queue, Rows, TILE, exp2, narrow2, seen, span, spread, tiles};
use crate::Pool;
use crate::amx;
use crate::attention::backward::Inputs;
use crate::attention::{AttentionShape, Segment};
use crate::pool::Shareable;
use crate::scratch::{TILES, with};
use std::arch::x86_64::*;
use std::ops::Range;

/// Columns whose operands are packed at once: with 192 and 128 columns a head they and the sums of a document of 512
/// tokens just fit 2 MiB (twice as many were 15 to 30 % slower there, half as many 5 to 10 % everywhere).
const SPAN: usize = 256;
/// Blocks of columns summed into dk and dv together: as many steps of the product for one reading of the sums.
const GROUP: usize = 4;

struct Pass<'a> {
    s: &'a AttentionShape,
    x: &'a Inputs<'a, u16>,
    dq: Shareable<u16>,
    dk: Shareable<u16>,
    dv: Shareable<u16>,
}

struct Part {
    columns: Columns,
    keys: Range<usize>,
    want_q: bool,
    want_kv: bool,
}

/// # Safety
/// The machine has AMX; the sizes were checked, and segments share neither query nor key rows.
#[allow(clippy::too_many_arguments)]
pub(in crate::attention) unsafe fn backward(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    x: &Inputs<u16>,
    dq: &mut [u16],
    dk: &mut [u16],
    dv: &mut [u16],
) {
    let (query_width, kv_heads) = (s.num_heads * s.head_dim_qk, s.num_key_value_heads);
    let live = || segments.iter().filter(|g| g.q_len > 0);
    clear_gaps(live().map(|g| (g.q_start, g.q_len)).collect(), query_width, dq);
    clear_gaps(live().map(|g| (g.k_start, g.k_len)).collect(), kv_heads * s.head_dim_qk, dk);
    clear_gaps(live().map(|g| (g.k_start, g.k_len)).collect(), kv_heads * s.head_dim_v, dv);
    let parts = divide(s, segments, pool.threads());
    let [dq, dk, dv] = [dq, dk, dv].map(|d| Shareable(d.as_mut_ptr()));
    let pass = Pass { s, x, dq, dk, dv };
    pool.run(parts.len(), &|t| {
        let part = &parts[t];
        // SAFETY: the caller vouches for AMX (with which the AVX-512 sets are detected) and the sizes; each column
        // has one part that wants its dq, each key and head one that wants its dk and dv.
        with(&TILES, words(s, part), |memory| unsafe { pass.part(part, memory) });
    });
}

/// Zeroes the rows that belong to no range (start, length).
fn clear_gaps(mut ranges: Vec<(usize, usize)>, width: usize, x: &mut [u16]) {
    ranges.sort_unstable();
    ranges.push((x.len() / width, 0));
    let mut done = 0;
    for (start, len) in ranges {
        x[done * width..start * width].fill(0);
        done = start + len;
    }
}

/// Whole documents and heads where those keep `threads` threads evenly busy, else separate parts.
fn divide(s: &AttentionShape, segments: &[Segment], threads: usize) -> Vec<Part> {
    let whole = spread(s, segments, usize::MAX);
    let all_keys = |c: &Columns| 0..c.segment.k_len;
    let mut load = vec![0usize; threads];
    for c in &whole {
        if let Some(least) = load.iter_mut().min() {
            *least += c.cost();
        }
    }
    let (most, total) = (load.iter().max().copied().unwrap_or(0), load.iter().sum::<usize>());
    // Separate parts cost 7 products and two exponentials where whole ones cost 5 and one.
    if most * threads * 4 <= total * 5 {
        let part = |c: Columns| Part { keys: all_keys(&c), columns: c, want_q: true, want_kv: true };
        return whole.into_iter().map(part).collect();
    }
    let by_query = spread(s, segments, span(s, segments, threads));
    let part = |c: Columns| Part { keys: all_keys(&c), columns: c, want_q: true, want_kv: false };
    let mut parts: Vec<Part> = by_query.into_iter().map(part).collect();
    let keys: usize = whole.iter().map(|c| c.segment.k_len).sum();
    let chunk = (keys / (4 * threads)).clamp(KEYS, 4 * KEYS).next_multiple_of(KEYS);
    for c in whole {
        let g = c.segment;
        for first in (0..g.k_len).step_by(chunk) {
            // The first query that sees key `first`, cut where the blocks of the whole document are.
            let from = first.saturating_sub(g.k_len - g.q_len) * c.group / COLUMNS * COLUMNS;
            let keys = first..(first + chunk).min(g.k_len);
            parts.push(Part { columns: Columns { from, ..c }, keys, want_q: false, want_kv: true });
        }
    }
    parts.sort_by_key(|p| std::cmp::Reverse((p.columns.to - p.columns.from) * p.keys.len()));
    parts
}

/// Where 32 columns stand; columns past the last have an lse that makes every weight 0.
#[repr(C, align(64))]
struct State {
    /// In powers of two.
    lse: [f32; COLUMNS],
    delta: [f32; COLUMNS],
    /// Keys seen.
    limit: [i32; COLUMNS],
}

/// Working memory of a part.
fn words(s: &AttentionShape, part: &Part) -> usize {
    let (dqk, dv) = (s.head_dim_qk.next_multiple_of(32), s.head_dim_v.next_multiple_of(32));
    let block = KEYS / 2 * (2 * dqk + dv) + KEYS * COLUMNS * (5 + 2 * GROUP);
    let columns = (part.columns.to - part.columns.from).min(SPAN).next_multiple_of(COLUMNS);
    let sums = if part.want_kv { part.keys.len().next_multiple_of(KEYS) * (dqk + dv) } else { 0 };
    block + columns * (2 * dqk + dv + 3) + sums
}

/// The parts of working memory that hold a block of keys and one of columns.
struct Buffers {
    keys: *mut u8,
    keys_crosswise: *mut u8,
    values: *mut u8,
    /// What blocks of columns, or groups of them, hand on lies twice: one is written while the other is read.
    scores: [*mut f32; 2],
    dweights: [*mut f32; 2],
    /// Pᵀ and dSᵀ of a group as left tiles `[tile of 16 keys][block of columns]`.
    weights: [*mut u8; 2],
    dscores: [*mut u8; 2],
    /// dSᵀ of one block as right tiles `[tile of 16 columns][step of 32 keys]`.
    dscores_right: [*mut u8; 2],
}

/// A block of columns against one of keys.
struct Block {
    key: usize,
    /// Keys worked on, and keys of the group; multiples of 32 up to [`KEYS`].
    count: usize,
    held: usize,
    /// Which buffers: of the block, of the group, and the place in the latter.
    half: usize,
    group: usize,
    member: usize,
}

impl Pass<'_> {
    /// # Safety
    /// The machine has the sets named, and the rows this part wants belong to the caller.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn part(&self, part: &Part, memory: &mut [u32]) {
        let (s, x, c) = (self.s, self.x, &part.columns);
        let (dqk, dv) = (s.head_dim_qk.next_multiple_of(32), s.head_dim_v.next_multiple_of(32));
        let mut parts = Parts::new(memory);
        let t = Buffers {
            keys: parts.take(KEYS * dqk * 2),
            keys_crosswise: parts.take(KEYS * dqk * 2),
            values: parts.take(KEYS * dv * 2),
            scores: parts.twice(KEYS * COLUMNS * 4),
            dweights: parts.twice(KEYS * COLUMNS * 4),
            weights: parts.twice(GROUP * KEYS * COLUMNS * 2),
            dscores: parts.twice(GROUP * KEYS * COLUMNS * 2),
            dscores_right: parts.twice(KEYS * COLUMNS * 2),
        };
        let width = (c.to - c.from).min(SPAN).next_multiple_of(COLUMNS);
        let queries: *mut u8 = parts.take(width * dqk * 2);
        let queries_right: *mut u8 = parts.take(width * dqk * 2);
        let douts: *mut u8 = parts.take(width * dv * 2);
        let douts_right: *mut u8 = parts.take(width * dv * 2);
        let dq_sums: *mut f32 = parts.take(width * dqk * 4);
        let states: *mut State = parts.take(width / COLUMNS * size_of::<State>());
        let held = if part.want_kv { part.keys.len().next_multiple_of(KEYS) } else { 0 };
        let dk_sums: *mut f32 = parts.take(held * dqk * 4);
        let dv_sums: *mut f32 = parts.take(held * dv * 4);
        let q_rows = Rows::queries(s, &c.segment, c.kv_head, s.head_dim_qk);
        let o_rows = Rows::queries(s, &c.segment, c.kv_head, s.head_dim_v);
        let k_rows = Rows::keys(s, &c.segment, c.kv_head, s.head_dim_qk);
        let v_rows = Rows::keys(s, &c.segment, c.kv_head, s.head_dim_v);
        let factor = s.scale * std::f32::consts::LOG2_E;
        // SAFETY: every pointer is a part of `memory` of the size just taken, indexed within it; rows were checked
        // against the arrays; tiles are configured here and nothing below configures them again.
        unsafe {
            amx::configure(&amx::Config::FULL);
            let (mut queue, mut later) = (Queue::new(), Queue::new());
            dk_sums.write_bytes(0, held * dqk);
            dv_sums.write_bytes(0, held * dv);
            for from in (c.from..c.to).step_by(SPAN) {
                let now = Columns { from, to: (from + SPAN).min(c.to), ..*c };
                let blocks = now.blocks();
                for j in 0..blocks {
                    let first = from + j * COLUMNS;
                    let (wide, tall) = (j * COLUMNS * dqk * 2, j * COLUMNS * dv * 2);
                    right_crosswise(x.q, &q_rows, first, now.to, 2, dqk / 32, queries.add(wide));
                    right_crosswise(x.dout, &o_rows, first, now.to, 2, dv / 32, douts.add(tall));
                    if part.want_kv {
                        right(x.q, &q_rows, first, now.to, dqk, queries_right.add(wide));
                        right(x.dout, &o_rows, first, now.to, dv, douts_right.add(tall));
                    }
                    states.add(j).write(self.state(&now, &o_rows, first));
                }
                let last = now.most(blocks - 1).min(part.keys.end);
                let mut first_block = 0;
                // The rows of the next columns come into the cache a share a block of keys.
                let mut ahead = now.to;
                let share = (SPAN * KEYS).div_ceil(last - part.keys.start);
                for key in (part.keys.start..last).step_by(KEYS) {
                    for a in ahead..(ahead + share).min(c.to).min(now.to + SPAN) {
                        prefetch(x.q, &q_rows, a);
                        prefetch(x.dout, &o_rows, a);
                        prefetch(x.out, &o_rows, a);
                    }
                    ahead += share;
                    let end = (key + KEYS).min(last);
                    left(x.k, &k_rows, key, end, KEYS, dqk / 32, t.keys);
                    left(x.v, &v_rows, key, end, KEYS, dv / 32, t.values);
                    if part.want_q {
                        left_crosswise(x.k, &k_rows, key, end, KEYS, dqk, t.keys_crosswise);
                    }
                    while now.most(first_block) <= key {
                        first_block += 1;
                    }
                    let count = |j: usize| KEYS.min(now.most(j) - key).next_multiple_of(32);
                    let score = |queue: &mut Queue, j: usize| {
                        let query = tiles(queries.add(j * COLUMNS * dqk * 2), dqk * 32, TILE);
                        let dout = tiles(douts.add(j * COLUMNS * dv * 2), dv * 32, TILE);
                        for r in (0..count(j)).step_by(32) {
                            let a = tiles(t.keys.add(r * dqk * 2), dqk * 32, TILE);
                            let c = t.scores[j % 2].add(r * COLUMNS);
                            queue.push(Product { c, stride: COLUMNS, a, b: query, steps: dqk / 32, fresh: true });
                            let a = tiles(t.values.add(r * dv * 2), dv * 32, TILE);
                            let c = t.dweights[j % 2].add(r * COLUMNS);
                            queue.push(Product { c, stride: COLUMNS, a, b: dout, steps: dv / 32, fresh: true });
                        }
                    };
                    let to_queries = |queue: &mut Queue, j: usize| {
                        let b = tiles(t.dscores_right[j % 2], KEYS * 32, TILE);
                        for n in (0..dqk).step_by(32) {
                            let a = tiles(t.keys_crosswise.add(n * KEYS * 2), KEYS * 32, TILE);
                            let c = dq_sums.add((j * dqk + n) * COLUMNS);
                            queue.push(Product { c, stride: COLUMNS, a, b, steps: count(j) / 32, fresh: key == 0 });
                        }
                    };
                    // Blocks of columns in a group, and the keys its last one sees.
                    let members = |group: usize| GROUP.min(blocks - first_block - group * GROUP);
                    let held = |group: usize| count(first_block + group * GROUP + members(group) - 1);
                    let to_keys = |queue: &mut Queue, group: usize| {
                        let (row, first) = (key - part.keys.start, first_block + group * GROUP);
                        for r in (0..held(group)).step_by(32) {
                            let at = r / 16 * GROUP * TILE;
                            for (sums, n, a, b) in [
                                (dv_sums, dv, t.weights[group % 2], douts_right),
                                (dk_sums, dqk, t.dscores[group % 2], queries_right),
                            ] {
                                let a = tiles(a.add(at), GROUP * TILE, TILE);
                                for i in (0..n).step_by(32) {
                                    let c = sums.add((row + r) * n + i);
                                    let b = tiles(b.add(first * COLUMNS * n * 2 + i * 64), TILE, COLUMNS * n * 2);
                                    queue.push(Product { c, stride: n, a, b, steps: members(group), fresh: false });
                                }
                            }
                        }
                    };
                    // Weights of block j are worked out while the tiles do scores of j + 1, dq of j - 1 and a share
                    // of dk and dv of the group before.
                    score(&mut queue, first_block);
                    queue.run_all();
                    for j in first_block..blocks {
                        let (group, member) = ((j - first_block) / GROUP, (j - first_block) % GROUP);
                        if j + 1 < blocks {
                            score(&mut queue, j + 1);
                        }
                        if part.want_q && j > first_block {
                            to_queries(&mut queue, j - 1);
                        }
                        if part.want_kv && member == 0 && group > 0 {
                            to_keys(&mut later, group - 1);
                        }
                        let share = later.waiting().div_ceil(members(group) - member);
                        queue.take(&mut later, share);
                        let o = Block { member, count: count(j), held: held(group), key, half: j % 2, group };
                        gradients(&t, &o, factor, &*states.add(j), &mut queue);
                    }
                    if part.want_q {
                        to_queries(&mut queue, blocks - 1);
                    }
                    if part.want_kv {
                        to_keys(&mut queue, (blocks - 1 - first_block) / GROUP);
                    }
                    queue.run_all();
                }
                if part.want_q {
                    let scales = [s.scale; COLUMNS];
                    for j in 0..blocks {
                        let sums = dq_sums.add(j * dqk * COLUMNS);
                        write_transposed(sums, scales.as_ptr(), &q_rows, from + j * COLUMNS, now.to, self.dq.get());
                    }
                }
            }
            amx::release();
            if part.want_kv {
                for (i, key) in part.keys.clone().enumerate() {
                    write_row(
                        dk_sums.add(i * dqk),
                        s.scale,
                        s.head_dim_qk,
                        self.dk.get().add(k_rows.index(key) * k_rows.width),
                    );
                    write_row(
                        dv_sums.add(i * dv),
                        1.0,
                        s.head_dim_v,
                        self.dv.get().add(v_rows.index(key) * v_rows.width),
                    );
                }
            }
        }
    }

    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn state(&self, c: &Columns, rows: &Rows, first: usize) -> State {
        let mut state = State { lse: [1e30; COLUMNS], delta: [0.0; COLUMNS], limit: [0; COLUMNS] };
        for i in 0..COLUMNS {
            let a = (first + i).min(c.to - 1);
            state.limit[i] = c.limit(a) as i32;
            if first + i < c.to {
                let at = rows.index(a) * rows.width..(rows.index(a) + 1) * rows.width;
                state.lse[i] = self.x.lse[rows.index(a)] * std::f32::consts::LOG2_E;
                state.delta[i] = dot(&self.x.out[at.clone()], &self.x.dout[at]);
            }
        }
        state
    }
}

/// Brings row `a` into the second-level cache.
#[inline(always)]
fn prefetch(data: &[u16], rows: &Rows, a: usize) {
    let at = rows.index(a) * rows.width;
    for i in (0..rows.width).step_by(32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(data.as_ptr().wrapping_add(at + i).cast()) }
    }
}

/// Σ a∘b in f32, even and odd elements apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn dot(a: &[u16], b: &[u16]) -> f32 {
    let n = a.len().min(b.len());
    let top = _mm512_set1_epi32(0xffff_0000u32 as i32);
    let mut sums = [_mm512_setzero_ps(); 2];
    for i in (0..n).step_by(32) {
        let mask = if n - i >= 32 { !0 } else { (1u32 << (n - i)) - 1 };
        // SAFETY: lanes past n are masked off and not accessed.
        let [x, y] = [a, b].map(|p| unsafe { _mm512_maskz_loadu_epi16(mask, p.as_ptr().add(i).cast()) });
        let [x0, y0] = [x, y].map(|v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)));
        let [x1, y1] = [x, y].map(|v| _mm512_castsi512_ps(_mm512_and_si512(v, top)));
        sums = [_mm512_fmadd_ps(x0, y0, sums[0]), _mm512_fmadd_ps(x1, y1, sums[1])];
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// From scores and dPᵀ `[count][32]` of a block: Pᵀ and dSᵀ as operands, while the tiles do what `queue` holds. Keys from
/// `count` up to `held` get zeros as left operands.
/// # Safety
/// The parts of `t` have their sizes; `queue` may run and touches none of the halves this block writes or reads.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn gradients(t: &Buffers, b: &Block, factor: f32, state: &State, queue: &mut Queue) {
    let (scores, dweights, right) = (t.scores[b.half], t.dweights[b.half], t.dscores_right[b.half]);
    let (weights, dscores) = (t.weights[b.group % 2], t.dscores[b.group % 2]);
    let line = |i: usize| (i / 16 * GROUP + b.member) * TILE + i % 16 * 64;
    // SAFETY: as the caller vouches; the state's arrays hold two vectors each.
    unsafe {
        let limits = [0, 16].map(|i| {
            let limit = _mm512_load_si512(state.limit.as_ptr().add(i).cast());
            _mm512_sub_epi32(limit, _mm512_set1_epi32(b.key as i32))
        });
        let all = _mm512_set1_epi32(b.count as i32);
        let whole = limits.iter().all(|l| _mm512_cmplt_epi32_mask(*l, all) == 0);
        let f = _mm512_set1_ps(factor);
        let lse = [0, 16].map(|i| _mm512_load_ps(state.lse.as_ptr().add(i)));
        let delta = [0, 16].map(|i| _mm512_load_ps(state.delta.as_ptr().add(i)));
        // Half steps are spread evenly over the pairs of keys.
        let (halves, mut due) = (queue.left(), 0);
        for i in (0..b.count).step_by(2) {
            due += 2 * halves;
            while due >= b.count {
                due -= b.count;
                queue.run_half();
            }
            let mut lines = [_mm512_setzero_si512(); 2];
            for (u, ds_line) in lines.iter_mut().enumerate() {
                let (mut p, mut ds) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
                for h in 0..2 {
                    let at = (i + u) * COLUMNS + h * 16;
                    let e = exp2(_mm512_fmsub_ps(_mm512_load_ps(scores.add(at)), f, lse[h]));
                    p[h] = if whole { e } else { _mm512_maskz_mov_ps(seen(limits[h], i + u), e) };
                    ds[h] = _mm512_mul_ps(p[h], _mm512_sub_ps(_mm512_load_ps(dweights.add(at)), delta[h]));
                }
                *ds_line = narrow2(ds[0], ds[1]);
                _mm512_store_si512(weights.add(line(i + u)).cast(), narrow2(p[0], p[1]));
                _mm512_store_si512(dscores.add(line(i + u)).cast(), *ds_line);
            }
            let (low, high) = pairs(lines[0], lines[1]);
            let to = right.add(i / 32 * TILE + i % 32 / 2 * 64);
            _mm512_store_si512(to.cast(), low);
            _mm512_store_si512(to.add(KEYS / 32 * TILE).cast(), high);
        }
        for i in b.count..b.held {
            _mm512_store_si512(weights.add(line(i)).cast(), _mm512_setzero_si512());
            _mm512_store_si512(dscores.add(line(i)).cast(), _mm512_setzero_si512());
        }
        queue.run_all();
    }
}
