//! The judge: what is kept, what is counted, and what it may not do. Servers are fakes on loopback.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use common::{answer, check, open, write};
use loar_annotate::judge::{Endpoint, Judge, JudgeError, Reply, consider};
use loar_annotate::report::Report;
use loar_annotate::task::JudgeConfig;
use loar_annotate::workflow::Stage;
use loar_text::{Body, Conversation, Message};

/// Answers by a rule on (system, user).
struct Scripted<F>(F);

impl<F: FnMut(&str, &str) -> String> Judge for Scripted<F> {
    fn name(&self) -> &str {
        "scripted"
    }
    fn ask(&mut self, system: &str, user: &str) -> Result<Reply, JudgeError> {
        Ok(Reply { text: (self.0)(system, user), prompt_tokens: 100, completion_tokens: 10 })
    }
}

fn row(text: &str) -> Body {
    Body::Chat(Conversation { messages: vec![Message::user("q"), Message::assistant(text)], ..Conversation::default() })
}

/// The label that stands first in the prompt's list.
fn first_listed(user: &str) -> &str {
    let (right, wrong) = (user.find("- right").unwrap(), user.find("- wrong").unwrap());
    if right < wrong { "right" } else { "wrong" }
}

#[test]
fn only_steady_verdicts_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "", 1);
    let mut prompts = Vec::new();
    let mut steady = Scripted(|system: &str, user: &str| {
        prompts.push((system.to_owned(), user.to_owned()));
        "Sure: {\"labels\": [\"right\"]}".to_owned()
    });
    let verdict = consider(&mut steady, &task, &row("a =====\nb")).unwrap();
    assert_eq!(verdict.labels["correct"], ["right"]);
    assert_eq!((verdict.asked, verdict.pairs, verdict.order_flips, verdict.wording_flips), (4, 2, 0, 0));
    assert_eq!((verdict.prompt_tokens, verdict.completion_tokens), (400, 40));
    // two wordings, each in both orders, the row between markers that it cannot end
    let systems: std::collections::BTreeSet<&String> = prompts.iter().map(|(s, _)| s).collect();
    let users: std::collections::BTreeSet<&String> = prompts.iter().map(|(_, u)| u).collect();
    assert_eq!((systems.len(), users.len()), (2, 4));
    assert!(users.iter().all(
        |u| u.contains("\n======\n[user]\nq\n[assistant]\na =====\nb\n======\n") || u.starts_with("======\n[user]")
    ));
    assert!(users.iter().all(|u| u.contains("Be right.")));

    let verdict =
        consider(&mut Scripted(|_: &str, user: &str| first_listed(user).to_owned()), &task, &row("a")).unwrap();
    assert!(verdict.labels.is_empty());
    assert_eq!((verdict.pairs, verdict.order_flips, verdict.wordings), (2, 2, 0));

    let by_wording = |system: &str, _: &str| if system.contains("careful") { "\"right\"" } else { "wrong." }.to_owned();
    let verdict = consider(&mut Scripted(by_wording), &task, &row("a")).unwrap();
    assert!(verdict.labels.is_empty());
    assert_eq!((verdict.order_flips, verdict.wordings, verdict.wording_flips), (0, 1, 1));

    let verdict = consider(&mut Scripted(|_: &str, _: &str| "no idea".to_owned()), &task, &row("a")).unwrap();
    assert_eq!((verdict.unreadable, verdict.pairs, verdict.labels.len()), (4, 0, 0));
}

#[test]
fn a_verdict_is_no_check_and_its_reliability_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let prices = "\n[judge]\nurl = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\nprice_in = 2.0\nprice_out = 10.0\n";
    write(dir.path(), "", 10);
    let text = std::fs::read_to_string(dir.path().join("task.toml")).unwrap();
    std::fs::write(dir.path().join("task.toml"), text + prices).unwrap();
    let task = common::read(dir.path());
    let mut store = open(&task);
    // `right` but for rows 8 and 9, where it goes with the order; `a0` is wrong to the experts
    let mut judge = Scripted(|_: &str, user: &str| {
        if user.contains("[assistant]\na8\n") || user.contains("[assistant]\na9\n") {
            first_listed(user)
        } else {
            "right"
        }
        .to_owned()
    });
    for id in 1..=10 {
        let verdict = consider(&mut judge, &task, &store.body(id).unwrap()).unwrap();
        store.judge(id, verdict).unwrap();
        assert_eq!((store.item(id).unwrap().stage(), store.item(id).unwrap().checks().len()), (Stage::Open, 0));
    }
    for id in 1..=10 {
        check(&mut store, id, if id <= 2 { ["wrong"; 3] } else { ["right"; 3] });
    }
    // the experts' word stands
    assert_eq!(store.ids(|i| i.stage() == Stage::Rejected), [1, 2]);
    let report = Report::of(&store).judge.unwrap();
    let rubric = &report.rubrics[0];
    assert_eq!((rubric.decided, rubric.abstained, rubric.right), (10, 2, 6));
    assert_eq!(rubric.confusion, [[6.0, 0.0], [2.0, 0.0]]);
    assert_eq!(rubric.kappa, Some(0.0));
    assert!((report.order_flip_rate - 0.2).abs() < 1e-12, "{report:?}");
    assert!((report.cost - (4000.0 * 2.0 + 400.0 * 10.0) / 1e6).abs() < 1e-12, "{report:?}");
    assert!((rubric.interval.0 - 0.4093).abs() < 5e-4, "{rubric:?}");
    let guideline = task.guideline_version();
    let forged = store.check("judge", 3, answer("right"), 1, &guideline).unwrap_err();
    assert!(
        forged.to_string().contains("cannot be checked") || forged.to_string().contains("does not name"),
        "{forged}"
    );
}

/// A server for one request: gives it back, answers with `status` and `body`.
fn fake(status: &'static str, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let (mut request, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            request.push_str(&line);
            if line.trim().is_empty() {
                break;
            }
        }
        let mut content = vec![0; length];
        reader.read_exact(&mut content).unwrap();
        request.push_str(&String::from_utf8(content).unwrap());
        let size = body.len();
        write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}")
            .unwrap();
        request
    });
    (url, thread)
}

fn endpoint(url: &str, key_env: Option<&str>) -> Result<Endpoint, JudgeError> {
    let (url, key_env) = (url.to_owned(), key_env.map(str::to_owned));
    let once = loar_endpoint::Patience { retries: 0, ..loar_endpoint::Patience::default() };
    let config = JudgeConfig { url, model: "m1".into(), key_env, price_in: 0.0, price_out: 0.0 };
    Endpoint::with_patience(&config, once)
}

#[test]
fn an_openai_compatible_server_is_asked() {
    let body = "{\"choices\":[{\"message\":{\"content\":\"{\\\"labels\\\":[\\\"right\\\"]}\"}}],\
        \"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5}}";
    let (url, request) = fake("200 OK", body);
    // a variable that every test process has stands for the key
    let reply = endpoint(&url, Some("CARGO_MANIFEST_DIR")).unwrap().ask("be fair", "row 中").unwrap();
    assert_eq!((reply.prompt_tokens, reply.completion_tokens), (12, 5));
    assert_eq!(reply.text, "{\"labels\":[\"right\"]}");
    let request = request.join().unwrap();
    assert!(request.starts_with("POST /v1/chat/completions"), "{request}");
    let key = format!("bearer {}", env!("CARGO_MANIFEST_DIR")).to_lowercase();
    assert!(request.to_lowercase().contains(&key), "{request}");
    let sent: serde_json::Value = serde_json::from_str(request.lines().last().unwrap()).unwrap();
    assert_eq!((&sent["model"], &sent["temperature"]), (&serde_json::json!("m1"), &serde_json::json!(0.0)));
    assert_eq!(sent["messages"][1]["content"], "row 中");
}

#[test]
fn what_a_server_refuses_is_said() {
    for (status, body, part) in [
        ("429 Too Many Requests", "{\"error\":\"slow down\"}", "slow down"),
        ("200 OK", "<html>", "no JSON"),
        ("200 OK", "{\"choices\":[]}", "no `choices[0].message.content`"),
    ] {
        let (url, request) = fake(status, body);
        let error = endpoint(&url, None).unwrap().ask("s", "u").unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&url), "{error}");
        request.join().unwrap();
    }
    let absent = endpoint("http://127.0.0.1:9", Some("LOAR_NO_SUCH_KEY")).err().unwrap().to_string();
    assert!(absent.contains("`LOAR_NO_SUCH_KEY`"), "{absent}");
}
