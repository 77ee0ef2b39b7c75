//! Attention over bf16 on AMX tiles (see [`crate::amx`]).
//!
//! Method. The (query, head) pairs of a document that share a key/value head are its *columns*, queries outermost; keys
//! are rows. Scores are computed as Sᵀ = K·Qᵀ, 32 columns against [`KEYS`] keys at a time, so a vector register holds
//! one key against 16 columns: the softmax needs no shuffle (maximum, sum, log-sum-exp and D are vectors of columns), a
//! column's causal limit is one comparison, and the weights are left operands of Pᵀ·dO and dSᵀ·Q as they lie. The
//! products that sum over keys take them with two keys interleaved, one permutation a pair: Oᵀ = Vᵀ·Pᵀ and
//! dQᵀ = Kᵀ·dSᵀ. All heads of a group share one packing of a block of keys.
//!
//! Rounding. Weights and ds are rounded to bf16, all sums are f32 chains over single keys (or columns) in ascending
//! order whatever the cut into tasks; the tile unit takes denormals as zero. Weights are relative to a reference that
//! follows the running maximum only when that has grown by 2^[`SLACK`], which spares most of the rescaling of sums: a
//! column's numbers depend on its own scores alone.
mod backward;
mod forward;
mod pack;
mod queue;

use super::{AttentionShape, Segment};
pub(super) use backward::backward;
pub(super) use forward::forward;
use queue::{Product, Queue, Tiles};
use std::arch::x86_64::*;

/// Keys in a block. Part of the result's definition (where the softmax reference may move).
const KEYS: usize = 64;
/// Columns worked on at once: two tiles.
const COLUMNS: usize = 32;
/// Bytes of a tile.
const TILE: usize = 1024;

/// Rows of a bf16 array: row `a` is `first + a / group * heads + a % group` of `width` elements. Columns of queries with
/// the heads of a group side by side, or keys of one head (group 1).
#[derive(Clone, Copy)]
struct Rows {
    first: usize,
    group: usize,
    heads: usize,
    width: usize,
}

impl Rows {
    fn queries(s: &AttentionShape, g: &Segment, kv_head: usize, width: usize) -> Rows {
        let group = s.num_heads / s.num_key_value_heads;
        Rows { first: g.q_start * s.num_heads + kv_head * group, group, heads: s.num_heads, width }
    }
    fn keys(s: &AttentionShape, g: &Segment, kv_head: usize, width: usize) -> Rows {
        let heads = s.num_key_value_heads;
        Rows { first: g.k_start * heads + kv_head, group: 1, heads, width }
    }
    #[inline(always)]
    fn index(&self, a: usize) -> usize {
        self.first + a / self.group * self.heads + a % self.group
    }
    /// Where the rows from `a` on start.
    #[inline(always)]
    fn from(&self, a: usize) -> Walk {
        let within = a % self.group;
        let jump = (self.heads - self.group) * self.width;
        Walk { at: self.index(a) * self.width, left: self.group - within, group: self.group, width: self.width, jump }
    }
}

/// Starts of successive rows, without a division a row.
struct Walk {
    at: usize,
    left: usize,
    group: usize,
    width: usize,
    jump: usize,
}

impl Walk {
    #[inline(always)]
    fn step(&mut self) -> usize {
        let at = self.at;
        self.at += self.width;
        self.left -= 1;
        if self.left == 0 {
            self.left = self.group;
            self.at += self.jump;
        }
        at
    }
}

/// Part of the columns of a document and key/value head.
#[derive(Clone, Copy)]
struct Columns {
    segment: Segment,
    kv_head: usize,
    group: usize,
    from: usize,
    to: usize,
}

impl Columns {
    fn blocks(&self) -> usize {
        (self.to - self.from).div_ceil(COLUMNS)
    }
    /// Keys that column `a` sees.
    fn limit(&self, a: usize) -> usize {
        self.segment.limit(a / self.group)
    }
    /// Keys that the last column of block `j` sees.
    fn most(&self, j: usize) -> usize {
        self.limit((self.from + (j + 1) * COLUMNS).min(self.to) - 1)
    }
    /// About proportional to the work.
    fn cost(&self) -> usize {
        (self.limit(self.from) + self.limit(self.to - 1)) * (self.to - self.from)
    }
}

/// Every document and key/value head, cut into at most `span` columns each, long ones first.
fn spread(s: &AttentionShape, segments: &[Segment], span: usize) -> Vec<Columns> {
    let group = s.num_heads / s.num_key_value_heads;
    let mut all = vec![];
    for segment in segments {
        for kv_head in 0..s.num_key_value_heads {
            let count = segment.q_len * group;
            for from in (0..count).step_by(span) {
                let to = from.saturating_add(span).min(count);
                all.push(Columns { segment: *segment, kv_head, group, from, to });
            }
        }
    }
    all.sort_by_key(|c| std::cmp::Reverse(c.cost()));
    all
}

/// Columns a task should have: as many as share the packing of the keys well and leave their operands in the
/// second-level cache, fewer when the threads would find too few tasks.
fn span(s: &AttentionShape, segments: &[Segment], threads: usize) -> usize {
    let columns: usize = segments.iter().map(|g| g.q_len).sum::<usize>() * s.num_heads;
    let mut span = 512;
    while span > 2 * COLUMNS && threads > 1 && columns / span < 4 * threads {
        span /= 2;
    }
    span
}

/// Cuts working memory into parts on 64-byte boundaries.
struct Parts {
    next: *mut u8,
    left: usize,
}

impl Parts {
    /// `words` starts on a 64-byte boundary.
    fn new(words: &mut [u32]) -> Parts {
        Parts { next: words.as_mut_ptr().cast(), left: words.len() * 4 }
    }
    fn take<T>(&mut self, bytes: usize) -> *mut T {
        let bytes = bytes.next_multiple_of(64);
        assert!(bytes <= self.left, "working memory is too small");
        let part = self.next;
        self.left -= bytes;
        // SAFETY: the part lies inside the slice, as just checked.
        self.next = unsafe { part.add(bytes) };
        part.cast()
    }
    fn twice<T>(&mut self, bytes: usize) -> [*mut T; 2] {
        [self.take(bytes), self.take(bytes)]
    }
}

/// Packed tiles from `first` on, `step` bytes apart over k, and those `second` bytes further.
/// # Safety
/// `first` is inside an allocation that holds the second tile too.
#[inline(always)]
unsafe fn tiles<T>(first: *const T, second: usize, step: usize) -> Tiles {
    // SAFETY: as the caller vouches.
    let (first, second) = unsafe { (first.cast::<u8>(), first.cast::<u8>().add(second)) };
    Tiles { first, second, stride: 64, step }
}

/// 2^x to 2e-7 relative; 0 for −∞, NaN for NaN. Minimax polynomial of degree 5 on the fraction (error 1.2e-7 with its
/// rounding), scaled by 2^floor(x).
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp2(x: __m512) -> __m512 {
    const FLOOR: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    let f = _mm512_reduce_ps::<FLOOR>(x);
    let mut p = _mm512_set1_ps(0.001_877_576_7);
    for c in [0.008_989_34, 0.055_826_318, 0.240_153_61, 0.693_153_1, 0.999_999_94] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, x)
}

/// The order that brings two rows of 16 lanes side by side into pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairing() -> __m512i {
    let mut order = [0u16; 32];
    for (i, o) in order.iter_mut().enumerate() {
        *o = (i / 2 + i % 2 * 16) as u16;
    }
    // SAFETY: both are 64 bytes of plain integers.
    unsafe { std::mem::transmute::<[u16; 32], __m512i>(order) }
}

/// bf16 of `low` in the lower half, of `high` in the upper.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn narrow2(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain integers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// The columns that see the `i`-th key of the block.
#[inline]
#[target_feature(enable = "avx512f")]
fn seen(limits: __m512i, i: usize) -> __mmask16 {
    _mm512_cmpgt_epi32_mask(limits, _mm512_set1_epi32(i as i32))
}
