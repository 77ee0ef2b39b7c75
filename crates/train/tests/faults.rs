//! What goes wrong in a run, and what the run does about it.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Bench, bytes, data, go};
use loar_model::{LoadOptions, Model};
use loar_train::{End, Evaluator, Event, Folder, Ledger, TrainError, read_lines};
use proptest::prelude::*;

/// Runs until step `at`, then stops with a checkpoint.
fn stop_at(run: &loar_train::ResolvedRun, at: u64) {
    let stop = AtomicBool::new(false);
    let mut observe = |e: &Event| {
        if matches!(e, Event::Step(s) if s.step == at) {
            stop.store(true, Ordering::SeqCst);
        }
    };
    assert_eq!(loar_train::run(run, &mut observe, &stop).unwrap().end, End::Interrupted);
}

fn resume(dir: &Path, set: &[&str]) -> (Result<loar_train::RunReport, TrainError>, Vec<Event>) {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    let mut events = Vec::new();
    let result = loar_train::resume(dir, &set, &mut |e: &Event| events.push(e.clone()), &AtomicBool::new(false));
    (result, events)
}

fn warnings(events: &[Event]) -> String {
    events
        .iter()
        .filter_map(|e| if let Event::Warning { message } = e { Some(message.clone() + "\n") } else { None })
        .collect()
}

#[test]
fn a_damaged_newest_checkpoint_falls_back_and_ends_with_the_same_bytes() {
    let bench = Bench::new();
    let set = ["checkpoint.every_steps=1", "eval.every_steps=3"];
    let straight = bench.run("straight", &set);
    go(&straight).0.unwrap();
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 3] = [
        ("torn", |b| b.truncate(b.len() / 2)),
        ("flipped", |b| {
            let at = b.len() / 2;
            b[at] ^= 0x10;
        }),
        ("emptied", |b| b.clear()),
    ];
    for (name, damage) in cases {
        let run = bench.run(name, &set);
        stop_at(&run, 4);
        let path = run.output.dir.join("checkpoints/000004/state.loar");
        let mut content = bytes(&path);
        damage(&mut content);
        std::fs::write(&path, content).unwrap();
        let (result, events) = resume(&run.output.dir, &[]);
        result.unwrap();
        assert!(
            warnings(&events).contains("000004") && warnings(&events).contains("going on from step 3"),
            "{}",
            warnings(&events)
        );
        for file in ["metrics.jsonl", "adapter/adapter_model.safetensors"] {
            assert!(bytes(straight.output.dir.join(file)) == bytes(run.output.dir.join(file)), "{name}: {file}");
        }
    }
    // every checkpoint damaged: from the beginning, and still the same bytes
    let run = bench.run("all", &set);
    stop_at(&run, 2);
    for step in ["000001", "000002"] {
        std::fs::write(run.output.dir.join("checkpoints").join(step).join("state.loar"), b"LOARCKP1").unwrap();
    }
    let (result, events) = resume(&run.output.dir, &[]);
    result.unwrap();
    assert!(warnings(&events).contains("starting from the beginning"));
    assert!(bytes(straight.output.dir.join("metrics.jsonl")) == bytes(run.output.dir.join("metrics.jsonl")));
}

#[test]
fn a_run_that_was_killed_while_writing_goes_on() {
    let bench = Bench::new();
    let straight = bench.run("straight", &["checkpoint.every_steps=2"]);
    go(&straight).0.unwrap();
    let run = bench.run("killed", &["checkpoint.every_steps=2"]);
    stop_at(&run, 2);
    // what a kill leaves: a half-built checkpoint, a torn line, lines of steps that will be done again
    let dir = &run.output.dir;
    std::fs::create_dir(dir.join("checkpoints/.000004.tmp")).unwrap();
    std::fs::write(dir.join("checkpoints/.000004.tmp/state.loar"), b"LOARCK").unwrap();
    let mut metrics = bytes(dir.join("metrics.jsonl"));
    metrics.extend_from_slice(b"{\"step\":3,\"loss\":1.0}\n{\"step\":4,\"lo");
    std::fs::write(dir.join("metrics.jsonl"), metrics).unwrap();
    std::fs::create_dir(dir.join(".adapter.tmp")).unwrap();
    resume(dir, &[]).0.unwrap();
    for file in ["metrics.jsonl", "adapter/adapter_model.safetensors"] {
        assert!(bytes(straight.output.dir.join(file)) == bytes(dir.join(file)), "{file}");
    }
    assert!(!dir.join("checkpoints/.000004.tmp").exists() && !dir.join(".adapter.tmp").exists());
    // resuming a finished run changes nothing
    let before = bytes(dir.join("adapter/adapter_model.safetensors"));
    resume(dir, &[]).0.unwrap();
    assert!(before == bytes(dir.join("adapter/adapter_model.safetensors")));
}

#[test]
fn what_changed_is_named_and_refused() {
    let bench = Bench::new();
    let run = bench.run("changed", &[]);
    stop_at(&run, 2);
    let dir = &run.output.dir;
    let message = resume(dir, &["train.learning_rate=0.5", "adapter.rank=8"]).0.unwrap_err().to_string();
    assert!(message.contains("`train.learning_rate` was 0.01 and is 0.5"), "{message}");
    assert!(message.contains("`adapter.rank` was 4 and is 8"), "{message}");
    let train = bench.dir.path().join("train.jsonl");
    let original = std::fs::read_to_string(&train).unwrap();
    std::fs::write(&train, original.replacen("\"content\":\"", "\"content\":\"z", 1)).unwrap();
    let message = resume(dir, &[]).0.unwrap_err().to_string();
    assert!(message.contains("the token rows were sha256:"), "{message}");
    std::fs::write(&train, original).unwrap();
    let base = bench.dir.path().join("base/generation_config.json");
    std::fs::write(&base, "{}").unwrap();
    let message = resume(dir, &[]).0.unwrap_err().to_string();
    assert!(message.contains("the base `") && message.contains("one thing changed"), "{message}");
    std::fs::remove_file(&base).unwrap();
    // what decides nothing may change
    resume(dir, &["checkpoint.keep=5", "model.threads=2"]).0.unwrap();
    assert!(matches!(resume(&bench.dir.path().join("nowhere"), &[]).0, Err(TrainError::NoRun { .. })));
}

#[test]
fn a_loss_that_is_not_finite_stops_with_rows_and_the_last_good_checkpoint() {
    let bench = Bench::new();
    let run = bench.run(
        "nan",
        &["train.learning_rate=1e30", "train.warmup_ratio=0.0", "checkpoint.every_steps=1", "data.eval_fraction=0.0"],
    );
    let error = go(&run).0.unwrap_err();
    let TrainError::NonFinite { step, rows, checkpoint, .. } = &error else { panic!("{error}") };
    assert!(*step > 1, "{error}");
    assert!(!rows.is_empty() && rows.iter().all(|r| r.contains("train.jsonl:")), "{error}");
    assert_eq!(checkpoint.as_deref(), Some(&*run.output.dir.join(format!("checkpoints/{:06}", step - 1))));
    assert!(error.to_string().contains("the last good checkpoint is `"), "{error}");
}

#[test]
fn an_adapter_that_nothing_reaches_stops_after_the_first_step() {
    let bench = Bench::new();
    let run = bench.run("dead", &[]);
    let mut inputs = loar_train::prepare(&run, &mut |_: &Event| {}).unwrap();
    let ids: Vec<_> = inputs.model.params.iter().map(|(id, _)| id).collect();
    for id in ids {
        inputs.model.params.get_mut(id).value.data.fill(0.0); // with A and B both zero neither ever moves
    }
    Folder::new(&run.output.dir).begin(&run).unwrap();
    let error = loar_train::train(&run, inputs, None, &mut |_: &Event| {}, &AtomicBool::new(false)).unwrap_err();
    let TrainError::NoGradient { components, .. } = &error else { panic!("{error}") };
    assert!(components.len() > 3, "{error}");
    assert!(error.to_string().contains("no gradient reached `"), "{error}");
}

#[test]
fn a_target_that_does_not_exist_is_an_error_before_anything_is_written() {
    let bench = Bench::new();
    let run = bench.run("typo", &["adapter.targets=[\"k_proj\"]"]);
    let message = go(&run).0.unwrap_err().to_string();
    assert!(message.contains("k_proj"), "{message}");
    assert!(!run.output.dir.exists());
}

/// Gives a score by step.
struct Scores(fn(u64) -> f64);

impl Evaluator for Scores {
    fn evaluate(&mut self, _: &Model, step: u64) -> Result<BTreeMap<String, f64>, String> {
        Ok(BTreeMap::from([("score".to_owned(), self.0(step))]))
    }
}

fn with_scores(run: &loar_train::ResolvedRun, score: fn(u64) -> f64) -> Result<loar_train::RunReport, TrainError> {
    loar_train::run_with(run, Some(&mut Scores(score)), &mut |_: &Event| {}, &AtomicBool::new(false))
}

#[test]
fn stops_early_and_takes_the_best() {
    let bench = Bench::new();
    let set =
        ["eval.every_steps=1", "eval.metric=score", "eval.patience=2", "checkpoint.every_steps=100", "train.steps=20"];
    let run = bench.run("early", &set);
    let report = with_scores(&run, |step| -((step as f64) - 3.0).abs()).unwrap();
    assert_eq!((report.end, report.steps, report.result_step), (End::EarlyStopped, 5, 3));
    // the adapter is that of step 3, which a run of the same schedule stopped there confirms
    let last = bench.run("last", &[&set[..], &["eval.restore_best=false"]].concat());
    let report = with_scores(&last, |step| -((step as f64) - 3.0).abs()).unwrap();
    assert_eq!(report.result_step, 5);
    let adapter = |r: &loar_train::ResolvedRun| bytes(r.output.dir.join("adapter/adapter_model.safetensors"));
    assert!(adapter(&run) != adapter(&last));
    let none = bench.run("none", &[&set[..], &["eval.goal=min"]].concat());
    assert_eq!(with_scores(&none, |step| step as f64).unwrap().result_step, 1);
    let lines = read_lines(&run.output.dir.join("metrics.jsonl")).unwrap();
    assert_eq!(lines[3]["eval_score"], 0.0);
    let typo = bench.run("typo", &["eval.metric=scor"]);
    let message = with_scores(&typo, |_| 1.0).unwrap_err().to_string();
    assert!(message.contains("`scor`") && message.contains("`eval_score`"), "{message}");
}

#[test]
fn lost_rows_stop_the_run_with_the_ledger() {
    let bench = Bench::new();
    let strict = bench.run("strict", &["data.max_seq_len=12"]);
    let message = go(&strict).0.unwrap_err().to_string();
    assert!(
        message.contains("% of the data is lost")
            && message.contains("too long")
            && message.contains("raise `data.max_seq_len`"),
        "{message}"
    );
    assert!(!strict.output.dir.exists(), "nothing is written before the data is found good");
    let stop = bench.run("stop", &["data.max_seq_len=12", "data.on_too_long=stop"]);
    let message = go(&stop).0.unwrap_err().to_string();
    assert!(
        message.contains("rows are longer than `data.max_seq_len` = 12") && message.contains("train.jsonl:"),
        "{message}"
    );
    for on_too_long in ["drop", "cut"] {
        let run = bench.run(
            on_too_long,
            &["data.max_seq_len=12", &format!("data.on_too_long={on_too_long}"), "data.max_lost_fraction=0.9"],
        );
        go(&run).0.unwrap();
        let ledger: Ledger = Folder::new(&run.output.dir).read_json("ledger.json").unwrap().unwrap();
        assert!(ledger.faults().is_empty());
        assert_eq!(ledger.train.rows_cut > 0, on_too_long == "cut");
        assert!(ledger.train.end_rate() < 1.0 || on_too_long == "drop");
    }
}

#[test]
fn bad_rows_stop_or_are_counted() {
    let bench = Bench::new();
    let path = bench.dir.path().join("train.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\nnot json\n");
    std::fs::write(&path, text).unwrap();
    let message = go(&bench.run("stop", &[])).0.unwrap_err().to_string();
    assert!(message.contains("train.jsonl:41") && message.contains("train.jsonl:42"), "{message}");
    let run = bench.run("drop", &["data.on_bad_row=drop", "data.max_lost_fraction=0.1"]);
    go(&run).0.unwrap();
    let ledger: Ledger = Folder::new(&run.output.dir).read_json("ledger.json").unwrap().unwrap();
    assert_eq!(ledger.train.examples_dropped.values().sum::<u64>(), 2);
    assert_eq!(ledger.train.examples_read + ledger.eval.examples_read, 42);
}

#[test]
fn full_training_gives_a_base_for_others() {
    let bench = Bench::new();
    let text = bench.text.replace("[adapter]\nrank = 4\nalpha = 8\n", "[adapter]\nmethod = \"full\"\n");
    let bench = Bench { text, ..bench };
    let run = bench.run("full", &["output.lang=zh"]);
    let report = go(&run).0.unwrap();
    assert_eq!(report.result.as_deref(), Some(Path::new("model")));
    let model = Model::load(&run.output.dir.join("model"), &LoadOptions::default()).unwrap();
    assert_eq!(model.config.hidden_size, 16);
    assert!(run.output.dir.join("model/tokenizer.json").exists());
    let html = String::from_utf8(bytes(run.output.dir.join("report.html"))).unwrap();
    assert!(html.contains("微调报告") && html.contains("<svg") && !html.contains("http"), "the page stands alone");
    let lines = read_lines(&run.output.dir.join("metrics.jsonl")).unwrap();
    assert!(lines[6]["eval_loss"].as_f64() < lines[0]["eval_loss"].as_f64());
}

#[test]
fn events_are_json_and_a_plan_writes_nothing() {
    let bench = Bench::new();
    let run = bench.run("plan", &[]);
    let mut lines = Vec::new();
    let plan = loar_train::plan_run(&run, &mut |e: &Event| lines.push(serde_json::to_value(e).unwrap())).unwrap();
    assert!(!run.output.dir.exists());
    assert!(plan.seconds().unwrap() > 0.0 && plan.peak_bytes() > 0);
    assert_eq!(plan.steps, 6);
    assert!(lines.iter().any(|l| l["event"] == "plan" && l["steps"] == 6));
    assert!(plan.to_string().contains("tokens/s"));
    let (_, events) = go(&run);
    let step = events.iter().map(|e| serde_json::to_value(e).unwrap()).find(|e| e["event"] == "step").unwrap();
    assert_eq!((step["step"].as_u64(), step["steps"].as_u64()), (Some(1), Some(6)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_adds_up_for_any_rows_and_limit(n in 2usize..30, limit in 4usize..40, cut in any::<bool>(), held in 0.0f64..0.5) {
        let bench = Bench::new();
        let train = data(bench.dir.path(), "train.jsonl", n);
        prop_assert!(train.exists());
        let policy = if cut { "cut" } else { "drop" };
        let run = bench.run("ledger", &[&format!("data.max_seq_len={limit}"), &format!("data.on_too_long={policy}"), "data.max_lost_fraction=1.0", &format!("data.eval_fraction={held}")]);
        let (config, _) = loar_formats::config::ModelConfig::read(&run.model.path).unwrap();
        match loar_train::load_rows(&run, &config, &mut Vec::new(), &mut |_: &Event| {}) {
            Ok((rows, eval, ledger)) => {
                prop_assert!(ledger.faults().is_empty());
                prop_assert_eq!(rows.len() as u64, ledger.train.rows_used);
                prop_assert_eq!(eval.len() as u64, ledger.eval.rows_used);
                prop_assert_eq!(rows.iter().map(|r| r.labels() as u64).sum::<u64>(), ledger.train.tokens_labelled);
                prop_assert_eq!(ledger.train.examples_read + ledger.eval.examples_read, n as u64);
                prop_assert!(rows.iter().chain(&eval).all(|r| r.ids.len() <= limit && r.labels() > 0));
            }
            Err(TrainError::NoRows { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

/// A curriculum is taken in its order, a killed run goes on to the same bytes, and another schedule
/// is another run.
#[test]
fn a_scheduled_run_resumes_and_refuses_another_schedule() {
    let bench = Bench::new();
    let path = bench.dir.path().join("schedule.jsonl");
    let lines = |turned: bool| -> String {
        let line = |n: usize| {
            format!("{{\"stage\":{},\"row\":\"train.jsonl:{n}\"}}\n", if (n > 20) != turned { 2 } else { 1 })
        };
        (1..=40).map(line).collect()
    };
    std::fs::write(&path, lines(false)).unwrap();
    let schedule = format!("data.schedule={path:?}");
    let set = [schedule.as_str(), "data.eval_fraction=0.0", "checkpoint.every_steps=1"];
    let straight = bench.run("scheduled", &set);
    go(&straight).0.unwrap();
    let killed = bench.run("killed", &set);
    stop_at(&killed, 3);
    let (end, _) = resume(&killed.output.dir, &[]);
    assert_eq!(end.unwrap().end, End::Completed);
    let weights = |run: &loar_train::ResolvedRun| bytes(run.output.dir.join("adapter/adapter_model.safetensors"));
    assert!(weights(&straight) == weights(&killed), "a resumed run ends in other bytes");
    let plain = bench.run("plain", &set[1..]);
    go(&plain).0.unwrap();
    assert!(weights(&straight) != weights(&plain), "the schedule changed nothing");
    let other = bench.run("other", &set);
    stop_at(&other, 3);
    std::fs::write(&path, lines(true)).unwrap();
    assert!(matches!(resume(&other.output.dir, &[]).0, Err(TrainError::Changed { .. })));
}
