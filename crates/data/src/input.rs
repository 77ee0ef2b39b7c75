//! A file or a byte slice → a decompressed, bounded stream and the container it holds. Magic bytes
//! win over the name. Memory: one buffer; nothing is unpacked to disk.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use loar_artifact::{ContentId, IdHasher};

use crate::fault::{FaultKind, RowFault, quote};
use crate::options::{Container, ReadOptions};

/// Ratio checks start here, so that small files of repeated rows pass.
const RATIO_FROM: u64 = 64 << 20;

const BUFFER: usize = 128 << 10;

/// Where bytes come from.
pub(crate) enum Source<'a> {
    /// A file, by the path the caller gave.
    File(PathBuf),
    /// Bytes with a name that stands for a path.
    Bytes(PathBuf, &'a [u8]),
}

impl Source<'_> {
    pub fn path(&self) -> &Path {
        match self {
            Source::File(path) | Source::Bytes(path, _) => path,
        }
    }
}

/// Sum over the raw bytes as they are read.
pub(crate) struct Digest(Rc<RefCell<(IdHasher, u64)>>);

impl Digest {
    fn new() -> Self {
        Digest(Rc::new(RefCell::new((IdHasher::new(), 0))))
    }

    /// Id and number of the raw bytes read so far.
    pub fn finish(self) -> (ContentId, u64) {
        let (hasher, bytes) = std::mem::take(&mut *self.0.borrow_mut());
        (hasher.finish(), bytes)
    }
}

struct Hashing<R> {
    inner: R,
    digest: Rc<RefCell<(IdHasher, u64)>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.inner.read(buffer)?;
        let mut digest = self.digest.borrow_mut();
        digest.0.update(buffer.get(..taken).unwrap_or_default());
        digest.1 += taken as u64;
        Ok(taken)
    }
}

/// Marker inside the `io::Error` of a stream that unpacks to too much.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unpacked(String);

/// Marker inside the `io::Error` of a stream that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Damaged(String);

struct Bounded<R> {
    inner: R,
    packed: u64,
    unpacked: u64,
    max: u64,
    ratio: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = match self.inner.read(buffer) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(io::Error::other(Damaged(error.to_string()))),
        };
        self.unpacked = self.unpacked.saturating_add(taken as u64);
        let (unpacked, packed) = (self.unpacked, self.packed);
        if unpacked > self.max {
            let text = format!("more than {} bytes out of {packed}", self.max);
            return Err(io::Error::other(Unpacked(text)));
        }
        if unpacked > RATIO_FROM && unpacked > packed.saturating_mul(self.ratio) {
            let text = format!("{unpacked} bytes and more out of {packed}, over {} for each", self.ratio);
            return Err(io::Error::other(Unpacked(text)));
        }
        Ok(taken)
    }
}

/// The fault for an I/O error of any layer.
pub(crate) fn io_fault(error: &io::Error) -> RowFault {
    let inner = error.get_ref();
    let kind = if inner.is_some_and(|e| e.is::<Unpacked>()) {
        FaultKind::TooLarge
    } else if inner.is_some_and(|e| e.is::<Damaged>()) {
        FaultKind::DamagedArchive
    } else {
        FaultKind::Unreadable
    };
    let text = error.to_string();
    RowFault::new("", kind, text.split(" (os error").next().unwrap_or(&text))
}

/// An opened source.
pub(crate) enum Opened<'a> {
    /// Rows come from a stream of text.
    Stream {
        reader: Box<dyn BufRead + 'a>,
        container: Container,
        /// The separator is a tab by name.
        tabs: bool,
        /// How the container was told.
        why: String,
        digest: Digest,
    },
    /// Rows come from a Parquet file with random access.
    ParquetFile(File),
    /// The same from memory.
    ParquetBytes(Vec<u8>),
}

/// Files that are recognised but not read: leading bytes, and what they are.
const FOREIGN: [(&[u8], &str); 12] = [
    (b"PK\x03\x04", "a zip archive or an Office file"),
    (b"ARROW1", "an Arrow IPC file"),
    (b"BZh", "a bzip2 stream"),
    (b"\xfd7zXZ\x00", "an xz stream"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x04\x22\x4d\x18", "an lz4 stream"),
    (b"%PDF", "a PDF"),
    (b"SQLite format 3", "an SQLite database"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF model"),
];

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const PARQUET: &[u8] = b"PAR1";

/// Opens a source and finds its container.
///
/// # Errors
/// A fault that ends the file.
pub(crate) fn open<'a>(source: &Source<'a>, options: &ReadOptions) -> Result<Opened<'a>, RowFault> {
    let (raw, packed): (Box<dyn Read + 'a>, u64) = match source {
        Source::File(path) => {
            let file = File::open(path).map_err(|e| io_fault(&e))?;
            let length = file.metadata().map_err(|e| io_fault(&e))?.len();
            (Box::new(file), length)
        }
        Source::Bytes(_, bytes) => (Box::new(*bytes), bytes.len() as u64),
    };
    let digest = Digest::new();
    let raw = Hashing { inner: raw, digest: Rc::clone(&digest.0) };
    let mut raw = BufReader::with_capacity(BUFFER, raw);
    let head = head(&mut raw)?;

    let mut name = source.path().to_path_buf();
    let mut extension = lower_extension(&name);
    if head.starts_with(PARQUET) {
        return Ok(match source {
            Source::File(path) => Opened::ParquetFile(File::open(path).map_err(|e| io_fault(&e))?),
            Source::Bytes(_, bytes) => Opened::ParquetBytes(bytes.to_vec()),
        });
    }
    let bound = |inner: Box<dyn Read + 'a>| -> Box<dyn BufRead + 'a> {
        let (max, ratio) = (options.max_unpacked_bytes, options.max_unpack_ratio);
        let bounded = Bounded { inner, packed, unpacked: 0, max, ratio };
        Box::new(BufReader::with_capacity(BUFFER, bounded))
    };
    let packed_name = matches!(extension.as_str(), "gz" | "gzip" | "zst" | "zstd");
    if packed_name {
        name.set_extension("");
        extension = lower_extension(&name);
    }
    let unsupported = |found: String| RowFault::new("", FaultKind::UnsupportedContainer, found);
    let mut reader: Box<dyn BufRead + 'a> = if head.starts_with(GZIP) {
        bound(Box::new(flate2::bufread::MultiGzDecoder::new(raw)))
    } else if head.starts_with(ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(|e| io_fault(&e))?;
        bound(Box::new(decoder))
    } else if packed_name && !head.is_empty() {
        let found = format!("a name that says compressed over the bytes {}", hex(&head));
        return Err(RowFault::new("", FaultKind::DamagedArchive, found));
    } else {
        Box::new(raw)
    };
    let head = self::head(&mut reader)?;
    if head.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    for (magic, what) in FOREIGN {
        if head.starts_with(magic) {
            return Err(unsupported(what.into()));
        }
    }
    if head.starts_with(GZIP) || head.starts_with(ZSTD) || head.starts_with(PARQUET) {
        return Err(unsupported("a second compressed or Parquet file inside a compressed one".into()));
    }
    if head.get(257..262) == Some(b"ustar".as_slice()) {
        return Err(unsupported("a tar archive".into()));
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        let fault = unsupported("UTF-16 text".into());
        return Err(fault.mend("convert it to UTF-8 (`iconv -f UTF-16 -t UTF-8`)"));
    }
    let (container, why) = tell(&extension, &head, options)?;
    let tabs = matches!(extension.as_str(), "tsv" | "tab");
    let (container, reader) = match container {
        Container::Json if options.container.is_none() => json_or_lines(reader, options)?,
        other => (other, reader),
    };
    Ok(Opened::Stream { reader, container, tabs, why, digest })
}

/// Up to 512 leading bytes, left in place as far as one fill of the buffer gives them.
fn head(reader: &mut dyn BufRead) -> Result<Vec<u8>, RowFault> {
    loop {
        match reader.fill_buf() {
            Ok(chunk) => return Ok(chunk.iter().take(512).copied().collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_fault(&error)),
        }
    }
}

pub(crate) fn lower_extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// The container a name stands for.
pub(crate) fn by_extension(extension: &str) -> Option<Container> {
    Some(match extension {
        "json" => Container::Json,
        "jsonl" | "ndjson" | "jl" => Container::Jsonl,
        "csv" | "tsv" | "tab" => Container::Csv,
        "parquet" | "pq" => Container::Parquet,
        "txt" | "text" | "md" => Container::Text,
        _ => return None,
    })
}

fn tell(extension: &str, head: &[u8], options: &ReadOptions) -> Result<(Container, String), RowFault> {
    let first = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).iter().find(|b| !b.is_ascii_whitespace()).copied();
    let named = options.container.map(|c| (c, format!("`container = \"{}\"`", c.name())));
    let by_name = by_extension(extension).map(|c| (c, format!("the name .{extension}")));
    let by_bytes = match first {
        Some(b'{' | b'[') => Some((Container::Json, "a leading bracket".to_owned())),
        _ => None,
    };
    let (container, why) = named.or(by_name).or(by_bytes).ok_or_else(|| {
        let start = String::from_utf8_lossy(head.get(..16.min(head.len())).unwrap_or_default());
        let found = match extension {
            "" => format!("a name without extension over {}", quote(&start)),
            _ => format!("the name .{extension} over {}", quote(&start)),
        };
        RowFault::new("", FaultKind::UnknownContainer, found)
    })?;
    if container == Container::Parquet && !head.is_empty() {
        let found = format!("{why} over the bytes {}", hex(head));
        return Err(RowFault::new("", FaultKind::BrokenParquet, found));
    }
    if container == Container::Jsonl && first == Some(b'[') && options.container.is_none() {
        return Ok((Container::Json, format!("{why}, but the bytes are one JSON array")));
    }
    Ok((container, why))
}

fn hex(head: &[u8]) -> String {
    let bytes: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("`{}`", bytes.join(" "))
}

/// A `.json` file whose first line is a whole object followed by more is JSONL: read so, a broken
/// line costs one row and not the rest of the file.
fn json_or_lines<'a>(
    mut reader: Box<dyn BufRead + 'a>,
    options: &ReadOptions,
) -> Result<(Container, Box<dyn BufRead + 'a>), RowFault> {
    // Blank lines stay in front, so that line numbers hold. A document of one long line is cut at
    // the bound, does not parse, and is left to the streaming reader.
    let mut seen = Vec::new();
    let mut start = 0;
    loop {
        let room = (options.max_row_bytes as u64 + 1).saturating_sub(seen.len() as u64);
        let taken = reader.by_ref().take(room).read_until(b'\n', &mut seen).map_err(|e| io_fault(&e))?;
        let line = seen.get(start..).unwrap_or_default().trim_ascii();
        if taken == 0 || !line.is_empty() {
            break;
        }
        start = seen.len();
    }
    let text = seen.get(start..).unwrap_or_default().trim_ascii();
    let whole = text.starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
    let more = whole && {
        let rest = reader.fill_buf().map_err(|e| io_fault(&e))?;
        rest.iter().any(|b| !b.is_ascii_whitespace())
    };
    let container = if more { Container::Jsonl } else { Container::Json };
    Ok((container, Box::new(io::Cursor::new(seen).chain(reader))))
}
