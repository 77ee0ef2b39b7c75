//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::{Faults, FormatError};

/// A parsed index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Tensor name to shard file name.
    pub weight_map: BTreeMap<String, String>,
    /// Bytes of all tensors, when the file says so.
    pub total_size: Option<u64>,
}

/// Key-value pairs in file order, doubles kept.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[derive(serde::Deserialize)]
struct RawIndex {
    #[serde(default)]
    metadata: Option<serde_json::Map<String, Value>>,
    weight_map: Pairs,
}

/// Whether a shard name is a plain file name: no folder, no drive, no parent.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':', '\0'])
}

/// Reads the text of an index; `path` only names it in errors.
///
/// # Errors
/// [`FormatError::Json`], or [`FormatError::Checkpoint`] with every tensor named twice and every
/// file name that leaves the folder.
pub fn parse_index(bytes: &[u8], path: &Path) -> Result<Index, FormatError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let raw: RawIndex = serde_json::from_slice(bytes).map_err(|e| crate::json::fault(&e, path))?;
    let mut faults = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (tensor, file) in raw.weight_map.0 {
        if !is_plain(&file) {
            faults.push(format!("tensor `{tensor}`: `{file}` is not a plain file name of this folder"));
        }
        if weight_map.insert(tensor.clone(), file).is_some() {
            faults.push(format!("tensor `{tensor}` stands twice in `weight_map`"));
        }
    }
    if weight_map.is_empty() {
        faults.push("`weight_map` is empty".into());
    }
    if !faults.is_empty() {
        return Err(FormatError::Checkpoint { path: path.to_owned(), faults: Faults(faults) });
    }
    let total_size = raw.metadata.as_ref().and_then(|m| m.get("total_size")).and_then(|v| {
        // some writers give the size as a float
        v.as_u64().or_else(|| v.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64))
    });
    Ok(Index { weight_map, total_size })
}
