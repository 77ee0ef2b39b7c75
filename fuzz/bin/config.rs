//! libFuzzer binary of the target `config`; see `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| loar_fuzz::run("config", bytes));
