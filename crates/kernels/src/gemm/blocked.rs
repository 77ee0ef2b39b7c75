//! Products on vector registers: cuts a product into blocks that fit the caches, packs what several threads read once,
//! and hands tiles to the pool. How it cuts affects speed only: every term's k is cut into blocks of one fixed length,
//! each block is summed by itself, and an element's blocks are added in order.
//!
//! Sums wait between blocks in C where that is free to hold them (an f32 output that does not accumulate), otherwise in
//! a block of the job's own; the last block applies the epilogue on the way to C.
use super::Precision;
use super::pack::{Operand, Strip, pack};
use super::product::{Finish, Left, Product, Target};
use super::tile::{Format, Geometry, Kernel, Tile, geometry, kernel};
use crate::isa::Level;
use crate::pool::Shareable;
use crate::scratch::{LOCAL, SHARED, with};
use crate::{Isa, Pool};

/// Words of k (an f32 or a bf16 pair each) in one block. Part of the result's definition: never tuned at run time.
/// A panel of B is 48 KiB at 32 columns, a panel of A 21 KiB at 14 rows.
const BLOCK: usize = 384;
/// Rows of A in one job: 252 rows of one block are 378 KiB, a fraction of any current second-level cache.
const JOB_ROWS: usize = 252;
/// Panels of A up to which a job goes column by column: a panel of 8192 words is 448 KiB.
const FEW_ROWS: usize = 1;
/// Words of packed A and of packed B held at once (32 and 16 MiB).
const SHARED_A: usize = 8 << 20;
const SHARED_B: usize = 4 << 20;
/// Multiply-adds worth handing to another thread: some microseconds.
const JOB_WORK: usize = 100_000;

/// How a set and a precision lay out panels.
#[derive(Clone, Copy)]
struct Layout {
    isa: Isa,
    format: Format,
}

impl Layout {
    fn new(isa: Isa, precision: Precision) -> Layout {
        let format = match (precision, isa.level()) {
            (Precision::F32, _) => Format::F32,
            (Precision::Bf16, Level::Avx512Bf16) => Format::Pairs,
            (Precision::Bf16, _) => Format::Rounded,
        };
        Layout { isa, format }
    }

    fn words(self, k: usize) -> usize {
        if self.format == Format::Pairs { k.div_ceil(2) } else { k }
    }
}

#[derive(Clone, Copy)]
enum Side<'a> {
    Stored(Operand<'a>),
    /// All panels, as [`pack_left`] leaves them.
    Packed(&'a [u32]),
}

struct Part<'a> {
    a: Side<'a>,
    b: Operand<'a>,
}

/// Words `word..word + words` of one term; `at` words of the chain come before.
#[derive(Clone, Copy)]
struct Block {
    part: usize,
    word: usize,
    words: usize,
    at: usize,
}

struct Plan<'a> {
    layout: Layout,
    geometry: Geometry,
    parts: Vec<Part<'a>>,
    /// At least one, so that a sum of nothing is written too.
    blocks: Vec<Block>,
    /// All words of the chain.
    words: usize,
    full: Kernel,
    finish: Finish<'a>,
}

/// Panels first..first + count of an operand, packed: block after block, in each the panels one after another.
#[derive(Clone, Copy)]
struct Panels {
    first: usize,
    count: usize,
}

/// What a job reads of one side: the panels packed before, if they were, and which of them are its own.
#[derive(Clone, Copy)]
struct Share<'s> {
    all: Panels,
    packed: Option<&'s [u32]>,
    own: Panels,
}

/// Words that hold `m` rows of `k` elements as panels.
pub(super) fn packed_words(isa: Isa, precision: Precision, m: usize, k: usize) -> usize {
    let mr = geometry(isa.level(), usize::MAX).mr;
    m.div_ceil(mr) * mr * Layout::new(isa, precision).words(k)
}

/// Packs a checked left operand for several products.
pub(super) fn pack_left(isa: Isa, precision: Precision, pool: &Pool, a: &Operand, out: &mut [u32]) {
    let layout = Layout::new(isa, precision);
    let mr = geometry(isa.level(), usize::MAX).mr;
    let blocks = blocks([layout.words(a.k)].into_iter());
    let panels = Panels { first: 0, count: a.lines.div_ceil(mr) };
    pack_panels(layout, pool, &blocks, &|_| Some(a), panels, mr, out);
}

fn blocks(words: impl Iterator<Item = usize>) -> Vec<Block> {
    let (mut all, mut at) = (vec![], 0);
    for (part, of_part) in words.enumerate() {
        for word in (0..of_part).step_by(BLOCK) {
            let words = BLOCK.min(of_part - word);
            all.push(Block { part, word, words, at });
            at += words;
        }
    }
    if all.is_empty() {
        all.push(Block { part: 0, word: 0, words: 0, at: 0 });
    }
    all
}

/// Runs a checked product.
/// # Safety
/// The output is writable by this call alone.
pub(super) unsafe fn run(p: &Product, finish: Finish, isa: Isa, pool: &Pool) {
    let layout = Layout::new(isa, p.precision);
    let parts: Vec<_> = p
        .terms
        .iter()
        .map(|t| {
            let a = match t.a {
                Left::Matrix(a) => Side::Stored(Operand::left(&a, p.m, t.k)),
                Left::Packed(p) => Side::Packed(p.panels()),
            };
            Part { a, b: Operand::right(&t.b, p.n, t.k) }
        })
        .collect();
    let blocks = blocks(p.terms.iter().map(|t| layout.words(t.k)));
    let words = blocks.last().map_or(0, |b| b.at + b.words);
    let geometry = geometry(isa.level(), p.n);
    let full = kernel(isa.level(), layout.format, geometry.nr, geometry.mr);
    let (rows, columns) = (p.m.div_ceil(geometry.mr), p.n.div_ceil(geometry.nr));
    let rows_at_once = (SHARED_A / (geometry.mr * words.max(1))).clamp(1, rows);
    let columns_at_once = (SHARED_B / (geometry.nr * words.max(1))).clamp(1, columns);
    let plan = Plan { layout, geometry, parts, blocks, words, full, finish };
    for first in (0..rows).step_by(rows_at_once) {
        let a = Panels { first, count: rows_at_once.min(rows - first) };
        plan.rows(pool, a, columns, columns_at_once);
    }
}

/// Packs panels of every term that has an operand to pack.
fn pack_panels<'o, 'v: 'o>(
    layout: Layout,
    pool: &Pool,
    blocks: &[Block],
    source: &(dyn Fn(usize) -> Option<&'o Operand<'v>> + Sync),
    panels: Panels,
    width: usize,
    out: &mut [u32],
) {
    let (len, base) = (out.len(), Shareable(out.as_mut_ptr()));
    let task = |i: usize| {
        for b in blocks.iter().filter(|b| b.words > 0) {
            let Some(source) = source(b.part) else { continue };
            let at = (b.at * panels.count + i * b.words) * width;
            assert!(at + b.words * width <= len);
            // SAFETY: inside `out` by the assertion; different panels and blocks lie apart.
            let panel = unsafe { std::slice::from_raw_parts_mut(base.get().add(at), b.words * width) };
            let strip = Strip { line: (panels.first + i) * width, width, word: b.word, words: b.words };
            pack(layout.isa, layout.format, source, strip, panel);
        }
    };
    if len * 4 < JOB_WORK {
        (0..panels.count).for_each(task);
    } else {
        pool.run(panels.count, &task);
    }
}

impl<'a> Plan<'a> {
    fn stored(&self, part: usize) -> Option<&Operand<'a>> {
        match &self.parts[part].a {
            Side::Stored(a) => Some(a),
            Side::Packed(_) => None,
        }
    }

    /// Pieces of the columns against one piece of the rows.
    fn rows(&self, pool: &Pool, a: Panels, columns: usize, columns_at_once: usize) {
        let per_tile = self.geometry.mr * self.geometry.nr * self.words.max(1);
        // Several jobs a thread keep the balance when one of them is held up.
        let jobs = (a.count * columns_at_once.min(columns) * per_tile / JOB_WORK).clamp(1, pool.threads() * 8);
        let jobs = if pool.threads() == 1 { 1 } else { jobs };
        let mut row_jobs = a.count.div_ceil((JOB_ROWS / self.geometry.mr).max(1));
        let column_jobs = jobs.div_ceil(row_jobs).clamp(1, columns_at_once);
        if column_jobs * row_jobs < jobs {
            row_jobs = jobs.div_ceil(column_jobs).clamp(row_jobs, a.count);
        }
        let any_stored = (0..self.parts.len()).any(|p| self.stored(p).is_some());
        let share_a = any_stored && (column_jobs > 1 || columns_at_once < columns);
        let share_b = row_jobs > 1;
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let a_words = if share_a { a.count * mr * self.words } else { 0 };
        let b_words = if share_b { columns_at_once * nr * self.words } else { 0 };
        with(&SHARED, a_words.next_multiple_of(16) + b_words, |shared| {
            let (a_panels, b_panels) = shared.split_at_mut(a_words.next_multiple_of(16));
            let a_packed = share_a.then(|| {
                let out = &mut a_panels[..a_words];
                pack_panels(self.layout, pool, &self.blocks, &|p| self.stored(p), a, mr, out);
                &a_panels[..a_words]
            });
            for first in (0..columns).step_by(columns_at_once) {
                let b = Panels { first, count: columns_at_once.min(columns - first) };
                let len = b.count * nr * self.words;
                if share_b {
                    let source = |p: usize| Some(&self.parts[p].b);
                    pack_panels(self.layout, pool, &self.blocks, &source, b, nr, &mut b_panels[..len]);
                }
                let b_packed = share_b.then(|| &b_panels[..len]);
                pool.run(row_jobs * column_jobs, &|job| {
                    let rows = part(a, job % row_jobs, row_jobs);
                    let columns = part(b, job / row_jobs, column_jobs);
                    if rows.count > 0 && columns.count > 0 {
                        let a = Share { all: a, packed: a_packed, own: rows };
                        self.job(a, Share { all: b, packed: b_packed, own: columns });
                    }
                });
            }
        });
    }

    /// The tiles of some rows and some columns, each side either packed before or packed here.
    ///
    /// Usually block by block, so that the rows of A stay in the cache for all columns. With few rows, column panel
    /// by column panel: weights are then read in whole rows, which is what the memory system likes best.
    fn job(&self, a: Share, b: Share) {
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let by_column = b.packed.is_none() && a.own.count <= FEW_ROWS;
        let longest = self.blocks.iter().map(|b| b.words).max().unwrap_or(0);
        let a_words = if by_column { self.words } else { longest };
        let a_room = if a.packed.is_none() { (a.own.count * mr * a_words).next_multiple_of(16) } else { 0 };
        let b_room = if b.packed.is_none() { (nr * longest).next_multiple_of(16) } else { 0 };
        let in_c = self.blocks.len() == 1 || matches!(self.finish.c, Target::F32(_)) && !self.finish.accumulate;
        let sums_stride = b.own.count * nr;
        let sums_room = if in_c { 0 } else { a.own.count * mr * sums_stride };
        with(&LOCAL, a_room + b_room + sums_room, |local| {
            let (a_local, local) = local.split_at_mut(a_room);
            let (b_local, sums) = local.split_at_mut(b_room);
            let sums = match self.finish.c {
                Target::F32(c) if in_c => Sums { p: c.get(), stride: self.finish.c_stride, row: 0, column: 0 },
                _ => {
                    let p = sums.as_mut_ptr().cast();
                    Sums { p, stride: sums_stride, row: a.own.first * mr, column: b.own.first * nr }
                }
            };
            let pack_a = |block: &Block, out: &mut [u32]| {
                let Some(source) = self.parts.get(block.part).and_then(|_| self.stored(block.part)) else { return };
                for i in 0..a.own.count {
                    let line = (a.own.first + i) * mr;
                    let strip = Strip { line, width: mr, word: block.word, words: block.words };
                    let to = &mut out[i * block.words * mr..(i + 1) * block.words * mr];
                    pack(self.layout.isa, self.layout.format, source, strip, to);
                }
            };
            let mut column = |block: usize, a_local: &[u32], j: usize| {
                let own = &self.blocks[block];
                let at = match b.packed {
                    Some(_) => (own.at * b.all.count + (j - b.all.first) * own.words) * nr,
                    None => 0,
                };
                let panel = match b.packed {
                    Some(all) => &all[at..at + own.words * nr],
                    None => {
                        if own.words > 0 {
                            let strip = Strip { line: j * nr, width: nr, word: own.word, words: own.words };
                            let to = &mut b_local[..own.words * nr];
                            pack(self.layout.isa, self.layout.format, &self.parts[own.part].b, strip, to);
                        }
                        &b_local[..own.words * nr]
                    }
                };
                self.tiles(block, self.a_panels(own, &a, a_local), a.own, panel, j, &sums);
            };
            let columns = b.own.first..b.own.first + b.own.count;
            if by_column {
                let place = |block: &Block| {
                    let from = block.at * a.own.count * mr;
                    from..from + block.words * a.own.count * mr
                };
                if a.packed.is_none() {
                    self.blocks.iter().for_each(|block| pack_a(block, &mut a_local[place(block)]));
                }
                for j in columns {
                    for (i, block) in self.blocks.iter().enumerate() {
                        column(i, if a.packed.is_none() { &a_local[place(block)] } else { &[] }, j);
                    }
                }
            } else {
                for (i, block) in self.blocks.iter().enumerate() {
                    if a.packed.is_none() {
                        pack_a(block, a_local);
                    }
                    columns.clone().for_each(|j| column(i, a_local, j));
                }
            }
        });
    }

    /// A job's panels of A of one block, wherever they were packed.
    fn a_panels<'s>(&'s self, block: &Block, a: &Share<'s>, local: &'s [u32]) -> &'s [u32] {
        let mr = self.geometry.mr;
        let len = a.own.count * block.words * mr;
        match (self.parts.get(block.part).map(|p| &p.a), a.packed) {
            (Some(Side::Packed(words)), _) => {
                let panels = self.finish.m.div_ceil(mr);
                let at = (block.word * panels + a.own.first * block.words) * mr;
                &words[at..at + len]
            }
            (_, Some(shared)) => {
                let at = (block.at * a.all.count + (a.own.first - a.all.first) * block.words) * mr;
                &shared[at..at + len]
            }
            _ => &local[..len],
        }
    }

    /// One panel of B against a run of panels of A.
    fn tiles(&self, block: usize, a: &[u32], rows: Panels, b: &[u32], column: usize, sums: &Sums) {
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let words = self.blocks[block].words;
        let last = block + 1 == self.blocks.len();
        let columns = nr.min(self.finish.n - column * nr);
        for i in 0..rows.count {
            let row = (rows.first + i) * mr;
            let live = mr.min(self.finish.m - row);
            let run =
                if live == mr { self.full } else { kernel(self.layout.isa.level(), self.layout.format, nr, live) };
            let panel = &a[i * words * mr..(i + 1) * words * mr];
            assert!(b.len() == words * nr);
            // SAFETY: the panels hold `words` steps by the two lines above; the tile lies inside C, which the caller
            // of `run` vouches for, and inside the job's sums; no other job has a tile at the same place; the kernel
            // is of the layout's set.
            unsafe {
                run(&Tile {
                    words,
                    a: panel.as_ptr(),
                    b: b.as_ptr(),
                    rows: live,
                    columns,
                    sums: sums.p.wrapping_add((row - sums.row) * sums.stride + column * nr - sums.column),
                    sums_stride: sums.stride,
                    add: block > 0,
                    finish: last.then_some((&self.finish, row, column * nr)),
                });
            }
        }
    }
}

/// Where a job's sums wait: element (row, column) of the product is the first.
struct Sums {
    p: *mut f32,
    stride: usize,
    row: usize,
    column: usize,
}

/// Part `i` of `parts` of the panels, as even as whole panels allow.
fn part(panels: Panels, i: usize, parts: usize) -> Panels {
    let (from, to) = (panels.count * i / parts, panels.count * (i + 1) / parts);
    Panels { first: panels.first + from, count: to - from }
}
