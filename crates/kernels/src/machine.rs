//! What this machine can do at most, measured: multiply-adds a second from registers or L1 and bytes a second from
//! memory. The yardstick that benchmarks hold their figures against, taken in the same run because clocks, neighbours
//! and thread counts change it.
use crate::simd::simd_fn;
use crate::{Isa, Pool};
use std::hint::black_box;
use std::time::Instant;

/// Limits of the machine with all threads of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// f32 multiply-adds (two operations each).
    pub f32_gflops: f64,
    /// Products of bf16 with f32 sums, on the set that [`Isa::best`] multiplies bf16 with.
    pub bf16_gflops: f64,
    /// Memory read, far beyond the caches.
    pub read_gbs: f64,
    /// Memory copied, bytes read plus bytes written.
    pub copy_gbs: f64,
}

/// Buffer for the memory figures: beyond what a core gets of any current last-level cache.
const MEMORY: usize = 512 << 20;
/// A task's share of it.
const PIECE: usize = 1 << 20;
/// Each figure is the best of so many runs: a limit is what nothing disturbed.
const RUNS: usize = 5;

/// Measures for about a second with 512 MiB of memory (given back before it returns).
pub fn peaks(pool: &Pool) -> Peaks {
    peaks_on(Isa::best(), pool)
}

/// [`peaks`] of a chosen instruction set.
pub fn peaks_on(isa: Isa, pool: &Pool) -> Peaks {
    let f32_gflops = f32_gflops(isa, pool);
    let bf16_gflops = bf16_gflops(isa, pool).unwrap_or(f32_gflops);
    let (read_gbs, copy_gbs) = memory(isa, pool);
    Peaks { f32_gflops, bf16_gflops, read_gbs, copy_gbs }
}

/// f32 multiply-adds of all threads; milliseconds.
pub fn f32_gflops(isa: Isa, pool: &Pool) -> f64 {
    rate(pool, &|| multiply_add(isa, 1 << 20)) * 1e-9
}

/// Operations a second when every thread runs `task`, which answers how many it did.
fn rate(pool: &Pool, task: &(dyn Fn() -> f64 + Sync)) -> f64 {
    best(|| {
        let start = Instant::now();
        // One long task a thread: a thread that came late takes none, which the best of several runs leaves out.
        let done = std::sync::Mutex::new(0f64);
        pool.run(pool.threads(), &|_| {
            let operations = task();
            *done.lock().expect("no task panicked") += operations;
        });
        let done = *done.lock().expect("no task panicked");
        done / start.elapsed().as_secs_f64()
    })
}

fn best(mut run: impl FnMut() -> f64) -> f64 {
    (0..RUNS).map(|_| run()).fold(0.0, f64::max)
}

simd_fn! {
    /// Twelve chains, more than latency times ports of any current core; answers the operations done.
    fn multiply_add<S>(s, steps: usize) -> f64 {
        let (x, y) = (s.splat(black_box(0.5)), s.splat(black_box(0.25)));
        let mut chains = [y; 12];
        for _ in 0..steps {
            for c in &mut chains {
                *c = s.fma(*c, x, y);
            }
        }
        let mut total = y;
        for c in chains {
            total = s.add(total, c);
        }
        black_box(s.sum(total));
        (steps * 12 * S::LANES * 2) as f64
    }
}

/// bf16 products of all threads; `None` where the set multiplies bf16 as f32.
pub fn bf16_gflops(isa: Isa, pool: &Pool) -> Option<f64> {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level exists only where AMX does.
        crate::isa::Level::Amx => Some(rate(pool, &|| unsafe { tiles(1 << 14) }) * 1e-9),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level exists only where AVX512-BF16 does.
        crate::isa::Level::Avx512Bf16 => Some(rate(pool, &|| unsafe { pairs(1 << 20) }) * 1e-9),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs(steps: usize) -> f64 {
    use std::arch::x86_64::*;
    // SAFETY: both types are 64 plain bytes.
    let x = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f00_3e80))) };
    let mut chains = [_mm512_set1_ps(black_box(0.25)); 12];
    for _ in 0..steps {
        for c in &mut chains {
            *c = _mm512_dpbf16_ps(*c, x, x);
        }
    }
    let total = chains.iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, *b));
    black_box(_mm512_reduce_add_ps(total));
    (steps * 12 * 16 * 2 * 2) as f64
}

/// Blocks of 32 x 32 x 256 whose operands stay in L1.
/// # Safety
/// The machine has AMX.
#[cfg(target_arch = "x86_64")]
unsafe fn tiles(steps: usize) -> f64 {
    use crate::amx::{Config, Lines, STEP, configure, multiply_2x2, release, store, zero};
    const DEPTH: usize = 8;
    // Tile rows that cross cache lines would halve the rate. Zeros are as fast as anything.
    let operands = vec![0u8; 2 * DEPTH * STEP + 64];
    let a = operands.as_ptr();
    let a = a.wrapping_add(a.align_offset(64));
    let b = a.wrapping_add(DEPTH * STEP);
    let mut c = vec![0f32; 32 * 32];
    // SAFETY: AMX is the caller's word; both panels hold DEPTH steps and C four tiles.
    unsafe {
        configure(&Config::FULL);
        zero();
        for _ in 0..steps {
            multiply_2x2(Lines::packed(a), b, DEPTH, a, Lines::packed(a), 0);
        }
        store(c.as_mut_ptr());
        release();
    }
    black_box(&c);
    (steps * DEPTH * 32 * 32 * 32 * 2) as f64
}

simd_fn! {
    fn sum<S>(s, x: &[f32]) -> f32 {
        let mut sums = [s.splat(0.0); 8];
        for part in x.chunks_exact(8 * S::LANES) {
            for (i, c) in sums.iter_mut().enumerate() {
                // SAFETY: the part holds eight vectors.
                *c = s.add(*c, unsafe { s.load(part.as_ptr().add(i * S::LANES)) });
            }
        }
        s.sum(sums.into_iter().fold(s.splat(0.0), |a, b| s.add(a, b)))
    }
}

fn memory(isa: Isa, pool: &Pool) -> (f64, f64) {
    let mut buffer = vec![0f32; MEMORY / 4];
    // Touched by the threads that use it: pages exist, and lie near.
    pool.pieces_mut(&mut buffer, PIECE / 4, &|_, part| part.fill(1.0));
    let read = best(|| {
        let start = Instant::now();
        pool.run(MEMORY / PIECE, &|i| {
            black_box(sum(isa, &buffer[i * PIECE / 4..(i + 1) * PIECE / 4]));
        });
        MEMORY as f64 / start.elapsed().as_secs_f64() * 1e-9
    });
    let (from, to) = buffer.split_at_mut(MEMORY / 8);
    let copied = best(|| {
        let start = Instant::now();
        pool.pieces_mut(to, PIECE / 4, &|i, part| part.copy_from_slice(&from[i * PIECE / 4..(i + 1) * PIECE / 4]));
        MEMORY as f64 / start.elapsed().as_secs_f64() * 1e-9
    });
    (read, copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_plausible_and_ordered() {
        let pool = Pool::new(1);
        for isa in Isa::available() {
            let f32s = f32_gflops(isa, &pool);
            assert!(f32s > 0.05 && f32s < 1e4, "{isa}: {f32s} GFLOP/s of f32");
            if let Some(halves) = bf16_gflops(isa, &pool) {
                assert!(halves > 0.05 && halves < 1e5, "{isa}: {halves} GFLOP/s of bf16");
            }
        }
    }

    #[test]
    fn sums_read_everything() {
        let x: Vec<f32> = (0..1024).map(|i| i as f32).collect();
        for isa in Isa::available() {
            assert_eq!(sum(isa, &x), 523_776.0, "{isa}");
        }
    }
}
