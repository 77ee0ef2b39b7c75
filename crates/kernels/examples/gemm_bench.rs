//! GFLOP/s of matrix products at the shapes of a LoRA step, quantised bases, experts and few rows, with their share of
//! the peak measured in the same run, and the latency of the pool. Synthetic data; median and best of several calls, and
//! the rate by the seconds that the threads spent on cores, which says more on a busy machine.
//!
//! `gemm_bench [--isa NAME] [--threads N] [--seconds S] [FILTER]`: S seconds a case, cases whose name holds FILTER.
use loar_kernels::arena::Buf;
use loar_kernels::gemm::run_grouped_on;
use loar_kernels::rng::Stream;
use loar_kernels::{
    Grouped, Isa, Left, Matrix, Output, Packed, Pool, Precision, Product, Term, Values, machine, quant,
};
use std::time::Instant;

/// In memory as a training step keeps it: on cache lines and, where there are any, huge pages.
fn random(n: usize, purpose: u32) -> Buf<f32> {
    let mut v = Buf::zeros(n);
    Stream::new(1, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
    v
}

fn bf16(v: &[f32]) -> Buf<u16> {
    let mut out = Buf::zeros(v.len());
    out.iter_mut().zip(v).for_each(|(o, x)| *o = half::bf16::from_f32(*x).to_bits());
    out
}

/// Seconds on a core, all threads of this process together; `None` where the system does not say.
fn core_seconds() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let one = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    Some(tasks.flatten().filter_map(|t| one(t.path())).sum::<f64>() * 1e-9)
}

struct Bench {
    pool: Pool,
    isa: Isa,
    seconds: f64,
    filter: String,
    peaks: machine::Peaks,
}

impl Bench {
    /// Runs one case and prints its line; `bytes` is what must come from memory (weights read once).
    fn case(&self, name: &str, flop: f64, bytes: usize, peak: f64, mut f: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        f();
        let (start, cores, mut all) = (Instant::now(), core_seconds(), vec![]);
        while all.len() < 5 || start.elapsed().as_secs_f64() < self.seconds {
            let t = Instant::now();
            f();
            all.push(t.elapsed().as_secs_f64());
        }
        let busy = core_seconds().zip(cores).map_or(f64::NAN, |(after, before)| after - before) / all.len() as f64;
        all.sort_by(f64::total_cmp);
        let (median, best) = (all[all.len() / 2], all[0]);
        let rate = |t: f64| flop / t * 1e-9;
        println!(
            "{name:52} {:8.0} {:8.0} {:8.0}  {:5.1} %  {:6.1} GB/s",
            rate(median),
            rate(best),
            rate(busy / self.pool.threads() as f64),
            100.0 * rate(median) / peak,
            bytes as f64 / median * 1e-9
        );
    }

    fn run(&self, p: &Product, c: Output) {
        p.run_on(self.isa, &self.pool, c, p.n);
    }
}

fn product<'a>(m: usize, n: usize, terms: &'a [Term<'a>], precision: Precision) -> Product<'a> {
    Product { m, n, terms, alpha: 1.0, bias: None, residual: None, accumulate: false, precision }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut isa, mut threads, mut seconds, mut filter) = (Isa::best(), 0, 0.3, String::new());
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("a value");
        match arg.as_str() {
            "--isa" => isa = Isa::by_name(&value()).expect("a set of this machine"),
            "--threads" => threads = value().parse().expect("a number"),
            "--seconds" => seconds = value().parse().expect("a number"),
            _ => filter = arg,
        }
    }
    let pool = Pool::new(threads);
    let peaks = machine::peaks_on(isa, &pool);
    println!(
        "{isa}, {} threads; peak f32 {:.0}, bf16 {:.0} GFLOP/s, read {:.1}, copy {:.1} GB/s",
        pool.threads(),
        peaks.f32_gflops,
        peaks.bf16_gflops,
        peaks.read_gbs,
        peaks.copy_gbs
    );
    let b = Bench { pool, isa, seconds, filter, peaks };
    let count = std::sync::atomic::AtomicUsize::new(0);
    let start = Instant::now();
    for _ in 0..1000 {
        b.pool.run(b.pool.threads(), &|_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
    }
    println!("an empty loop of the pool: {:.2} us", start.elapsed().as_secs_f64() * 1e3);
    println!("{:52} {:>8} {:>8} {:>8}  {:>7}", "GFLOP/s", "median", "best", "by cores", "of peak");
    dense(&b);
    quantised(&b);
    adapters(&b);
    experts(&b);
}

/// A linear layer's forward product (x·Wᵀ) and the one for its input's gradient (dY·W).
fn dense(b: &Bench) {
    let shapes = [
        (2048, 1536, 1536),
        (2048, 8960, 1536),
        (2048, 1536, 8960),
        (2048, 896, 896),
        (2048, 4864, 896),
        (2048, 896, 4864),
        (2048, 128, 896),
        (1000, 4864, 896),
        (256, 1536, 1536),
        (64, 8960, 1536),
        (16, 8960, 1536),
        (256, 256, 256),
    ];
    for (m, n, k) in shapes {
        let names = [("x W'", true), ("dY W", false)];
        let kinds = ["bf16 -> bf16", "packed -> bf16", "f32, bf16 -> f32", "f32"];
        let wanted =
            |(name, _): &(&str, bool)| kinds.iter().any(|t| format!("{m} x {n} x {k} {name} {t}").contains(&b.filter));
        if !names.iter().any(wanted) {
            continue;
        }
        let (x, w) = (random(m * k, 0), random(n * k, 1));
        let (x16, w16) = (bf16(&x), bf16(&w));
        let flop = 2.0 * (m * n * k) as f64;
        let (mut c, mut c16) = (Buf::zeros(m * n), Buf::zeros(m * n));
        for (name, right) in names {
            let stride = if right { k } else { n };
            let wide = Matrix { values: Values::F32(&w), stride, transposed: right };
            let half = Matrix { values: Values::Bf16(&w16), stride, transposed: right };
            let shape = format!("{m} x {n} x {k} {name}");
            let terms = [Term { k, a: Left::Matrix(Matrix::bf16(&x16, k)), b: half }];
            let p = product(m, n, &terms, Precision::Bf16);
            b.case(&format!("{shape} bf16 -> bf16"), flop, n * k * 2, b.peaks.bf16_gflops, || {
                b.run(&p, Output::Bf16(&mut c16))
            });
            let packed = Packed::left_on(b.isa, &b.pool, Precision::Bf16, m, k, Matrix::bf16(&x16, k));
            let ready = [Term { a: Left::Packed(&packed), ..terms[0] }];
            let p = product(m, n, &ready, Precision::Bf16);
            b.case(&format!("{shape} packed -> bf16"), flop, n * k * 2, b.peaks.bf16_gflops, || {
                b.run(&p, Output::Bf16(&mut c16))
            });
            let terms = [Term { k, a: Left::Matrix(Matrix::f32(&x, k)), b: half }];
            let p = product(m, n, &terms, Precision::Bf16);
            b.case(&format!("{shape} f32, bf16 -> f32"), flop, n * k * 2, b.peaks.bf16_gflops, || {
                b.run(&p, Output::F32(&mut c))
            });
            let terms = [Term { k, a: Left::Matrix(Matrix::f32(&x, k)), b: wide }];
            let p = product(m, n, &terms, Precision::F32);
            b.case(&format!("{shape} f32"), flop, n * k * 4, b.peaks.f32_gflops, || b.run(&p, Output::F32(&mut c)));
        }
    }
}

/// A quantised weight `[n, k]` under bf16 products.
fn quantised(b: &Bench) {
    for (m, n, k) in [(2048, 1536, 1536), (2048, 8960, 1536), (128, 8960, 1536)] {
        let (x, w) = (bf16(&random(m * k.max(n), 0)), random(n * k, 1));
        let row = |i: usize, out: &mut [f32]| out.copy_from_slice(&w[i * k..(i + 1) * k]);
        let eight = quant::quantize_int8(&b.pool, n, k, &row);
        let four = quant::quantize_int4(&b.pool, n, k, &row);
        let fp8: Vec<u8> = w.iter().map(|x| ((x + 1.0) * 50.0) as u8).collect();
        let scales = vec![0.01f32; n.div_ceil(128) * k.div_ceil(128)];
        let mut c = vec![0u16; m * n.max(k)];
        let kinds = [
            ("int8", Values::Int8 { q: &eight.q, scales: &eight.scales }, n * k),
            ("int4", Values::Int4 { q: &four.q, scales: &four.scales }, n * k / 2),
            ("fp8", Values::Fp8 { q: &fp8, scales: &scales }, n * k),
        ];
        for (kind, values, bytes) in kinds {
            let w = Matrix { values, stride: k, transposed: false };
            let flop = 2.0 * (m * n * k) as f64;
            let terms = [Term { k, a: Left::Matrix(Matrix::bf16(&x, k)), b: w.t() }];
            let p = product(m, n, &terms, Precision::Bf16);
            let name = format!("{m} x {n} x {k} x W' {kind}");
            b.case(&name, flop, bytes, b.peaks.bf16_gflops, || b.run(&p, Output::Bf16(&mut c[..m * n])));
            let terms = [Term { k: n, a: Left::Matrix(Matrix::bf16(&x, n)), b: w }];
            let p = product(m, k, &terms, Precision::Bf16);
            let name = format!("{m} x {k} x {n} dY W {kind}");
            b.case(&name, flop, bytes, b.peaks.bf16_gflops, || b.run(&p, Output::Bf16(&mut c[..m * k])));
        }
    }
}

/// The products that LoRA adds at Qwen2-0.5B's sizes, rank 32.
fn adapters(b: &Bench) {
    let (m, n, k, r) = (2048, 4864, 896, 32);
    let (x, w) = (bf16(&random(m * n, 0)), bf16(&random(n * k, 1)));
    let (down, up, u) = (random(3 * r * k, 2), random(n * r, 3), random(m * 3 * r, 4));
    let peak = b.peaks.bf16_gflops;
    for width in [r, 3 * r] {
        let terms = [Term { k, a: Left::Matrix(Matrix::bf16(&x, k)), b: Matrix::f32(&down, k).t() }];
        let p = product(m, width, &terms, Precision::Bf16);
        let mut c = vec![0f32; m * width];
        let flop = 2.0 * (m * width * k) as f64;
        b.case(&format!("lora {m} x {width} x {k} u = x A'"), flop, m * k * 2, peak, || b.run(&p, Output::F32(&mut c)));
    }
    let mut c = Buf::zeros(m * n);
    let terms = [
        Term { k, a: Left::Matrix(Matrix::bf16(&x, k)), b: Matrix::bf16(&w, k).t() },
        Term { k: r, a: Left::Matrix(Matrix::f32(&u, r)), b: Matrix::f32(&up, r).t() },
    ];
    let p = product(m, n, &terms, Precision::Bf16);
    let flop = 2.0 * (m * n * (k + r)) as f64;
    b.case(&format!("lora {m} x {n} x {k}+{r} y = [x u] [W B]'"), flop, n * k * 2, peak, || {
        b.run(&p, Output::Bf16(&mut c))
    });
    let mut c = vec![0f32; m * k];
    let terms = [
        Term { k: n, a: Left::Matrix(Matrix::bf16(&x, n)), b: Matrix::bf16(&w, k) },
        Term { k: r, a: Left::Matrix(Matrix::f32(&u, r)), b: Matrix::f32(&down, k) },
    ];
    let p = product(m, k, &terms, Precision::Bf16);
    b.case(&format!("lora {m} x {k} x {n}+{r} dx = [dy du] [W; A]"), flop, n * k * 2, peak, || {
        b.run(&p, Output::F32(&mut c))
    });
    let terms = [Term { k: m, a: Left::Matrix(Matrix::bf16(&x, n).t()), b: Matrix::f32(&u, r) }];
    let p = product(n, r, &terms, Precision::Bf16);
    let mut c = vec![0f32; n * r];
    let flop = 2.0 * (m * n * r) as f64;
    b.case(&format!("lora {n} x {r} x {m} dB = dy' u"), flop, m * n * 2, peak, || b.run(&p, Output::F32(&mut c)));
    let terms = [Term { k: m, a: Left::Matrix(Matrix::f32(&u, r).t()), b: Matrix::bf16(&x, n) }];
    let p = product(r, n, &terms, Precision::Bf16);
    b.case(&format!("lora {r} x {n} x {m} dA = du' x"), flop, m * n * 2, peak, || b.run(&p, Output::F32(&mut c)));
}

/// 64 experts, six of them a token: about 96 rows each.
fn experts(b: &Bench) {
    let (n, k, experts) = (1408, 2048, 64);
    if !"experts".contains(&b.filter) {
        return;
    }
    let rows: Vec<usize> = (0..experts).map(|e| 64 + e * 37 % 65).collect();
    let total: usize = rows.iter().sum();
    let (x, w) = (bf16(&random(total * k, 0)), bf16(&random(experts * n * k, 1)));
    let flop = 2.0 * (total * n * k) as f64;
    for (name, right) in [("x W'", true), ("dY W", false)] {
        let (stride, mut at, mut c) = (if right { k } else { n }, 0, vec![0u16; total * n]);
        let terms: Vec<_> = (rows.iter().zip(w.chunks_exact(n * k)))
            .map(|(m, w)| {
                at += m * k;
                let w = Matrix { values: Values::Bf16(w), stride, transposed: right };
                [Term { k, a: Left::Matrix(Matrix::bf16(&x[at - m * k..at], k)), b: w }]
            })
            .collect();
        let name = format!("experts {experts} of 64..128 x {n} x {k} {name}");
        b.case(&name, flop, w.len() * 2, b.peaks.bf16_gflops, || {
            let mut rest = &mut c[..];
            let mut group = vec![];
            for (m, terms) in rows.iter().zip(&terms) {
                let (own, after) = rest.split_at_mut(m * n);
                rest = after;
                let product = product(*m, n, terms, Precision::Bf16);
                group.push(Grouped { product, c: Output::Bf16(own), c_stride: n });
            }
            run_grouped_on(b.isa, &b.pool, &mut group);
        });
    }
}
