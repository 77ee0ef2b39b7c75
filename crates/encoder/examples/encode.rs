//! Sentences a second of an encoder folder on a file of texts, one a line: `encode FOLDER FILE [THREADS] [bf16]`.
//! Prints the rate of the second of two runs and, of each text, the first numbers of its vector.

use std::path::Path;
use std::time::Instant;

use loar_encoder::{Encoder, Options, Precision};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, rest @ ..] = args.as_slice() else { return Err("encode FOLDER FILE [THREADS] [bf16]".into()) };
    let threads = rest.first().map_or(Ok(0), |n| n.parse())?;
    let precision = if rest.iter().any(|a| a == "bf16") { Precision::Bf16 } else { Precision::F32 };
    let encoder = Encoder::open(Path::new(folder), &Options { threads, precision, ..Options::default() })?;
    let text = std::fs::read_to_string(file)?;
    let texts: Vec<&str> = text.lines().collect();
    let mut vectors = encoder.encode(&texts);
    let started = Instant::now();
    vectors = if texts.is_empty() { vectors } else { encoder.encode(&texts) };
    let seconds = started.elapsed().as_secs_f64();
    println!("{} texts, {:.1} texts/s, {threads} threads, {precision:?}", texts.len(), texts.len() as f64 / seconds);
    for (text, vector) in texts.iter().zip(&vectors).take(3) {
        println!("{:?} {text:.40}", &vector[..4.min(vector.len())]);
    }
    Ok(())
}
