//! The API: who is let in, what leaks to nobody, what several annotators at once leave behind.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::Arc;

use common::write;
use loar_annotate::log::verify;
use loar_annotate::store::Store;
use loar_annotate::workflow::Stage;
use loar_annotate::{Task, server};
use serde_json::{Value, json};

struct Site {
    client: Client,
    task: Arc<Task>,
    store: Store,
    _dir: tempfile::TempDir,
}

/// What talks to the site, from any thread.
struct Client {
    address: String,
    tokens: BTreeMap<String, String>,
    guideline: String,
    agent: ureq::Agent,
}

impl std::ops::Deref for Site {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

fn site(options: &str, rows: usize, gold: usize) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let row = |i| format!("{{\"question\":\"known {i}\",\"answer\":\"x\",\"labels\":{{\"correct\":\"wrong\"}}}}\n");
    std::fs::write(dir.path().join("gold.jsonl"), (0..gold).map(row).collect::<String>()).unwrap();
    let task = write(dir.path(), options, rows);
    let mut served = Store::open(task.clone()).unwrap();
    served.import().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || server::serve(listener, served).unwrap());
    let store = Store::open(task.clone()).unwrap();
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let (tokens, guideline) = (store.tokens().unwrap(), task.guideline_version());
    Site { client: Client { address, tokens, guideline, agent }, task, store, _dir: dir }
}

impl Client {
    fn get(&self, who: &str, path: &str) -> (u16, Value) {
        let request = self.agent.get(format!("http://{}{path}", self.address));
        let mut response = request.header("authorization", format!("Bearer {}", self.tokens[who])).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn post(&self, who: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = self
            .agent
            .post(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.tokens[who]));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body.to_string()).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn sent(&self, id: &Value, label: &str) -> Value {
        json!({"id": id, "answer": {"labels": {"correct": [label]}}, "seconds": 2.5, "guideline": self.guideline})
    }
}

#[test]
fn strangers_and_other_sites_are_refused() {
    let site = site("", 2, 0);
    let page = format!("http://{}/", site.address);
    let answer = site.agent.get(&page).call().unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!((header("x-content-type-options"), header("cache-control")), ("nosniff".into(), "no-store".into()));
    // no token, a wrong one, a name that was pointed here
    for path in ["api/me", "api/queue", "api/report"] {
        let url = format!("{page}{path}");
        assert_eq!(site.agent.get(&url).call().unwrap().status(), 401);
        assert_eq!(site.agent.get(&url).header("authorization", "Bearer x").call().unwrap().status(), 401);
        assert_eq!(site.agent.get(&url).header("host", "evil.example").call().unwrap().status(), 403);
    }
    let (_, queue) = site.get("ann", "/api/queue");
    let body = site.sent(&queue["open"][0]["id"], "right");
    for headers in [[("origin", "http://evil.example")], [("sec-fetch-site", "cross-site")], [("origin", "null")]] {
        assert_eq!(site.post("ann", "/api/check", &body, &headers).0, 403, "{headers:?}");
    }
    let own = format!("http://{}", site.address);
    assert_eq!(site.post("ann", "/api/check", &body, &[("origin", &own), ("sec-fetch-site", "same-origin")]).0, 200);
    // twice is once
    let (status, text) = site.post("ann", "/api/check", &body, &[]);
    assert!(status == 409 && text.contains("already"), "{status} {text}");
}

#[test]
fn roles_see_and_do_their_part_only() {
    let mut site = site("", 2, 0);
    assert_eq!(site.get("ann", "/api/report").0, 403);
    assert_eq!(site.get("eve", "/api/report").0, 200);
    assert_eq!(site.get("gus", "/api/report").1["stages"]["open"], 2);
    let (_, queue) = site.get("ann", "/api/queue");
    let id = queue["open"][0]["id"].clone();
    // the name of a row is one person's own
    let (status, _) = site.post("bob", "/api/check", &site.sent(&id, "right"), &[]);
    assert_eq!(status, 404);
    let mut decision = site.sent(&id, "right");
    decision["keep"] = json!(true);
    assert_eq!(site.post("ann", "/api/adjudicate", &decision, &[]).0, 409);
    let mut unknown = site.sent(&id, "great");
    let (status, text) = site.post("ann", "/api/check", &unknown, &[]);
    assert!(status == 409 && text.contains("no label `great`"), "{text}");
    unknown["who"] = json!("bob");
    assert_eq!(site.post("ann", "/api/check", &unknown, &[]).0, 422);
    // after ann and bob disagreed, cat still sees neither label, and no adjudicator sees the row
    for (who, label) in [("ann", "right"), ("bob", "wrong")] {
        let (_, queue) = site.get(who, "/api/queue");
        let body = site.sent(&queue["open"][0]["id"], label);
        assert_eq!(site.post(who, "/api/check", &body, &[]).0, 200);
    }
    let (_, queue) = site.get("cat", "/api/queue");
    let row = queue["open"][0].as_object().unwrap();
    let fields: Vec<&str> = row.keys().map(String::as_str).collect();
    assert_eq!(fields, ["id", "kind", "turns", "answer"]);
    assert_eq!(site.get("eve", "/api/queue").1["open"], json!([]));
    site.store.refresh().unwrap();
    assert_eq!(site.store.item(1).unwrap().checks().len(), 2);
}

#[test]
fn gold_is_mixed_in_and_cannot_be_told() {
    let site = site("gold = \"gold.jsonl\"\ngold_every = 5", 20, 6);
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for _ in 0..24 {
        let (_, queue) = site.get("ann", "/api/queue");
        let row = queue["open"][0].clone();
        let fields: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["id", "kind", "turns", "answer"]);
        assert!(seen.insert(row["id"].as_str().unwrap().to_owned()), "a row came twice");
        order.push(row["turns"][0]["text"].as_str().unwrap().starts_with("known"));
        assert_eq!(site.post("ann", "/api/check", &site.sent(&row["id"], "right"), &[]).0, 200);
    }
    let gold: Vec<usize> = order.iter().enumerate().filter(|(_, gold)| **gold).map(|(i, _)| i).collect();
    assert!((4..=5).contains(&gold.len()), "{gold:?}");
    assert!(gold.windows(2).all(|pair| pair[1] - pair[0] == 5), "{gold:?}");
}

/// Four annotators at once: each row gets three checks, nothing confirmed is lost, nobody is refused
/// because somebody else was faster.
#[test]
fn annotators_at_once_share_the_rows() {
    let mut site = site("batch = 1000", 25, 0);
    let client = &site.client;
    let confirmed: usize = std::thread::scope(|scope| {
        let workers = ["ann", "bob", "cat", "dan"].map(|who| {
            scope.spawn(move || {
                let mut confirmed = 0;
                loop {
                    let (_, queue) = client.get(who, "/api/queue");
                    let Some(row) = queue["open"].as_array().unwrap().first().cloned() else { return confirmed };
                    let (status, text) = client.post(who, "/api/check", &client.sent(&row["id"], "right"), &[]);
                    assert_eq!(status, 200, "{who}: {text}");
                    confirmed += 1;
                }
            })
        });
        workers.map(|worker| worker.join().unwrap()).iter().sum()
    });
    site.store.refresh().unwrap();
    assert_eq!(confirmed, 75);
    assert_eq!(site.store.ids(|i| i.checks().len() == 3 && i.stage() == Stage::Adjudication).len(), 25);
    assert!(verify(&site.task, None).unwrap().faults.is_empty());
}
