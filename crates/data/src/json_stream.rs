//! A JSON document → rows, streamed: an array of objects, an object that holds one list of
//! objects, or objects one after another. Memory: one row. Each row carries the line of its first
//! byte. What stands between rows is checked; a document that breaks there cannot be followed
//! further and ends the file.

use std::io::{self, BufRead};

use crate::fault::{FaultKind, RowFault, quote};
use crate::options::ReadOptions;
use crate::rows::{RawRow, Sink};
use crate::schema::is_row_field;
use crate::strict;

/// Why reading ended before the document did.
pub(crate) enum Stop {
    Io(io::Error),
    Fault { line: usize, fault: RowFault },
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

struct Scanner<'a> {
    options: &'a ReadOptions,
    reader: &'a mut dyn BufRead,
    line: usize,
    max: usize,
}

/// One scanned value: its bytes, or how many there were when they pass the bound.
enum Scanned {
    Bytes(Vec<u8>),
    TooLong(u64),
}

impl Scanner<'_> {
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(chunk) => return Ok(chunk.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn bump(&mut self, byte: u8) {
        self.line += usize::from(byte == b'\n');
        self.reader.consume(1);
    }

    /// The next byte that is not white space, left in place.
    fn next_solid(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(Some(byte));
            }
            self.bump(byte);
        }
        Ok(None)
    }

    fn broken(&self, found: String) -> Stop {
        let fault = RowFault::new("", FaultKind::BrokenJson, found);
        Stop::Fault { line: self.line, fault }
    }

    fn unexpected(&self, found: Option<u8>, expected: &str) -> Stop {
        self.broken(match found {
            Some(byte) => format!("{} where {expected} is due", quote(&shown(byte))),
            None => format!("the end of the file where {expected} is due"),
        })
    }

    /// Takes one value of any kind, following brackets and strings only; its inside is checked by
    /// the parser afterwards.
    fn value(&mut self) -> Result<Scanned, Stop> {
        let start = self.line;
        let (mut bytes, mut total) = (Vec::new(), 0_u64);
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        loop {
            let chunk = self.reader.fill_buf()?;
            if chunk.is_empty() {
                if depth == 0 && !in_string && total > 0 {
                    break;
                }
                let mut stop = self
                    .broken(format!("the end of the file inside a value of {total} bytes that starts on line {start}"));
                if let Stop::Fault { line, .. } = &mut stop {
                    *line = start;
                }
                return Err(stop);
            }
            let (mut used, mut done) = (0, false);
            for &byte in chunk {
                if in_string {
                    self.line += usize::from(byte == b'\n');
                    used += 1;
                    if escaped {
                        escaped = false;
                    } else if byte == b'\\' {
                        escaped = true;
                    } else if byte == b'"' {
                        in_string = false;
                        done = depth == 0;
                    }
                } else {
                    // A bare word or number ends before the byte that ends it.
                    let ends = matches!(byte, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r');
                    if depth == 0 && ends {
                        done = true;
                        break;
                    }
                    self.line += usize::from(byte == b'\n');
                    used += 1;
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => {
                            depth -= 1;
                            done = depth == 0;
                        }
                        _ => {}
                    }
                }
                if done {
                    break;
                }
            }
            total += used as u64;
            let room = self.max.saturating_sub(bytes.len());
            bytes.extend(chunk.iter().take(used.min(room)));
            self.reader.consume(used);
            if done {
                break;
            }
        }
        if total > self.max as u64 { Ok(Scanned::TooLong(total)) } else { Ok(Scanned::Bytes(bytes)) }
    }

    fn row(&mut self, sink: &mut dyn FnMut(RawRow)) -> Result<(), Stop> {
        let line = self.line;
        match self.value()? {
            Scanned::Bytes(bytes) => sink(RawRow { line, value: strict::object(&bytes) }),
            Scanned::TooLong(total) => sink(RawRow::bad(line, too_long(total, self.max))),
        }
        Ok(())
    }

    /// Rows of an array whose `[` is next.
    fn array(&mut self, sink: &mut dyn FnMut(RawRow)) -> Result<(), Stop> {
        self.bump(b'[');
        if self.next_solid()? == Some(b']') {
            self.bump(b']');
            return Ok(());
        }
        self.rest_of_array(sink)
    }

    /// An object whose `{` is next: a row, or the wrapper of a list of rows.
    fn object(&mut self, sink: &mut dyn FnMut(RawRow)) -> Result<(), Stop> {
        let start = self.line;
        self.bump(b'{');
        let mut seen = vec![b'{'];
        let mut total = 1_u64;
        let (mut list, mut row_field): (Option<String>, Option<String>) = (None, None);
        if self.next_solid()? == Some(b'}') {
            self.bump(b'}');
            sink(RawRow { line: start, value: Ok(serde_json::Map::new()) });
            return Ok(());
        }
        loop {
            match self.next_solid()? {
                Some(b'"') => {}
                other => return Err(self.unexpected(other, "a key")),
            }
            let key = match self.value()? {
                Scanned::Bytes(bytes) => bytes,
                Scanned::TooLong(n) => return Err(self.broken(format!("a key of {n} bytes"))),
            };
            match self.next_solid()? {
                Some(b':') => self.bump(b':'),
                other => return Err(self.unexpected(other, "`:`")),
            }
            let name = serde_json::from_slice::<String>(&key).unwrap_or_default();
            let is_list = self.next_solid()? == Some(b'[') && row_field.is_none() && !is_row_field(&name, self.options);
            if is_list && self.list_of_objects()? {
                if let Some(first) = &list {
                    let found = format!("two lists of objects, {} and {}", quote(first), quote(&name));
                    return Err(self.broken(found));
                }
                self.rest_of_array(sink)?;
                list = Some(name);
                seen.clear();
            } else {
                if is_row_field(&name, self.options) {
                    if let Some(rows) = &list {
                        let both = format!("the list {} beside the row field {}", quote(rows), quote(&name));
                        return Err(self.broken(both));
                    }
                    row_field = Some(name);
                }
                let taken = if is_list { self.rest_as_value()? } else { self.value()? };
                let add = |seen: &mut Vec<u8>, bytes: &[u8]| {
                    if list.is_none() {
                        seen.extend(bytes);
                    }
                };
                match taken {
                    Scanned::Bytes(bytes) => {
                        total += (key.len() + bytes.len() + 2) as u64;
                        if total <= self.max as u64 {
                            add(&mut seen, &key);
                            add(&mut seen, b":");
                            add(&mut seen, &bytes);
                        } else {
                            seen.clear();
                        }
                    }
                    Scanned::TooLong(n) => {
                        total += n;
                        seen.clear();
                    }
                }
            }
            match self.next_solid()? {
                Some(b',') => {
                    self.bump(b',');
                    if list.is_none() {
                        seen.push(b',');
                    }
                }
                Some(b'}') => {
                    self.bump(b'}');
                    break;
                }
                other => return Err(self.unexpected(other, "`,` or `}`")),
            }
        }
        if list.is_none() {
            if total > self.max as u64 {
                sink(RawRow::bad(start, too_long(total, self.max)));
            } else {
                seen.push(b'}');
                sink(RawRow { line: start, value: strict::object(&seen) });
            }
        }
        Ok(())
    }

    /// Consumes `[` and white space; true when an object follows.
    fn list_of_objects(&mut self) -> Result<bool, Stop> {
        self.bump(b'[');
        Ok(self.next_solid()? == Some(b'{'))
    }

    /// The rows of an array whose `[` is already taken and whose first row is next.
    fn rest_of_array(&mut self, sink: &mut dyn FnMut(RawRow)) -> Result<(), Stop> {
        loop {
            match self.next_solid()? {
                Some(b',' | b']' | b'}' | b':') | None => {
                    let found = self.peek()?;
                    return Err(self.unexpected(found, "a row"));
                }
                Some(_) => self.row(sink)?,
            }
            match self.next_solid()? {
                Some(b',') => self.bump(b','),
                Some(b']') => {
                    self.bump(b']');
                    return Ok(());
                }
                other => return Err(self.unexpected(other, "`,` or `]`")),
            }
        }
    }

    /// An array whose `[` is already taken, as bytes.
    fn rest_as_value(&mut self) -> Result<Scanned, Stop> {
        let mut bytes = vec![b'['];
        let mut total = 1_u64;
        loop {
            match self.next_solid()? {
                Some(b']') => {
                    self.bump(b']');
                    bytes.push(b']');
                    total += 1;
                    break;
                }
                Some(b',') => {
                    self.bump(b',');
                    bytes.push(b',');
                    total += 1;
                }
                Some(b'}' | b':') | None => {
                    let found = self.peek()?;
                    return Err(self.unexpected(found, "a value"));
                }
                Some(_) => match self.value()? {
                    Scanned::Bytes(more) => {
                        total += more.len() as u64;
                        if total <= self.max as u64 {
                            bytes.extend(more);
                        }
                    }
                    Scanned::TooLong(n) => total += n,
                },
            }
            if total > self.max as u64 {
                bytes.clear();
            }
        }
        if total > self.max as u64 { Ok(Scanned::TooLong(total)) } else { Ok(Scanned::Bytes(bytes)) }
    }
}

fn too_long(total: u64, max: usize) -> RowFault {
    let found = format!("{total} bytes where at most {max} are allowed");
    RowFault::new("", FaultKind::RowTooLong, found)
}

fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { char::from(byte).to_string() } else { format!("0x{byte:02x}") }
}

/// Hands every row of the document to `sink`.
pub(crate) fn json(reader: &mut dyn BufRead, options: &ReadOptions, sink: Sink<'_>) -> Result<(), Stop> {
    let mut scanner = Scanner { options, reader, line: 1, max: options.max_row_bytes };
    loop {
        match scanner.next_solid()? {
            None => return Ok(()),
            Some(b'[') => scanner.array(sink)?,
            Some(b'{') => scanner.object(sink)?,
            other => return Err(scanner.unexpected(other, "`[` or `{`")),
        }
    }
}
