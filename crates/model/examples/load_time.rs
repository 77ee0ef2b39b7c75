//! How long a checkpoint takes to load in each base form, and what the process then holds: `load_time DIR FORM`.
use loar_model::{BaseDtype, LoadOptions, Model};
use loar_tape::Precision;

fn status(field: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find(|l| l.starts_with(field)).unwrap_or_default().replace('\t', " ")
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, form] = args.as_slice() else { return eprintln!("load_time DIR FORM") };
    let base = BaseDtype::from_word(form).expect("a base form");
    let start = std::time::Instant::now();
    let model = Model::load(
        std::path::Path::new(dir),
        &LoadOptions { base, precision: Precision::Bf16, ..LoadOptions::default() },
    )
    .expect("loads");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{form}: {seconds:.2} s, base {:.3} GB, {}, {}",
        model.base_bytes() as f64 / 1e9,
        status("VmRSS"),
        status("VmHWM")
    );
}
