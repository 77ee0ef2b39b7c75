//! Products on vector registers: cuts a product into blocks that fit the caches, packs what several threads read once,
//! and hands tiles to the pool. How it cuts affects speed only: every term's k is cut into blocks of one fixed length,
//! each block is summed by itself, and an element's blocks are added in order.
//!
//! A job is all rows by some hundred columns (columns are scarce: some rows by those). Block by block of k it packs its
//! columns of B, which stay in the second-level cache, and runs over the rows, some at a time: those stay there too
//! while a panel of B waits in the first-level cache for all of them. Rows that are f32 and lie along k are read where
//! they lie; others are packed before.
//!
//! Sums wait between blocks in C where that is free to hold them (an f32 output that does not accumulate), otherwise in
//! a block of the job's own; the last block applies the epilogue on the way to C.
use super::pack::{Operand, Strip, pack};
use super::product::{Finish, Left, Product, Target};
use super::tile::{Format, Geometry, Kernel, Tile, geometry, height, kernel, prefetch};
use super::{Matrix, Precision, Values};
use crate::isa::Level;
use crate::pool::Shareable;
use crate::scratch::{LOCAL, SHARED, with};
use crate::{Isa, Pool};

/// Words of k (an f32 or a bf16 pair each) in one block. Part of the result's definition: never tuned at run time.
/// A panel of B is 24 KiB at 16 columns and 48 KiB at 32; a panel of A 9 KiB at 6 rows and 21 KiB at 14.
const BLOCK: usize = 384;
/// Rows that a job takes at a time: 126 rows of one block are 189 KiB.
const CHUNK_ROWS: usize = 126;
/// Columns of a job: 384 of one block are 576 KiB. Fewer, and rows that come from memory are not used long enough (192
/// columns cost 3 to 8 %); with the rows they fit second-level caches of 1 MiB.
const JOB_COLUMNS: usize = 384;
/// Rows up to which a job keeps sums that cannot wait in C: 3 MiB a thread.
const SUM_ROWS: usize = 2048;
/// Panels whose columns are packed in turn, so many words at a time.
const GROUP: usize = 4;
const STEP: usize = 64;
/// Words between rows that are a multiple of this put all rows at the same place of the caches.
const ALIASED: usize = 1024;
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
    /// To be packed.
    Stored(Operand<'a>),
    /// Read where it lies: rows of f32 along k, and the words between them.
    InPlace(&'a [f32], usize),
    /// All panels, as [`pack_left`] leaves them.
    Packed(&'a [u32]),
}

#[derive(Clone, Copy)]
struct Part<'a> {
    a: Side<'a>,
    b: Operand<'a>,
}

/// Rows of one block of A, as a tile's kernel takes them.
#[derive(Clone, Copy)]
enum Rows<'s> {
    /// Panels of `mr` rows one after another.
    Panels(&'s [u32]),
    /// In place: the first element and the words between rows.
    InPlace(&'s [f32], usize),
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
    /// Sums wait in C itself.
    in_c: bool,
    /// For a panel of all its rows, and for as many rows in place.
    full: [Kernel; 2],
    finish: Finish<'a>,
}

/// Panels first..first + count of an operand, packed: block after block, in each the panels one after another.
#[derive(Clone, Copy)]
struct Panels {
    first: usize,
    count: usize,
}

impl Panels {
    /// These panels, up to `count` at a time.
    fn by(self, count: usize) -> impl Iterator<Item = Panels> {
        let end = self.first + self.count;
        (self.first..end).step_by(count.max(1)).map(move |first| Panels { first, count: count.min(end - first) })
    }
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

/// Whether the kernels can read rows of this left operand as they lie, at the speed of a panel.
fn in_place(layout: Layout, a: &Matrix) -> bool {
    layout.format == Format::F32 && !a.transposed && !a.stride.is_multiple_of(ALIASED)
}

impl Part<'_> {
    fn is_stored(&self) -> bool {
        matches!(self.a, Side::Stored(_))
    }
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
                Left::Matrix(a) => match a.values {
                    Values::F32(v) if in_place(layout, &a) => Side::InPlace(v, a.stride),
                    _ => Side::Stored(Operand::left(&a, p.m, t.k)),
                },
                Left::Packed(p) => Side::Packed(p.panels()),
            };
            Part { a, b: Operand::right(&t.b, p.n, t.k) }
        })
        .collect();
    let blocks = blocks(p.terms.iter().map(|t| layout.words(t.k)));
    let words = blocks.last().map_or(0, |b| b.at + b.words);
    let geometry = geometry(isa.level(), p.n);
    let full = [false, true].map(|in_place| {
        let in_place = in_place && layout.format == Format::F32;
        kernel(isa.level(), layout.format, geometry.nr, geometry.mr, in_place)
    });
    let (rows, columns) = (p.m.div_ceil(geometry.mr), p.n.div_ceil(geometry.nr));
    let in_c = blocks.len() == 1 || matches!(finish.c, Target::F32(_)) && !finish.accumulate;
    let to_pack: usize =
        blocks.iter().filter(|b| parts.get(b.part).is_some_and(Part::is_stored)).map(|b| b.words).sum();
    let rows_at_once =
        (SHARED_A / (geometry.mr * to_pack.max(1))).min(if in_c { rows } else { SUM_ROWS / geometry.mr });
    let rows_at_once = rows_at_once.clamp(1, rows);
    let columns_at_once = (SHARED_B / (geometry.nr * words.max(1))).clamp(1, columns);
    let columns_at_once = columns.div_ceil(columns.div_ceil(columns_at_once));
    let plan = Plan { layout, geometry, parts, blocks, words, full, in_c, finish };
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
            Side::InPlace(..) | Side::Packed(_) => None,
        }
    }

    /// Into how many ranges of rows and of columns some panels are cut. Speed only.
    ///
    /// Jobs are as wide as a job should be, and as many as keep all threads busy to the end.
    fn grid(&self, threads: usize, rows: usize, columns: usize) -> (usize, usize) {
        let wide = JOB_COLUMNS / self.geometry.nr;
        let work = rows * columns * self.geometry.mr * self.geometry.nr * self.words.max(1);
        let rounds = if rows <= FEW_ROWS { 8 } else { 2 };
        let wanted = if threads == 1 { 1 } else { (work / JOB_WORK).clamp(1, threads * rounds) };
        let mut column_jobs = columns.div_ceil(wide);
        if column_jobs < wanted && (rows <= FEW_ROWS || columns >= wanted * wide / 2) {
            column_jobs = wanted.min(columns);
        }
        if column_jobs >= wanted {
            // whole rounds for all threads
            let even = column_jobs.next_multiple_of(wanted.min(threads));
            return (1, if columns >= even { even } else { column_jobs });
        }
        // Few rows: then narrow jobs, each of which packs its own columns.
        let row_jobs = wanted.div_ceil(column_jobs).min(rows.div_ceil(CHUNK_ROWS / self.geometry.mr / 2));
        (row_jobs, wanted.div_ceil(row_jobs).clamp(column_jobs, columns))
    }

    /// Pieces of the columns against one piece of the rows.
    fn rows(&self, pool: &Pool, a: Panels, columns: usize, columns_at_once: usize) {
        let (mut row_jobs, mut column_jobs) = self.grid(pool.threads(), a.count, columns);
        // Only panels of B that jobs share are limited in number.
        let columns_at_once = if row_jobs == 1 { columns } else { columns_at_once };
        if columns_at_once < columns {
            (row_jobs, column_jobs) = self.grid(pool.threads(), a.count, columns_at_once);
        }
        let share_a = self.parts.iter().any(Part::is_stored) && (column_jobs > 1 || columns_at_once < columns);
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
    /// Usually block by block. With few rows, column panel by column panel: weights are then read in whole rows, which
    /// is what the memory system likes best.
    fn job(&self, a: Share, b: Share) {
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let by_column = b.packed.is_none() && a.own.count <= FEW_ROWS;
        let strip = if by_column { 1 } else { b.own.count };
        let longest = self.blocks.iter().map(|b| b.words).max().unwrap_or(0);
        // As even as they come: a last run of few rows would use each panel of B too little.
        let runs = (a.own.count * mr + CHUNK_ROWS / 2) / CHUNK_ROWS;
        let chunk = a.own.count.div_ceil(runs.max(1));
        let pack_a = a.packed.is_none() && self.parts.iter().any(Part::is_stored);
        let a_words = if by_column { self.words } else { longest };
        let a_room = if pack_a { (chunk * mr * a_words).next_multiple_of(16) } else { 0 };
        let b_room = if b.packed.is_none() { (strip * nr * longest).next_multiple_of(16) } else { 0 };
        let sums_stride = b.own.count * nr;
        let sums_room = if self.in_c { 0 } else { a.own.count * mr * sums_stride };
        with(&LOCAL, a_room + b_room + sums_room, |local| {
            let (a_local, local) = local.split_at_mut(a_room);
            let (b_local, sums) = local.split_at_mut(b_room);
            let sums = match self.finish.c {
                Target::F32(c) if self.in_c => Sums { p: c.get(), stride: self.finish.c_stride, row: 0, column: 0 },
                _ => {
                    let p = sums.as_mut_ptr().cast();
                    Sums { p, stride: sums_stride, row: a.own.first * mr, column: b.own.first * nr }
                }
            };
            let a_at = |block: &Block, rows: Panels| {
                let from = if by_column { block.at * rows.count * mr } else { 0 };
                from..from + block.words * rows.count * mr
            };
            if pack_a && by_column {
                self.blocks.iter().for_each(|block| self.pack_rows(block, a.own, &mut a_local[a_at(block, a.own)]));
            }
            for columns in b.own.by(strip) {
                for (i, block) in self.blocks.iter().enumerate() {
                    let all = match b.packed {
                        Some(packed) => {
                            let from = block.at * b.all.count * nr;
                            (&packed[from..from + block.words * b.all.count * nr], b.all.first)
                        }
                        None => {
                            let out = &mut b_local[..columns.count * block.words * nr];
                            self.pack_columns(block, columns, out);
                            (&*out, columns.first)
                        }
                    };
                    for rows in a.own.by(chunk) {
                        if pack_a && !by_column {
                            self.pack_rows(block, rows, &mut a_local[a_at(block, rows)]);
                        }
                        let packed = if pack_a { &a_local[a_at(block, rows)] } else { &[] };
                        let rows_of_a = self.rows_of(block, &a, rows, packed);
                        for j in columns.first..columns.first + columns.count {
                            let at = (j - all.1) * block.words * nr;
                            let panel = &all.0[at..at + block.words * nr];
                            self.tiles(i, rows_of_a, rows, panel, j, j == columns.first, &sums);
                        }
                    }
                }
            }
        });
    }

    /// Packs a job's columns of one block.
    fn pack_columns(&self, block: &Block, columns: Panels, out: &mut [u32]) {
        let Some(source) = self.parts.get(block.part).map(|p| &p.b).filter(|_| block.words > 0) else { return };
        let nr = self.geometry.nr;
        // Where columns lie side by side, neighbours are packed in turn: their rows share pages and cache lines.
        let step = if source.lines_are_rows { block.words } else { STEP };
        for group in columns.by(GROUP) {
            for word in (0..block.words).step_by(step) {
                let words = step.min(block.words - word);
                for j in group.first..group.first + group.count {
                    let strip = Strip { line: j * nr, width: nr, word: block.word + word, words };
                    let at = ((j - columns.first) * block.words + word) * nr;
                    pack(self.layout.isa, self.layout.format, source, strip, &mut out[at..at + words * nr]);
                }
            }
        }
    }

    /// Packs some rows of one block, if its operand is there to be packed.
    fn pack_rows(&self, block: &Block, rows: Panels, out: &mut [u32]) {
        let Some(source) = self.parts.get(block.part).and_then(|_| self.stored(block.part)) else { return };
        let mr = self.geometry.mr;
        for (i, to) in out.chunks_exact_mut((block.words * mr).max(1)).enumerate() {
            let strip = Strip { line: (rows.first + i) * mr, width: mr, word: block.word, words: block.words };
            pack(self.layout.isa, self.layout.format, source, strip, to);
        }
    }

    /// Some of a job's rows in one block, wherever they are.
    fn rows_of<'s>(&'s self, block: &Block, a: &Share<'s>, rows: Panels, local: &'s [u32]) -> Rows<'s> {
        let mr = self.geometry.mr;
        let len = rows.count * block.words * mr;
        match (self.parts.get(block.part).map(|p| &p.a), a.packed) {
            (Some(Side::InPlace(values, stride)), _) => {
                // An operand of no k may have no values at all.
                Rows::InPlace(values.get(rows.first * mr * stride + block.word..).unwrap_or(&[]), *stride)
            }
            (Some(Side::Packed(words)), _) => {
                let panels = self.finish.m.div_ceil(mr);
                let at = (block.word * panels + rows.first * block.words) * mr;
                Rows::Panels(&words[at..at + len])
            }
            (_, Some(shared)) => {
                let at = (block.at * a.all.count + (rows.first - a.all.first) * block.words) * mr;
                Rows::Panels(&shared[at..at + len])
            }
            _ => Rows::Panels(&local[..len]),
        }
    }

    /// One panel of B against a run of rows; `new` ones are asked for a panel ahead.
    #[expect(clippy::too_many_arguments, reason = "the place of a tile in the product")]
    fn tiles(&self, block: usize, a: Rows, rows: Panels, b: &[u32], column: usize, new: bool, sums: &Sums) {
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let (level, format) = (self.layout.isa.level(), self.layout.format);
        let words = self.blocks[block].words;
        let last = block + 1 == self.blocks.len();
        let columns = nr.min(self.finish.n - column * nr);
        assert!(b.len() == words * nr);
        let (first, end) = (rows.first * mr, ((rows.first + rows.count) * mr).min(self.finish.m));
        let mut row = first;
        while row < end {
            let live = mr.min(end - row);
            let (from, a_stride, live) = match a {
                Rows::Panels(panels) => (panels[(row - first) * words..][..words * mr].as_ptr(), 0, live),
                Rows::InPlace(values, stride) => {
                    let live = height(level, live);
                    assert!(words == 0 || (row - first + live - 1) * stride + words <= values.len());
                    if new {
                        for i in row + live..(row + live + mr).min(end) {
                            let next = values.as_ptr().wrapping_add((i - first) * stride);
                            (0..words).step_by(16).for_each(|w| prefetch::<true>(next.wrapping_add(w).cast()));
                        }
                    }
                    (values.as_ptr().wrapping_add((row - first) * stride).cast(), stride, live)
                }
            };
            let in_place = matches!(a, Rows::InPlace(..));
            let run =
                if live == mr { self.full[usize::from(in_place)] } else { kernel(level, format, nr, live, in_place) };
            // SAFETY: the panels, or the rows in place, hold `words` steps by the lines above; the tile lies inside C,
            // which the caller of `run` vouches for, and inside the job's sums; no other job has a tile at the same
            // place; the kernel is of the layout's set.
            unsafe {
                run(&Tile {
                    words,
                    a: from,
                    a_stride,
                    b: b.as_ptr(),
                    rows: live,
                    columns,
                    sums: sums.p.wrapping_add((row - sums.row) * sums.stride + column * nr - sums.column),
                    sums_stride: sums.stride,
                    add: block > 0,
                    finish: last.then_some((&self.finish, row, column * nr)),
                });
            }
            row += live;
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
