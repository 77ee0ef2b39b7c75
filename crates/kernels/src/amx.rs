//! Matrix tiles of Intel's AMX: detection, permission, configuration, and the one loop that everything is made of.
//!
//! A tile register holds 16 rows of 64 bytes. `tdpbf16ps c, a, b` adds to the 16 x 16 f32 tile c the product of a
//! (16 rows of 32 bf16) and b (16 rows, row j holding for each of 16 columns the pair b[2j][n], b[2j + 1][n]). An element
//! of c is one chain over k, two products a step, so its value does not depend on how m, n or k are cut as long as the
//! chain continues in the same accumulator (or in c, stored and loaded again as f32).
//!
//! The compiler knows nothing of tile registers and never touches them: what one `asm!` block leaves in them the next
//! one finds, as long as nothing in between configures tiles on the same thread. Every routine that uses tiles
//! therefore configures them itself, right before its loop ([`configure`]).
//!
//! Four accumulators, two tiles of A and two of B: one load a product. The order load a0, load b0, product, load b1,
//! product, load a1, product, product keeps the multiplier busy (measured: 3.8 of 3.8 TFLOP/s a core, while four loads
//! followed by four products give 1.1).
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes a row of each tile.
    pub columns: [u16; 16],
    pub rows: [u8; 16],
}

impl Config {
    /// All eight tiles 16 rows of 64 bytes.
    pub(crate) const FULL: Config = {
        let (mut columns, mut rows) = ([0; 16], [0; 16]);
        let mut i = 0;
        while i < 8 {
            columns[i] = 64;
            rows[i] = 16;
            i += 1;
        }
        Config { palette: 1, start_row: 0, reserved: [0; 14], columns, rows }
    };
}

/// Whether this processor has bf16 tiles and the system lets this process use them. Linux gives the 8 KiB of state to
/// processes that ask; threads started later inherit it, so this runs before any pool exists.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const TILE_AND_BF16: u32 = 1 << 24 | 1 << 22;
        if !is_x86_feature_detected!("xsave") || __cpuid_count(0, 0).eax < 7 {
            return false;
        }
        if __cpuid_count(7, 0).edx & TILE_AND_BF16 != TILE_AND_BF16 {
            return false;
        }
        // SAFETY: the processor has xsave (checked), and one with AMX has it enabled by the system or XCR0 says no.
        let enabled = unsafe { xcr0() };
        enabled & (1 << 17 | 1 << 18) == 1 << 17 | 1 << 18 && permitted()
    })
}

#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever xgetbv does.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the tile data (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    let result: i64;
    // SAFETY: a system call with two plain numbers; it changes nothing but this process's permission and clobbers only
    // what the calling convention says.
    unsafe {
        asm!("syscall", inlateout("rax") 158i64 => result, in("rdi") 0x1023u64, in("rsi") 18u64, out("rcx") _, out("r11") _);
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Sets the shape of this thread's tiles and zeroes them.
/// # Safety
/// The machine has AMX ([`available`]), and the shapes are ones it takes.
#[inline(always)]
pub(crate) unsafe fn configure(config: &Config) {
    // SAFETY: reads 64 bytes of a Config.
    unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly)) }
}

/// Ends the use of tiles: the system no longer saves 8 KiB when it switches this thread away.
/// # Safety
/// The machine has AMX ([`available`]).
#[inline(always)]
pub(crate) unsafe fn release() {
    // SAFETY: registers only.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Bytes of a tile in memory: 16 rows of 64 bytes, one after another.
pub(crate) const TILE: usize = 1024;
/// Bytes of one step of a panel: the tiles of 32 lines side by side.
pub(crate) const STEP: usize = 2 * TILE;

/// Where 32 lines of the left factor lie, in bytes: 16 rows of a tile, the second tile's 16, and the next step's. Stored
/// rows of bf16 are such lines as they are.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    /// The first row of the first step.
    pub at: *const u8,
    pub row: usize,
    pub half: usize,
    pub step: usize,
}

impl Lines {
    /// Packed: a step's two tiles, then the next step's.
    pub(crate) fn packed(at: *const u8) -> Lines {
        Lines { at, row: 64, half: TILE, step: STEP }
    }

    /// Rows of bf16, `stride` bytes apart.
    pub(crate) fn stored(at: *const u8, stride: usize) -> Lines {
        Lines { at, row: stride, half: 16 * stride, step: 64 }
    }

    /// One of eight parts that [`multiply_2x2`] fetches while it takes `steps` steps: four of the 32 rows where they
    /// are stored, an eighth of the steps where they are packed.
    fn eighth(self, part: usize, steps: usize) -> Fetch {
        match self.row {
            64 => Fetch { at: self.at.wrapping_add(part * steps * STEP / 8), row: 64, step: STEP / 8 },
            row => Fetch { at: self.at.wrapping_add(part * 4 * row), row, step: 64 },
        }
    }
}

/// Four cache lines `row` bytes apart in each step.
struct Fetch {
    at: *const u8,
    row: usize,
    step: usize,
}

/// tmm0..tmm3 += [a0; a1] · [b0, b1] over `steps` steps of 32 elements of k: tmm0 = a0·b0, tmm1 = a0·b1, tmm2 = a1·b0,
/// tmm3 = a1·b1. B is a panel: a step's two tiles, then the next step's; it comes with the hint not to stay in L1, where
/// A is used again. Meanwhile `steps` times 256 bytes from `soon` on are fetched into L1, and one of eight parts of
/// `later` (the left factor that comes next) into L2.
/// # Safety
/// Tiles are configured ([`Config::FULL`]), and `steps` steps of both factors are readable. `soon` and `later` may lie
/// anywhere.
#[inline(always)]
pub(crate) unsafe fn multiply_2x2(a: Lines, b: *const u8, steps: usize, soon: *const u8, later: Lines, part: usize) {
    if steps == 0 {
        return;
    }
    let later = later.eighth(part, steps);
    // SAFETY: reads the tiles the caller vouches for; tile registers belong to this routine; a prefetch never faults.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {row}*1]",
            "tileloaddt1 tmm6, [{b} + {s}*1]",
            "prefetcht1 [{later}]",
            "prefetcht1 [{later} + {apart}]",
            "prefetcht0 [{soon}]",
            "prefetcht0 [{soon} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloaddt1 tmm7, [{b} + {s}*1 + 1024]",
            "prefetcht1 [{later} + 2*{apart}]",
            "prefetcht1 [{later} + {apart3}]",
            "prefetcht0 [{soon} + 128]",
            "prefetcht0 [{soon} + 192]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a2} + {row}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {a}, {step}",
            "add {a2}, {step}",
            "add {b}, 2048",
            "add {later}, {later_step}",
            "add {soon}, 256",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) a.at => _,
            a2 = inout(reg) a.at.wrapping_add(a.half) => _,
            row = in(reg) a.row,
            step = in(reg) a.step,
            b = inout(reg) b => _,
            soon = inout(reg) soon => _,
            later = inout(reg) later.at => _,
            apart = in(reg) later.row,
            apart3 = in(reg) 3 * later.row,
            later_step = in(reg) later.step,
            s = in(reg) 64usize,
            n = inout(reg) steps => _,
            options(nostack, readonly)
        );
    }
}

/// Zeroes tmm0..tmm3.
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(crate) unsafe fn zero() {
    // SAFETY: registers only.
    unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem)) }
}

/// Loads tmm0..tmm3 from four tiles of f32, one after another.
/// # Safety
/// Tiles are configured and the 4 KiB are readable.
#[inline(always)]
pub(crate) unsafe fn load(c: *const f32) {
    // SAFETY: as the caller vouches.
    unsafe {
        asm!(
            "tileloadd tmm0, [{0} + {s}*1]",
            "tileloadd tmm1, [{0} + {s}*1 + 1024]",
            "tileloadd tmm2, [{0} + {s}*1 + 2048]",
            "tileloadd tmm3, [{0} + {s}*1 + 3072]",
            in(reg) c,
            s = in(reg) 64usize,
            options(nostack, readonly)
        );
    }
}

/// Stores tmm0..tmm3 as four tiles of f32, one after another.
/// # Safety
/// Tiles are configured and the 4 KiB are writable.
#[inline(always)]
pub(crate) unsafe fn store(c: *mut f32) {
    // SAFETY: as the caller vouches.
    unsafe {
        asm!(
            "tilestored [{0} + {s}*1], tmm0",
            "tilestored [{0} + {s}*1 + 1024], tmm1",
            "tilestored [{0} + {s}*1 + 2048], tmm2",
            "tilestored [{0} + {s}*1 + 3072], tmm3",
            in(reg) c,
            s = in(reg) 64usize,
            options(nostack)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_tiles_is_the_product() {
        if !available() {
            eprintln!("skipped: this machine has no AMX");
            return;
        }
        const K: usize = 96;
        let value = |i: usize, l: usize, m: usize| half::bf16::from_f32(((i * K + l) * m % 17) as f32 - 8.0);
        // Word w of line i is the pair of k = 2w, 2w + 1: along a row of a's tiles, down a column of b's.
        let (mut a, mut b) = (vec![0u16; 32 * K], vec![0u16; 32 * K]);
        for i in 0..32 {
            for l in 0..K {
                let tile = l / 32 * 1024 + i / 16 * 512;
                a[tile + i % 16 * 32 + l % 32] = value(i, l, 7).to_bits();
                b[tile + (l % 32 / 2 * 16 + i % 16) * 2 + l % 2] = value(i, l, 11).to_bits();
            }
        }
        let mut c = vec![1f32; 32 * 32];
        // SAFETY: AMX is available; a and b hold K / 32 steps, c four tiles.
        unsafe {
            configure(&Config::FULL);
            load(c.as_ptr());
            let lines = Lines::packed(a.as_ptr().cast());
            multiply_2x2(lines, b.as_ptr().cast(), K / 32, c.as_ptr().cast(), lines, 0);
            store(c.as_mut_ptr());
            zero();
            release();
        }
        for m in 0..32 {
            for n in 0..32 {
                let sum: f32 = (0..K).map(|l| value(m, l, 7).to_f32() * value(n, l, 11).to_f32()).sum();
                let at = (m / 16 * 2 + n / 16) * 256 + m % 16 * 16 + n % 16;
                assert_eq!(c[at], 1.0 + sum, "({m}, {n})");
            }
        }
    }
}
