//! GFLOP/s of the matrix product at the shapes of a LoRA step, decode and small models, and the pool's latency.
//! Medians of several runs on synthetic data; `gemm_bench [threads] [seconds per case] [largest m]`.
use loar_kernels::rng::Stream;
use loar_kernels::{Gemm, Isa, Matrix, Pool, Precision};
use std::time::Instant;

fn random(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Stream::new(1, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
    v
}

fn bf16(v: &[f32]) -> Vec<u16> {
    v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect()
}

/// Seconds on a core, all threads of this process together; `None` where the system does not say.
fn core_seconds() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let one = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    Some(tasks.flatten().filter_map(|t| one(t.path())).sum::<f64>() * 1e-9)
}

/// (median seconds of a call, core-seconds of a call); at least 3 calls. On a busy machine the second says more.
fn time(seconds: f64, mut f: impl FnMut()) -> (f64, f64) {
    f();
    let (start, cores) = (Instant::now(), core_seconds());
    let mut all = vec![];
    while all.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let t = Instant::now();
        f();
        all.push(t.elapsed().as_secs_f64());
    }
    let busy = core_seconds().zip(cores).map_or(f64::NAN, |(after, before)| after - before);
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], busy / all.len() as f64)
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<f64>().expect("a number"));
    let pool = Pool::new(args.next().unwrap_or(0.0) as usize);
    let seconds = args.next().unwrap_or(0.5);
    let most = args.next().map_or(usize::MAX, |m| m as usize);
    println!(
        "{} threads, best set {}; decode: GB/s of weights = GFLOP/s / m for bf16, * 2 for f32",
        pool.threads(),
        Isa::best()
    );

    let count = std::sync::atomic::AtomicUsize::new(0);
    let (loop_time, best) = time(0.2, || {
        for _ in 0..100 {
            pool.run(pool.threads(), &|_| {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
    });
    println!("pool: {:.2} us an empty loop ({:.2} core-us)", loop_time * 1e4, best * 1e4);

    let sets = Isa::available();
    println!("GFLOP/s by the clock (by the core-second); per set: bf16 x W', bf16 x W, f32 x W'");
    print!("{:20}", "m x n x k");
    for isa in &sets[1..] {
        print!(" | {:>44}", isa.name());
    }
    println!();
    let shapes = [
        (2048, 1536, 1536),
        (2048, 8960, 1536),
        (2048, 1536, 8960),
        (512, 4864, 896),
        (2048, 16, 1536),
        (2048, 1536, 16),
        (256, 256, 256),
        (1024, 192, 192),
        (64, 64, 64),
        (8, 8960, 1536),
        (4, 8960, 1536),
        (1, 8960, 1536),
    ];
    for (m, n, k) in shapes.into_iter().filter(|s| s.0 <= most) {
        let (x, w) = (random(m * k, 0), random(n * k, 1));
        let w16 = bf16(&w);
        let mut c = vec![0f32; m * n];
        let base = Gemm {
            m,
            n,
            k,
            a: Matrix::f32(&x, k),
            b: Matrix::bf16(&w16, k).t(),
            alpha: 1.0,
            accumulate: false,
            precision: Precision::Bf16,
        };
        let flop = 2.0 * (m * n * k) as f64 / 1e9;
        // As in nn.Linear: forward reads W[n, k] crosswise, the gradient reads W[k, n] along its rows.
        let cases = [
            base,
            Gemm { b: Matrix::bf16(&w16, n), ..base },
            Gemm { b: Matrix::f32(&w, k).t(), precision: Precision::F32, ..base },
        ];
        print!("{:20}", format!("{m} x {n} x {k}"));
        for isa in &sets[1..] {
            print!(" | ");
            for g in &cases {
                let (median, busy) = time(seconds, || g.run_on(*isa, &pool, &mut c, n));
                print!(" {:6.1} ({:5.1})", flop / median, flop / busy);
            }
        }
        println!();
    }
}
