//! Speed of the screening stages, each alone and all in a row, in MB of text a second on one core.
//!
//! Takes JSONL files with `messages` (or any strings: every string of a row counts as a turn), gives
//! a table. `cargo run -p loar-curate --example stage_speed -- FILE… [--megabytes N]`

use std::time::Instant;

use loar_curate::{Batch, BatchBuilder, Operator, compliance, control, language, pii, rules};
use loar_text::{Body, Conversation, Message};
use serde_json::{Map, Value};

/// A conversation of the strings of a row, asked and answered in turn.
fn body(row: &Value) -> Body {
    let messages = match row.get("messages").and_then(Value::as_array) {
        Some(list) => list
            .iter()
            .filter_map(|m| Some(Message::new(m.get("role")?.as_str()?, m.get("content")?.as_str()?)))
            .collect(),
        None => {
            let texts = row.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_str);
            texts.enumerate().map(|(at, text)| Message::new(["user", "assistant"][at % 2], text)).collect()
        }
    };
    Body::Chat(Conversation { messages, ..Conversation::default() })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut megabytes = 64.0;
    let mut files = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--megabytes" {
            megabytes = args.next().ok_or("--megabytes takes a number")?.parse()?;
        } else {
            files.push(arg);
        }
    }
    let mut rows = Vec::new();
    for file in &files {
        for line in std::fs::read_to_string(file)?.lines().filter(|line| !line.trim().is_empty()) {
            rows.push(body(&serde_json::from_str(line)?));
        }
    }
    if rows.is_empty() {
        return Err("name JSONL files with rows".into());
    }
    let batches: Vec<Batch> = rows
        .chunks(1024)
        .map(|chunk| {
            let mut builder = BatchBuilder::new();
            for (at, body) in chunk.iter().enumerate() {
                builder.push(at as u64, 0, at as u64 + 1, body, &Map::new());
            }
            builder.finish()
        })
        .collect();
    let bytes: usize = batches.iter().flat_map(|b| b.rows()).flat_map(|row| row.texts().map(|(_, _, t)| t.len())).sum();
    let fault =
        |faults: Vec<loar_curate::OptionFault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let mut stages: Vec<(String, Box<dyn Operator>)> = vec![
        ("control".into(), Box::new(control::Op::new(control::Options::default()).map_err(fault)?)),
        ("language".into(), Box::new(language::Op::new(language::Options::default()).map_err(fault)?)),
        ("rules".into(), Box::new(rules::Op::new(rules::Options::default()).map_err(fault)?)),
        ("pii".into(), Box::new(pii::Op::new(pii::Options::default()).map_err(fault)?)),
        ("compliance".into(), Box::new(compliance::Op::new(compliance::Options::default()).map_err(fault)?)),
    ];
    let defaults = stages.len();
    for preset in ["gopher", "c4", "fineweb", "fineweb2-zh", "nemo"] {
        let options = rules::Options { presets: vec![preset.into()], ..rules::Options::default() };
        stages.push((format!("rules {preset}"), Box::new(rules::Op::new(options).map_err(fault)?)));
    }
    // Later stages find the columns of this one, as in a run.
    let told: Vec<Batch> = batches.iter().map(|b| b.clone().with_columns(stages[1].1.apply(b).columns)).collect();
    println!("{} rows, {:.1} MB of text", rows.len(), bytes as f64 / 1e6);
    println!("{:<20} {:>10} {:>10}", "stage", "MB/s", "findings");
    let mut sum = 0.0;
    for (at, (name, stage)) in stages.iter().enumerate() {
        // Presets beyond the defaults are slower by far: an eighth of the work is enough.
        let goal = if at < defaults { megabytes } else { megabytes / 8.0 };
        let rounds = (goal * 1e6 / bytes as f64).ceil().max(1.0) as usize;
        let batches = if at < 2 { &batches } else { &told };
        let findings: usize = batches.iter().map(|batch| stage.apply(batch).findings.len()).sum();
        let start = Instant::now();
        for _ in 0..rounds {
            for batch in batches {
                std::hint::black_box(stage.apply(batch));
            }
        }
        let each = start.elapsed().as_secs_f64() / rounds as f64;
        if at < defaults {
            sum += each;
        }
        println!("{name:<20} {:>10.0} {findings:>10}", bytes as f64 / 1e6 / each);
        if at + 1 == defaults {
            println!("{:<20} {:>10.0}", "all of these", bytes as f64 / 1e6 / sum);
        }
    }
    Ok(())
}
