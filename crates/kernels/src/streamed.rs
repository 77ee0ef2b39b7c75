//! Products of few rows (decoding): `out[m, n] = x[m, k] · W[n, k]ᵀ`, with every weight read from memory once.
//!
//! A token needs two flops a weight, so such a product is as fast as memory gives the weights and the kernel only has
//! to keep up: rows of W are taken 16 at a time, converted in registers (or into a tile in L1) and met by all rows of x
//! there; lines are asked for ahead of their use; blocks of rows are handed to whichever thread is free. Products that
//! share x go into one parallel loop ([`linear_many`]), with bias, row scale, residual and low-rank adapter applied to
//! a block while it is at hand: the adapter's `x·Aᵀ` is the first work of the loop, and who needs it waits for it.
//!
//! With matrix tiles (AMX) and bf16 operands, 16 rows of W are the left tile and up to 16 rows of x the right one;
//! otherwise each row of W is a dot product in vector lanes. In both an output element is a sum over k in an order
//! that depends on k alone: the result of a row is the same bits for any m, any thread count and any neighbours.
//!
//! What is multiplied: with [`Precision::Bf16`] x and f32 weights are rounded to bf16; bf16 weights are taken as they
//! are; codes of int8, int4 and fp8 are exact in bf16 and their scales multiply f32 sums (of a row, of a group, of a
//! block), or the codes in f32, which is closer to the dequantised weight than rounding it to bf16 would be.
//! With [`Precision::F32`] nothing is rounded. Sums are f32.
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vector;
mod widen;

pub(crate) use widen::Widen;

use crate::isa::Level;
use crate::pool::Shareable;
use crate::scratch::{LOCAL, STREAMED, TILES, with, with_f32};
use crate::simd::{narrow, simd_fn, widen as widened};
use crate::{Isa, Matrix, Pool, Precision, Values, quant};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows of W in a block: one tile.
pub(crate) const ROWS: usize = 16;
/// Elements of k converted at once: an int4 group, two tiles.
const CHUNK: usize = 64;
/// Bytes of weights in a task: small enough to balance, large enough that each of its sixteen streams is long.
const TASK_BYTES: usize = 512 << 10;
/// Tasks a thread that a call is cut into at least.
const TASKS: usize = 4;

/// `s · (x·Aᵀ)·Bᵀ`, `a [rank, k]`, `b [n, rank]`.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    pub a: Matrix<'a>,
    pub b: Matrix<'a>,
    pub rank: usize,
    pub scaling: f32,
}

/// One weight `[n, k]` and what becomes of its product: `out = (x·Wᵀ + low rank) ⊙ row_scale + bias`, added to `out`
/// when `add`.
pub struct Stream<'a> {
    pub w: Matrix<'a>,
    pub n: usize,
    pub low_rank: Option<LowRank<'a>>,
    pub row_scale: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub add: bool,
    /// `[m, n]`
    pub out: &'a mut [f32],
}

impl<'a> Stream<'a> {
    /// The bare product.
    pub fn new(w: Matrix<'a>, n: usize, out: &'a mut [f32]) -> Self {
        Stream { w, n, low_rank: None, row_scale: None, bias: None, add: false, out }
    }
}

/// `out[m, n] = x[m, k] · w[n, k]ᵀ`.
#[allow(clippy::too_many_arguments)]
pub fn linear(pool: &Pool, precision: Precision, m: usize, k: usize, x: &[f32], w: Matrix, n: usize, out: &mut [f32]) {
    linear_many(pool, precision, m, k, x, &mut [Stream::new(w, n, out)]);
}

/// Several weights over the same rows `x [m, k]`, in one parallel loop.
///
/// # Panics
/// When a slice is too short for its shape or a weight is transposed.
pub fn linear_many(pool: &Pool, precision: Precision, m: usize, k: usize, x: &[f32], streams: &mut [Stream]) {
    linear_many_on(Isa::best(), pool, precision, m, k, x, streams);
}

/// [`linear_many`] with a chosen instruction set, for tests and measurements.
pub fn linear_many_on(
    isa: Isa,
    pool: &Pool,
    precision: Precision,
    m: usize,
    k: usize,
    x: &[f32],
    streams: &mut [Stream],
) {
    run(isa, pool, precision, &mut [Rows { m, k, x, streams }]);
}

/// Rows `x [m, k]` and the weights they meet.
pub struct Rows<'a, 's> {
    pub m: usize,
    pub k: usize,
    pub x: &'a [f32],
    pub streams: &'a mut [Stream<'s>],
}

/// Several groups of rows, each with its own weights, in one parallel loop: the experts of a token step, the heads of
/// latent attention.
///
/// # Panics
/// As [`linear_many`].
pub fn linear_groups(pool: &Pool, precision: Precision, groups: &mut [Rows]) {
    run(Isa::best(), pool, precision, groups);
}

/// A range of rows of one weight, or (`low`) of its adapter's A.
struct Task {
    job: usize,
    low: bool,
    first: usize,
    last: usize,
}

/// One weight of a call.
struct Job<'a> {
    call: Call,
    k: usize,
    inputs: Inputs<'a>,
    stream: &'a Stream<'a>,
    out: Shareable<f32>,
    /// Where its x·Aᵀ `[m, rank]` begins.
    low: usize,
    /// Tasks of x·Aᵀ still to be done.
    pending: AtomicUsize,
}

/// The rows of x as a kernel takes them, k padded with zeros to whole chunks.
#[derive(Clone, Copy)]
pub(crate) enum Inputs<'a> {
    /// For each column tile of up to 16 rows of x: pairs of bf16, `[k / 2][rows]`.
    Pairs(&'a [u32]),
    /// `[m, k]`, rounded to bf16 or not.
    Floats(&'a [f32]),
}

/// How rows of x are multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub isa: Isa,
    pub precision: Precision,
    pub m: usize,
}

fn run(isa: Isa, pool: &Pool, precision: Precision, groups: &mut [Rows]) {
    for g in groups.iter().filter(|g| g.m > 0) {
        assert!(g.k > 0 && g.x.len() == g.m * g.k, "x has {} elements, expected {} x {}", g.x.len(), g.m, g.k);
        g.streams.iter().for_each(|s| check(s, g.m, g.k));
    }
    let words = |g: &Rows| Call { isa, precision, m: g.m }.words(g.k).next_multiple_of(ROWS);
    with(&STREAMED, groups.iter().map(words).sum(), |mut packed| {
        let (mut jobs, mut low) = (Vec::new(), 0);
        for g in groups.iter_mut().filter(|g| g.m > 0) {
            let call = Call { isa, precision, m: g.m };
            let (own, rest) = packed.split_at_mut(words(g));
            packed = rest;
            let inputs = call.pack(g.x, g.k, own);
            let outs: Vec<_> = g.streams.iter_mut().map(|s| s.out.as_mut_ptr()).collect();
            for (stream, out) in g.streams.iter().zip(outs) {
                let rank = stream.low_rank.map_or(0, |l| l.rank);
                let pending = AtomicUsize::new(0);
                jobs.push(Job { call, k: g.k, inputs, stream, out: Shareable(out), low, pending });
                low += g.m * rank;
            }
        }
        let tasks = tasks(pool, &mut jobs);
        let mut low = vec![0f32; low];
        let low = Shareable(low.as_mut_ptr());
        pool.run(tasks.len(), &|t| {
            let task = &tasks[t];
            // SAFETY: rows of different tasks differ, in `low` as in `out`; `low` outlives the loop.
            unsafe { work(&jobs[task.job], task, low.get()) }
        });
    });
}

/// # Safety
/// The task's rows of `low` and of the job's `out` belong to it alone, and `low` holds the x·Aᵀ of all jobs.
unsafe fn work(job: &Job, task: &Task, low: *mut f32) {
    let (call, s) = (&job.call, job.stream);
    let (m, k) = (call.m, job.k);
    let _done = task.low.then(|| Done(&job.pending));
    let mut shape = [0, 0];
    let rows = task.last - task.first;
    with_f32(&TILES, rows * m, |sums| {
        // SAFETY: the shapes were checked; the rest as the caller vouches.
        unsafe {
            match s.low_rank {
                Some(l) if task.low => {
                    block(call, &mut shape, &l.a, task.first, rows, k, job.inputs, sums);
                    for (i, line) in sums.chunks_exact(m).enumerate() {
                        for (j, v) in line.iter().enumerate() {
                            *low.add(job.low + j * l.rank + task.first + i) = *v;
                        }
                    }
                    return;
                }
                Some(l) => {
                    block(call, &mut shape, &s.w, task.first, rows, k, job.inputs, sums);
                    while job.pending.load(Ordering::Acquire) > 0 {
                        std::hint::spin_loop();
                    }
                    let u = std::slice::from_raw_parts(low.add(job.low), m * l.rank);
                    add_low_rank(call, &mut shape, &l, task.first, rows, u, sums);
                }
                None => block(call, &mut shape, &s.w, task.first, rows, k, job.inputs, sums),
            }
            finish(s, m, task.first, sums, job.out.get());
        }
    });
}

/// Counts a task off when it ends, by a panic too: nobody waits for what will not come.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[track_caller]
fn check(s: &Stream, m: usize, k: usize) {
    let holds = |name: &str, w: &Matrix, rows: usize, columns: usize| {
        assert!(!w.transposed, "{name} is transposed; a streamed weight lies as [n, k]");
        assert!(!w.values.is_quantized() || w.stride == columns, "{name} is quantised and must have stride {columns}");
        let (len, want) = held(w, rows, columns);
        assert!(len >= want, "{name} of {len} elements is too short for {rows} x {columns}");
    };
    holds("w", &s.w, s.n, k);
    if let Some(l) = &s.low_rank {
        holds("a", &l.a, l.rank, k);
        holds("b", &l.b, s.n, l.rank);
    }
    for (name, v) in [("row_scale", s.row_scale), ("bias", s.bias)] {
        assert!(v.is_none_or(|v| v.len() == s.n), "{name} does not have {} elements", s.n);
    }
    assert!(s.out.len() == m * s.n, "out has {} elements, expected {m} x {}", s.out.len(), s.n);
}

/// Elements (bytes of int4) a matrix holds and needs, the scales checked too.
#[track_caller]
fn held(w: &Matrix, rows: usize, columns: usize) -> (usize, usize) {
    let scales = |have: usize, want: usize| assert!(have >= want, "{have} scales, expected {want}");
    let strided = if rows == 0 { 0 } else { (rows - 1) * w.stride + columns };
    match w.values {
        Values::F32(v) => (v.len(), strided),
        Values::Bf16(v) => (v.len(), strided),
        Values::Int8 { q, scales: s } => {
            scales(s.len(), rows);
            (q.len(), strided)
        }
        Values::Int4 { q, scales: s } => {
            scales(s.len(), rows * columns.div_ceil(quant::INT4_GROUP));
            (q.len(), rows * quant::int4_row_bytes(columns))
        }
        Values::Fp8 { q, scales: s } => {
            scales(s.len(), rows.div_ceil(quant::FP8_BLOCK) * columns.div_ceil(quant::FP8_BLOCK));
            (q.len(), strided)
        }
    }
}

/// Bytes a row of `k` elements.
fn row_bytes(w: &Matrix, k: usize) -> usize {
    match w.values {
        Values::F32(_) => 4 * k,
        Values::Bf16(_) => 2 * k,
        Values::Int8 { .. } | Values::Fp8 { .. } => k,
        Values::Int4 { .. } => quant::int4_row_bytes(k),
    }
}

/// Adapters' A first: a task never waits for one that is handed out after it.
fn tasks(pool: &Pool, jobs: &mut [Job]) -> Vec<Task> {
    let total: usize = jobs.iter().map(|j| j.stream.n * row_bytes(&j.stream.w, j.k)).sum();
    let bytes = (total / (pool.threads() * TASKS)).clamp(1, TASK_BYTES);
    let mut all = Vec::new();
    let mut cut = |job: usize, low: bool, n: usize, w: &Matrix, k: usize| {
        // An odd number of blocks: streams that lie a multiple of 4 KiB apart would push each other out of L1.
        let step = ROWS * ((bytes / row_bytes(w, k).max(1)).div_ceil(ROWS) | 1);
        all.extend((0..n).step_by(step).map(|first| Task { job, low, first, last: n.min(first + step) }));
        n.div_ceil(step)
    };
    for (i, j) in jobs.iter_mut().enumerate() {
        if let Some(l) = &j.stream.low_rank {
            *j.pending.get_mut() = cut(i, true, l.rank, &l.a, j.k);
        }
    }
    for (i, j) in jobs.iter().enumerate() {
        cut(i, false, j.stream.n, &j.stream.w, j.k);
    }
    all
}

impl Call {
    pub(crate) fn tiles(&self) -> bool {
        self.isa.level() == Level::Amx && self.precision == Precision::Bf16
    }

    /// 32-bit words of packed inputs.
    pub(crate) fn words(&self, k: usize) -> usize {
        let padded = k.next_multiple_of(CHUNK);
        self.m * if self.tiles() { padded / 2 } else { padded }
    }

    pub(crate) fn pack<'p>(&self, x: &[f32], k: usize, packed: &'p mut [u32]) -> Inputs<'p> {
        let padded = k.next_multiple_of(CHUNK);
        if self.tiles() {
            for (tile, first) in packed.chunks_mut(ROWS * padded / 2).zip((0..self.m).step_by(ROWS)) {
                let rows = ROWS.min(self.m - first);
                for j in 0..rows {
                    pairs(self.isa, &x[(first + j) * k..(first + j + 1) * k], &mut tile[j..], rows);
                }
            }
            return Inputs::Pairs(packed);
        }
        let floats: &mut [f32] = bytemuck::cast_slice_mut(packed);
        for (line, out) in x.chunks_exact(k.max(1)).zip(floats.chunks_exact_mut(padded.max(1))) {
            match self.precision {
                Precision::F32 => out[..k].copy_from_slice(line),
                Precision::Bf16 => out.iter_mut().zip(line).for_each(|(o, v)| *o = widened(narrow(*v))),
            }
            out[k..].fill(0.0);
        }
        Inputs::Floats(floats)
    }
}

simd_fn! {
    /// A row of x as pairs of bf16, `rows` words apart, zeros after its end.
    fn pairs<S>(s, x: &[f32], out: &mut [u32], rows: usize) {
        let _ = s;
        let mut at = 0;
        for part in x.chunks(2 * ROWS) {
            let mut narrowed = [0u16; 2 * ROWS];
            for (n, v) in narrowed.iter_mut().zip(part) {
                *n = narrow(*v);
            }
            for pair in narrowed.chunks_exact(2) {
                out[at] = u32::from(pair[0]) | u32::from(pair[1]) << 16;
                at += rows;
            }
        }
        while at < out.len() {
            out[at] = 0;
            at += rows;
        }
    }
}

/// `sums[i][j]` = row `first + i` of the weight times row j of x.
/// # Safety
/// The weight holds `first + rows` rows of `k` elements (checked by [`check`]), and `inputs` are packed for this
/// call and k; `shape` is what this task left the thread's tiles configured for.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn block(
    call: &Call,
    shape: &mut [usize; 2],
    w: &Matrix,
    first: usize,
    rows: usize,
    k: usize,
    inputs: Inputs,
    sums: &mut [f32],
) {
    match inputs {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as the caller vouches; pairs are made only where the machine has tiles.
        Inputs::Pairs(x) => unsafe { tiles::block(shape, w, first, rows, k, call.m, x, sums) },
        #[cfg(not(target_arch = "x86_64"))]
        Inputs::Pairs(_) => unreachable!("tiles exist on x86-64 only"),
        // SAFETY: as the caller vouches.
        Inputs::Floats(x) => unsafe {
            vector::block(call.isa, w, first, rows, k, call.m, x, call.precision == Precision::Bf16, sums)
        },
    }
    if let Values::Int8 { scales, .. } = w.values {
        for (line, scale) in sums.chunks_exact_mut(call.m).zip(&scales[first..first + rows]) {
            line.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

/// Adds `s·u·Bᵀ` of a block of rows to its sums.
/// # Safety
/// As [`block`].
#[allow(clippy::too_many_arguments)]
unsafe fn add_low_rank(
    call: &Call,
    shape: &mut [usize; 2],
    l: &LowRank,
    first: usize,
    rows: usize,
    u: &[f32],
    sums: &mut [f32],
) {
    let m = call.m;
    with(&LOCAL, call.words(l.rank) + rows * m, |words| {
        let (packed, own) = words.split_at_mut(call.words(l.rank));
        let inputs = call.pack(u, l.rank, packed);
        let own: &mut [f32] = bytemuck::cast_slice_mut(own);
        // SAFETY: as the caller vouches.
        unsafe { block(call, shape, &l.b, first, rows, l.rank, inputs, own) };
        for (s, v) in sums.iter_mut().zip(own) {
            *s += l.scaling * *v;
        }
    });
}

/// Scale, bias and residual, out of the block's `[rows][m]` into rows of `out [m, n]`.
/// # Safety
/// The columns of `out` from `first` on that `sums` has rows for belong to the caller alone.
unsafe fn finish(s: &Stream, m: usize, first: usize, sums: &[f32], out: *mut f32) {
    for (i, line) in sums.chunks_exact(m).enumerate() {
        let scale = s.row_scale.map_or(1.0, |v| v[first + i]);
        let bias = s.bias.map_or(0.0, |v| v[first + i]);
        for (j, v) in line.iter().enumerate() {
            // SAFETY: j < m and first + i < n, and the caller owns the column.
            unsafe {
                let o = out.add(j * s.n + first + i);
                let y = v * scale + bias;
                *o = if s.add { *o + y } else { y };
            }
        }
    }
}
