//! libFuzzer binary of the target `data_table`; see `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| loar_fuzz::run("data_table", bytes));
