//! Cuts a product into blocks that fit the caches, packs what several threads read once, and hands tiles to the pool.
//! How it cuts affects speed only: blocks of k have one fixed length, and each tile adds its blocks in order.
use super::pack::{Operand, Strip, pack};
use super::tile::{Format, Geometry, Kernel, Tile, geometry, kernel};
use super::{Gemm, Precision};
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

struct Plan<'a> {
    isa: Isa,
    format: Format,
    geometry: Geometry,
    a: Operand<'a>,
    b: Operand<'a>,
    /// All words of k, and blocks of them (at least one, so that k = 0 still writes).
    words: usize,
    blocks: usize,
    full: Kernel,
    alpha: f32,
    accumulate: bool,
    c: Shareable<f32>,
    c_stride: usize,
}

/// Panels first..first + count of an operand, packed: block after block, in each the panels one after another.
#[derive(Clone, Copy)]
struct Panels {
    first: usize,
    count: usize,
}

pub(super) fn run(g: &Gemm, isa: Isa, pool: &Pool, c: Shareable<f32>, c_stride: usize) {
    let format = match (g.precision, isa.level()) {
        (Precision::F32, _) => Format::F32,
        (Precision::Bf16, Level::Avx512Bf16) => Format::Pairs,
        (Precision::Bf16, _) => Format::Rounded,
    };
    let words = if format == Format::Pairs { g.k.div_ceil(2) } else { g.k };
    let geometry = geometry(isa.level(), g.n);
    let plan = Plan {
        isa,
        format,
        geometry,
        a: Operand::left(&g.a, g.m, g.k),
        b: Operand::right(&g.b, g.n, g.k),
        words,
        blocks: words.div_ceil(BLOCK).max(1),
        full: kernel(isa.level(), format, geometry.nr, geometry.mr),
        alpha: g.alpha,
        accumulate: g.accumulate,
        c,
        c_stride,
    };
    let (rows, columns) = (g.m.div_ceil(geometry.mr), g.n.div_ceil(geometry.nr));
    let rows_at_once = (SHARED_A / (geometry.mr * words.max(1))).clamp(1, rows);
    let columns_at_once = (SHARED_B / (geometry.nr * words.max(1))).clamp(1, columns);
    for first in (0..rows).step_by(rows_at_once) {
        let a = Panels { first, count: rows_at_once.min(rows - first) };
        plan.rows(pool, a, columns, columns_at_once);
    }
}

impl Plan<'_> {
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
        let share_a = column_jobs > 1 || columns_at_once < columns;
        let share_b = row_jobs > 1;
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let a_words = if share_a { a.count * mr * self.words } else { 0 };
        let b_words = if share_b { columns_at_once * nr * self.words } else { 0 };
        with(&SHARED, a_words.next_multiple_of(16) + b_words, |shared| {
            let (a_panels, b_panels) = shared.split_at_mut(a_words.next_multiple_of(16));
            let a_packed = share_a.then(|| {
                self.pack_panels(pool, &self.a, a, mr, &mut a_panels[..a_words]);
                &a_panels[..a_words]
            });
            for first in (0..columns).step_by(columns_at_once) {
                let b = Panels { first, count: columns_at_once.min(columns - first) };
                let len = b.count * nr * self.words;
                if share_b {
                    self.pack_panels(pool, &self.b, b, nr, &mut b_panels[..len]);
                }
                let b_packed = share_b.then(|| &b_panels[..len]);
                pool.run(row_jobs * column_jobs, &|job| {
                    let rows = part(a, job % row_jobs, row_jobs);
                    let columns = part(b, job / row_jobs, column_jobs);
                    if rows.count > 0 && columns.count > 0 {
                        self.job((a, a_packed, rows), (b, b_packed, columns));
                    }
                });
            }
        });
    }

    fn block(&self, block: usize) -> (usize, usize) {
        let first = block * BLOCK;
        (first, BLOCK.min(self.words - first))
    }

    fn pack_panels(&self, pool: &Pool, source: &Operand, panels: Panels, width: usize, out: &mut [u32]) {
        let (len, base) = (out.len(), Shareable(out.as_mut_ptr()));
        let task = |i: usize| {
            for block in 0..self.blocks {
                let (word, words) = self.block(block);
                let at = (word * panels.count + i * words) * width;
                assert!(at + words * width <= len);
                // SAFETY: inside `out` by the assertion; different panels and blocks lie apart.
                let panel = unsafe { std::slice::from_raw_parts_mut(base.get().add(at), words * width) };
                let strip = Strip { line: (panels.first + i) * width, width, word, words };
                pack(self.isa, self.format, source, strip, panel);
            }
        };
        if len * 4 < JOB_WORK {
            (0..panels.count).for_each(task);
        } else {
            pool.run(panels.count, &task);
        }
    }

    /// The tiles of some rows and some columns, each side either packed before or packed here.
    ///
    /// Usually block by block, so that the rows of A stay in the cache for all columns. With few rows, column panel
    /// by column panel: weights are then read in whole rows, which is what the memory system likes best.
    fn job(&self, a: (Panels, Option<&[u32]>, Panels), b: (Panels, Option<&[u32]>, Panels)) {
        let ((all_a, a_packed, rows), (all_b, b_packed, columns)) = (a, b);
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let by_column = b_packed.is_none() && rows.count <= FEW_ROWS;
        let longest = BLOCK.min(self.words);
        let a_words = if by_column { self.words } else { longest };
        let a_room = if a_packed.is_none() { (rows.count * mr * a_words).next_multiple_of(16) } else { 0 };
        let b_room = if b_packed.is_none() { nr * longest } else { 0 };
        with(&LOCAL, a_room + b_room, |local| {
            let (a_local, b_local) = local.split_at_mut(a_room);
            let pack_a = |block: usize, out: &mut [u32]| {
                let (word, words) = self.block(block);
                for i in 0..rows.count {
                    let strip = Strip { line: (rows.first + i) * mr, width: mr, word, words };
                    pack(self.isa, self.format, &self.a, strip, &mut out[i * words * mr..(i + 1) * words * mr]);
                }
            };
            let shared_a = |block: usize| {
                let (word, words) = self.block(block);
                let at = (word * all_a.count + (rows.first - all_a.first) * words) * mr;
                at..at + rows.count * words * mr
            };
            let mut column = |block: usize, a_block: &[u32], j: usize| {
                let (word, words) = self.block(block);
                match b_packed {
                    Some(all) => {
                        let at = (word * all_b.count + (j - all_b.first) * words) * nr;
                        self.tiles(block, words, a_block, rows, &all[at..at + words * nr], j);
                    }
                    None => {
                        let panel = &mut b_local[..words * nr];
                        let strip = Strip { line: j * nr, width: nr, word, words };
                        pack(self.isa, self.format, &self.b, strip, panel);
                        self.tiles(block, words, a_block, rows, panel, j);
                    }
                }
            };
            let columns = columns.first..columns.first + columns.count;
            if by_column {
                let local_a = |block: usize| {
                    let (word, words) = self.block(block);
                    word * rows.count * mr..(word + words) * rows.count * mr
                };
                if a_packed.is_none() {
                    for block in 0..self.blocks {
                        pack_a(block, &mut a_local[local_a(block)]);
                    }
                }
                for j in columns {
                    for block in 0..self.blocks {
                        let a_block = match a_packed {
                            Some(all) => &all[shared_a(block)],
                            None => &a_local[local_a(block)],
                        };
                        column(block, a_block, j);
                    }
                }
            } else {
                for block in 0..self.blocks {
                    let a_block = match a_packed {
                        Some(all) => &all[shared_a(block)],
                        None => {
                            pack_a(block, a_local);
                            &a_local[..rows.count * self.block(block).1 * mr]
                        }
                    };
                    columns.clone().for_each(|j| column(block, a_block, j));
                }
            }
        });
    }

    /// One panel of B against a run of panels of A.
    fn tiles(&self, block: usize, words: usize, a: &[u32], rows: Panels, b: &[u32], column: usize) {
        let (mr, nr) = (self.geometry.mr, self.geometry.nr);
        let columns = nr.min(self.b.lines - column * nr);
        for i in 0..rows.count {
            let row = (rows.first + i) * mr;
            let live = mr.min(self.a.lines - row);
            let run = if live == mr { self.full } else { kernel(self.isa.level(), self.format, nr, live) };
            let panel = &a[i * words * mr..(i + 1) * words * mr];
            assert!(b.len() == words * nr);
            // SAFETY: the panels hold `words` steps by the two lines above; the tile lies inside C, which
            // `Gemm::run_at`'s caller vouches for, and no other job has a tile at the same place; the kernel is of `isa`.
            unsafe {
                run(&Tile {
                    words,
                    a: panel.as_ptr(),
                    b: b.as_ptr(),
                    c: self.c.get().add(row * self.c_stride + column * nr),
                    c_stride: self.c_stride,
                    rows: live,
                    columns,
                    alpha: self.alpha,
                    add: self.accumulate || block > 0,
                });
            }
        }
    }
}

/// Part `i` of `parts` of the panels, as even as whole panels allow.
fn part(panels: Panels, i: usize, parts: usize) -> Panels {
    let (from, to) = (panels.count * i / parts, panels.count * (i + 1) / parts);
    Panels { first: panels.first + from, count: to - from }
}
