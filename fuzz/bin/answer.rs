//! libFuzzer binary of the target `answer`; see `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| loar_fuzz::run("answer", bytes));
