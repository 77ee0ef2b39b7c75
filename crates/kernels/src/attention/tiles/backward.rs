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
use super::{COLUMNS, Columns, KEYS, Parts, Rows, TILE, exp2, narrow2, product, seen, span, spread, tiles};
use crate::Pool;
use crate::amx;
use crate::attention::{AttentionShape, Segment};
use crate::pool::Shareable;
use crate::scratch::{TILES, with};
use std::arch::x86_64::*;
use std::ops::Range;

/// Columns whose operands are packed at once.
const SPAN: usize = 512;
/// Blocks of columns summed into dk and dv together: as many steps of the product for one reading of the sums.
const GROUP: usize = 4;

pub(in crate::attention) struct Inputs<'a> {
    pub q: &'a [u16],
    pub k: &'a [u16],
    pub v: &'a [u16],
    pub out: &'a [u16],
    pub lse: &'a [f32],
    pub dout: &'a [u16],
}

struct Pass<'a> {
    s: &'a AttentionShape,
    x: &'a Inputs<'a>,
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
    x: &Inputs,
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
    let block = KEYS / 2 * (2 * dqk + dv) + KEYS * COLUMNS * 5 / 2 + GROUP * KEYS * COLUMNS;
    let columns = (part.columns.to - part.columns.from).min(SPAN).next_multiple_of(COLUMNS);
    let sums = if part.want_kv { part.keys.len().next_multiple_of(KEYS) * (dqk + dv) } else { 0 };
    block + columns * (2 * dqk + dv + 3) + sums
}

/// The parts of working memory that hold a block of keys and one of columns.
struct Tiles {
    keys: *mut u8,
    keys_crosswise: *mut u8,
    values: *mut u8,
    scores: *mut f32,
    dweights: *mut f32,
    /// Pᵀ and dSᵀ of a group as left tiles `[tile of 16 keys][block of columns]`.
    weights: *mut u8,
    dscores: *mut u8,
    /// dSᵀ of one block as right tiles `[tile of 16 columns][step of 32 keys]`.
    dscores_right: *mut u8,
}

impl Pass<'_> {
    /// # Safety
    /// The machine has the sets named, and the rows this part wants belong to the caller.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn part(&self, part: &Part, memory: &mut [u32]) {
        let (s, x, c) = (self.s, self.x, &part.columns);
        let (dqk, dv) = (s.head_dim_qk.next_multiple_of(32), s.head_dim_v.next_multiple_of(32));
        let mut parts = Parts::new(memory);
        let t = Tiles {
            keys: parts.take(KEYS * dqk * 2),
            keys_crosswise: parts.take(KEYS * dqk * 2),
            values: parts.take(KEYS * dv * 2),
            scores: parts.take(KEYS * COLUMNS * 4),
            dweights: parts.take(KEYS * COLUMNS * 4),
            weights: parts.take(GROUP * KEYS * COLUMNS * 2),
            dscores: parts.take(GROUP * KEYS * COLUMNS * 2),
            dscores_right: parts.take(KEYS * COLUMNS * 2),
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
                for key in (part.keys.start..last).step_by(KEYS) {
                    let end = (key + KEYS).min(last);
                    left(x.k, &k_rows, key, end, KEYS, dqk / 32, t.keys);
                    left(x.v, &v_rows, key, end, KEYS, dv / 32, t.values);
                    if part.want_q {
                        left_crosswise(x.k, &k_rows, key, end, KEYS, dqk, t.keys_crosswise);
                    }
                    while now.most(first_block) <= key {
                        first_block += 1;
                    }
                    for group in (first_block..blocks).step_by(GROUP) {
                        let members = GROUP.min(blocks - group);
                        let held = KEYS.min(now.most(group + members - 1) - key).next_multiple_of(32);
                        for j in group..group + members {
                            let count = KEYS.min(now.most(j) - key).next_multiple_of(32);
                            let query = tiles(queries.add(j * COLUMNS * dqk * 2), dqk * 32, TILE);
                            let dout = tiles(douts.add(j * COLUMNS * dv * 2), dv * 32, TILE);
                            for r in (0..count).step_by(32) {
                                let a = tiles(t.keys.add(r * dqk * 2), dqk * 32, TILE);
                                product(t.scores.add(r * COLUMNS), COLUMNS, a, query, dqk / 32, true);
                                let a = tiles(t.values.add(r * dv * 2), dv * 32, TILE);
                                product(t.dweights.add(r * COLUMNS), COLUMNS, a, dout, dv / 32, true);
                            }
                            gradients(&t, j - group, count, held, key, factor, &*states.add(j));
                            if part.want_q {
                                let b = tiles(t.dscores_right, KEYS * 32, TILE);
                                for n in (0..dqk).step_by(32) {
                                    let a = tiles(t.keys_crosswise.add(n * KEYS * 2), KEYS * 32, TILE);
                                    let to = dq_sums.add((j * dqk + n) * COLUMNS);
                                    product(to, COLUMNS, a, b, count / 32, key == 0);
                                }
                            }
                        }
                        if part.want_kv {
                            let row = key - part.keys.start;
                            let (q, o) = (
                                queries_right.add(group * COLUMNS * dqk * 2),
                                douts_right.add(group * COLUMNS * dv * 2),
                            );
                            for r in (0..held).step_by(32) {
                                let at = r / 16 * GROUP * TILE;
                                sum_rows(dv_sums.add((row + r) * dv), dv, t.weights.add(at), o, members);
                                sum_rows(dk_sums.add((row + r) * dqk), dqk, t.dscores.add(at), q, members);
                            }
                        }
                    }
                }
                if part.want_q {
                    let scales = [s.scale; COLUMNS];
                    for j in 0..blocks {
                        let sums = dq_sums.add(j * dqk * COLUMNS);
                        write_transposed(sums, scales.as_ptr(), &q_rows, from + j * COLUMNS, now.to, self.dq.get());
                    }
                }
            }
            if part.want_kv {
                for (i, key) in part.keys.clone().enumerate() {
                    write_row(dk_sums.add(i * dqk), s.scale, s.head_dim_qk, self.dk.get().add(k_rows.at(key)));
                    write_row(dv_sums.add(i * dv), 1.0, s.head_dim_v, self.dv.get().add(v_rows.at(key)));
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
                let at = rows.at(a)..rows.at(a) + rows.width;
                state.lse[i] = self.x.lse[rows.index(a)] * std::f32::consts::LOG2_E;
                state.delta[i] = dot(&self.x.out[at.clone()], &self.x.dout[at]);
            }
        }
        state
    }
}

/// The 32 rows of `n` sums at `c` += left tiles `a` (two rows of tiles, [`GROUP`] apart) · right tiles `b`, over `steps`
/// blocks of columns.
/// # Safety
/// As [`product`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sum_rows(c: *mut f32, n: usize, a: *const u8, b: *const u8, steps: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        let a = tiles(a, GROUP * TILE, TILE);
        for i in (0..n).step_by(32) {
            product(c.add(i), n, a, tiles(b.add(i * 64), TILE, COLUMNS * n * 2), steps, false);
        }
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

/// From scores and dPᵀ `[count][32]` of the keys from `key` on: Pᵀ and dSᵀ as operands, block `member` of the group.
/// Keys from `count` up to `held` get zeros as left operands.
/// # Safety
/// The parts of `t` have their sizes; `count` and `held` are multiples of 32 up to [`KEYS`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn gradients(t: &Tiles, member: usize, count: usize, held: usize, key: usize, factor: f32, state: &State) {
    // SAFETY: as the caller vouches; the state's arrays hold two vectors each.
    unsafe {
        let limits = [0, 16].map(|i| {
            let limit = _mm512_load_si512(state.limit.as_ptr().add(i).cast());
            _mm512_sub_epi32(limit, _mm512_set1_epi32(key as i32))
        });
        let all = _mm512_set1_epi32(count as i32);
        let whole = limits.iter().all(|l| _mm512_cmplt_epi32_mask(*l, all) == 0);
        let f = _mm512_set1_ps(factor);
        let lse = [0, 16].map(|i| _mm512_load_ps(state.lse.as_ptr().add(i)));
        let delta = [0, 16].map(|i| _mm512_load_ps(state.delta.as_ptr().add(i)));
        for i in (0..count).step_by(2) {
            let mut lines = [_mm512_setzero_si512(); 2];
            for (u, line) in lines.iter_mut().enumerate() {
                let (mut p, mut ds) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
                for h in 0..2 {
                    let at = (i + u) * COLUMNS + h * 16;
                    let e = exp2(_mm512_fmsub_ps(_mm512_load_ps(t.scores.add(at)), f, lse[h]));
                    p[h] = if whole { e } else { _mm512_maskz_mov_ps(seen(limits[h], i + u), e) };
                    ds[h] = _mm512_mul_ps(p[h], _mm512_sub_ps(_mm512_load_ps(t.dweights.add(at)), delta[h]));
                }
                let to = ((i + u) / 16 * GROUP + member) * TILE + (i + u) % 16 * 64;
                *line = narrow2(ds[0], ds[1]);
                _mm512_store_si512(t.weights.add(to).cast(), narrow2(p[0], p[1]));
                _mm512_store_si512(t.dscores.add(to).cast(), *line);
            }
            let (low, high) = pairs(lines[0], lines[1]);
            let to = t.dscores_right.add(i / 32 * TILE + i % 32 / 2 * 64);
            _mm512_store_si512(to.cast(), low);
            _mm512_store_si512(to.add(KEYS / 32 * TILE).cast(), high);
        }
        for i in count..held {
            let to = (i / 16 * GROUP + member) * TILE + i % 16 * 64;
            _mm512_store_si512(t.weights.add(to).cast(), _mm512_setzero_si512());
            _mm512_store_si512(t.dscores.add(to).cast(), _mm512_setzero_si512());
        }
    }
}
