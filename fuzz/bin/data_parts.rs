//! libFuzzer binary of the target `data_parts`; see `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| loar_fuzz::run("data_parts", bytes));
