//! A server that is down, slow, busy, broken or ignores what it is asked: each ends in one error that says
//! so, in bounded time. Servers are mocks on loopback.

mod common;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use common::{Answer, Mock, STREAM, ending, event, response, whole};
use loar_endpoint::{Cancel, Chat, Client, EndpointError, Patience, Reply, Trouble, Turn};

/// Waits that a test can afford.
fn patience() -> Patience {
    Patience {
        silence: Duration::from_millis(200),
        total: Duration::from_secs(20),
        retries: 2,
        backoff: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
        ..Patience::default()
    }
}

fn chat() -> Chat {
    Chat {
        messages: vec![Turn::new("user", "2 + 2 = ? 二加二")], seed: Some(3), top_logprobs: 20, ..Chat::default()
    }
}

fn client(url: &str) -> Client {
    Client::new(url, "m", Some("secret".into()), patience())
}

/// A streamed reply, with what had come before an error.
fn streamed(script: Vec<Answer>) -> (Result<Reply, EndpointError>, Reply, usize) {
    let mock = Mock::new(script);
    let (result, partial) = client(&mock.url).stream(&chat(), &Cancel::new(), |_| ControlFlow::Continue(()));
    let asked = mock.asked.lock().unwrap().len();
    (result, partial, asked)
}

#[test]
fn a_reply_comes_whole_or_streamed_and_counts_its_tokens() {
    let mock = Mock::new(vec![whole("4")]);
    let reply = client(&mock.url).ask(&chat(), &Cancel::new()).unwrap();
    assert_eq!((reply.content.as_str(), reply.prompt_tokens, reply.completion_tokens), ("4", Some(7), Some(3)));
    let sent = mock.asked.lock().unwrap()[0].clone();
    assert_eq!(sent["messages"][0]["content"], "2 + 2 = ? 二加二");
    assert_eq!((&sent["seed"], &sent["top_logprobs"], sent.get("temperature")), (&3.into(), &20.into(), None));
    let events = [event("reasoning", "because "), event("reasoning_content", "二"), event("content", "4")];
    let script = format!("{STREAM}: ping\n\n{}{}", events.concat(), ending(3));
    let (result, _, _) = streamed(vec![Answer::Bytes(script)]);
    let reply = result.unwrap();
    assert_eq!((reply.reasoning.as_str(), reply.content.as_str()), ("because 二", "4"));
    assert_eq!((reply.finish_reason.as_deref(), reply.completion_tokens), (Some("stop"), Some(3)));
    let (result, _, _) = streamed(vec![whole("not streamed")]);
    assert_eq!(result.unwrap().content, "not streamed");
}

#[test]
fn a_busy_server_is_asked_again_and_not_for_ever() {
    let busy = || response("429 Too Many Requests", "retry-after: 1000\r\n", "{\"error\":{\"message\":\"slow down\"}}");
    let (result, _, asked) = streamed(vec![busy(), response("503 Busy", "", ""), whole("4")]);
    assert_eq!((result.unwrap().content.as_str(), asked), ("4", 3));
    let start = Instant::now();
    let (result, _, asked) = streamed(vec![busy()]);
    let error = result.unwrap_err();
    assert_eq!((error.trouble.clone(), error.attempts, asked), (Trouble::RateLimited("slow down".into()), 3, 3));
    assert!(start.elapsed() < Duration::from_secs(15), "an hour was asked for and not waited");
    let (result, _, asked) = streamed(vec![response("400 Bad Request", "", "{\"error\":{\"message\":\"no `seed`\"}}")]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("400") && error.contains("no `seed`") && !error.contains("secret"), "{error}");
    assert_eq!(asked, 1, "a request that is wrong stays wrong");
}

#[test]
fn broken_streams_say_how_and_keep_what_had_come() {
    let half = format!("{STREAM}{}{}", event("content", "The ans"), event("content", "wer"));
    let (result, partial, asked) = streamed(vec![Answer::Bytes(half.clone())]);
    assert!(matches!(result.unwrap_err().trouble, Trouble::CutShort(_)));
    assert_eq!((partial.content.as_str(), asked), ("The answer", 1));
    let (result, partial, _) = streamed(vec![Answer::Bytes(format!("{half}data: {{\"choi"))]);
    assert!(matches!(result.unwrap_err().trouble, Trouble::CutShort(_)));
    assert_eq!(partial.content, "The answer");
    let (result, partial, _) = streamed(vec![Answer::Stall(half.clone())]);
    let error = result.unwrap_err();
    assert!(matches!(error.trouble, Trouble::Slow(_)), "{error}");
    assert_eq!(partial.content, "The answer");
    for bad in ["data: nonsense\n\n", "data: {\"error\":{\"message\":\"out of memory\"}}\n\n", "data: {\"text\":1}\n\n"]
    {
        let (result, partial, _) = streamed(vec![Answer::Bytes(format!("{half}{bad}"))]);
        assert!(matches!(result.unwrap_err().trouble, Trouble::Malformed(_)), "{bad}");
        assert_eq!(partial.content, "The answer");
    }
    let (result, _, _) = streamed(vec![response("200 OK", "content-type: application/json\r\n", "<html>")]);
    assert!(matches!(result.unwrap_err().trouble, Trouble::Malformed(_)));
}

#[test]
fn a_server_that_is_down_or_silent_is_given_up() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let error = client(&closed).ask(&chat(), &Cancel::new()).unwrap_err();
    assert!(matches!(error.trouble, Trouble::Down(_)) && error.attempts == 3, "{error}");
    let mock = Mock::new(vec![Answer::Stall(String::new())]);
    let error = client(&mock.url).ask(&chat(), &Cancel::new()).unwrap_err();
    assert!(matches!(error.trouble, Trouble::Slow(_)), "{error}");
}

#[test]
fn breaking_off_closes_the_connection() {
    let mock = Mock::new(vec![Answer::Endless("on and ")]);
    let mut pieces = 0;
    let (result, partial) = client(&mock.url).stream(&chat(), &Cancel::new(), |_| {
        pieces += 1;
        if pieces == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(result.unwrap_err().trouble, Trouble::Cancelled);
    assert_eq!(partial.content, "on and ".repeat(5));
    mock.gone.recv_timeout(Duration::from_secs(20)).expect("the server sees its client go");
    let raised = Cancel::new();
    raised.raise();
    let (result, _) = client(&mock.url).stream(&chat(), &raised, |_| ControlFlow::Continue(()));
    assert_eq!(result.unwrap_err().attempts, 0);
}
