//! Whole runs on a tiny model: what stands in the run folder, and that stopping changes nothing.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Bench, bytes, go};
use loar_train::{End, Event, Folder, Ledger, TrainError, read_lines};

#[test]
fn a_run_leaves_a_whole_folder() {
    let bench = Bench::new();
    let run = bench.run("whole", &[]);
    let (report, events) = go(&run);
    let report = report.unwrap();
    assert_eq!((report.end, report.steps), (End::Completed, 6));
    let dir = &run.output.dir;
    for name in [
        "run.toml",
        "resolved.toml",
        "manifest.json",
        "metrics.jsonl",
        "timing.jsonl",
        "ledger.json",
        "coverage.json",
        "plan.json",
        "summary.json",
        "report.html",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/manifest.json",
    ] {
        assert!(dir.join(name).exists(), "{name}");
    }
    let lines = read_lines(&dir.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    let eval = |i: usize| lines[i]["eval_loss"].as_f64().unwrap();
    assert!(eval(6) < eval(0), "{} then {}", eval(0), eval(6));
    let ledger: Ledger = Folder::new(dir).read_json("ledger.json").unwrap().unwrap();
    assert_eq!(ledger.train.examples_read + ledger.eval.examples_read, 40);
    assert!(ledger.faults().is_empty());
    assert_eq!(ledger.train.end_rate(), 1.0);
    let adapter = loar_artifact::Manifest::read(&dir.join("adapter")).unwrap();
    assert!(adapter.verify(&dir.join("adapter")).is_empty());
    let roles: Vec<&str> = adapter.parents.iter().map(|p| p.role.as_str()).collect();
    assert_eq!(roles, ["base", "data", "config", "code"]);
    assert!(loar_artifact::Manifest::read(dir).unwrap().verify(dir).is_empty());
    assert!(events.iter().any(|e| matches!(e, Event::Plan(p) if p.steps == 6 && p.probe.is_some())));
    // the resolved file is itself a run file that gives the same run
    let again = loar_train::ResolvedRun::parse("whole", &run.toml(), &[]).unwrap();
    assert_eq!(again.values(), run.values());
    // the same folder is not taken twice
    assert!(matches!(go(&run).0, Err(TrainError::RunExists { .. })));
}

/// A run on a quantised base learns, says on what, plans the bytes of the codes, and is not resumed on another base.
#[test]
fn a_run_says_on_which_base_it_trained() {
    let bench = Bench::new();
    let mut planned = Vec::new();
    for (word, stored) in
        [("as-stored", "f32"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "int4"), ("fp8-block", "fp8-block")]
    {
        let run = bench.run(word, &[&format!("base.dtype={word:?}")]);
        let (report, events) = go(&run);
        assert_eq!(report.unwrap().end, End::Completed, "{word}");
        let dir = &run.output.dir;
        let lines = read_lines(&dir.join("metrics.jsonl")).unwrap();
        let eval = |i: usize| lines[i]["eval_loss"].as_f64().unwrap();
        assert!(eval(6) < eval(0), "{word}: {} then {}", eval(0), eval(6));
        let adapter = loar_artifact::Manifest::read(&dir.join("adapter")).unwrap();
        assert_eq!(adapter.facts["base_dtype"], stored, "{word}");
        assert!(
            std::fs::read_to_string(dir.join("resolved.toml")).unwrap().contains(&format!("[base]\ndtype = {word:?}"))
        );
        let plan = events.iter().find_map(|e| if let Event::Plan(p) = e { Some(p.clone()) } else { None }).unwrap();
        planned.push(plan.memory.iter().find(|m| m.component == "base weights").unwrap().bytes);
    }
    // All are below f32; the embedding stays in f32 but for bf16, and FP8 keeps the head. Matrices of width 8 and 16 pay for
    // their scales, and int4 for groups of 64 that are not filled.
    assert!(planned[1..].iter().all(|b| *b < planned[0]) && planned[2] < planned[3].min(planned[4]), "{planned:?}");
    let run = bench.run("int8", &[]);
    let error = loar_train::resume(
        &run.output.dir,
        &["base.dtype=\"int4\"".into()],
        &mut |_: &Event| {},
        &AtomicBool::new(false),
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("base.dtype"), "{text}");
}

/// Runs to `stop_after` steps, then resumes.
fn interrupted(bench: &Bench, name: &str, set: &[&str], stops: &[u64]) -> loar_train::ResolvedRun {
    let run = bench.run(name, set);
    let stop = AtomicBool::new(stops.first() == Some(&0));
    let observe = |at: Option<u64>, stop: &AtomicBool, e: &Event| {
        if let Event::Step(s) = e
            && Some(s.step) == at
        {
            stop.store(true, Ordering::SeqCst);
        }
    };
    let first = loar_train::run(&run, &mut |e: &Event| observe(stops.first().copied(), &stop, e), &stop).unwrap();
    assert_eq!(first.end, End::Interrupted);
    assert_eq!(Some(&first.steps), stops.first());
    for next in stops[1..].iter().map(|s| Some(*s)).chain([None]) {
        let stop = AtomicBool::new(false);
        loar_train::resume(&run.output.dir, &[], &mut |e: &Event| observe(next, &stop, e), &stop).unwrap();
    }
    run
}

const RESULTS: [&str; 3] = ["metrics.jsonl", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"];

#[test]
fn stopping_at_any_step_and_resuming_gives_the_same_bytes() {
    let bench = Bench::new();
    let set = [
        "adapter.dropout=0.2",
        "adapter.use_dora=true",
        "train.activation_checkpointing=false",
        "adapter.lora_plus_ratio=4.0",
    ];
    let straight = bench.run("straight", &set);
    go(&straight).0.unwrap();
    for step in 0..6u64 {
        let resumed = interrupted(&bench, &format!("stop{step}"), &set, &[step]);
        for name in RESULTS {
            assert!(
                bytes(straight.output.dir.join(name)) == bytes(resumed.output.dir.join(name)),
                "{name} after stopping at {step}"
            );
        }
    }
    let resumed = interrupted(&bench, "often", &set, &[1, 2, 4]);
    for name in RESULTS {
        assert!(
            bytes(straight.output.dir.join(name)) == bytes(resumed.output.dir.join(name)),
            "{name} after stopping often"
        );
    }
    let (a, b) = (straight.output.dir.join("adapter"), resumed.output.dir.join("adapter"));
    assert_eq!(loar_artifact::Manifest::read(&a).unwrap().id, loar_artifact::Manifest::read(&b).unwrap().id);
}
