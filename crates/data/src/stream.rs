//! Files of any size, in parts: one thread cuts a file into parts of whole rows, any number of
//! threads turn parts into examples. How a file is cut depends on its bytes and on the options
//! alone, so that the same parts come out on any machine. JSONL is cut without being parsed; the
//! rows of other containers are parsed while cutting. Memory: one part, or sixteen rows where these
//! are more, as they tell the schema.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::collect::Read;
use crate::collect::{id_of, read as read_row};
use crate::dataset::FileReport;
use crate::error::{DataError, Faults};
use crate::expand;
use crate::fault::{Fault, FaultKind, RowFault};
use crate::input::{Opened, Source, io_fault, open};
use crate::lines::next_line;
use crate::options::{Container, Format, ReadOptions};
use crate::read::{Ended, Identity, rows};
use crate::rows::RawRow;
use crate::schema::{PROBE, detect};
use crate::strict;

/// Bytes of a bad row that are kept with it.
const RAW_KEPT: usize = 16 << 10;

/// Data files that a list of paths names, folders walked in sorted order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Files {
    /// Files to read.
    pub files: Vec<PathBuf>,
    /// Files of a folder that are no data, with the reason.
    pub passed_over: Vec<(PathBuf, String)>,
}

/// Lists the data files.
///
/// # Errors
/// [`DataError::NoFiles`] without a path, [`DataError::Rows`] with one fault for every path that
/// is not there or holds no data.
pub fn files(paths: &[PathBuf]) -> Result<Files, DataError> {
    if paths.is_empty() {
        return Err(DataError::NoFiles("the list of paths is empty".into()));
    }
    let expanded = expand::expand(paths);
    let mut faults = Faults::default();
    for (path, fault) in expanded.faults {
        faults.bad_files += 1;
        faults.add(fault.at(path, None));
    }
    if faults.total > 0 {
        return Err(DataError::Rows(Box::new(faults)));
    }
    Ok(Files { files: expanded.files, passed_over: expanded.passed })
}

/// Some whole rows of one file.
#[derive(Debug)]
pub struct Part {
    file: Arc<PathBuf>,
    format: Option<Format>,
    /// Rows of the file before this part.
    pub first_row: u64,
    /// Rows here.
    pub rows: usize,
    /// Bytes of these rows, unpacked; for parsed containers an estimate.
    pub bytes: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// JSONL not parsed yet, blank lines included: number of the first line, bytes.
    Lines(usize, Vec<u8>),
    /// Rows of another container.
    Rows(Vec<RawRow>),
}

/// A row that is no example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Index in the part.
    pub index: usize,
    /// Line in the file (Parquet: row number), from 1.
    pub line: usize,
    /// Kind of its first fault.
    pub kind: FaultKind,
    /// All its faults in words.
    pub reason: String,
    /// The row as written, at most 16 KiB of it; empty when the container could not give it.
    pub raw: String,
}

/// What a part holds.
#[derive(Debug, Default)]
pub struct PartRows {
    /// Index in the part with what the row says.
    pub examples: Vec<(usize, Read)>,
    /// The others.
    pub bad: Vec<BadRow>,
    /// Fields that no schema uses, with how often they hold a value.
    pub ignored_fields: BTreeMap<String, usize>,
}

impl Part {
    /// Parses the part. A pure function: it may run on any thread.
    pub fn read(&self, options: &ReadOptions) -> PartRows {
        let mut out = PartRows::default();
        match &self.content {
            Content::Lines(first, bytes) => {
                let (mut index, mut start) = (0, 0);
                let ends = memchr::memchr_iter(b'\n', bytes).chain([bytes.len()]);
                for (at, end) in ends.enumerate() {
                    let text = bytes[start..end].trim_ascii();
                    start = (end + 1).min(bytes.len());
                    if !text.is_empty() {
                        let row = RawRow { line: first + at, value: strict::object(text) };
                        self.take(index, row, || lossy(text), options, &mut out);
                        index += 1;
                    }
                }
            }
            Content::Rows(rows) => {
                for (index, row) in rows.iter().enumerate() {
                    let raw = || {
                        row.value
                            .as_ref()
                            .map_or(String::new(), |map| lossy(&serde_json::to_vec(map).unwrap_or_default()))
                    };
                    self.take(index, row.clone(), raw, options, &mut out);
                }
            }
        }
        out
    }

    fn take(&self, index: usize, row: RawRow, raw: impl Fn() -> String, options: &ReadOptions, out: &mut PartRows) {
        let line = row.line;
        match read_row(row, self.format, options, &mut out.ignored_fields) {
            Ok(example) => out.examples.push((index, example)),
            Err(faults) => {
                let kind = faults.first().map_or(FaultKind::UnknownSchema, |fault| fault.kind);
                let placed = faults.into_iter().map(|fault| fault.at(self.file.to_path_buf(), Some(line)).reason());
                let reason = placed.collect::<Vec<_>>().join("; ");
                out.bad.push(BadRow { index, line, kind, reason, raw: raw() });
            }
        }
    }

    /// `file:line` of a line of this part's file.
    pub fn id(&self, line: usize) -> String {
        id_of(&self.file, line)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..RAW_KEPT).unwrap_or(bytes)).into_owned()
}

/// What was said by whoever takes the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Next,
    /// Nobody wants more; the rest of the file is not read.
    Stop,
}

/// Cuts one file into parts of about `target` bytes and hands them to `take` in order. Gives the
/// file's report with `kept` and `dropped` left at zero, as nobody has parsed it yet; `None` when
/// `take` stopped it.
///
/// # Errors
/// The fault that ends the file; parts before it have been handed over.
pub fn parts(
    path: &Path,
    options: &ReadOptions,
    target: usize,
    take: &mut dyn FnMut(Part) -> Flow,
) -> Result<Option<FileReport>, Box<Fault>> {
    let whole = |fault: RowFault| Box::new(fault.at(path.to_path_buf(), None));
    let source = Source::File(path.to_path_buf());
    let mut opened = open(&source, options).map_err(whole)?;
    let text = matches!(&opened, Opened::Stream { container: Container::Text, .. });
    let known = match options.format {
        Some(format) => Some((format, format!("`format = \"{}\"`", format.name()))),
        None if text => Some((Format::Text, "plain text".to_owned())),
        None => None,
    };
    let mut cutter = Cutter::new(path, options, target, known, take);
    let (ended, container, why, identity): (Ended, Container, String, Identity) = match &mut opened {
        Opened::Stream { reader, container: Container::Jsonl, .. } => {
            let ended = cutter.lines(&mut **reader);
            let Opened::Stream { why, digest, .. } = opened else { unreachable!("matched above") };
            (ended, Container::Jsonl, why, Ok(digest.finish()))
        }
        _ => rows(&source, opened, options, &mut |row| cutter.row(row)),
    };
    cutter.finish();
    let stopped = cutter.flow == Flow::Stop;
    let (format, format_why) = cutter.schema().unwrap_or((Format::Messages, "no row fits a known schema".into()));
    let total = cutter.total;
    if stopped {
        return Ok(None);
    }
    ended.map_err(|(line, fault)| Box::new(fault.at(path.to_path_buf(), line)))?;
    let (content_id, bytes) = identity.map_err(whole)?;
    if total == 0 {
        return Err(whole(RowFault::new("", FaultKind::EmptyFile, "")));
    }
    Ok(Some(FileReport {
        path: path.to_path_buf(),
        bytes,
        content_id,
        container,
        container_why: why,
        format,
        format_why,
        rows: total as usize,
        kept: 0,
        dropped: 0,
        ignored_fields: BTreeMap::new(),
    }))
}

struct Cutter<'a> {
    file: Arc<PathBuf>,
    options: &'a ReadOptions,
    target: usize,
    take: &'a mut dyn FnMut(Part) -> Flow,
    flow: Flow,
    /// Settled schema; the inner option is absent when the first rows fit none.
    settled: Option<Option<(Format, String)>>,
    /// Parts cut before the schema was settled: as when a file is read at once, its first rows tell
    /// it, however small the parts are.
    waiting: Vec<Part>,
    content: Content,
    rows: usize,
    bytes: usize,
    total: u64,
}

impl<'a> Cutter<'a> {
    fn new(
        path: &Path,
        options: &'a ReadOptions,
        target: usize,
        known: Option<(Format, String)>,
        take: &'a mut dyn FnMut(Part) -> Flow,
    ) -> Self {
        let file = Arc::new(path.to_path_buf());
        let (settled, content) = (known.map(Some), Content::Rows(Vec::new()));
        Cutter {
            file,
            options,
            target,
            take,
            flow: Flow::Next,
            settled,
            waiting: Vec::new(),
            content,
            rows: 0,
            bytes: 0,
            total: 0,
        }
    }

    fn schema(&mut self) -> Option<(Format, String)> {
        self.settled.take().flatten()
    }

    /// Tells the schema from the first rows and hands over what waited for it.
    fn settle(&mut self) {
        let mut probed = Vec::new();
        for part in &self.waiting {
            let room = PROBE - probed.len();
            match &part.content {
                Content::Rows(rows) => probed.extend(rows.iter().take(room).map(|row| row.value.clone().ok())),
                Content::Lines(_, bytes) => {
                    let lines = bytes.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
                    probed.extend(lines.take(room).map(|line| strict::object(line).ok()));
                }
            }
        }
        let schema = detect(probed.iter().flatten(), self.options);
        let format = schema.as_ref().map(|(format, _)| *format);
        self.settled = Some(schema);
        for part in std::mem::take(&mut self.waiting) {
            self.hand(Part { format, ..part });
        }
    }

    fn hand(&mut self, part: Part) {
        if self.flow == Flow::Next {
            self.flow = (self.take)(part);
        }
    }

    /// Cuts: hands over what is held, or lets it wait for the schema.
    fn flush(&mut self) {
        if self.rows == 0 || self.flow == Flow::Stop {
            return;
        }
        let content = std::mem::replace(&mut self.content, Content::Rows(Vec::new()));
        let (rows, bytes) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.bytes));
        let first_row = self.total - rows as u64;
        let part = Part { file: Arc::clone(&self.file), format: None, first_row, rows, bytes, content };
        match &self.settled {
            Some(schema) => {
                let format = schema.as_ref().map(|(format, _)| *format);
                self.hand(Part { format, ..part });
            }
            None => {
                self.waiting.push(part);
                if self.total >= PROBE as u64 {
                    self.settle();
                }
            }
        }
    }

    /// Ends the file: nothing waits any longer.
    fn finish(&mut self) {
        self.flush();
        if self.settled.is_none() {
            self.settle();
        }
    }

    fn row(&mut self, row: RawRow) {
        if self.flow == Flow::Stop {
            return;
        }
        let size = row.value.as_ref().map_or(0, |map| map.iter().map(|(key, value)| key.len() + size_of(value)).sum());
        match &mut self.content {
            Content::Rows(rows) => rows.push(row),
            Content::Lines(..) => {
                self.flush();
                self.content = Content::Rows(vec![row]);
            }
        }
        self.rows += 1;
        self.total += 1;
        self.bytes += size;
        if self.bytes >= self.target {
            self.flush();
        }
    }

    fn lines(&mut self, reader: &mut dyn std::io::BufRead) -> Ended {
        let max = self.options.max_row_bytes;
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            let taken = next_line(reader, &mut line, max).map_err(|error| (None, io_fault(&error)))?;
            if taken == 0 || self.flow == Flow::Stop {
                return Ok(());
            }
            number += 1;
            // One byte of line end, as in `lines::jsonl`.
            if taken > max as u64 + 1 {
                self.flush();
                let found = format!("{taken} bytes where at most {max} are allowed");
                self.row(RawRow::bad(number, RowFault::new("", FaultKind::RowTooLong, found)));
                self.flush();
                continue;
            }
            if self.rows == 0 {
                self.content = Content::Lines(number, Vec::with_capacity(self.target.min(64 << 20)));
            }
            if let Content::Lines(_, bytes) = &mut self.content {
                bytes.extend_from_slice(&line);
                bytes.push(b'\n');
            }
            if !line.trim_ascii().is_empty() {
                self.rows += 1;
                self.total += 1;
                self.bytes += line.len() + 1;
            }
            if self.bytes >= self.target {
                self.flush();
            }
        }
    }
}

fn size_of(value: &serde_json::Value) -> usize {
    use serde_json::Value::{Array, Object, String};
    match value {
        String(text) => text.len(),
        Array(list) => list.iter().map(size_of).sum(),
        Object(map) => map.iter().map(|(key, value)| key.len() + size_of(value)).sum(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OnBadRow;
    use crate::read::read;
    use std::io::Write;

    /// Every container, in small parts: same examples, same places, same reasons as reading at once.
    #[test]
    fn parts_hold_what_reading_at_once_gives() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = String::from("\n");
        for at in 0..200 {
            match at % 50 {
                7 => lines.push_str("{\"question\": \"broken\n"),
                9 => lines.push_str("\r\n"),
                11 => lines.push_str("{\"question\": \"\", \"answer\": \"a\", \"odd\": 1}\n"),
                _ => lines
                    .push_str(&format!("{{\"question\": \"问题 {at}\", \"answer\": \"a{at}\", \"odd\": {at}}}\r\n")),
            }
        }
        std::fs::write(dir.path().join("a.jsonl"), &lines).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(lines.as_bytes()).unwrap();
        std::fs::write(dir.path().join("b.jsonl.gz"), gz.finish().unwrap()).unwrap();
        std::fs::write(dir.path().join("c.csv"), "prompt,completion\na,b\n\"c\nd\",e\nf\n").unwrap();
        std::fs::write(dir.path().join("d.json"), "[{\"text\": \"one\"}, {\"text\": 2}, {\"text\": \"three\"}]")
            .unwrap();
        std::fs::write(dir.path().join("e.txt"), "plain\n\ntext\n").unwrap();
        let options = ReadOptions { on_bad_row: OnBadRow::Drop, ..ReadOptions::default() };
        let whole = read(&[dir.path().to_path_buf()], &options).unwrap();
        for target in [1, 300, 1 << 20] {
            let (mut examples, mut bad, mut reports) = (Vec::new(), Vec::new(), Vec::new());
            for path in files(&[dir.path().to_path_buf()]).unwrap().files {
                let mut next = 0;
                let report = parts(&path, &options, target, &mut |part| {
                    assert_eq!(part.first_row, next);
                    next += part.rows as u64;
                    let rows = part.read(&options);
                    assert_eq!(rows.examples.len() + rows.bad.len(), part.rows);
                    examples.extend(rows.examples.into_iter().map(|(_, example)| example));
                    bad.extend(rows.bad.into_iter().map(|row| (part.id(row.line), row.reason)));
                    Flow::Next
                });
                let report = report.unwrap().unwrap();
                assert_eq!(report.rows as u64, next);
                reports.push((report.content_id, report.format));
            }
            let at_once = whole.examples.iter().map(|example| Read {
                line: example.line,
                body: example.body.clone(),
                kept: example.kept.clone(),
            });
            assert_eq!(examples, at_once.collect::<Vec<_>>(), "target {target}");
            assert_eq!(bad, whole.dropped.iter().map(|d| (d.id.clone(), d.reason.clone())).collect::<Vec<_>>());
            assert_eq!(reports, whole.files.iter().map(|f| (f.content_id, f.format)).collect::<Vec<_>>());
        }
    }

    /// The schema is told by the first rows of the file, not of the part: a first row that would pass
    /// for a text does not make the file one.
    #[test]
    fn small_parts_do_not_change_the_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let rows: String = (0..40).map(|at| format!("{{\"question\": \"q{at}\", \"answer\": \"a{at}\"}}\n")).collect();
        std::fs::write(&path, format!("{{\"text\": \"a note\"}}\nbroken\n{rows}")).unwrap();
        let options = ReadOptions { on_bad_row: OnBadRow::Drop, ..ReadOptions::default() };
        let whole = read(std::slice::from_ref(&path), &options).unwrap();
        assert_eq!((whole.examples.len(), whole.dropped.len()), (40, 2));
        let (mut examples, mut cut) = (Vec::new(), 0);
        parts(&path, &options, 1, &mut |part| {
            cut += 1;
            examples.extend(part.read(&options).examples.into_iter().map(|(_, example)| (example.line, example.body)));
            Flow::Next
        })
        .unwrap();
        let at_once: Vec<_> = whole.examples.into_iter().map(|example| (example.line, example.body)).collect();
        assert_eq!((examples, cut), (at_once, 42));
    }

    #[test]
    fn a_line_beyond_the_bound_costs_one_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.jsonl");
        let long = "x".repeat(5000);
        std::fs::write(&path, format!("{{\"text\": \"a\"}}\n{{\"text\": \"{long}\"}}\n{{\"text\": \"b\"}}")).unwrap();
        let options = ReadOptions { max_row_bytes: 100, ..ReadOptions::default() };
        let (mut texts, mut reasons) = (Vec::new(), Vec::new());
        parts(&path, &options, 1 << 20, &mut |part| {
            let rows = part.read(&options);
            texts.extend(rows.examples.into_iter().map(|(_, example)| (part.first_row, example.line)));
            reasons.extend(rows.bad.into_iter().map(|row| (row.line, row.kind)));
            Flow::Next
        })
        .unwrap();
        assert_eq!(texts, [(0, 1), (2, 3)]);
        assert_eq!(reasons, [(2, FaultKind::RowTooLong)]);
    }

    #[test]
    fn a_torn_archive_ends_the_file_with_its_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("torn.jsonl.gz");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..2000).for_each(|at| writeln!(gz, "{{\"text\": \"row {at} {}\"}}", at * 7919).unwrap());
        let bytes = gz.finish().unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let fault = parts(&path, &ReadOptions::default(), 1000, &mut |_| Flow::Next).unwrap_err();
        assert_eq!(fault.kind, FaultKind::DamagedArchive);
    }

    #[test]
    fn the_taker_can_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\": \"a\"}\n".repeat(100)).unwrap();
        let mut taken = 0;
        let report = parts(&path, &ReadOptions::default(), 1, &mut |_| {
            taken += 1;
            if taken == 3 { Flow::Stop } else { Flow::Next }
        });
        assert_eq!((report.unwrap(), taken), (None, 3));
    }
}
