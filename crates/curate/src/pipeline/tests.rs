//! Whole runs: counts that add up, nothing lost, same bytes on any number of threads and after
//! being stopped anywhere, and what the curated set gives when it is read back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use loar_data::ReadOptions;

use super::*;
use crate::config::CurateConfig;
use crate::models::{NoModels, ScorerOptions};

/// Mixed sources: Chinese and English, chat, pairs and text, duplicates, bad rows, gzip.
fn sources(dir: &Path) {
    let zh = |at: usize| format!("第{at}号客户申请贷款{}元，请判断风险等级并说明理由。编号{}", at * 1000, at * 7919);
    let mut chat = String::new();
    for at in 0..300 {
        let id = if at % 30 == 29 { at - 1 } else { at };
        chat.push_str(&format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{}\"}}, {{\"role\": \"assistant\", \
             \"reasoning_content\": \"看第{id}号\", \"content\": \"风险等级为{}，因为第{id}号客户收入稳定。\"}}], \"origin\": {at}}}\n",
            zh(id),
            if id % 2 == 0 { "低" } else { "高" }
        ));
        if at % 100 == 50 {
            chat.push_str("{\"messages\": [{\"role\": \"user\"\n");
        }
    }
    std::fs::create_dir_all(dir.join("raw")).unwrap();
    std::fs::write(dir.join("raw/zh.jsonl"), &chat).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for at in 0..200 {
        writeln!(gz, "{{\"question\": \"How many apples does person {at} have after buying {at} boxes of {} apples each and eating three?\", \"answer\": \"{}\"}}", at * 3, at * at * 3 - at.min(3)).unwrap();
    }
    std::fs::write(dir.join("raw/en.jsonl.gz"), gz.finish().unwrap()).unwrap();
    std::fs::write(dir.join("raw/pairs.csv"), "prompt,completion\nalpha beta gamma,delta\nalpha beta gamma,epsilon\n")
        .unwrap();
    std::fs::write(dir.join("raw/notes.txt"), "A note that is trained whole.\n").unwrap();
    std::fs::write(
        dir.join("data.toml"),
        "out = \"set\"\nseed = 3\n[[source]]\nname = \"raw\"\npaths = [\"raw\"]\nlicence = \"MIT\"\nread.keep = [\"origin\"]\n\
         [rules]\npresets = []\n[split]\neval = 0.1\ntest = 0.05\n",
    )
    .unwrap();
}

fn config(dir: &Path, out: &str) -> CurateConfig {
    let path = dir.join("data.toml");
    let mut config = CurateConfig::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
    config.out = dir.join(out);
    config
}

fn curate(config: &CurateConfig, threads: usize) -> Result<Dataset, CurateError> {
    let stop = AtomicBool::new(false);
    run(config, Path::new("data.toml"), &NoModels, &Control { threads, stop: &stop, progress: &|_| {} })
}

/// All files of a folder by relative name.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut out, mut open) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                out.insert(path.strip_prefix(dir).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

fn records(out: &Path, folder: &str) -> Vec<RowRecord> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(out.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|path| read_lines::<RowRecord>(path).unwrap()).collect()
}

#[test]
fn every_row_has_a_verdict_and_counts_add_up() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let config = config(dir.path(), "set");
    let set = curate(&config, 2).unwrap();
    assert_eq!(set.mismatches(), Vec::<String>::new());
    assert_eq!(set.rows, 506);
    let verdicts = records(&config.out, "verdicts");
    assert_eq!(verdicts.iter().map(|record| record.row).collect::<Vec<_>>(), (0..506).collect::<Vec<_>>());
    let by = |verdict: &str| verdicts.iter().filter(|record| record.verdict == verdict).count() as u64;
    for (part, rows) in &set.parts {
        assert_eq!(by(part), *rows, "{part}");
    }
    assert_eq!(by("dropped"), set.dropped);
    // Three broken lines, ten repeated chats; the contradicting pair is noted and stays.
    assert_eq!(set.stages[0].rules["truncated-json"].drop, 3);
    assert_eq!((set.duplicates.exact, set.duplicates.conflicts), (10, 1));
    let dropped = records(&config.out, "dropped");
    assert_eq!(dropped.len() as u64, set.dropped);
    assert!(dropped.iter().all(|record| record.content.is_some() && !record.findings.is_empty()));
    let repeated = dropped.iter().find(|record| record.stage.as_deref() == Some("dedup")).unwrap();
    assert!(repeated.findings[0].note.contains("zh.jsonl:29"), "{:?}", repeated.findings);
    assert!(!config.out.join("work").exists());
    // Sizes of the parts: shares of the rows left, groups never divided.
    let left = set.rows - set.dropped;
    assert!(set.parts["eval"] <= (left as f64 * 0.1).round() as u64 && set.parts["eval"] > left / 20);
}

#[test]
fn the_set_reads_back_as_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let config = config(dir.path(), "set");
    let set = curate(&config, 1).unwrap();
    let options = ReadOptions { keep: vec!["provenance".into(), "origin".into()], ..ReadOptions::default() };
    let back = loar_data::read(&[config.out.join("train")], &options).unwrap();
    assert_eq!(back.examples.len() as u64, set.parts["train"]);
    let raw = loar_data::read(&[dir.path().join("raw")], &config.source[0].read).unwrap();
    for example in &back.examples {
        let at = example.kept["provenance"]["at"].as_str().unwrap();
        let original = raw.examples.iter().find(|original| original.id == at).unwrap();
        assert_eq!(example.body, original.body, "{at}");
        assert_eq!(example.kept.get("origin"), original.kept.get("origin"));
        assert_eq!(example.kept["provenance"]["licence"], "MIT");
    }
}

#[test]
fn threads_and_stops_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let plain = config(dir.path(), "one");
    // The smallest shards there are, 4 KiB: some thirty.
    let shards = |mut config: CurateConfig| {
        config.shard_mib = 0;
        config
    };
    let plain = shards(plain);
    let set = curate_small(&plain, 1, usize::MAX).unwrap();
    let expected = contents(&plain.out);
    let many = shards(config(dir.path(), "many"));
    assert_eq!(curate_small(&many, 4, usize::MAX).unwrap().id, set.id);
    let strip = |files: BTreeMap<PathBuf, Vec<u8>>| -> BTreeMap<PathBuf, Vec<u8>> {
        files.into_iter().filter(|(path, _)| path != Path::new("dataset.json")).collect()
    };
    assert_eq!(strip(contents(&many.out)), strip(expected.clone()));
    for after in [0, 1, 5, 20, 40, 60, 70] {
        let stopped = shards(config(dir.path(), &format!("stopped{after}")));
        let mut tries = 0;
        let last = loop {
            tries += 1;
            match curate_small(&stopped, 2, if tries == 1 { after } else { usize::MAX }) {
                Err(CurateError::Stopped { .. }) => {}
                other => break other.unwrap(),
            }
        };
        assert_eq!(last.id, set.id, "stopped after {after}");
        assert_eq!(strip(contents(&stopped.out)), strip(expected.clone()), "stopped after {after}");
    }
}

/// Stopped after so many pieces of work.
fn curate_small(config: &CurateConfig, threads: usize, after: usize) -> Result<Dataset, CurateError> {
    let (stop, pieces) = (AtomicBool::new(after == 0), AtomicUsize::new(0));
    let progress = |_| {
        if pieces.fetch_add(1, Ordering::Relaxed) + 1 >= after {
            stop.store(true, Ordering::Relaxed);
        }
    };
    run(config, Path::new("data.toml"), &NoModels, &Control { threads, stop: &stop, progress: &progress })
}

#[test]
fn a_foreign_work_folder_and_a_finished_set_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let first = config(dir.path(), "set");
    assert!(matches!(curate_small(&first, 1, 0), Err(CurateError::Stopped { .. })));
    let mut other = first.clone();
    other.seed = 4;
    let error = curate(&other, 1).unwrap_err().to_string();
    assert!(error.contains("the config differs"), "{error}");
    curate(&first, 1).unwrap();
    assert!(matches!(curate(&first, 1), Err(CurateError::Finished(_))));
}

#[test]
fn a_torn_archive_names_the_file_and_keeps_the_shards() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let path = dir.path().join("raw/en.jsonl.gz");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let config = config(dir.path(), "set");
    let error = curate(&config, 2).unwrap_err().to_string();
    assert!(error.contains("en.jsonl.gz") && error.contains("compressed stream is damaged"), "{error}");
}

#[test]
fn weights_repeat_and_thin_the_training_part_alone() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let mut config = config(dir.path(), "set");
    config.source[0].weight = 2.25;
    let set = curate(&config, 2).unwrap();
    let (train, written) = (set.parts["train"], set.sources[0].written["train"]);
    assert_eq!(set.sources[0].written["eval"], set.parts["eval"]);
    let extra = written - 2 * train;
    let (expected, deviation) = (train as f64 * 0.25, (train as f64 * 0.25 * 0.75).sqrt());
    assert!((extra as f64 - expected).abs() < 4.0 * deviation, "{extra} of {expected}");
}

#[test]
fn every_fault_of_the_config_is_told_with_its_line() {
    let text = "seed = \"x\"\n[[source]]\nname = \"a\"\npaths = []\n[[source]]\nname = \"a\"\npaths = [\"b\"]\nweight = 0\n\
                [dedup]\nsimilarity = 2.0\nfoo = 1\n[splits]\neval = 0.1\n";
    let faults = CurateConfig::parse(text, Path::new("d/data.toml")).unwrap_err().to_string();
    for told in [
        "d/data.toml:1: `seed`",
        "`out`: missing",
        "`source.a.paths`",
        "stands twice",
        "`source.a.weight`",
        "data.toml:11: `dedup`",
        "did you mean `split`",
    ] {
        assert!(faults.contains(told), "`{told}` is not in\n{faults}");
    }
}

/// Every stage on: a schedule that names lines of the set, a sheet of the sample, coverage, and
/// rules whose preview counts what the run then drops.
#[test]
fn every_stage_together() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let path = dir.path().join("data.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("presets = []", "files = [\"mine.toml\"]")
        + "[compliance]\nplan.manual = 20\n[pii]\n[decontaminate]\nagainst = [\"eval.jsonl\"]\nmodes = [\"exact\"]\n[select]\nbudget = 300\n\
           [curriculum]\nstages = 3\n[augment]\nshare = 0.5\n[augment.dialogues]\nleast = 0.01\n";
    std::fs::write(
        dir.path().join("mine.toml"),
        "[[rule]]\nid = \"no-notes\"\nmeasure = \"phrases\"\nwords = [\"trained whole\"]\nmax = 0\naction = \"drop\"\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("eval.jsonl"),
        "{\"question\": \"第7号客户申请贷款7000元，请判断风险等级并说明理由。编号55433\", \"answer\": \"低\"}\n",
    )
    .unwrap();
    let config = match CurateConfig::parse(&text, &path) {
        Ok(config) => config,
        Err(faults) => panic!("{faults}"),
    };
    let stop = AtomicBool::new(false);
    let control = Control { threads: 2, stop: &stop, progress: &|_| {} };
    let seen = preview(&config, &path, u64::MAX, 3, &control).unwrap();
    let set = run(&config, &path, &NoModels, &control).unwrap();
    assert_eq!(set.mismatches(), Vec::<String>::new());
    let stage = |name: &str| set.stages.iter().find(|stage| stage.name == name).unwrap();
    assert_eq!(stage("rules").dropped, seen.dropped);
    assert_eq!(stage("rules").rules["mine/no-notes"].drop, 1);
    assert_eq!(stage("decontaminate").dropped, 1, "{:?}", stage("decontaminate"));
    let leaks = set.decontamination.as_ref().unwrap();
    assert_eq!((leaks.eval_items, leaks.leaked_items, leaks.rows), (1, 1, 1));
    let table = set.files.iter().find(|file| file.path.starts_with("decontamination/")).unwrap();
    let table = std::fs::read_to_string(config.out.join(&table.path)).unwrap();
    let leak: Leak = serde_json::from_str(&table).unwrap();
    assert_eq!(leaks.shown, std::slice::from_ref(&leak));
    assert!(leak.eval.ends_with("eval.jsonl:1") && leak.train.ends_with("zh.jsonl:8"), "{leak:?}");
    assert!(leak.eval_text.contains("第7号客户") && leak.train_text.contains("第7号客户") && leak.mode == "exact");
    let shown = seen.decontamination.unwrap();
    let exact = shown.modes.iter().find(|count| count.mode.name() == "exact").unwrap();
    assert_eq!((exact.train_rows, exact.eval_items, shown.eval_items), (1, 1, 1));
    assert!(shown.examples.contains(&leak), "{:?}", shown.examples);
    let left: u64 = set.parts.values().sum();
    assert!(left <= 300 && stage("select").dropped > 0);
    let schedule = std::fs::read_to_string(config.out.join("schedule.jsonl")).unwrap();
    let train: u64 = set.files.iter().filter(|file| file.path.starts_with("train/")).map(|file| file.rows).sum();
    let mut named = std::collections::BTreeSet::new();
    for line in schedule.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let (file, line) = entry["row"].as_str().unwrap().rsplit_once(':').unwrap();
        let text = std::fs::read_to_string(config.out.join(file)).unwrap();
        assert!(text.lines().nth(line.parse::<usize>().unwrap() - 1).is_some());
        named.insert(entry["row"].to_string());
    }
    assert_eq!(named.len() as u64, train);
    let sheet: serde_json::Value =
        serde_json::from_slice(&std::fs::read(config.out.join("review.json")).unwrap()).unwrap();
    assert_eq!((sheet["items"].as_array().unwrap().len(), sheet["rows"].as_u64()), (20, Some(left)));
    assert!(set.coverage["counts"].as_array().unwrap().len() == 112);
    let accepted: u64 = set.augmented.values().map(|[_, _, accepted]| accepted).sum();
    let made: u64 = set.files.iter().filter(|file| file.path.starts_with("made/")).map(|file| file.rows).sum();
    assert!(made > 0 && made == accepted);
    let back = loar_data::read(
        &[config.out.join("made")],
        &ReadOptions { keep: vec!["provenance".into()], ..ReadOptions::default() },
    );
    let (mut dialogues, mut links) = (0, 0);
    for example in back.unwrap().examples {
        let from = &example.kept["provenance"];
        if from["transform"] == "dialogue" {
            dialogues += 1;
            let strengths: Vec<f64> = from["links"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
            assert_eq!(strengths.len() + 1, from["parents"].as_array().unwrap().len());
            assert!(from["linked"].as_f64().unwrap() >= 0.6 && from["measure"] == "lexical: idf cosine");
            links += strengths.len() as u64;
        }
        let parents = from["parents"].as_array().unwrap();
        // Twins of refused requests are ours; everything else names rows of the input.
        assert!(!parents.is_empty() || from["transform"] == "over-refusal", "{from}");
        assert!(parents.iter().all(|parent| parent.as_str().unwrap().contains("raw/")), "{from}");
    }
    let told = set.dialogues.as_ref().unwrap();
    assert!(dialogues > 0 && told.kept == dialogues && told.strengths.iter().sum::<u64>() == links);
    assert_eq!(set.augmented["dialogue"], [told.rows, told.chains, told.kept]);
    assert!(seen.dialogues.unwrap().report.kept > 0);
    let page = std::fs::read_to_string(config.out.join("report.html")).unwrap();
    assert!(page.contains("mine/no-notes") && !page.contains("<script"));
    for part in ["Decontamination", "Task types", "Selection", "Made rows", "Curriculum", "<mark>"] {
        assert!(page.contains(part), "{part}");
    }
    // counts that do not add up are told
    let mut wrong = set.clone();
    wrong.augmented.insert("dialogue".into(), [0, 0, told.kept + 1]);
    wrong.decontamination.as_mut().unwrap().modes.insert("exact".into(), 7);
    assert_eq!(wrong.mismatches().len(), 2, "{:?}", wrong.mismatches());
}

/// Counts its calls, and is asked to stop the run after so many.
struct Counting<'a> {
    asked: AtomicUsize,
    stop_after: usize,
    stop: &'a AtomicBool,
}

impl crate::Scorer for Counting<'static> {
    fn losses(&self, asked: &[(&str, &str)]) -> Vec<Option<f64>> {
        if self.asked.fetch_add(asked.len(), Ordering::Relaxed) + asked.len() >= self.stop_after {
            self.stop.store(true, Ordering::Relaxed);
        }
        // short requests help more
        let loss = |(prompt, answer): &(&str, &str)| 1.0 + answer.len() as f64 / (1.0 + prompt.len() as f64);
        asked.iter().map(|pair| Some(loss(pair))).collect()
    }
}

struct One(Arc<Counting<'static>>);

impl crate::Models for One {
    fn scorer(&self, _: &ScorerOptions) -> Result<Arc<dyn crate::Scorer>, String> {
        Ok(Arc::clone(&self.0) as Arc<dyn crate::Scorer>)
    }
}

/// The model is asked once for a row, whatever stops the run, and the bytes are those of one that
/// was not stopped.
#[test]
fn a_stopped_run_asks_the_model_only_for_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let path = dir.path().join("data.toml");
    std::fs::create_dir(dir.path().join("model")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap()
        + "[curriculum]\nstages = 2\n[scorer]\nmodel = \"model\"\n[augment]\nshare = 0.0\n[augment.dialogues]\nleast = 0.0\n";
    let config = |out: &str| {
        let mut config = CurateConfig::parse(&text, &path).unwrap();
        config.out = dir.path().join(out);
        config.shard_mib = 0;
        config
    };
    let go = |config: &CurateConfig, stop_after: usize| {
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let model = Arc::new(Counting { asked: AtomicUsize::new(0), stop_after, stop });
        let control = Control { threads: 2, stop, progress: &|_| {} };
        let set = run(config, &path, &One(Arc::clone(&model)), &control);
        (set, model.asked.load(Ordering::Relaxed))
    };
    let whole = config("whole");
    let (set, asked) = go(&whole, usize::MAX);
    let set = set.unwrap();
    let report = set.curriculum.as_ref().unwrap();
    assert!(report["measures"].to_string().contains("IFD of "), "{report}");
    assert!(set.dialogues.as_ref().unwrap().measure.starts_with("loss difference"));
    let stopped = config("stopped");
    let (first, before) = go(&stopped, asked / 4);
    assert!(matches!(first, Err(CurateError::Stopped { .. })), "{first:?}");
    // what a kill leaves of a line is asked again
    let torn = std::fs::read_dir(stopped.out.join("work")).unwrap().map(|entry| entry.unwrap().path());
    let torn = torn.filter(|path| path.to_string_lossy().ends_with("ifd.jsonl")).max().unwrap();
    std::fs::OpenOptions::new().append(true).open(&torn).unwrap().write_all(b"{\"row\":").unwrap();
    let (second, after) = go(&stopped, usize::MAX);
    assert_eq!(second.unwrap().id, set.id);
    assert!(before > 0 && before + after == asked, "{before} + {after} of {asked}");
    assert!(
        matches!(run(&config("none"), &path, &NoModels, &Control { threads: 1, stop: &AtomicBool::new(false), progress: &|_| {} }),
        Err(CurateError::Config(faults)) if faults.to_string().contains("scorer.model"))
    );
}

/// The score of a model chooses rows; one whose request hinders its answer comes last.
#[test]
fn rows_are_selected_by_the_models_difficulty() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let path = dir.path().join("data.toml");
    let base = std::fs::read_to_string(&path).unwrap().replace("eval = 0.1\ntest = 0.05", "eval = 0.0\ntest = 0.0");
    let select = "[select]\nbudget = 60\ntau = 1.0\nmax_share = 1.0\nfloor = 0\nscore = \"ifd\"\n";
    let faults = CurateConfig::parse(&(base.clone() + select), &path).unwrap_err().to_string();
    assert!(faults.contains("`ifd` needs a model"), "{faults}");
    let text = base + select + "[scorer]\nmodel = \"model\"\n";
    let config = CurateConfig::parse(&text, &path).unwrap();
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let model = Arc::new(Counting { asked: AtomicUsize::new(0), stop_after: usize::MAX, stop });
    let control = Control { threads: 2, stop, progress: &|_| {} };
    let set = run(&config, &path, &One(model), &control).unwrap();
    assert_eq!(set.parts["train"], 60);
    assert_eq!(set.selection.as_ref().unwrap()["score"], "ifd");
}

/// A config with a sentence encoder: vectors for task types, meaning, selection and the gate.
fn with_encoder(dir: &Path, out: &str) -> CurateConfig {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/tests/golden/bert");
    let path = dir.join("data.toml");
    let text = std::fs::read_to_string(&path).unwrap()
        + &format!("[encoder]\nmodel = {:?}\n", model.display().to_string())
        + "[semantic]\ncosine = 0.9995\ncell = 64\n[select]\nbudget = 60\ntau = 0.99999\nfloor = 1\nmax_share = 1.0\n\
           [augment]\nshare = 0.3\nembedding = 0.5\n";
    let mut config = CurateConfig::parse(&text, &path).unwrap();
    config.out = dir.join(out);
    config.shard_mib = 0;
    config
}

#[test]
fn vectors_are_made_once_and_the_set_does_not_depend_on_threads_or_stops() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let one = with_encoder(dir.path(), "one");
    let set = curate_small(&one, 1, usize::MAX).unwrap();
    assert_eq!(set.mismatches(), Vec::<String>::new());
    let report = set.semantic.as_ref().unwrap();
    assert!(report.cells > 1 && report.same > 0 && report.rows > report.same, "{report:?}");
    assert_eq!(set.selection.as_ref().unwrap()["vectors"], "embedding model");
    let stage = set.stages.iter().find(|stage| stage.name == "semantic").unwrap();
    assert_eq!((stage.dropped, stage.seen), (report.same, report.rows));
    assert!(set.augmented.values().any(|[_, _, accepted]| *accepted > 0));

    // Each finding names a row that was read and a cosine at or above the bound.
    let verdicts = records(&one.out, "verdicts");
    let places: std::collections::HashSet<&str> = verdicts.iter().map(|record| record.at.as_str()).collect();
    let mut told = 0;
    for record in verdicts.iter().filter(|record| record.stage.as_deref() == Some("semantic")) {
        let finding = record.findings.iter().find(|finding| finding.rule == "same-meaning").unwrap();
        let of = finding.note.strip_prefix("means what ").unwrap().strip_suffix(" means").unwrap();
        let known = places.iter().any(|place| of.ends_with(*place) || place.ends_with(of));
        assert!(known && of != record.at, "{of}");
        assert!(finding.value.unwrap() >= 0.9995 && finding.bound == Some(0.9995));
        told += 1;
    }
    assert_eq!(told, report.same);

    let strip = |files: BTreeMap<PathBuf, Vec<u8>>| -> BTreeMap<PathBuf, Vec<u8>> {
        files.into_iter().filter(|(path, _)| path != Path::new("dataset.json")).collect()
    };
    let expected = strip(contents(&one.out));
    let many = with_encoder(dir.path(), "many");
    assert_eq!(curate_small(&many, 3, usize::MAX).unwrap().id, set.id);
    assert_eq!(strip(contents(&many.out)), expected);
    for after in [3, 30] {
        let stopped = with_encoder(dir.path(), &format!("stopped{after}"));
        assert!(matches!(curate_small(&stopped, 2, after), Err(CurateError::Stopped { .. })));
        // Vectors of finished shards lie there and are not made again.
        let vectors = || {
            let files = std::fs::read_dir(stopped.out.join(WORK)).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.extension().is_some_and(|end| end == "vectors")).collect::<Vec<_>>()
        };
        assert!(!vectors().is_empty());
        let modified = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        let before: Vec<_> = vectors().iter().map(|path| (path.clone(), modified(path))).collect();
        let pause = curate_small(&stopped, 2, before.len() + 1);
        if matches!(pause, Err(CurateError::Stopped { .. })) {
            assert!(before.iter().all(|(path, time)| modified(path) == *time));
            curate_small(&stopped, 1, usize::MAX).unwrap();
        }
        assert_eq!(strip(contents(&stopped.out)), expected, "stopped after {after}");
    }
}

#[test]
fn meaning_needs_a_model_and_a_folder_that_is_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    sources(dir.path());
    let path = dir.path().join("data.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let faults = CurateConfig::parse(&format!("{text}[semantic]\ncell = 1\n"), &path).unwrap_err().to_string();
    assert!(faults.contains("add `[encoder]`") && faults.contains("`semantic.cell`"), "{faults}");
    let config = CurateConfig::parse(&format!("{text}[encoder]\nmodel = \"raw\"\n"), &path).unwrap();
    let error = curate(&config, 1).unwrap_err().to_string();
    assert!(error.contains("`encoder.model`") && error.contains("config.json cannot be read"), "{error}");
}
