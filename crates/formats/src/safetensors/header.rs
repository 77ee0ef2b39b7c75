//! The header of one safetensors file: `u64` length (little endian), JSON, then the data.
//!
//! [`parse_header`] is a function of the file's bytes alone. It accepts exactly what the format's
//! own reader accepts: data without holes or overlaps that ends with the file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::DType;
use crate::Faults;

/// Bound on the JSON of a header, as the format's own reader has it.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// Faults collected before reading stops; a damaged file can have one per tensor.
const MAX_FAULTS: usize = 10_000;

/// Name, type and shape of a tensor, and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub(super) range: Range<usize>,
    /// Which file of the checkpoint.
    pub(super) shard: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.byte_len() / self.dtype.size()
    }
    /// Size in bytes.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Tensors in the order of their data.
    pub tensors: Vec<TensorInfo>,
    /// The `__metadata__` table.
    pub metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The JSON object in file order, doubles kept, so that they can be refused.
#[derive(Default)]
struct RawHeader {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
    metadata_seen: usize,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut raw = RawHeader::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        raw.metadata_seen += 1;
                        raw.metadata = map.next_value::<Option<BTreeMap<String, String>>>()?.unwrap_or_default();
                    } else {
                        raw.entries.push((name, map.next_value()?));
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads the header of a whole safetensors file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_header(file: &[u8]) -> Result<Header, Faults> {
    let one = |text: String| Faults(vec![text]);
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(one(format!("{} bytes are too few for a safetensors file", file.len())));
    };
    // a header of 640 bytes begins like a pickle: only a file without the object is taken for another
    if let Some(kind) = disguised(file).filter(|_| rest.first() != Some(&b'{')) {
        return Err(one(kind.to_owned()));
    }
    let length = u64::from_le_bytes(*length);
    let header_len = usize::try_from(length)
        .ok()
        .filter(|n| *n <= MAX_HEADER_BYTES)
        .ok_or_else(|| one(format!("the header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")))?;
    let Some((json, data)) = rest.split_at_checked(header_len) else {
        return Err(one(format!(
            "the header claims {header_len} bytes, but only {} follow: the file is cut",
            rest.len()
        )));
    };
    if json.first() != Some(&b'{') {
        return Err(one("the header does not start with an object".into()));
    }
    let raw: RawHeader = serde_json::from_slice(json).map_err(|e| one(format!("the header is not valid: {e}")))?;
    check(raw, 8 + header_len, data.len())
}

/// Files that are commonly found under the name of a safetensors file.
fn disguised(file: &[u8]) -> Option<&'static str> {
    if file.starts_with(b"version https://git-lfs") {
        Some("a git-lfs pointer, not the file itself: run `git lfs pull` in the checkpoint folder")
    } else if file.starts_with(b"PK\x03\x04") || file.starts_with(b"\x80\x02") {
        Some("a PyTorch pickle, not a safetensors file")
    } else if file.starts_with(b"GGUF") {
        Some("a GGUF file, not a safetensors file")
    } else {
        None
    }
}

fn check(raw: RawHeader, data_start: usize, data_len: usize) -> Result<Header, Faults> {
    let mut faults = Vec::new();
    if raw.metadata_seen > 1 {
        faults.push("`__metadata__` stands twice in the header".to_owned());
    }
    let mut tensors = Vec::with_capacity(raw.entries.len());
    let mut names = HashSet::with_capacity(raw.entries.len());
    for (name, entry) in raw.entries {
        if faults.len() >= MAX_FAULTS {
            break;
        }
        if !names.insert(name.clone()) {
            faults.push(format!("tensor `{name}` stands twice in the header"));
            continue;
        }
        match tensor(&entry, data_start, data_len) {
            Ok((dtype, shape, range)) => {
                tensors.push(TensorInfo { name, dtype, shape, range, shard: 0 });
            }
            Err(text) => faults.push(format!("tensor `{name}`: {text}")),
        }
    }
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    tensors.sort_by_key(|t| (t.range.start, t.range.end));
    let mut at = data_start;
    for tensor in &tensors {
        if tensor.range.start != at {
            let what = if tensor.range.start > at { "a hole before" } else { "an overlap with" };
            faults.push(format!(
                "{what} tensor `{}`: its data starts at {}, expected {}",
                tensor.name,
                tensor.range.start - data_start,
                at - data_start
            ));
            if faults.len() >= MAX_FAULTS {
                break;
            }
        }
        at = at.max(tensor.range.end);
    }
    if at != data_start + data_len {
        faults.push(format!("the tensors end at byte {} of {data_len} bytes of data", at - data_start));
    }
    if faults.is_empty() { Ok(Header { tensors, metadata: raw.metadata }) } else { Err(Faults(faults)) }
}

type Placed = (DType, Vec<usize>, Range<usize>);

fn tensor(entry: &Entry, data_start: usize, data_len: usize) -> Result<Placed, String> {
    let dtype = DType::from_name(&entry.dtype).ok_or_else(|| format!("element type `{}` is not known", entry.dtype))?;
    let mut shape = Vec::with_capacity(entry.shape.len());
    let mut bytes = dtype.size();
    for size in &entry.shape {
        let size = usize::try_from(*size).map_err(|_| format!("size {size} is too large"))?;
        bytes = bytes.checked_mul(size).ok_or_else(|| format!("shape {:?} overflows", entry.shape))?;
        shape.push(size);
    }
    let [begin, end] = entry.data_offsets;
    let inside = |n: u64| usize::try_from(n).ok().filter(|n| *n <= data_len);
    let (Some(begin), Some(end)) = (inside(begin), inside(end)) else {
        return Err(format!(
            "its data is at {begin}..{end}, but the file holds {data_len} bytes of data: the file is cut"
        ));
    };
    if begin > end || end - begin != bytes {
        return Err(format!("shape {shape:?} of {dtype} needs {bytes} bytes, but its data is at {begin}..{end}"));
    }
    Ok((dtype, shape, data_start + begin..data_start + end))
}
