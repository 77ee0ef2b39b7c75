//! Plain text → rows: the whole file as one example, or one per block between blank lines.
//! Memory: one example, bounded.

use std::io::{self, BufRead};

use serde_json::{Map, Value};

use crate::fault::{FaultKind, RowFault};
use crate::lines::next_line;
use crate::options::TextUnit;
use crate::rows::{RawRow, Sink};

/// Hands every example to `sink`. Line ends become `\n`; blank lines around an example go.
pub(crate) fn text(reader: &mut dyn BufRead, unit: TextUnit, max: usize, sink: Sink<'_>) -> io::Result<()> {
    let mut block = Vec::new();
    let (mut start, mut number, mut size) = (1, 0, 0_u64);
    let mut line = Vec::new();
    loop {
        let taken = next_line(reader, &mut line, max)?;
        let ended = taken == 0;
        let blank = !ended && line.trim_ascii().is_empty();
        if ended || (blank && unit == TextUnit::Block) {
            flush(&mut block, start, size, max, sink);
            size = 0;
            if ended {
                return Ok(());
            }
            number += 1;
            continue;
        }
        number += 1;
        if blank && block.is_empty() {
            continue;
        }
        if size == 0 {
            start = number;
        }
        size += taken;
        if size <= max as u64 {
            block.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(&line));
            block.push(b'\n');
        }
    }
}

fn flush(block: &mut Vec<u8>, line: usize, size: u64, max: usize, sink: &mut dyn FnMut(RawRow)) {
    let bytes = std::mem::take(block);
    if size > max as u64 {
        let found = format!("{size} bytes where at most {max} are allowed");
        sink(RawRow::bad(line, RowFault::new("", FaultKind::RowTooLong, found)));
        return;
    }
    if bytes.is_empty() {
        return;
    }
    let value = String::from_utf8(bytes)
        .map_err(|error| {
            let at = error.utf8_error().valid_up_to() + 1;
            RowFault::new("", FaultKind::InvalidUtf8, format!("a wrong byte at byte {at}"))
        })
        .map(|text| {
            let mut map = Map::new();
            map.insert("text".into(), Value::String(text.trim_end().to_owned()));
            map
        });
    sink(RawRow { line, value });
}
