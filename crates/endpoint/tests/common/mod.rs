//! A mock of a chat endpoint on loopback: a script of replies, and what it was asked.
//!
//! Each connection is answered by the next entry of the script, the last one again and again. Nothing
//! sleeps: a server that is slow waits until its client goes or the mock is dropped.

#![allow(dead_code)] // each test file uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// How a connection is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These bytes, then the connection closes.
    Bytes(String),
    /// These bytes, and then nothing until the client goes: the other end of a stalled stream.
    Stall(String),
    /// A stream of these pieces of text, made from the request.
    Stream(fn(&Value) -> Vec<String>),
    /// Pieces of text without end, until the client goes.
    Endless(&'static str),
}

/// A response with a body of known length.
pub fn response(status: &str, headers: &str, body: &str) -> Answer {
    Answer::Bytes(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n{body}",
        body.len()
    ))
}

/// A whole reply.
pub fn whole(content: &str) -> Answer {
    let body = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
    response("200 OK", "content-type: application/json\r\n", &body.to_string())
}

/// Head of a stream.
pub const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// One event with a piece of a field.
pub fn event(field: &str, text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {field: text}, "finish_reason": null}]}))
}

/// The events that end a stream well.
pub fn ending(tokens: usize) -> String {
    format!(
        "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": tokens}})
    )
}

/// The mock.
pub struct Mock {
    /// Address for clients, up to `/v1`.
    pub url: String,
    /// Bodies of requests, in order.
    pub asked: Arc<Mutex<Vec<Value>>>,
    /// One message for each client that went before its answer was complete.
    pub gone: Receiver<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mock {
    /// Starts it.
    pub fn new(script: Vec<Answer>) -> Mock {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (tell, gone) = channel();
        let (log, halt) = (asked.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if halt.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log, tell) = (script[number.min(script.len() - 1)].clone(), log.clone(), tell.clone());
                // Each connection has its own thread: clients come side by side.
                std::thread::spawn(move || {
                    if serve(&mut stream.unwrap(), &answer, &log).is_err() {
                        let _ = tell.send(());
                    }
                });
            }
        });
        Mock { url: format!("http://{address}/v1"), asked, gone, stop, thread: Some(thread) }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let address = self.url.trim_start_matches("http://").trim_end_matches("/v1");
        let _ = TcpStream::connect(address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one connection; an error when the client went first.
fn serve(stream: &mut TcpStream, answer: &Answer, log: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut content = vec![0; length];
    reader.read_exact(&mut content)?;
    let request: Value = serde_json::from_slice(&content).unwrap_or(Value::Null);
    log.lock().unwrap().push(request.clone());
    match answer {
        Answer::Bytes(bytes) => stream.write_all(bytes.as_bytes()),
        Answer::Stall(bytes) => {
            stream.write_all(bytes.as_bytes())?;
            // returns when the client closes
            let _ = reader.read(&mut [0; 1]);
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        Answer::Stream(make) => {
            stream.write_all(STREAM.as_bytes())?;
            let pieces = make(&request);
            for piece in &pieces {
                stream.write_all(event("content", piece).as_bytes())?;
            }
            stream.write_all(ending(pieces.len()).as_bytes())
        }
        Answer::Endless(text) => {
            stream.write_all(STREAM.as_bytes())?;
            loop {
                stream.write_all(event("content", text).as_bytes())?;
            }
        }
    }
}
