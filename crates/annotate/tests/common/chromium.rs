//! A headless Chromium over its DevTools pipe: no port, no driver program, no WebSocket.
//!
//! Chromium reads commands on descriptor 3 and writes answers on 4, each a JSON text ended by a zero
//! byte; a shell hands it our pipes there.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Longest wait for an answer or for the page to show something.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    events: Vec<Value>,
    last: u64,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// `None` where no Chromium is installed.
    pub fn start() -> Option<Browser> {
        let there = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
        let name = NAMES.iter().find(there)?;
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", name])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"])
            .args(["--disable-dev-shm-usage", "--lang=en-US", "--window-size=1280,800", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, answers) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut text = Vec::new();
            while out.read_until(0, &mut text).is_ok_and(|n| n > 0) {
                let value = serde_json::from_slice(text.strip_suffix(&[0]).unwrap_or(&text)).unwrap();
                if tell.send(value).is_err() {
                    return;
                }
                text.clear();
            }
        });
        let commands = child.stdin.take().unwrap();
        Some(Browser { child, commands, answers, events: Vec::new(), last: 0, _profile: profile })
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).unwrap();
        loop {
            let answer = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: {e}"));
            if answer["id"] == json!(self.last) {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// A tab on `url`.
    pub fn open(&mut self, url: &str) -> Tab {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = self.call(None, "Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        self.call(Some(&session), "Page.enable", json!({}));
        self.events.clear();
        self.call(Some(&session), "Page.navigate", json!({"url": url}));
        while !self.events.iter().any(|e| e["method"] == "Page.loadEventFired" && e["sessionId"] == *session) {
            let event = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{url}: {e}"));
            self.events.push(event);
        }
        Tab(session)
    }

    /// The value of an expression in the tab; promises are waited for.
    pub fn eval(&mut self, tab: &Tab, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call(Some(&tab.0), "Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits inside the page until an expression holds.
    pub fn until(&mut self, tab: &Tab, expression: &str) {
        let limit = PATIENCE.as_millis() / 2;
        let wait = format!(
            "new Promise((done) => {{ const end = Date.now() + {limit}; const look = () => {{ \
             if ({expression}) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 20); }}; look(); }})"
        );
        if self.eval(tab, &wait) != json!(true) {
            let shown = self.eval(tab, "document.body.innerText");
            panic!("the page never came to `{expression}`; it shows\n{}", shown.as_str().unwrap_or_default());
        }
    }

    /// Presses a key as a keyboard does.
    pub fn key(&mut self, tab: &Tab, key: &str) {
        self.key_with(tab, key, 0);
    }

    /// With modifiers: 2 is Ctrl.
    pub fn key_with(&mut self, tab: &Tab, key: &str, modifiers: u8) {
        let (code, text) = match key {
            "Enter" => (13, "\r".to_owned()),
            "Escape" => (27, String::new()),
            "ArrowUp" => (38, String::new()),
            "ArrowDown" => (40, String::new()),
            "ArrowRight" => (39, String::new()),
            other => (u32::from(other.chars().next().unwrap().to_ascii_uppercase()), other.to_owned()),
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        let mut down = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers});
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.call(Some(&tab.0), "Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers});
        self.call(Some(&tab.0), "Input.dispatchKeyEvent", up);
    }

    /// Types into the focused field.
    pub fn write(&mut self, tab: &Tab, text: &str) {
        self.call(Some(&tab.0), "Input.insertText", json!({"text": text}));
    }

    /// Emulates a dark page.
    pub fn dark(&mut self, tab: &Tab) {
        let params = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
        self.call(Some(&tab.0), "Emulation.setEmulatedMedia", params);
    }

    /// Brings a tab to the front.
    pub fn front(&mut self, tab: &Tab) {
        self.call(Some(&tab.0), "Page.bringToFront", json!({}));
    }

    /// Writes a picture of the tab.
    pub fn picture(&mut self, tab: &Tab, path: &Path) {
        let shot = self.call(Some(&tab.0), "Page.captureScreenshot", json!({"format": "png"}));
        std::fs::write(path, base64(shot["data"].as_str().unwrap())).unwrap();
    }
}

pub struct Tab(String);

fn base64(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'=').map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let word = four.iter().fold(0u32, |word, d| word << 6 | u32::from(*d)) << (6 * (4 - four.len()));
        word.to_be_bytes()[1..four.len()].to_vec()
    });
    bytes.collect()
}
