//! Opening a checkpoint: which files belong to it, and whether they agree with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::Inner;
use super::{INDEX_NAME, SINGLE_NAME, header, index, storage};
use crate::{Faults, FormatError, Issue};

/// Bound on an index; that of V3 (163 shards, 91991 tensors) has 9 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// FP8 block of all releases.
const DEFAULT_BLOCK: [usize; 2] = [128, 128];

/// Builds an [`Inner`] shard by shard, collecting faults.
pub(super) struct Opening {
    pub(super) inner: Inner,
    pub(super) faults: Vec<String>,
}

impl Opening {
    pub(super) fn new(path: &Path) -> Self {
        let inner = Inner {
            path: path.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            block: DEFAULT_BLOCK,
        };
        Self { inner, faults: Vec::new() }
    }

    /// Adds a file; `label` names it in faults, empty for a single file.
    pub(super) fn add(&mut self, file: PathBuf, label: &str) {
        let prefix = if label.is_empty() { String::new() } else { format!("`{label}`: ") };
        let map = match storage::map(&file) {
            Ok(map) => map,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.faults.push(format!("{prefix}the file is missing"));
                return;
            }
            Err(e) => {
                self.faults.push(format!("{prefix}cannot be read: {e}"));
                return;
            }
        };
        let header = match header::parse_header(&map) {
            Ok(header) => header,
            Err(Faults(faults)) => {
                self.faults.extend(faults.into_iter().map(|f| format!("{prefix}{f}")));
                return;
            }
        };
        let shard = self.inner.shards.len();
        for mut info in header.tensors {
            info.shard = shard;
            if let Some(first) = self.inner.tensors.get(&info.name) {
                let other = self.inner.shards.get(first.shard).map(|(p, _)| file_name(p));
                self.faults.push(format!("{prefix}tensor `{}` is also in `{}`", info.name, other.unwrap_or_default()));
                continue;
            }
            self.inner.tensors.insert(info.name.clone(), info);
        }
        for (key, value) in header.metadata {
            self.inner.metadata.entry(key).or_insert(value);
        }
        self.inner.shards.push((file, map));
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn gather(dir: &Path) -> Result<(Opening, Vec<Issue>), FormatError> {
    let mut issues = Vec::new();
    let mut opening = Opening::new(dir);
    let (single, index_path) = (dir.join(SINGLE_NAME), dir.join(INDEX_NAME));
    if single.exists() {
        if index_path.exists() {
            issues.push(Issue::warning(format!(
                "both `{SINGLE_NAME}` and `{INDEX_NAME}` are there; `{SINGLE_NAME}` is read, as transformers does"
            )));
        }
        opening.add(single, SINGLE_NAME);
    } else if index_path.exists() {
        let bytes = crate::json::read_file(&index_path, "safetensors index", MAX_INDEX_BYTES)?;
        let index = index::parse_index(&bytes, &index_path)?;
        add_shards(&mut opening, dir, &index, &mut issues);
    } else {
        return Err(FormatError::Checkpoint { path: dir.to_owned(), faults: Faults(vec![nothing_there(dir)]) });
    }
    if let Some(block) = configured_block(dir) {
        opening.inner.block = block;
    }
    Ok((opening, issues))
}

fn add_shards(opening: &mut Opening, dir: &Path, index: &index::Index, issues: &mut Vec<Issue>) {
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    let mut lost: BTreeSet<&str> = BTreeSet::new();
    for file in &files {
        let before = opening.inner.shards.len();
        opening.add(dir.join(file), file);
        if opening.inner.shards.len() == before {
            lost.insert(file);
        }
    }
    for (tensor, file) in &index.weight_map {
        if lost.contains(file.as_str()) {
            continue; // named once, with its file
        }
        let found = opening
            .inner
            .tensors
            .get(tensor)
            .and_then(|info| opening.inner.shards.get(info.shard).map(|(path, _)| file_name(path)));
        match found {
            None => opening.faults.push(format!("`{file}`: tensor `{tensor}` of the index is missing")),
            Some(other) if other != *file => {
                opening.faults.push(format!("tensor `{tensor}` is in `{other}`, but the index says `{file}`"))
            }
            Some(_) => {}
        }
    }
    let unlisted: Vec<&str> =
        opening.inner.tensors.keys().filter(|name| !index.weight_map.contains_key(*name)).map(String::as_str).collect();
    if let Some(first) = unlisted.first() {
        issues.push(Issue::warning(format!(
            "{} tensors of the shards are not in `{INDEX_NAME}`, the first is `{first}`",
            unlisted.len()
        )));
    }
    let actual: u64 = opening.inner.tensors.values().map(|t| t.byte_len() as u64).sum();
    if let Some(said) = index.total_size
        && lost.is_empty()
        && said != actual
    {
        issues
            .push(Issue::warning(format!("`{INDEX_NAME}` says `total_size` {said}; the tensors have {actual} bytes")));
    }
}

/// What to say about a folder without safetensors.
fn nothing_there(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let has = |end: &str| names.iter().any(|n| n.ends_with(end));
    let base = format!("neither `{SINGLE_NAME}` nor `{INDEX_NAME}` is there");
    if !dir.is_dir() {
        "there is no such folder".into()
    } else if has(".bin") || has(".pt") || has(".pth") {
        format!("{base}; PyTorch pickles are not read: convert them to safetensors first")
    } else if has(".gguf") {
        format!("{base}; GGUF is not read as a base model: take the safetensors release")
    } else if names.iter().any(|n| n == "adapter_model.safetensors") {
        format!("{base}; this is an adapter folder, not a model folder")
    } else if has(".safetensors") {
        format!("{base}, though other safetensors files are: download the index too")
    } else {
        base
    }
}

/// `quantization_config.weight_block_size` of `config.json`. A damaged config is reported by its
/// own reader; a wrong block shows in the shape of the scales.
fn configured_block(dir: &Path) -> Option<[usize; 2]> {
    let path = dir.join("config.json");
    let bytes = crate::json::read_file(&path, "config.json", 16 << 20).ok()?;
    let config: Value = crate::json::parse(&bytes, &path).ok()?;
    let block = config.get("quantization_config")?.get("weight_block_size")?.as_array()?;
    let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    match block.as_slice() {
        [rows, columns] => Some([size(rows)?, size(columns)?]),
        _ => None,
    }
}
