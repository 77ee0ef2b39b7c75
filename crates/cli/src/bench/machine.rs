//! The machine a measurement ran on: its processor, the instruction set in use, and what it reaches at best.

use loar_kernels::machine::Peaks;
use loar_kernels::{Isa, Pool, Precision};
use serde_json::{Value, json};

/// The arithmetic peak of a precision, GFLOP/s.
pub fn gflops(peaks: &Peaks, precision: Precision) -> f64 {
    match precision {
        Precision::F32 => peaks.f32_gflops,
        Precision::Bf16 => peaks.bf16_gflops,
    }
}

/// Processor, instruction set, threads and peaks as JSON.
pub fn describe(pool: &Pool, peaks: &Peaks) -> Value {
    json!({
        "cpu": cpu_name(), "isa": Isa::best().name(), "threads": pool.threads(),
        "peaks": {
            "f32_gflops": peaks.f32_gflops, "bf16_gflops": peaks.bf16_gflops,
            "read_bytes_per_s": peaks.read_gbs * 1e9, "copy_bytes_per_s": peaks.copy_gbs * 1e9,
        },
    })
}

/// As the operating system names it.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
