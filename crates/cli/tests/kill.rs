//! kill -9 at any moment, resume, and the adapter is the same to the byte.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use common::{checkpoint, loar, run, text, v3_config, write_data, write_run};
use loar_kernels::rng::Stream;
use loar_model::StoredDtype;

/// Moments at which a run is killed.
const MOMENTS: u64 = 50;
/// Dropout, accumulation, evaluation and best-checkpoint choice all take part in what must be equal.
const SETTINGS: &str = "[adapter]\nrank = 2\ntargets = \"all-linear\"\ndropout = 0.1\n\n[train]\nsteps = 10\nbatch_rows = 4\n\
    micro_batch_tokens = 24\nlearning_rate = 1e-2\n\n[eval]\nevery_steps = 3\n\n[checkpoint]\nevery_steps = 2\nkeep = 2\n";

fn adapter_files(out: &Path) -> Vec<(String, Vec<u8>)> {
    ["adapter_model.safetensors", "adapter_config.json"]
        .map(|name| {
            (name.to_owned(), std::fs::read(out.join("adapter").join(name)).expect("a finished run has an adapter"))
        })
        .into()
}

/// Starts the run and kills it once it has told `n` events; the number it told in all when it ended first.
fn kill_after(n: usize, args: &[&str]) -> Option<usize> {
    let mut child = loar(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut told = 0;
    while told < n {
        match lines.next() {
            Some(line) => {
                line.expect("UTF-8 events");
                told += 1;
            }
            None => {
                child.wait().expect("it ended");
                return Some(told);
            }
        }
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ended");
    None
}

/// The run file's name is the run's; the folder differs, so that runs do not meet.
fn run_file(base: &Path, data: &Path, out: &Path) -> String {
    let file = out.with_extension("d").join("run.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    write_run(&file, base, data, out, SETTINGS);
    file.display().to_string()
}

/// Ctrl-C ends a run with a checkpoint and the command that goes on; that command gives the same bytes.
#[cfg(unix)]
#[test]
fn interrupted_and_resumed_is_uninterrupted_to_the_byte() {
    let base = checkpoint(&v3_config(), StoredDtype::F32);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rows.jsonl");
    write_data(&data, 24);
    let straight = dir.path().join("straight");
    let end = run(["train", &run_file(base.path(), &data, &straight), "--events", "json"]);
    assert_eq!(end.status.code(), Some(0), "{}", text(&end.stderr));

    let out = dir.path().join("stopped");
    let file = run_file(base.path(), &data, &out);
    let mut child =
        loar(["train", &file, "--events", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = String::new();
    let mut sent = false;
    for line in lines {
        last = line.unwrap();
        if !sent && last.contains("\"event\":\"step\"") {
            let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            assert!(status.unwrap().success());
            sent = true;
        }
    }
    let end = child.wait_with_output().unwrap();
    assert_eq!(end.status.code(), Some(1), "{}", text(&end.stderr));
    assert!(text(&end.stderr).contains("stopping with a checkpoint"));
    let event: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(event["event"], "interrupted");
    let resume = event["resume"].as_str().unwrap();
    let args: Vec<&str> = resume.strip_prefix("loar ").unwrap().split(' ').collect();
    let end = run(args);
    assert_eq!(end.status.code(), Some(0), "{}", text(&end.stderr));
    assert_eq!(adapter_files(&straight), adapter_files(&out));
}

#[test]
fn killed_and_resumed_is_uninterrupted_to_the_byte() {
    let base = checkpoint(&v3_config(), StoredDtype::F32);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rows.jsonl");
    write_data(&data, 24);
    let start = |out: &Path| run_file(base.path(), &data, out);
    let straight = dir.path().join("straight");
    let out = run(["train", &start(&straight), "--events", "json"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let events = text(&out.stdout).lines().count();
    assert!(events > 25, "{events} events");
    let want = adapter_files(&straight);

    let stream = Stream::new(9, 0x6b69_6c6c, 0);
    let mut kills = 0;
    for moment in 0..MOMENTS {
        let out = dir.path().join(format!("killed{moment}"));
        let file = start(&out);
        let args = ["train", &file, "--resume", "--events", "json"];
        // Up to three kills of the same run, each at a moment of its own.
        for again in 0..1 + moment % 3 {
            let n = 1 + stream.below(3 * moment + again, events as u64) as usize;
            if kill_after(n, &args).is_some() {
                break;
            }
            kills += 1;
        }
        if !out.join("summary.json").exists() || !out.join("manifest.json").exists() {
            let end = run(args);
            assert_eq!(end.status.code(), Some(0), "moment {moment}: {}", text(&end.stderr));
        }
        for ((name, a), (_, b)) in want.iter().zip(adapter_files(&out)) {
            assert!(*a == b, "moment {moment}: {name} differs from the uninterrupted run's");
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
    assert!(kills >= MOMENTS, "{kills} kills");
}
