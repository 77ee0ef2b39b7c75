//! Asking: one request, asked again while the server is busy, read as it streams.

use std::io::BufReader;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cancel::Cancel;
use crate::error::{EndpointError, Trouble};
use crate::reply::{Piece, Reply, piece};
use crate::stream::{self, Event};

/// Longest reply that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// How long anything may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// Between two reads: a stream that says nothing for so long is given up.
    pub silence: Duration,
    /// For the whole of one attempt.
    pub total: Duration,
    /// Further attempts when the server is busy or there is no connection.
    pub retries: usize,
    /// Wait before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// Longest wait between two attempts, also where the server's `Retry-After` asks for more.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            connect: s(10),
            silence: s(120),
            total: s(900),
            retries: 4,
            backoff: Duration::from_millis(500),
            longest_wait: s(30),
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Turn {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Turn { role: role.into(), content: content.into() }
    }
}

/// What is asked. What is `None` or empty is left out of the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// The conversation.
    pub messages: Vec<Turn>,
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// Tokens at most, reasoning included.
    pub max_tokens: Option<usize>,
    /// Seed; servers may ignore it.
    pub seed: Option<u64>,
    /// Texts that end the reply.
    pub stop: Vec<String>,
    /// Log-probabilities of each token and of so many best ones; 0: none are asked for.
    pub top_logprobs: usize,
}

impl Chat {
    fn body(&self, model: &str, streamed: bool) -> Value {
        let mut body = json!({"model": model, "messages": self.messages});
        let mut set = |name: &str, value: Value| body[name] = value;
        if let Some(t) = self.temperature {
            set("temperature", json!(t));
        }
        if let Some(p) = self.top_p {
            set("top_p", json!(p));
        }
        if let Some(n) = self.max_tokens {
            set("max_tokens", json!(n));
        }
        if let Some(seed) = self.seed {
            set("seed", json!(seed));
        }
        if !self.stop.is_empty() {
            set("stop", json!(self.stop));
        }
        if self.top_logprobs > 0 {
            set("logprobs", json!(true));
            set("top_logprobs", json!(self.top_logprobs));
        }
        if streamed {
            set("stream", json!(true));
            set("stream_options", json!({"include_usage": true}));
        }
        body
    }
}

/// A client of one model behind one address.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    model: String,
    key: Option<String>,
    patience: Patience,
}

impl Client {
    /// `base` is the address up to `/v1`, as OpenAI's clients take it.
    pub fn new(base: &str, model: &str, key: Option<String>, patience: Patience) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.silence))
            .timeout_global(Some(patience.total))
            .http_status_as_error(false);
        let url = format!("{}/chat/completions", base.trim_end_matches('/'));
        Self { agent: config.build().into(), url, model: model.to_owned(), key, patience }
    }

    /// The address asked.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The model asked.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// A whole reply.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn ask(&self, chat: &Chat, cancel: &Cancel) -> Result<Reply, EndpointError> {
        self.attempts(&chat.body(&self.model, false), cancel, whole)
    }

    /// A reply as it comes: `on_piece` sees every piece and may break off, which ends the connection.
    /// What had come before an error is given beside it. A server that does not stream is read whole.
    pub fn stream(
        &self,
        chat: &Chat,
        cancel: &Cancel,
        mut on_piece: impl FnMut(&Piece) -> ControlFlow<()>,
    ) -> (Result<Reply, EndpointError>, Reply) {
        let mut reply = Reply::default();
        let done = self.attempts(&chat.body(&self.model, true), cancel, |response| {
            let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
            if kind.starts_with("application/json") {
                reply = whole(response)?;
                let all = Piece {
                    reasoning: reply.reasoning.clone(),
                    content: reply.content.clone(),
                    logprobs: reply.logprobs.clone(),
                };
                return if on_piece(&all).is_break() { Err(Trouble::Cancelled) } else { Ok(()) };
            }
            let mut body = BufReader::new(response.body_mut().with_config().limit(LONGEST).reader());
            loop {
                if cancel.raised() {
                    return Err(Trouble::Cancelled);
                }
                let value = match stream::next(&mut body)? {
                    Event::Value(value) => value,
                    Event::Done => return Ok(()),
                    Event::End if reply.finish_reason.is_some() => return Ok(()),
                    Event::End => return Err(Trouble::CutShort("neither a finish reason nor [DONE] came".into())),
                };
                reply.note(&value);
                if let Some(piece) = piece(&value, "delta")? {
                    reply.absorb(&piece);
                    if on_piece(&piece).is_break() {
                        return Err(Trouble::Cancelled);
                    }
                }
            }
        });
        (done.map(|()| reply.clone()), reply)
    }

    /// Asks until `read` has a result, the trouble does not pass, or patience ends.
    fn attempts<T>(
        &self,
        body: &Value,
        cancel: &Cancel,
        mut read: impl FnMut(&mut ureq::http::Response<ureq::Body>) -> Result<T, Trouble>,
    ) -> Result<T, EndpointError> {
        let mut attempts = 0;
        let result = loop {
            if cancel.raised() {
                break Err(Trouble::Cancelled);
            }
            attempts += 1;
            let (trouble, asked) = match self.once(body) {
                Ok(mut response) => match read(&mut response) {
                    Ok(value) => break Ok(value),
                    // Something has been read: asking again would give another reply.
                    Err(trouble) => break Err(trouble),
                },
                Err(failed) => failed,
            };
            if !trouble.passes() || attempts > self.patience.retries {
                break Err(trouble);
            }
            let doubled = self.patience.backoff * 2u32.saturating_pow(attempts.min(16) as u32 - 1);
            if cancel.wait(asked.unwrap_or(doubled).min(self.patience.longest_wait)) {
                break Err(Trouble::Cancelled);
            }
        };
        let error = |trouble| EndpointError { url: self.url.clone(), attempts, trouble };
        result.map_err(error)
    }

    /// One attempt: a response with a good status, or the trouble and the wait that the server asks for.
    fn once(&self, body: &Value) -> Result<ureq::http::Response<ureq::Body>, (Trouble, Option<Duration>)> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string()).map_err(|e| (Trouble::of(&e), None))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = response.headers().get("retry-after").and_then(|v| v.to_str().ok());
        let asked = header.and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let text = response.body_mut().with_config().limit(1 << 16).read_to_string().unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let message = value.pointer("/error/message").and_then(Value::as_str).unwrap_or(&text);
        let message: String = message.chars().take(200).collect();
        let trouble = match status.as_u16() {
            429 => Trouble::RateLimited(message),
            status => Trouble::Status { status, message },
        };
        Err((trouble, asked))
    }
}

/// A body that is one JSON object.
fn whole(response: &mut ureq::http::Response<ureq::Body>) -> Result<Reply, Trouble> {
    let read = response.body_mut().with_config().limit(LONGEST).read_to_string();
    let text = read.map_err(|e| Trouble::of(&e))?;
    let shown: String = text.chars().take(200).collect();
    let value: Value =
        serde_json::from_str(&text).map_err(|e| Trouble::Malformed(format!("no JSON ({e}): {shown}")))?;
    let mut reply = Reply::default();
    if let Some(piece) = piece(&value, "message")? {
        reply.absorb(&piece);
    }
    reply.note(&value);
    Ok(reply)
}
