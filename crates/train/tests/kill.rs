//! SIGKILL at many moments: the run goes on each time and ends with the bytes of one that was never
//! killed. The child process is this test binary itself.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::{Bench, bytes, go};
use loar_kernels::rng::Stream;
use loar_train::{Event, TrainError, load_run};

const CHILD: &str = "LOAR_TEST_KILL_CHILD";
const SET: [&str; 4] = ["train.steps=24", "checkpoint.every_steps=1", "eval.every_steps=4", "adapter.dropout=0.1"];

/// In a child process: begins or goes on with the run of the file that the variable names.
#[test]
fn child() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let file = Path::new(&file);
    let run = load_run(file, &SET.map(String::from)).unwrap();
    let mut tell = |e: &Event| println!("\n{}", serde_json::to_string(e).unwrap());
    let stop = AtomicBool::new(false);
    match loar_train::resume(&run.output.dir, &[], &mut tell, &stop) {
        Err(TrainError::NoRun { .. }) => loar_train::run(&run, &mut tell, &stop).unwrap(),
        other => other.unwrap(),
    };
}

#[test]
fn killed_at_many_moments_and_ended_with_the_same_bytes() {
    let bench = Bench::new();
    let straight = bench.run("straight", &SET);
    go(&straight).0.unwrap();
    let file = bench.dir.path().join("killed.toml");
    let dir = bench.dir.path().join("runs/killed");
    std::fs::write(&file, format!("{}\n[output]\ndir = {dir:?}\n", bench.text)).unwrap();
    let random = Stream::new(11, 3, 0);
    let mut kills = 0;
    let mut reached = std::collections::BTreeSet::new();
    for attempt in 0..60u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // after so many lines of events, and a little later, wherever that is
        let lines = random.below(2 * attempt, 60) as usize;
        let later = Duration::from_micros(random.below(2 * attempt + 1, 4000));
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        for _ in 0..lines {
            text.clear();
            if reader.read_line(&mut text).unwrap() == 0 {
                break;
            }
        }
        let start = Instant::now();
        while start.elapsed() < later {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        let names = std::fs::read_dir(dir.join("checkpoints")).into_iter().flatten().flatten();
        reached.extend(names.filter_map(|e| e.file_name().to_str()?.parse::<u64>().ok()).max());
    }
    // whatever the last attempt left, one more start ends it
    let ended =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", "child"]).env(CHILD, &file).status().unwrap();
    assert!(ended.success());
    assert!(kills >= 5 && reached.len() >= 3, "{kills} kills, the newest checkpoints being {reached:?}");
    for name in ["metrics.jsonl", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"] {
        assert!(bytes(straight.output.dir.join(name)) == bytes(dir.join(name)), "{name} after {kills} kills");
    }
    println!("{kills} kills, the newest checkpoints being {reached:?}");
}
