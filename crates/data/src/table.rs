//! CSV → rows: the header names the fields, every record becomes an object of texts. Empty cells
//! count as absent; cells that hold JSON lists are opened by the schema that expects a list.
//! Memory: one record, bounded.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use crate::fault::{FaultKind, RowFault, quote};
use crate::json_stream::Stop;
use crate::options::ReadOptions;
use crate::rows::{RawRow, Sink};

/// Bytes that the CSV reader may take ahead of the record it returns.
const AHEAD: u64 = 8 << 10;

/// Ends a record that swallows the file, and counts quotes to tell an unclosed one.
struct Meter<'a> {
    inner: &'a mut dyn BufRead,
    left: Rc<Cell<u64>>,
    quotes: Rc<Cell<u64>>,
}

/// Marker inside the `io::Error` of [`Meter`].
#[derive(Debug, thiserror::Error)]
#[error("record too long")]
struct Endless;

impl Read for Meter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::Error::other(Endless));
        }
        let room = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let taken = self.inner.read(buffer)?;
        let body = buffer.get(..taken).unwrap_or_default();
        self.left.set(self.left.get() - taken as u64);
        let quotes = body.iter().filter(|&&b| b == b'"').count() as u64;
        self.quotes.set(self.quotes.get() + quotes);
        Ok(taken)
    }
}

/// The separator that occurs most in the header line, outside quotes.
fn sniff(reader: &mut dyn BufRead, tabs: bool) -> io::Result<u8> {
    if tabs {
        return Ok(b'\t');
    }
    let chunk = reader.fill_buf()?;
    let mut counts = [(b',', 0_usize), (b'\t', 0), (b';', 0)];
    let mut quoted = false;
    for &byte in chunk.iter().take_while(|&&b| b != b'\n') {
        quoted ^= byte == b'"';
        for (separator, count) in &mut counts {
            *count += usize::from(byte == *separator && !quoted);
        }
    }
    // The first of equals, so a header of one column counts as comma separated.
    let best = counts.iter().rev().max_by_key(|(_, count)| *count);
    Ok(best.map_or(b',', |(separator, _)| *separator))
}

/// Hands every record to `sink`.
pub(crate) fn csv(reader: &mut dyn BufRead, options: &ReadOptions, tabs: bool, sink: Sink<'_>) -> Result<(), Stop> {
    let delimiter = match options.csv_delimiter.map(u8::try_from) {
        Some(Ok(byte)) => byte,
        _ => sniff(reader, tabs)?,
    };
    let budget = (options.max_row_bytes as u64).saturating_add(AHEAD);
    let left = Rc::new(Cell::new(budget));
    let quotes = Rc::new(Cell::new(0));
    let meter = Meter { inner: reader, left: Rc::clone(&left), quotes: Rc::clone(&quotes) };
    let mut csv = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(AHEAD as usize)
        .from_reader(meter);
    let mut record = ByteRecord::new();
    let end = |line: u64, fault: RowFault| Stop::Fault { line: to_usize(line), fault };
    let stop = |error: csv::Error, line: u64| match error.into_kind() {
        csv::ErrorKind::Io(error) if error.get_ref().is_some_and(|e| e.is::<Endless>()) => {
            let found = format!("more than {} bytes", options.max_row_bytes);
            end(line, RowFault::new("", FaultKind::EndlessRecord, found))
        }
        csv::ErrorKind::Io(error) => Stop::Io(error),
        other => end(line, RowFault::new("", FaultKind::BadHeader, format!("{other:?}"))),
    };

    if !csv.read_byte_record(&mut record).map_err(|e| stop(e, 1))? {
        return Ok(());
    }
    let names = header(&record).map_err(|fault| end(1, fault))?;
    // One record is held back, because only the last one can be a quote that never closes.
    let mut next = ByteRecord::new();
    let mut held: Option<u64> = None;
    loop {
        left.set(budget);
        let line = csv.position().line();
        let more = csv.read_byte_record(&mut next).map_err(|error| stop(error, line))?;
        if let Some(line) = held {
            let last = record.iter().next_back().unwrap_or_default();
            let value = if !more && quotes.get() % 2 == 1 && last.contains(&b'\n') {
                let found = format!("a last field of {} bytes up to the end of the file", last.len());
                Err(RowFault::new("", FaultKind::UnclosedQuote, found))
            } else {
                fields(&names, &record)
            };
            sink(RawRow { line: to_usize(line), value });
        }
        if !more {
            return Ok(());
        }
        held = Some(next.position().map_or(line, csv::Position::line));
        std::mem::swap(&mut record, &mut next);
    }
}

fn to_usize(line: u64) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX)
}

fn header(record: &ByteRecord) -> Result<Vec<String>, RowFault> {
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for (column, cell) in record.iter().enumerate() {
        let bad = |found: String| RowFault::new("", FaultKind::BadHeader, found);
        let name = std::str::from_utf8(cell)
            .map_err(|_| bad(format!("bytes that are not UTF-8 in column {}", column + 1)))?
            .trim();
        // An empty first name is the row index that data-frame tools write.
        if name.is_empty() && column > 0 {
            return Err(bad(format!("an empty name for column {}", column + 1)));
        }
        if !seen.insert(name.to_owned()) {
            return Err(bad(format!("the name {} twice", quote(name))));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn fields(names: &[String], record: &ByteRecord) -> Result<Map<String, Value>, RowFault> {
    if record.len() != names.len() {
        let found = format!("{} columns where the header has {}", record.len(), names.len());
        return Err(RowFault::new("", FaultKind::ColumnCount, found));
    }
    let mut map = Map::new();
    for (name, cell) in names.iter().zip(record.iter()) {
        let text = std::str::from_utf8(cell).map_err(|error| {
            let found = format!("a wrong byte at byte {} of the cell", error.valid_up_to() + 1);
            RowFault::new(name.as_str(), FaultKind::InvalidUtf8, found)
        })?;
        let value = if text.is_empty() { Value::Null } else { Value::String(text.to_owned()) };
        map.insert(name.clone(), value);
    }
    Ok(map)
}
