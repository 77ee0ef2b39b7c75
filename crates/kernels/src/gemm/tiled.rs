//! Products of bf16 on matrix tiles (AMX). Takes checked products, cuts them into blocks that fit the caches, packs,
//! multiplies 32 x 32 blocks of sums and finishes each while it is hot. How it cuts affects speed only.
//!
//! The tile product has a left and a right factor; which operand plays which is free, since a product's transpose has
//! the same sums, and is chosen so that the larger operand needs no transposition ([`amx_pack`](super::amx_pack)): x·Wᵀ
//! with few rows runs as W·xᵀ and is turned when written. Likewise free is which factor is packed once for all tasks:
//!
//! * wide: the left factor is packed once; a task owns a strip of panels of the right factor, packs it into its own
//!   second-level cache (block of k by block of k) and walks over the panels of the left;
//! * narrow: the right factor has few panels and is packed once; a task owns some panels of the left and packs each
//!   just before use.
//!
//! A left factor of bf16 rows is not packed at all where it can be read in place ([`in_place`]): 16 rows of 64 bytes are a
//! tile whatever their distance, and reading them so costs nothing (4.7 against 4.65 TFLOP/s). Only a last panel with
//! fewer than 32 lines is packed, because a tile reads all of its rows.
//!
//! Every element is one chain over all terms and their k in order, two products a step of the multiplier. Between
//! blocks of k the sums leave the tile registers as f32 and come back unchanged, so the chain, and with it the result,
//! is the same for every cut.
//!
//! Measured on two Sapphire Rapids cores (7.6 TFLOP/s from L1, both threads), the bare loops with the left factor in
//! memory and a strip of the right one in L2:
//!
//! * whole chains of 48 steps, both factors from L2: 3.8. A panel of the left factor held in L1 for 9 steps while the
//!   strip goes past: 4.3. The factors are not the bound there (the loop without sums runs at 7.3), the sums are: each
//!   block's 4 KiB go out and come back every 9 steps, and leave L1 in between.
//! * 16 steps, the strip loaded with the hint not to stay in L1 (which would push the held panel out: 3.8 without the
//!   hint), the next block of sums fetched into L1 meanwhile: 4.8.
//! * the next left panel fetched into L2 meanwhile is worth 15 %; the strip fetched into L1 ahead of use, huge pages and
//!   two left panels held with half the steps (3.9) are worth nothing. A strip of 1.5 MiB costs a third.
use super::Values;
use super::amx_pack::{Area, Form, LINES, STEP_WORDS, pack, turn};
use super::amx_write::write;
use super::pack::Operand;
use super::product::{Finish, Left, Product};
use crate::Pool;
use crate::amx::{self, Config, Lines};
use crate::pool::Shareable;
use crate::scratch::{LOCAL, SHARED, with};
use std::ops::Range;

/// Steps of k (of 32) that a panel of the left factor is held in L1 for: 34 of 48 KiB at most.
const HELD_STEPS: usize = 17;
/// Steps of k in one block: sums are loaded and stored once a block, 8 KiB for 192 KiB of factors.
const BLOCK_STEPS: usize = 48;
/// Words of the right factor's strip in L2.
const STRIP_WORDS: usize = 192 << 10;
/// Words of sums a task keeps while it goes through blocks of k (4 MiB).
const SUM_WORDS: usize = 1 << 20;
/// Panels of the right factor up to which it is packed once and the left one just before use.
const NARROW: usize = 8;
/// Panels of the left factor that count as few: their sums of a wide strip stay in L2.
const FEW_PANELS: usize = 4;
/// Words of factors packed at once for all tasks (64 MiB).
const SHARED_WORDS: usize = 16 << 20;
/// Multiply-adds worth a task of their own: some microseconds.
const TASK_WORK: usize = 8 << 20;
/// Words worth packing on several threads.
const PACK_WORDS: usize = 32 << 10;
/// Steps that lines are fetched ahead of being packed.
const AHEAD: usize = 6;
const BLOCK_WORDS: usize = LINES * LINES;

/// Words that hold `m` lines of `k` elements as panels.
pub(super) fn packed_words(m: usize, k: usize) -> usize {
    m.div_ceil(LINES) * k.div_ceil(32) * STEP_WORDS
}

/// Packs a left operand for several products, in the form of the left factor.
/// # Safety
/// The machine has AMX, the operand has been checked, and `out` holds [`packed_words`].
pub(super) unsafe fn pack_left(pool: &Pool, source: &Operand, out: &mut [u32]) {
    let steps = source.k.div_ceil(32);
    assert!(out.len() == packed_words(source.lines, source.k));
    if out.is_empty() {
        return;
    }
    let (panels, base) = (source.lines.div_ceil(LINES), Shareable(out.as_mut_ptr()));
    let units = units(panels);
    loops(pool, units.count, out.len(), &|u| {
        let own = units.range(u);
        let area = Area { panel: own.start, panels: own.len(), step: 0, steps, ahead: AHEAD };
        // SAFETY: as the caller vouches; units are apart in `out`.
        unsafe { pack(source, Form::Lines, area, base.get().add(own.start * steps * STEP_WORDS), steps) };
    });
}

/// A loop over packing units, on this thread when there is little to do.
fn loops(pool: &Pool, count: usize, words: usize, task: &(dyn Fn(usize) + Sync)) {
    if words < PACK_WORDS {
        (0..count).for_each(task);
    } else {
        pool.run(count, task);
    }
}

/// `total` things in `count` runs, as even as whole things allow.
#[derive(Clone, Copy)]
struct Cut {
    total: usize,
    count: usize,
}

impl Cut {
    fn range(self, i: usize) -> Range<usize> {
        self.total * i / self.count..self.total * (i + 1) / self.count
    }
    fn longest(self) -> usize {
        self.total.div_ceil(self.count)
    }
}

/// Panels in runs for packing: long enough to read stored rows in pieces of 256 bytes, enough of them for the threads.
fn units(panels: usize) -> Cut {
    Cut { total: panels, count: if panels < 16 { panels } else { panels.div_ceil(4) } }
}

/// Where a factor's lines come from.
#[derive(Clone, Copy)]
enum Side<'a> {
    Stored(Operand<'a>),
    /// Packed in the form of the left factor.
    Packed(&'a [u32]),
}

/// Whether the multiplier reads 32 lines of an operand as a left factor where they lie: rows of bf16 in whole steps that
/// start on cache lines and, held for [`HELD_STEPS`], do not push each other out of L1 (sets repeat every 4 KiB).
pub(super) fn in_place(source: &Operand) -> bool {
    let Values::Bf16(v) = source.values else { return false };
    let bytes = 2 * source.stride;
    let aligned = v.as_ptr().addr().is_multiple_of(64) && bytes.is_multiple_of(64);
    source.lines_are_rows && source.k.is_multiple_of(32) && aligned && !bytes.is_multiple_of(2048)
}

impl Side<'_> {
    /// # Safety
    /// As [`pack`]; a packed side is turned, so it must be wanted as a right factor.
    unsafe fn pack(&self, form: Form, area: Area, all_steps: usize, out: *mut u32, stride: usize) {
        match self {
            // SAFETY: passed on.
            Side::Stored(source) => unsafe { pack(source, form, area, out, stride) },
            Side::Packed(words) => {
                for p in 0..area.panels {
                    let from = ((area.panel + p) * all_steps + area.step) * STEP_WORDS;
                    let from = words[from..from + area.steps * STEP_WORDS].as_ptr();
                    // SAFETY: inside the slice by the line above; `out` is the caller's word.
                    unsafe { turn(from, out.add(p * stride * STEP_WORDS), area.steps * 2) };
                }
            }
        }
    }
}

/// One term: its factors and its place in the chain.
struct Part<'a> {
    left: Side<'a>,
    /// Whole panels of the left factor are read where they lie.
    in_place: bool,
    right: Side<'a>,
    first: usize,
    steps: usize,
}

/// A product, cut.
pub(super) struct Plan<'a> {
    finish: Finish<'a>,
    parts: Vec<Part<'a>>,
    steps: usize,
    /// The left factor is b, and the sums are written transposed.
    turned: bool,
    narrow: bool,
    left_panels: usize,
    right_panels: usize,
    /// Panels of the left factor that have all their lines.
    whole: usize,
    /// Steps of k in blocks.
    blocks: Cut,
    /// The panels of the factor that tasks divide among them.
    strips: Cut,
}

/// Some panels of a plan's left factor (all of them when narrow), with a place for what is packed once.
struct Piece<'p, 'a> {
    plan: &'p Plan<'a>,
    left: Range<usize>,
    /// Panels packed once for all tasks: some of `left`, or, narrow, all of the right factor.
    packed: Range<usize>,
    tasks: usize,
    chunks: Cut,
}

impl<'a> Plan<'a> {
    /// The product has been checked; `threads` guides the cut.
    pub(super) fn new(p: &Product<'a>, finish: Finish<'a>, threads: usize) -> Plan<'a> {
        let steps: usize = p.terms.iter().map(|t| t.k.div_ceil(32)).sum();
        let turned = turned(p);
        let mut first = 0;
        let parts = p.terms.iter().filter(|t| t.k > 0).map(|t| {
            let a = match t.a {
                Left::Matrix(a) => Side::Stored(Operand::left(&a, p.m, t.k)),
                Left::Packed(p) => Side::Packed(p.panels()),
            };
            let b = Side::Stored(Operand::right(&t.b, p.n, t.k));
            let (left, right) = if turned { (b, a) } else { (a, b) };
            let steps = t.k.div_ceil(32);
            first += steps;
            let in_place = matches!(&left, Side::Stored(source) if in_place(source));
            Part { left, in_place, right, first: first - steps, steps }
        });
        let parts: Vec<_> = parts.collect();
        let (rows, columns) = (p.m.div_ceil(LINES), p.n.div_ceil(LINES));
        let (left_panels, right_panels) = if turned { (columns, rows) } else { (rows, columns) };
        let narrow = right_panels <= NARROW;
        // A strip of stored columns is read in pieces of its width: with few rows to multiply, rather wide than deep.
        let along = |p: &Part| matches!(&p.right, Side::Stored(b) if !b.lines_are_rows);
        let shallow = !narrow && left_panels <= FEW_PANELS && parts.iter().any(along);
        let deep = if shallow { HELD_STEPS } else { BLOCK_STEPS };
        let mut blocks = Cut { total: steps, count: steps.div_ceil(deep).max(1) };
        let work = left_panels * right_panels * LINES * LINES * 32 * steps;
        let most = (work / TASK_WORK).max(1);
        let strips = if narrow {
            // The right factor's block stays in L2 while a task goes over its panels of the left.
            let fit = (STRIP_WORDS / (right_panels * STEP_WORDS)).max(HELD_STEPS);
            blocks.count = blocks.count.max(steps.div_ceil(fit));
            let count = (threads * 6).min(most).max(left_panels.div_ceil(16)).min(left_panels);
            Cut { total: left_panels, count: if threads == 1 { left_panels.div_ceil(16) } else { count } }
        } else {
            let fit = (STRIP_WORDS / (blocks.longest().max(1) * STEP_WORDS)).max(1);
            let mut count = right_panels.div_ceil(fit);
            if threads > 1 {
                count = count.max((2 * threads).min(most)).next_multiple_of(threads).min(right_panels);
            }
            Cut { total: right_panels, count }
        };
        let whole = if turned { p.n } else { p.m } / LINES;
        Plan { finish, parts, steps, turned, narrow, left_panels, right_panels, whole, blocks, strips }
    }

    /// Panels of the left factor that some term needs packed.
    fn unready(&self) -> Range<usize> {
        let stored = |p: &Part| matches!(p.left, Side::Stored(_));
        let first = match self.parts.iter().find(|p| stored(p) && !p.in_place) {
            Some(_) => 0,
            None if self.parts.iter().any(stored) => self.whole,
            None => self.left_panels,
        };
        first..self.left_panels
    }

    /// Pieces whose shared factor fits the memory set aside.
    fn pieces(&self) -> Vec<Piece<'_, 'a>> {
        if self.narrow {
            let one = Cut { total: self.left_panels, count: 1 };
            let (left, packed) = (0..self.left_panels, 0..self.right_panels);
            return vec![Piece { plan: self, left, packed, tasks: self.strips.count, chunks: one }];
        }
        let unready = self.unready();
        let most = (SHARED_WORDS / (self.steps * STEP_WORDS).max(1)).max(1);
        let cut = Cut { total: self.left_panels, count: unready.len().div_ceil(most).max(1) };
        (0..cut.count)
            .map(|i| {
                let left = cut.range(i);
                // With several blocks of k, a task holds the sums of its panels.
                let most = if self.blocks.count > 1 {
                    (SUM_WORDS / (self.strips.longest() * BLOCK_WORDS)).max(1)
                } else {
                    left.len()
                };
                let chunks = Cut { total: left.len(), count: left.len().div_ceil(most) };
                let packed = left.start.max(unready.start)..left.end.max(unready.start);
                Piece { plan: self, left, packed, tasks: self.strips.count * chunks.count, chunks }
            })
            .collect()
    }
}

/// Whether to make b the left factor: what each way transposes, in elements. Writing sums transposed costs about twice
/// as much an element as packing crosswise, and packing a factor once for all tasks (the left one of a wide product,
/// unless it is read in place) about as much as a transposition.
fn turned(p: &Product) -> bool {
    let (rows, columns) = (p.m.div_ceil(LINES), p.n.div_ceil(LINES));
    let (mut as_is, mut turned) = (0, 2 * p.m * p.n);
    for t in p.terms {
        let (a, b) = (p.m * t.k, p.n * t.k);
        let (a_lines, a_ready) = match &t.a {
            Left::Packed(_) => (true, true),
            Left::Matrix(a) => (!a.transposed, in_place(&Operand::left(a, p.m, t.k))),
        };
        as_is += if a_lines { 0 } else { a } + if t.b.transposed { b } else { 0 };
        as_is += if columns > NARROW && !a_ready { a } else { 0 };
        turned += if a_lines { a } else { 0 } + if t.b.transposed { 0 } else { b };
        turned += if rows > NARROW && !in_place(&Operand::right(&t.b, p.n, t.k)) { b } else { 0 };
    }
    turned < as_is
}

/// Runs products whose plans were made for this machine.
/// # Safety
/// The machine has AMX, and the outputs of all plans are writable by this call alone.
pub(super) unsafe fn run(pool: &Pool, plans: &[Plan]) {
    let mut batch: Vec<Piece> = vec![];
    let mut words = 0;
    for piece in plans.iter().flat_map(Plan::pieces) {
        if words + piece.shared() > SHARED_WORDS && !batch.is_empty() {
            // SAFETY: passed on.
            unsafe { flush(pool, &batch) };
            batch.clear();
            words = 0;
        }
        words += piece.shared();
        batch.push(piece);
    }
    // SAFETY: passed on.
    unsafe { flush(pool, &batch) };
}

/// Running totals: the piece that index i of all pieces' work falls into, and its index there.
fn place(ends: &[usize], i: usize) -> (usize, usize) {
    let piece = ends.partition_point(|end| *end <= i);
    (piece, i - if piece == 0 { 0 } else { ends[piece - 1] })
}

fn totals(counts: impl Iterator<Item = usize>) -> Vec<usize> {
    counts
        .scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        })
        .collect()
}

/// # Safety
/// As [`run`].
unsafe fn flush(pool: &Pool, batch: &[Piece]) {
    let words = totals(batch.iter().map(Piece::shared));
    let packing = totals(batch.iter().map(|p| if p.shared() == 0 { 0 } else { units(p.packed.len()).count }));
    let tasks = totals(batch.iter().map(|p| p.tasks));
    let (Some(all), Some(units), Some(tasks_in_all)) = (words.last(), packing.last(), tasks.last()) else { return };
    with(&SHARED, *all, |shared| {
        let base = Shareable(shared.as_mut_ptr());
        // SAFETY: every piece's words lie inside `shared` one after another.
        let start = |piece: usize| unsafe { base.get().add(words[piece] - batch[piece].shared()) };
        loops(pool, *units, *all, &|i| {
            let (piece, unit) = place(&packing, i);
            // SAFETY: units write apart from each other.
            unsafe { batch[piece].pack_unit(unit, start(piece)) };
        });
        pool.run(*tasks_in_all, &|i| {
            let (piece, task) = place(&tasks, i);
            // SAFETY: all units are packed; tasks write blocks of C apart from each other.
            unsafe { batch[piece].task(task, start(piece)) };
        });
    });
}

impl Piece<'_, '_> {
    /// Words of the factor that is packed once.
    fn shared(&self) -> usize {
        self.packed.len() * self.plan.steps * STEP_WORDS
    }

    /// Packs some panels of the factor that all tasks read, all terms of a panel on end.
    /// # Safety
    /// `shared` holds this piece's words, and only this call writes the unit's.
    unsafe fn pack_unit(&self, unit: usize, shared: *mut u32) {
        let plan = self.plan;
        let own = units(self.packed.len()).range(unit);
        for part in &plan.parts {
            let (side, form) = if plan.narrow { (&part.right, Form::Words) } else { (&part.left, Form::Lines) };
            let (mut start, end) = (self.packed.start + own.start, self.packed.start + own.end);
            if !plan.narrow {
                match side {
                    Side::Packed(_) => continue,
                    Side::Stored(_) if part.in_place => start = start.max(plan.whole),
                    Side::Stored(_) => {}
                }
            }
            if start >= end {
                continue;
            }
            let area = Area { panel: start, panels: end - start, step: 0, steps: part.steps, ahead: AHEAD };
            // SAFETY: the panels' steps of this part lie inside the piece's words.
            unsafe {
                let out = shared.add(((start - self.packed.start) * plan.steps + part.first) * STEP_WORDS);
                side.pack(form, area, part.steps, out, plan.steps);
            }
        }
    }

    /// One task: some panels of the left factor against some of the right.
    /// # Safety
    /// The shared factor is packed, the machine has AMX, and only this call writes the task's blocks of C.
    unsafe fn task(&self, task: usize, shared: *const u32) {
        let plan = self.plan;
        let (left, right) = if plan.narrow {
            (plan.strips.range(task), 0..plan.right_panels)
        } else {
            let chunk = self.chunks.range(task / plan.strips.count);
            let start = self.left.start;
            (start + chunk.start..start + chunk.end, plan.strips.range(task % plan.strips.count))
        };
        let many = plan.blocks.count > 1;
        let strip = if plan.narrow { 0 } else { right.len() * plan.blocks.longest() * STEP_WORDS };
        let held = if plan.narrow { HELD_STEPS * STEP_WORDS } else { 0 };
        let sums = if many { left.len() } else { 1 } * right.len() * BLOCK_WORDS;
        with(&LOCAL, strip + held + sums, |local| {
            let (strip, local) = local.split_at_mut(strip);
            let (held, sums) = local.split_at_mut(held);
            let work = Work {
                piece: self,
                left,
                right,
                shared,
                strip: strip.as_mut_ptr(),
                held: held.as_mut_ptr(),
                sums: sums.as_mut_ptr().cast(),
            };
            // SAFETY: as the caller vouches; the three buffers hold what their lengths above say.
            unsafe {
                amx::configure(&Config::FULL);
                for block in 0..plan.blocks.count {
                    work.block(block);
                }
                amx::release();
            }
        });
    }
}

/// A task with its buffers.
struct Work<'w, 'p, 'a> {
    piece: &'w Piece<'p, 'a>,
    left: Range<usize>,
    right: Range<usize>,
    shared: *const u32,
    strip: *mut u32,
    held: *mut u32,
    sums: *mut f32,
}

impl Work<'_, '_, '_> {
    /// One block of k for all panels of the task.
    /// # Safety
    /// As [`Piece::task`]; tiles are configured.
    unsafe fn block(&self, block: usize) {
        let plan = self.piece.plan;
        let steps = plan.blocks.range(block);
        let last = block + 1 == plan.blocks.count;
        if !plan.narrow {
            for (part, own) in plan.within(&steps) {
                let area = Area {
                    panel: self.right.start,
                    panels: self.right.len(),
                    step: own.start - part.first,
                    steps: own.len(),
                    ahead: AHEAD,
                };
                // SAFETY: the strip holds the block's steps of every panel.
                unsafe {
                    let out = self.strip.add((own.start - steps.start) * STEP_WORDS);
                    part.right.pack(Form::Words, area, part.steps, out, steps.len());
                }
            }
        }
        let runs = Cut { total: steps.len(), count: steps.len().div_ceil(HELD_STEPS).max(1) };
        for panel in self.left.clone() {
            for run in 0..runs.count {
                let own = runs.range(run);
                let own = steps.start + own.start..steps.start + own.end;
                // SAFETY: passed on.
                unsafe { self.run(panel, &steps, own, block == 0 && run == 0, last && run + 1 == runs.count) };
            }
        }
    }

    /// Some steps of one panel of the left factor against all panels of the right, in L1.
    /// # Safety
    /// As [`Work::block`].
    unsafe fn run(&self, panel: usize, block: &Range<usize>, own: Range<usize>, first: bool, last: bool) {
        let plan = self.piece.plan;
        if plan.narrow {
            for (part, steps) in plan.within(&own) {
                if let Side::Stored(source) = &part.left
                    && !plan.in_place(part, panel)
                {
                    let count = steps.len();
                    let area = Area { panel, panels: 1, step: steps.start - part.first, steps: count, ahead: count };
                    // SAFETY: a run's steps fit `held`.
                    unsafe {
                        let out = self.held.add((steps.start - own.start) * STEP_WORDS);
                        pack(source, Form::Lines, area, out, steps.len());
                    }
                }
            }
        }
        let many = plan.blocks.count > 1;
        let row = if many { panel - self.left.start } else { 0 };
        for right in 0..self.right.len() {
            // SAFETY: the sums hold a block for every pair of panels; the factors' steps are packed; the block of C is
            // this task's.
            unsafe {
                let sums = self.sums.add((row * self.right.len() + right) * BLOCK_WORDS);
                // The sums that come next; in the last column, those of the same panel's next run.
                let soon = match right + 1 < self.right.len() {
                    true => sums.wrapping_add(BLOCK_WORDS),
                    false => sums.wrapping_sub(right * BLOCK_WORDS),
                };
                if first {
                    amx::zero();
                } else {
                    amx::load(sums);
                }
                for (part, steps) in plan.within(&own) {
                    let (a, next) = self.left_at(part, panel, &own, steps.start);
                    let b = if plan.narrow {
                        self.shared.add(((self.right.start + right) * plan.steps + steps.start) * STEP_WORDS)
                    } else {
                        self.strip.add((right * block.len() + steps.start - block.start) * STEP_WORDS)
                    };
                    amx::multiply_2x2(a, b.cast(), steps.len(), soon.cast(), next, right % 8);
                }
                amx::store(sums);
                if last {
                    let (mut i, mut j) = (panel * LINES, (self.right.start + right) * LINES);
                    if plan.turned {
                        (i, j) = (j, i);
                    }
                    write(&plan.finish, sums, plan.turned, i, j);
                }
            }
        }
    }

    /// Steps of a left panel from `step` of the chain on, and those of the panel that comes after it.
    #[inline(always)]
    fn left_at(&self, part: &Part, panel: usize, own: &Range<usize>, step: usize) -> (Lines, Lines) {
        let plan = self.piece.plan;
        let inside = step - part.first;
        let at = |panel: usize| match part.left {
            Side::Packed(words) => {
                let at = (panel * part.steps + inside) * STEP_WORDS;
                Lines::packed(words.as_ptr().wrapping_add(at).cast())
            }
            Side::Stored(source) if plan.in_place(part, panel) => {
                let Values::Bf16(v) = source.values else { unreachable!("only bf16 is multiplied in place") };
                let at = v.as_ptr().wrapping_add(panel * LINES * source.stride + inside * 32);
                Lines::stored(at.cast(), 2 * source.stride)
            }
            Side::Stored(_) if plan.narrow => {
                Lines::packed(self.held.wrapping_add((step - own.start) * STEP_WORDS).cast())
            }
            Side::Stored(_) => {
                let at = panel.wrapping_sub(self.piece.packed.start) * plan.steps + step;
                Lines::packed(self.shared.wrapping_add(at * STEP_WORDS).cast())
            }
        };
        (at(panel), at(panel + 1))
    }
}

impl<'a> Plan<'a> {
    /// Whether this panel of the left factor is read where it lies.
    fn in_place(&self, part: &Part, panel: usize) -> bool {
        part.in_place && panel < self.whole
    }

    /// The terms that some steps of the chain belong to, with their share of the steps.
    fn within<'p>(&'p self, steps: &Range<usize>) -> impl Iterator<Item = (&'p Part<'a>, Range<usize>)> + use<'p, 'a> {
        let (start, end) = (steps.start, steps.end);
        self.parts.iter().filter_map(move |p| {
            let own = start.max(p.first)..end.min(p.first + p.steps);
            (own.start < own.end).then_some((p, own))
        })
    }
}
