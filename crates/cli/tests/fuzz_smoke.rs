//! The fuzz targets in a few seconds, without libFuzzer: every committed seed and some thousand
//! mutations of the seeds, the same ones in every run.
//!
//! A seed named `ok_…` must be accepted, one named `bad_…` refused. `LOAR_BLESS=1` writes anew the
//! seeds that are not text (`fuzz_seeds/mod.rs`). The long runs are described in `fuzz/README.md`.

mod fuzz_seeds;
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

use targets::Target;

/// Mutations of each target; a tokenizer or template costs some hundred times a JSON line.
fn mutations(name: &str) -> usize {
    match name {
        "tokenizer" | "template" => 1000,
        "config" | "data_parquet" | "data_packed" | "data_parts" => 4000,
        _ => 8000,
    }
}

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds")).join(name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap())
    };
    let seeds: Vec<_> = paths.into_iter().map(read).collect();
    assert!(seeds.iter().any(|(name, _)| name.starts_with("ok_")), "{name}: no seed to start from");
    seeds
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Pieces that readers stumble over.
const PIECES: [&[u8]; 24] = [
    b"null",
    b"-1",
    b"1e999",
    b"4294967296",
    b"18446744073709551616",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\ud800",
    b"\\u0000",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n%%\n",
    b"\r\n",
    b"\"",
    b"}",
    b"]",
    b",",
    b"</think>",
    "<｜tool▁calls▁begin｜>".as_bytes(),
    b"{% for x in messages %}",
    b"{{ messages * 9999999 }}",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\0\0\0\0",
];

/// One to four edits.
fn mutate(random: &mut Random, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + random.below(40)).min(bytes.len());
        match random.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => {
                let other = &seeds[random.below(seeds.len())].1;
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(200)).min(other.len())];
                bytes.splice(at..end, piece.iter().copied());
            }
            6 => {
                // a number where the file has one
                let digits = bytes[at..].iter().position(u8::is_ascii_digit).map(|n| at + n);
                if let Some(start) = digits {
                    let length = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                    let number = PIECES[random.below(5)];
                    bytes.splice(start..start + length, number.iter().copied());
                }
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Runs one input and names it when it fails.
fn feed(target: &Target, what: &str, bytes: &[u8]) -> bool {
    let run = std::panic::AssertUnwindSafe(|| (target.run)(bytes));
    std::panic::catch_unwind(run).unwrap_or_else(|_| {
        let input = String::from_utf8_lossy(bytes);
        panic!("target {}, {what}, input of {} bytes: {input:?}", target.name, bytes.len())
    })
}

fn smoke(name: &str) {
    let target = targets::find(name).unwrap();
    let seeds = seeds(name);
    for (seed, bytes) in &seeds {
        let accepted = feed(target, &format!("seed `{seed}`"), bytes);
        assert_eq!(accepted, seed.starts_with("ok_"), "{name}: seed `{seed}`");
    }
    feed(target, "nothing", b"");
    let mut random = Random(0x10A2);
    let (mut accepted, total) = (0, mutations(name));
    for i in 0..total {
        let bytes = mutate(&mut random, &seeds);
        accepted += usize::from(feed(target, &format!("mutation {i}"), &bytes));
    }
    // all refused or all accepted would mean that the mutations test nothing beyond the first check
    assert!(accepted > 0, "{name}: none of {total} mutations was accepted");
    assert!(accepted < total || name == "stream", "{name}: every mutation was accepted");
    assert!(peak_memory() < 2 << 30, "{name}: {} bytes at peak", peak_memory());
}

/// Most memory this process ever held, where the system tells it.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

macro_rules! smoke_tests {
    ($($name:ident)*) => {
        $(#[test] fn $name() { smoke(stringify!($name)); })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert_eq!(run.to_vec(), targets::TARGETS.iter().map(|t| t.name).collect::<Vec<_>>());
            for target in &targets::TARGETS {
                assert!(target.memory <= 512 << 20, "{}: no bound to speak of", target.name);
            }
        }
    };
}

smoke_tests!(safetensors config peft tokenizer template stream data_json data_table data_parquet data_packed checkpoint answer data_parts);

/// The seeds that are not text can be made again, and are read as they were.
#[test]
fn seeds_by_code() {
    for (target, name, bytes) in fuzz_seeds::all() {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds")).join(target);
        if std::env::var_os("LOAR_BLESS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), &bytes).unwrap();
        }
        assert!(dir.join(name).is_file(), "{target}/{name} is missing: run with LOAR_BLESS=1");
        let target = targets::find(target).unwrap();
        assert_eq!((target.run)(&bytes), name.starts_with("ok_"), "{}: {name}", target.name);
    }
}
