//! The recipe over an endpoint: a server that is down, slow, malformed, rate-limited, breaks off or ignores
//! `n`; everything is recorded and nothing hangs. Servers are mocks on loopback.

#[path = "../../endpoint/tests/common/mod.rs"]
mod mock;

use std::time::Duration;

use loar_endpoint::{Client, Patience};
use loar_reason::generate::End;
use loar_reason::generate::remote::Remote;
use loar_reason::policy::{Nature, Policies};
use loar_reason::record::{Action, Record, Stopped};
use loar_reason::replay::replay;
use loar_reason::run::{Task, answer};
use loar_reason::setup::{Question, Setup, Strategy};
use loar_reason::stop::Rule;
use loar_reason::verify::{ArithmeticVerifier, Verifier};
use mock::{Answer, Mock, STREAM, ending, event, response, whole};
use serde_json::Value;

fn setup(paths: usize, parallel: usize) -> Setup {
    let policy = Policies::read(None).unwrap().resolve(Nature::Plain, None).unwrap();
    let mut setup = Setup::of(Strategy::SelfConsistency, Nature::Plain, policy, 5);
    (setup.paths, setup.parallel, setup.rule) = (paths, parallel, Rule::Never);
    setup
}

fn verifiers() -> Vec<Box<dyn Verifier>> {
    vec![Box::new(ArithmeticVerifier)]
}

fn ask(url: &str, setup: &Setup, text: &str) -> Record {
    let patience = Patience {
        silence: Duration::from_millis(300),
        retries: 1,
        backoff: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
        ..Patience::default()
    };
    let mut remote = Remote::new(Client::new(url, "m", None, patience));
    let question = Question { text: text.into(), ..Question::default() };
    answer(&Task { question: &question, setup, examples: &[], verifiers: &verifiers() }, &mut remote)
}

/// Reads back what was written, and plays it from its texts.
fn plays_back(record: &Record) {
    let dir = tempfile::tempdir().unwrap();
    let (read, bytes) = Record::read(&record.write(dir.path()).unwrap()).unwrap();
    let differs = replay(&read, &bytes, &verifiers(), None);
    assert!(differs.is_empty(), "{differs:#?}");
}

fn end(record: &Record, path: usize) -> &End {
    &record.paths[path].chain.as_ref().unwrap().end
}

/// Answers by the seed of the path: one of four is wrong.
fn by_seed(request: &Value) -> Vec<String> {
    let wrong = request["seed"].as_u64() == Some(6);
    let text = if wrong { "3 + 4 = 8\nThe answer is 8." } else { "3 + 4 = 7\nThe answer is 7." };
    text.split_inclusive(' ').map(str::to_owned).collect()
}

#[test]
fn paths_are_requests_with_seeds_of_their_own_whatever_n_is() {
    let mock = Mock::new(vec![Answer::Stream(by_seed)]);
    let record = ask(&mock.url, &setup(4, 4), "3 + 4? 三加四");
    assert_eq!(record.decision.canonical.as_deref(), Some("7"));
    let mut seeds: Vec<u64> = mock.asked.lock().unwrap().iter().map(|r| r["seed"].as_u64().unwrap()).collect();
    seeds.sort_unstable();
    assert_eq!(seeds, [5, 6, 7, 8]);
    assert!(mock.asked.lock().unwrap().iter().all(|r| r.get("n").is_none()));
    assert_eq!(record.paths[1].first_wrong(), Some(0), "the checker sees the wrong sum");
    assert_eq!(record.fused.top().unwrap().paths.len(), 3);
    assert_eq!(record.cost.tokens.prefill, 44);
    plays_back(&record);
    let page = loar_reason::view::view(&record, "zh");
    assert!(page.contains("三加四") && page.contains("li class=\"fail\"") && !page.contains("<script"));
}

#[test]
fn every_kind_of_broken_server_is_a_recorded_path() {
    let half = format!("{STREAM}{}", event("content", "3 + 4 = 7. The ans"));
    let reasoned =
        format!("{STREAM}{}{}{}", event("reasoning", "3 + 4 = 7"), event("content", "The answer is 7."), ending(9));
    let script = vec![
        Answer::Bytes(half.clone()),
        Answer::Stall(half),
        response("200 OK", "content-type: application/json\r\n", "{\"choices\": 3}"),
        response("400 Bad Request", "", "{\"error\":{\"message\":\"unknown field `seed`\"}}"),
        Answer::Bytes(reasoned),
        whole("The answer is 7."),
        response("429 Too Many Requests", "retry-after: 600\r\n", "{\"error\":{\"message\":\"slow down\"}}"),
    ];
    let mock = Mock::new(script);
    // one after the other, so that the script meets them in order
    let record = ask(&mock.url, &setup(7, 1), "3 + 4?");
    let failed = |path: usize, part: &str| {
        let End::Failed { error } = end(&record, path) else { panic!("path {path}: {:?}", end(&record, path)) };
        assert!(error.contains(part), "path {path}: {error}");
    };
    failed(0, "broke off");
    failed(1, "in time");
    failed(2, "choices");
    failed(3, "unknown field");
    failed(6, "slow down");
    assert_eq!(record.paths[0].chain.as_ref().unwrap().text, "3 + 4 = 7. The ans", "what had come is kept");
    assert_eq!((end(&record, 4), end(&record, 5)), (&End::Stop, &End::Stop));
    let thought = record.paths[4].chain.as_ref().unwrap().parsed();
    assert_eq!((thought.reasoning.as_deref(), thought.answer.as_str()), (Some("3 + 4 = 7"), "The answer is 7."));
    assert_eq!((record.decision.canonical.as_deref(), record.cost.failed), (Some("7"), 5));
    assert_eq!(record.fused.paths, 2, "a failed request is no vote");
    plays_back(&record);
}

#[test]
fn a_server_that_is_down_leads_to_an_abstention() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let record = ask(&closed, &setup(2, 2), "?");
    assert_eq!((record.decision.action, record.cost.failed), (Action::Abstain, 2));
    plays_back(&record);
}

/// The path with the first seed answers; the others never end.
fn first_answers(request: &Value) -> Vec<String> {
    if request["seed"].as_u64() == Some(5) { vec!["The answer is 7.".into()] } else { vec!["on ".into(); 1 << 20] }
}

#[test]
fn losers_are_cut_in_the_middle_of_their_streams() {
    let mock = Mock::new(vec![Answer::Stream(first_answers)]);
    let mut s = setup(3, 3);
    s.rule = Rule::Esc { window: 1 };
    let record = ask(&mock.url, &s, "3 + 4?");
    // a stream that repeats itself is ended by the loop detector or, as not needed, by the answer
    assert!(record.paths.iter().any(|p| p.chain.as_ref().unwrap().end.cut()));
    mock.gone.recv_timeout(Duration::from_secs(30)).expect("a server sees its client go");
    plays_back(&record);
}

#[test]
fn an_endless_stream_meets_the_time_budget_or_the_loop_detector() {
    let mock = Mock::new(vec![Answer::Endless("on and on ")]);
    let mut s = setup(1, 1);
    s.policy.extract_when = loar_reason::policy::ExtractWhen::Never;
    let record = ask(&mock.url, &s, "?");
    assert!(matches!(end(&record, 0), End::Loop { period: 1, .. }), "{:?}", end(&record, 0));
    assert_eq!(record.decision.stopped, Stopped::AllPaths);
    mock.gone.recv_timeout(Duration::from_secs(30)).expect("the server sees its client go");
    plays_back(&record);
}
