//! The main flow: paths → files → rows → examples. Every fault of every file is collected before
//! anything is refused.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use loar_artifact::ContentId;

use crate::collect::Collector;
use crate::dataset::{Dataset, FileReport};
use crate::error::{DataError, Faults};
use crate::expand::expand;
use crate::fault::{FaultKind, RowFault};
use crate::input::{Opened, Source, io_fault, open};
use crate::json_stream::{Stop, json};
use crate::lines::jsonl;
use crate::options::{Container, Format, OnBadRow, ReadOptions};
use crate::parquet_rows::parquet;
use crate::plain::text;
use crate::rows::Sink;
use crate::table::csv;

/// Reads files and folders.
///
/// # Errors
/// [`DataError::Rows`] with all faults of all files; [`DataError::Options`] before any file is
/// opened; [`DataError::NoFiles`]; [`DataError::NothingLeft`].
pub fn read(paths: &[PathBuf], options: &ReadOptions) -> Result<Dataset, DataError> {
    options.check().map_err(DataError::Options)?;
    if paths.is_empty() {
        return Err(DataError::NoFiles("the list of paths is empty".into()));
    }
    let expanded = expand(paths);
    let mut dataset = Dataset { passed_over: expanded.passed, ..Dataset::default() };
    let mut faults = Faults::default();
    for (path, fault) in expanded.faults {
        faults.bad_files += 1;
        faults.add(fault.at(path, None));
    }
    for path in expanded.files {
        read_source(&Source::File(path), options, &mut dataset, &mut faults);
    }
    finish(dataset, faults)
}

/// Reads one file from memory; `name` stands for its path and decides by its extension.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Dataset, DataError> {
    options.check().map_err(DataError::Options)?;
    let (mut dataset, mut faults) = (Dataset::default(), Faults::default());
    let source = Source::Bytes(PathBuf::from(name), bytes);
    read_source(&source, options, &mut dataset, &mut faults);
    finish(dataset, faults)
}

fn finish(dataset: Dataset, faults: Faults) -> Result<Dataset, DataError> {
    if faults.total > 0 {
        return Err(DataError::Rows(Box::new(faults)));
    }
    match dataset.dropped.first() {
        Some(first) if dataset.examples.is_empty() => Err(DataError::NothingLeft {
            rows: dataset.rows_read(),
            first: first.id.clone(),
            reason: first.reason.clone(),
        }),
        _ => Ok(dataset),
    }
}

/// Where the rows of an opened source ended.
pub(crate) type Ended = Result<(), (Option<usize>, RowFault)>;

fn read_source(source: &Source<'_>, options: &ReadOptions, dataset: &mut Dataset, faults: &mut Faults) {
    let path = source.path().to_path_buf();
    let opened = match open(source, options) {
        Ok(opened) => opened,
        Err(fault) => {
            faults.bad_files += 1;
            return faults.add(fault.at(path, None));
        }
    };
    let plain = matches!(&opened, Opened::Stream { container: Container::Text, .. });
    let known = match options.format {
        Some(format) => Some((format, format!("`format = \"{}\"`", format.name()))),
        None if plain => Some((Format::Text, "plain text".to_owned())),
        None => None,
    };
    let mut collector = Collector::new(options, &path, known, dataset, faults);
    let (ended, container, why, id) = rows(source, opened, options, &mut |row| collector.push(row));
    let told = collector.finish();
    let (counts, ignored_fields) = (collector.counts, collector.ignored);
    faults.rows_read += counts.rows;
    faults.good_rows += counts.kept;
    if options.on_bad_row == OnBadRow::Stop {
        faults.bad_rows += counts.bad;
    }
    let end_fault = match (ended, id) {
        (Err(fault), _) => Some(fault),
        (Ok(()), Err(fault)) => Some((None, fault)),
        (Ok(()), Ok(_)) if counts.rows == 0 => Some((None, RowFault::new("", FaultKind::EmptyFile, ""))),
        (Ok(()), Ok((content_id, bytes))) => {
            // Without a schema every row is a fault already; the format then only fills the report.
            let (format, format_why) = told.unwrap_or((Format::Messages, "no row fits a known schema".into()));
            dataset.files.push(FileReport {
                path: path.clone(),
                bytes,
                content_id,
                container,
                container_why: why,
                format,
                format_why,
                rows: counts.rows,
                kept: counts.kept,
                dropped: counts.bad,
                ignored_fields,
            });
            None
        }
    };
    if let Some((line, fault)) = end_fault {
        faults.bad_files += 1;
        faults.add(fault.at(path, line));
    }
}

pub(crate) type Identity = Result<(ContentId, u64), RowFault>;

/// Hands every row of an opened source to `sink`.
pub(crate) fn rows(
    source: &Source<'_>,
    opened: Opened<'_>,
    options: &ReadOptions,
    sink: Sink<'_>,
) -> (Ended, Container, String, Identity) {
    let max = options.max_row_bytes;
    match opened {
        Opened::Stream { mut reader, container, tabs, why, digest } => {
            let io = |error: std::io::Error| (None, io_fault(&error));
            let stop = |stop: Stop| match stop {
                Stop::Io(error) => (None, io_fault(&error)),
                Stop::Fault { line, fault } => (Some(line), fault),
            };
            let reader = &mut *reader;
            let ended = match container {
                Container::Json => json(reader, options, sink).map_err(stop),
                Container::Jsonl => jsonl(reader, max, sink).map_err(io),
                Container::Csv => csv(reader, options, tabs, sink).map_err(stop),
                Container::Text => text(reader, options.text_unit, max, sink).map_err(io),
                // `open` gives Parquet as its own variant.
                Container::Parquet => Ok(()),
            };
            (ended, container, why, Ok(digest.finish()))
        }
        Opened::ParquetFile(file) => {
            let ended = parquet(file, max, options.max_unpacked_bytes, options.max_unpack_ratio, sink);
            let why = "the leading bytes PAR1".to_owned();
            let id = file_id(source.path());
            (ended.map_err(|fault| (None, fault)), Container::Parquet, why, id)
        }
        Opened::ParquetBytes(bytes) => {
            let id = Ok((ContentId::of_bytes(&bytes), bytes.len() as u64));
            let file = Bytes::from(bytes);
            let ended = parquet(file, max, options.max_unpacked_bytes, options.max_unpack_ratio, sink);
            let why = "the leading bytes PAR1".to_owned();
            (ended.map_err(|fault| (None, fault)), Container::Parquet, why, id)
        }
    }
}

fn file_id(path: &Path) -> Identity {
    let bytes = std::fs::metadata(path).map_err(|e| io_fault(&e))?.len();
    let id = ContentId::of_file(path).map_err(|error| RowFault::new("", FaultKind::Unreadable, error.to_string()))?;
    Ok((id, bytes))
}
