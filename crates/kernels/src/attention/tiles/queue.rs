//! Products of tiles that vector work is interleaved with.
//!
//! The tile unit and the vector units can run side by side, but the processor looks only some 500 micro-operations
//! ahead, and one tile load or store is about 16 to 32 of them: a whole product between two stretches of vector code
//! leaves one unit idle while the other works. So the products wait in a queue, and vector code runs half a step (two
//! multiplications, 32 cycles) of them every few lines. It also spares waiting: a tile load cannot take data from
//! stores still on their way, and here they were made a block earlier.
use std::arch::asm;

/// Where the tiles of one operand lie: rows of a tile `stride` bytes apart, tiles of successive k `step` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub first: *const u8,
    /// The second of the two tiles used side by side.
    pub second: *const u8,
    pub stride: usize,
    pub step: usize,
}

/// A product of tiles yet to be done: the 32 x 32 block at `c` (rows `stride` floats apart) gets a·b, or a·b added when
/// not `fresh`; `steps` > 0.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub c: *mut f32,
    pub stride: usize,
    pub a: Tiles,
    pub b: Tiles,
    pub steps: usize,
    pub fresh: bool,
}

/// Runs in order; the caller sees to it that nothing else touches the blocks and operands meanwhile.
pub(super) struct Queue {
    all: Vec<Product>,
    done: usize,
    /// Half steps of the first waiting product already run: its sums are in the tile registers.
    halves: usize,
    /// Half steps of all that waits.
    left: usize,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue { all: Vec::with_capacity(64), done: 0, halves: 0, left: 0 }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, p: Product) {
        self.all.push(p);
        self.left += 2 * p.steps;
    }

    /// Takes the next `n` products of another queue, of which none has begun.
    pub(super) fn take(&mut self, other: &mut Queue, n: usize) {
        for _ in 0..n.min(other.waiting()) {
            let p = other.all[other.done];
            other.done += 1;
            other.left -= 2 * p.steps;
            self.push(p);
        }
        if other.waiting() == 0 {
            other.all.clear();
            other.done = 0;
        }
    }

    /// Products not finished.
    #[inline(always)]
    pub(super) fn waiting(&self) -> usize {
        self.all.len() - self.done
    }

    /// Half steps not run.
    #[inline(always)]
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Runs the next half step, if any.
    /// # Safety
    /// Tiles are configured and used by nothing else since the queue was empty; blocks are writable and operands
    /// readable.
    #[inline(always)]
    pub(super) unsafe fn run_half(&mut self) {
        let Some(p) = self.all.get(self.done) else { return };
        let (step, second) = (self.halves / 2, self.halves % 2 == 1);
        let last = step + 1 == p.steps;
        self.halves += 1;
        self.left -= 1;
        // SAFETY: as the caller vouches.
        unsafe {
            if second {
                if step == 0 {
                    start_second(p);
                }
                multiply_second(p, step);
                if last {
                    store_second(p);
                    self.halves = 0;
                    self.done += 1;
                }
            } else {
                if step == 0 {
                    start_first(p);
                }
                multiply_first(p, step);
                if last {
                    store_first(p);
                }
            }
        }
    }

    /// # Safety
    /// As [`Queue::run_half`].
    #[inline(always)]
    pub(super) unsafe fn run_all(&mut self) {
        while self.left > 0 {
            // SAFETY: as the caller vouches.
            unsafe { self.run_half() }
        }
        self.all.clear();
        self.done = 0;
    }
}

/// tmm0, tmm1: the upper half of the block.
/// # Safety
/// As [`Queue::run_half`]; so for all below.
#[inline(always)]
unsafe fn start_first(p: &Product) {
    // SAFETY: as the caller vouches.
    unsafe {
        if p.fresh {
            asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem));
        } else {
            asm!("tileloadd tmm0, [{c} + {s}*1]", "tileloadd tmm1, [{c} + {s}*1 + 64]",
                c = in(reg) p.c, s = in(reg) p.stride * 4, options(nostack, readonly));
        }
    }
}

/// tmm2, tmm3: the lower half.
#[inline(always)]
unsafe fn start_second(p: &Product) {
    // SAFETY: as the caller vouches.
    unsafe {
        if p.fresh {
            asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        } else {
            asm!("tileloadd tmm2, [{c} + {s}*1]", "tileloadd tmm3, [{c} + {s}*1 + 64]",
                c = in(reg) p.c.add(16 * p.stride), s = in(reg) p.stride * 4, options(nostack, readonly));
        }
    }
}

/// Leaves the right operands in tmm6 and tmm7 for `multiply_second`.
#[inline(always)]
unsafe fn multiply_first(p: &Product, step: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a} + {sa}*1]",
            "tileloadd tmm6, [{b0} + {sb}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {sb}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            a = in(reg) p.a.first.add(step * p.a.step),
            b0 = in(reg) p.b.first.add(step * p.b.step),
            b1 = in(reg) p.b.second.add(step * p.b.step),
            sa = in(reg) p.a.stride,
            sb = in(reg) p.b.stride,
            options(nostack, readonly)
        );
    }
}

#[inline(always)]
unsafe fn multiply_second(p: &Product, step: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        asm!(
            "tileloadd tmm5, [{a} + {sa}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            a = in(reg) p.a.second.add(step * p.a.step),
            sa = in(reg) p.a.stride,
            options(nostack, readonly)
        );
    }
}

#[inline(always)]
unsafe fn store_first(p: &Product) {
    // SAFETY: as the caller vouches.
    unsafe {
        asm!("tilestored [{c} + {s}*1], tmm0", "tilestored [{c} + {s}*1 + 64], tmm1",
            c = in(reg) p.c, s = in(reg) p.stride * 4, options(nostack));
    }
}

#[inline(always)]
unsafe fn store_second(p: &Product) {
    // SAFETY: as the caller vouches.
    unsafe {
        asm!("tilestored [{c} + {s}*1], tmm2", "tilestored [{c} + {s}*1 + 64], tmm3",
            c = in(reg) p.c.add(16 * p.stride), s = in(reg) p.stride * 4, options(nostack));
    }
}
