//! libFuzzer binary of the target `checkpoint`; see `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| loar_fuzz::run("checkpoint", bytes));
