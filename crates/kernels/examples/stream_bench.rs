//! Weights streamed per second against what memory gives in the same run: `stream_bench [threads] [seconds a case] [isa]`.
use loar_kernels::rng::Stream as Random;
use loar_kernels::{Isa, Matrix, Pool, Precision, Values, machine, streamed};
use std::time::Instant;

fn best(seconds: f64, mut f: impl FnMut()) -> (f64, f64) {
    f();
    let start = Instant::now();
    let mut all = vec![];
    while all.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        let t = Instant::now();
        f();
        all.push(t.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    (all[0], all[all.len() / 2])
}

/// Random bytes, different enough everywhere that no page is shared.
fn bytes(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut v = vec![0u8; n];
    for b in v.chunks_mut(8) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Exponent bits of a bf16 stay in range.
        b.copy_from_slice(&(state & 0x3f7f_3f7f_3f7f_3f7f).to_le_bytes()[..b.len()]);
    }
    v
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let pool = Pool::new(args.first().map_or(0, |a| a.parse().expect("threads")));
    let seconds: f64 = args.get(1).map_or(0.3, |a| a.parse().expect("seconds"));
    let isa = args.get(2).map_or(Isa::best(), |name| Isa::by_name(name).expect("a set this machine has"));
    let peaks = machine::peaks_on(isa, &pool);
    println!("{} threads, {isa}, memory read {:.1} GB/s", pool.threads(), peaks.read_gbs);
    // Far beyond the caches: as many copies of the matrix as fill half a gigabyte, taken in turn.
    const BYTES: usize = 512 << 20;
    let raw = bytes(BYTES);
    let words: Vec<u16> = bytemuck::cast_slice(&raw).to_vec();
    let signed: Vec<i8> = bytemuck::cast_slice(&raw).to_vec();
    let scales = vec![0.01f32; 1 << 20];
    let narrow_scales = vec![0x3c00u16; BYTES / 32];
    for (n, k) in [(8960, 1536), (1536, 8960), (1536, 1536), (256, 1536)] {
        println!("[{n}, {k}]   best GB/s (median) by rows of x");
        for format in ["bf16", "int8", "int4", "fp8"] {
            let row = match format {
                "bf16" => 2 * k,
                "int4" => k / 2 + k / 64 * 2,
                _ => k,
            };
            let copies = (BYTES / (n * if format == "int4" { k / 2 } else { row })).clamp(1, 64);
            print!("{format:>6}");
            for m in [1usize, 2, 4, 8, 16, 32] {
                let mut x = vec![0f32; m * k];
                Random::new(1, 2, 3).fill_normal(0, 1.0, &mut x);
                let mut out = vec![0f32; m * n];
                let mut turn = 0;
                let (fast, middle) = best(seconds, || {
                    for _ in 0..4 {
                        let at = turn % copies * n * k;
                        turn += 1;
                        let values = match format {
                            "bf16" => Values::Bf16(&words[at..at + n * k]),
                            "int8" => Values::Int8 { q: &signed[at..at + n * k], scales: &scales },
                            "int4" => Values::Int4 {
                                q: &raw[at / 2..(at + n * k) / 2],
                                scales: &narrow_scales[at / 64..(at + n * k) / 64],
                            },
                            _ => Values::Fp8 { q: &raw[at..at + n * k], scales: &scales },
                        };
                        let w = Matrix { values, stride: k, transposed: false };
                        let mut streams = [streamed::Stream::new(w, n, &mut out)];
                        streamed::linear_many_on(isa, &pool, Precision::Bf16, m, k, &x, &mut streams);
                    }
                });
                let gb = 4.0 * (n * row) as f64 * 1e-9;
                print!("  m {m:>2}: {:>5.1} ({:>5.1})", gb / fast, gb / middle);
            }
            println!();
        }
    }
}
