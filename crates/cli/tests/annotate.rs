//! `loar annotate` from its example to its files, through the built binary.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use common::{checkpoint, expect, loar, v3_config, write};
use loar_model::StoredDtype;

/// Starts the page, waits until every person has an address, and kills it.
fn serve_and_kill(task: &str) -> Vec<String> {
    let mut child =
        loar(["annotate", task, "--port", "0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).take(4).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

fn example(dir: &Path) -> String {
    let (task, _) = expect(0, ["annotate", "init", dir.to_str().unwrap()]);
    task.trim().to_owned()
}

#[test]
fn from_the_example_to_report_export_and_verification() {
    let dir = tempfile::tempdir().unwrap();
    let task = example(&dir.path().join("credit"));
    let (_, stderr) = expect(2, ["annotate", "init", dir.path().join("credit").to_str().unwrap()]);
    assert!(stderr.contains("is there already"), "{stderr}");
    let (_, stderr) = expect(2, ["annotate", "report", &task]);
    assert!(stderr.contains("nothing was annotated yet"), "{stderr}");

    let people = serve_and_kill(&task);
    assert_eq!(people.len(), 4);
    assert!(
        people[0].starts_with("anna") && people[0].contains("annotator") && people[0].contains("/#token="),
        "{people:?}"
    );
    let token = |line: &str| line.rsplit_once('=').unwrap().1.to_owned();
    // tokens stay from start to start, rows come in once
    assert_eq!(token(&serve_and_kill(&task)[3]), token(&people[3]));

    let (shown, _) = expect(0, ["annotate", "report", &task]);
    for part in
        ["credit: gold 2, open 6", "correct: alpha – undefined, 0 rows", "audit: 0 looked at", "head: 18 sha256:"]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    let (shown, _) = expect(0, ["--lang", "zh", "annotate", "report", &task]);
    assert!(shown.contains("标注员") && shown.contains("复查：已复查 0") && shown.contains("日志末端"), "{shown}");
    let (json, _) = expect(0, ["annotate", "report", &task, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["stages"]["open"], 6);
    let head = report["head"]["hash"].as_str().unwrap();

    let out = dir.path().join("out");
    let (files, _) = expect(0, ["annotate", "export", &task, "--out", out.to_str().unwrap()]);
    assert_eq!(files.lines().count(), 3);
    assert_eq!(std::fs::read_to_string(out.join("events.jsonl")).unwrap().lines().count(), 18);

    let (shown, _) = expect(0, ["annotate", "verify", &task, "--head", head]);
    assert!(shown.starts_with("whole: 18 events, 8 rows"), "{shown}");
    let other = format!("sha256:{}", "0".repeat(64));
    let (shown, _) = expect(1, ["annotate", "verify", &task, "--head", &other]);
    assert!(shown.contains("does not hold the given head") && shown.contains("1 faults"), "{shown}");
    let (_, stderr) = expect(2, ["annotate", "verify", &task, "--head", "abc"]);
    assert!(stderr.contains("`abc` is no hash"), "{stderr}");
}

#[test]
fn every_fault_of_a_task_file_is_underlined_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let task = dir.path().join("task.toml");
    write(
        &task,
        "[task]\nname = \"t\"\nguideline = \"g.md\"\ndata = [\"r.jsonl\"]\nbatches = 3\n\n[[rubric]]\nname = \"r\"\nscale = 7\nlabels = []\n",
    );
    let (_, stderr) = expect(2, ["annotate", task.to_str().unwrap()]);
    for part in [
        "task.toml:5",
        "unknown key `batches` in [task]",
        "expected a text, found integer",
        "2 to 9 labels",
        "have role = \"adjudicator\"; found 0",
    ] {
        assert!(stderr.contains(part), "{part} in\n{stderr}");
    }
    let (_, stderr) = expect(3, ["annotate", dir.path().join("absent.toml").to_str().unwrap()]);
    assert!(stderr.contains("absent.toml"), "{stderr}");
}

/// A checkpoint of random weights says nothing readable: the judge abstains and says how often.
#[test]
fn a_local_model_judges_and_decides_nothing() {
    // its tokens are bytes, and the guideline stands in every question
    let mut config = v3_config();
    config["max_position_embeddings"] = 8192.into();
    let model = checkpoint(&config, StoredDtype::F32);
    let dir = tempfile::tempdir().unwrap();
    let task = example(&dir.path().join("credit"));
    serve_and_kill(&task);
    let (_, stderr) = expect(2, ["annotate", "judge", &task]);
    assert!(stderr.contains("no [judge]"), "{stderr}");
    let (shown, stderr) =
        expect(0, ["annotate", "judge", &task, "--limit", "1", "--model", model.path().to_str().unwrap()]);
    assert!(stderr.contains("1 rows judged"), "{stderr}");
    assert!(shown.contains("credit: gold 2, open 6") && shown.contains("unreadable 1.000"), "{shown}");
}

/// An OpenAI-compatible server on this machine that always finds the first label of a question; gives
/// its address and how often it was asked.
fn server() -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).is_ok() && !line.trim().is_empty() {
                if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut content = vec![0; length];
            reader.read_exact(&mut content).unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let label = if String::from_utf8_lossy(&content).contains("unclear") { "wrong" } else { "fair" };
            let text = format!("{{\\\"labels\\\": [\\\"{label}\\\"]}}");
            let body = format!(
                "{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}],\"usage\":{{\"prompt_tokens\":100,\"completion_tokens\":10}}}}"
            );
            let size = body.len();
            write!(reader.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}")
                .unwrap();
        }
    });
    (url, asked)
}

/// A server that judges every row wrong: its opinion, its cost and its flips are told, and no row moves.
#[test]
fn an_endpoint_judges_and_overrules_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let task = example(&dir.path().join("credit"));
    serve_and_kill(&task);
    let (url, asked) = server();
    let text = std::fs::read_to_string(&task).unwrap();
    write(
        Path::new(&task),
        &format!("{text}\n[judge]\nurl = \"{url}\"\nmodel = \"m1\"\nprice_in = 1.0\nprice_out = 2.0\n"),
    );
    let (shown, stderr) = expect(0, ["annotate", "judge", &task]);
    assert!(stderr.contains("rows judged"), "{stderr}");
    // two wordings and two orders of labels, two rubrics
    let rows: usize =
        stderr.lines().find(|l| l.contains("rows judged")).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), rows * 8, "{shown}");
    for part in
        ["credit: gold 2, open 6", "judge m1: ", "order flips 0.000", "wording flips 0.000", "correct", "clarity"]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    // a second time nothing is asked again
    let (_, stderr) = expect(0, ["annotate", "judge", &task]);
    assert!(stderr.contains("0 rows judged"), "{stderr}");
    let (json, _) = expect(0, ["annotate", "report", &task, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["judge"]["prompt_tokens"], (rows * 800) as u64);
    assert!((report["judge"]["cost"].as_f64().unwrap() - (rows * 8) as f64 * 120.0 / 1e6).abs() < 1e-9);
}
