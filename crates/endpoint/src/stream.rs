//! Server-sent events: lines of a body to JSON values.
//!
//! Takes a reader, gives one value an event (`data:` lines until an empty one), the end at `[DONE]`.
//! Comments and other fields are passed over. A line and the whole stream are bounded.

use std::io::{BufRead, Read};

use serde_json::Value;

use crate::Trouble;

/// Longest line of a stream, in bytes.
const LINE: u64 = 1 << 20;

/// What came.
pub(crate) enum Event {
    /// A value.
    Value(Value),
    /// `[DONE]`.
    Done,
    /// The body ended.
    End,
}

/// The next event.
///
/// # Errors
/// A body that cannot be read, a line that is too long, data that is no JSON.
pub(crate) fn next(body: &mut impl BufRead) -> Result<Event, Trouble> {
    let mut data = String::new();
    loop {
        let mut line = Vec::new();
        let read = body.by_ref().take(LINE).read_until(b'\n', &mut line).map_err(|e| Trouble::of_read(&e))?;
        let whole = line.ends_with(b"\n");
        if !whole && read as u64 == LINE {
            return Err(Trouble::Malformed(format!("a line of the stream has more than {LINE} bytes")));
        }
        let line =
            String::from_utf8(line).map_err(|_| Trouble::Malformed("a line of the stream is no UTF-8".into()))?;
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(text) = line.strip_prefix("data:") {
            if !data.is_empty() {
                data.push('\n');
            }
            data.push_str(text.strip_prefix(' ').unwrap_or(text));
        }
        // Servers that leave out the empty line after an event exist; a complete value ends one too.
        let ended = line.is_empty() || !whole;
        if data == "[DONE]" {
            return Ok(Event::Done);
        }
        if !data.is_empty() {
            match serde_json::from_str(&data) {
                Ok(value) => return Ok(Event::Value(value)),
                Err(e) if ended => {
                    let shown: String = data.chars().take(200).collect();
                    return Err(if whole {
                        Trouble::Malformed(format!("an event is no JSON ({e}): {shown}"))
                    } else {
                        Trouble::CutShort(format!("it ends within an event: {shown}"))
                    });
                }
                Err(_) => {}
            }
        }
        if !whole && line.is_empty() {
            return Ok(Event::End);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let mut body = text.as_bytes();
        let mut out = Vec::new();
        loop {
            match next(&mut body) {
                Ok(Event::Value(v)) => out.push(v.to_string()),
                Ok(Event::Done) => out.push("done".into()),
                Ok(Event::End) => return out,
                Err(e) => {
                    out.push(e.to_string());
                    return out;
                }
            }
        }
    }

    #[test]
    fn events_comments_and_ends() {
        let text = ": ping\n\ndata: {\"a\":1}\n\nevent: x\ndata:{\"b\":\ndata: 2}\r\n\r\ndata: [DONE]\n\n";
        assert_eq!(all(text), ["{\"a\":1}", "{\"b\":2}", "done"]);
        assert_eq!(all("data: {\"a\":1}\ndata: {\"a\":2}\n"), ["{\"a\":1}", "{\"a\":2}"], "no empty lines");
        assert!(all("data: {\"a\":1}\n\ndata: {\"a\"")[1].contains("ends within an event"));
        assert!(all("data: nonsense\n\n")[0].contains("no JSON"));
        assert!(all(&format!("data: {}\n", "x".repeat(1 << 20)))[0].contains("more than"));
        assert!(all("").is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let mut body: &[u8] = b"data: \xff\xfe\n\n";
        assert!(matches!(next(&mut body), Err(Trouble::Malformed(_))));
    }
}
