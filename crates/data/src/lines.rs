//! JSONL → rows: one object a line, blank lines passed over, a line beyond the bound reported and
//! skipped without being held. Memory: one line.

use std::io::{self, BufRead};

use crate::fault::{FaultKind, RowFault};
use crate::rows::{RawRow, Sink};
use crate::strict;

/// Reads one line without its end into `line`.
///
/// Returns the number of bytes the line has in the stream, its end included (0 at the end of the
/// stream); `line` holds at most `max` of them.
pub(crate) fn next_line(reader: &mut dyn BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<u64> {
    line.clear();
    let mut total = 0_u64;
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok(total);
        }
        let end = memchr::memchr(b'\n', chunk);
        let body = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or(chunk);
        let room = max.saturating_sub(line.len());
        line.extend_from_slice(&body[..body.len().min(room)]);
        let used = body.len() + usize::from(end.is_some());
        total += used as u64;
        reader.consume(used);
        if end.is_some() {
            return Ok(total);
        }
    }
}

/// Hands every non-blank line to `sink`.
pub(crate) fn jsonl(reader: &mut dyn BufRead, max: usize, sink: Sink<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        let taken = next_line(reader, &mut line, max)?;
        if taken == 0 {
            return Ok(());
        }
        number += 1;
        // One byte of line end; a final line without one is at most one byte more generous.
        if taken > max as u64 + 1 {
            let found = format!("{taken} bytes where at most {max} are allowed");
            sink(RawRow::bad(number, RowFault::new("", FaultKind::RowTooLong, found)));
            continue;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        sink(RawRow { line: number, value: strict::object(text) });
    }
}
