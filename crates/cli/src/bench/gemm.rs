//! Matrix products of a LoRA step: tokens through the square and the two long linear layers of a shape, forward (x·Wᵀ)
//! and back to the input (dY·W), operands and results of the type that training keeps.

use std::hint::black_box;
use std::time::Instant;

use loar_kernels::arena::Buf;
use loar_kernels::rng::Stream;
use loar_kernels::{Left, Matrix, Output, Pool, Precision, Product, Term, machine};
use serde_json::json;

use crate::bench::machine::gflops;
use crate::bench::median;
use crate::bench::meter::Meter;
use crate::bench::record::Record;
use crate::console::Console;
use crate::table::Table;

/// At least this many timed calls a case, and this long.
const CALLS: usize = 5;
const SECONDS: f64 = 0.3;

/// In memory as a training step keeps it: on cache lines and, where there are any, huge pages.
fn random(n: usize, seed: u64) -> Buf<f32> {
    let mut values = Buf::zeros(n);
    Stream::new(seed, 0x67_656d, 0).fill_uniform(0, -1.0, 1.0, &mut values);
    values
}

fn bf16(pool: &Pool, values: &[f32]) -> Buf<u16> {
    let mut out = Buf::zeros(values.len());
    loar_kernels::elementwise::narrow_into(pool, values, &mut out);
    out
}

/// Median seconds of a call, after one to warm up.
fn time(mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut all) = (Instant::now(), Vec::new());
    while all.len() < CALLS || start.elapsed().as_secs_f64() < SECONDS {
        let one = Instant::now();
        call();
        all.push(one.elapsed().as_secs_f64());
    }
    median(&all)
}

/// `tokens` rows through every layer, in one precision; `sizes` are the widths of the model and of its dense MLP.
pub fn run(
    pool: &Pool,
    tokens: usize,
    sizes: (usize, usize),
    precision: Precision,
    seed: u64,
    console: &Console,
) -> Record {
    let (hidden, intermediate) = sizes;
    // inner and outer width: attention output, gate and up, down
    let layers = [(hidden, hidden), (hidden, intermediate), (intermediate, hidden)];
    let mut meter = Meter::new(console, 2 * layers.len());
    let (mut cases, mut lowest) = (Vec::new(), f64::INFINITY);
    let (mut flop, mut seconds) = (0.0, 0.0);
    for (k, n) in layers {
        let (x, w, dy) = (random(tokens * k, seed), random(n * k, seed + 1), random(tokens * n, seed + 2));
        let (x16, w16, dy16) = (bf16(pool, &x), bf16(pool, &w), bf16(pool, &dy));
        let (x, w, dy) = match precision {
            Precision::F32 => (Matrix::f32(&x, k), Matrix::f32(&w, k), Matrix::f32(&dy, n)),
            Precision::Bf16 => (Matrix::bf16(&x16, k), Matrix::bf16(&w16, k), Matrix::bf16(&dy16, n)),
        };
        for (direction, sizes) in [("x·Wᵀ", (tokens, n, k, x, w.t())), ("dY·W", (tokens, k, n, dy, w))] {
            let (m, n, k, a, b) = sizes;
            let terms = [Term { k, a: Left::Matrix(a), b }];
            let product =
                Product { m, n, terms: &terms, alpha: 1.0, bias: None, residual: None, accumulate: false, precision };
            let one = match precision {
                Precision::F32 => {
                    let mut c = Buf::zeros(m * n);
                    time(|| product.run(pool, Output::F32(black_box(&mut c)), n))
                }
                Precision::Bf16 => {
                    let mut c = Buf::zeros(m * n);
                    time(|| product.run(pool, Output::Bf16(black_box(&mut c)), n))
                }
            };
            let rate = 2.0 * (m * n * k) as f64 / one / 1e9;
            meter.tick(format_args!("{m} × {k} × {n} {direction}: {rate:.0} GFLOP/s"));
            (flop, seconds, lowest) = (flop + 2.0 * (m * n * k) as f64, seconds + one, lowest.min(rate));
            cases.push((m, k, n, direction, rate));
        }
    }
    drop(meter);
    let peak = loar_train::memory::peak_bytes();
    let peaks = machine::peaks(pool);
    let best = gflops(&peaks, precision);
    let mut table = Table::new(&[">m", ">k", ">n", "<product", ">GFLOP/s", ">of peak"]);
    for (m, k, n, direction, rate) in &cases {
        table.row([
            m.to_string(),
            k.to_string(),
            n.to_string(),
            (*direction).to_owned(),
            format!("{rate:.0}"),
            format!("{:.1} %", 100.0 * rate / best),
        ]);
    }
    let mut record = Record::new("gemm");
    record.set_gflops(flop / seconds / 1e9, precision, &peaks);
    record.set("lowest_share_of_peak", lowest / best);
    record.set("peak_rss_bytes", peak);
    record.set(
        "cases",
        cases
            .iter()
            .map(|(m, k, n, direction, rate)| {
                let forward = *direction == "x·Wᵀ";
                json!({"m": m, "k": k, "n": n, "product": if forward { "forward" } else { "backward" },
                    "gflops": rate, "share_of_peak": rate / best})
            })
            .collect::<Vec<_>>(),
    );
    record.set_machine(pool, &peaks);
    record.table = Some(table);
    record
}
