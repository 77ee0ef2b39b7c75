//! A checkpoint: one safetensors file or an index with its shards, seen as one set of tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use memmap2::Mmap;
use serde_json::Value;

use super::{DType, TensorBytes, TensorInfo, convert, header, index, storage};
use crate::{Faults, FormatError, Issue};

/// File name of an unsharded checkpoint.
pub const SINGLE_NAME: &str = "model.safetensors";
/// File name of the index of a sharded checkpoint.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// Bound on an index; that of V3 (163 shards, 91991 tensors) has 9 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// FP8 block of all releases.
const DEFAULT_BLOCK: [usize; 2] = [128, 128];

/// The tensors of a checkpoint. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checkpoint(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    path: PathBuf,
    shards: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
    block: [usize; 2],
}

/// Builds an [`Inner`] shard by shard, collecting faults.
struct Opening {
    inner: Inner,
    faults: Vec<String>,
}

impl Opening {
    fn new(path: &Path) -> Self {
        let inner = Inner {
            path: path.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            block: DEFAULT_BLOCK,
        };
        Self {
            inner,
            faults: Vec::new(),
        }
    }

    /// Adds a file; `label` names it in faults, empty for a single file.
    fn add(&mut self, file: PathBuf, label: &str) {
        let prefix = if label.is_empty() {
            String::new()
        } else {
            format!("`{label}`: ")
        };
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
                self.faults
                    .extend(faults.into_iter().map(|f| format!("{prefix}{f}")));
                return;
            }
        };
        let shard = self.inner.shards.len();
        for mut info in header.tensors {
            info.shard = shard;
            if let Some(first) = self.inner.tensors.get(&info.name) {
                let other = self
                    .inner
                    .shards
                    .get(first.shard)
                    .map(|(p, _)| file_name(p));
                self.faults.push(format!(
                    "{prefix}tensor `{}` is also in `{}`",
                    info.name,
                    other.unwrap_or_default()
                ));
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
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Checkpoint {
    /// Opens `dir/model.safetensors`, or the shards of `dir/model.safetensors.index.json`. The FP8
    /// block comes from `quantization_config.weight_block_size` of `dir/config.json`, else 128×128.
    ///
    /// # Errors
    /// Neither file there, or all faults of index and shards at once. The returned issues are
    /// notes and warnings only.
    pub fn open_dir(dir: &Path) -> Result<(Self, Vec<Issue>), FormatError> {
        let (opening, issues) = Self::gather(dir)?;
        if opening.faults.is_empty() {
            Ok((Self(Arc::new(opening.inner)), issues))
        } else {
            Err(FormatError::Checkpoint {
                path: dir.to_owned(),
                faults: Faults(opening.faults),
            })
        }
    }

    /// As [`Checkpoint::open_dir`], but with missing and damaged shards as issues of severity
    /// error and the tensors of the rest: for inspection, not for loading.
    ///
    /// # Errors
    /// Neither file there, or an unreadable index.
    pub fn inspect_dir(dir: &Path) -> Result<(Self, Vec<Issue>), FormatError> {
        let (opening, mut issues) = Self::gather(dir)?;
        issues.extend(opening.faults.into_iter().map(Issue::error));
        Ok((Self(Arc::new(opening.inner)), issues))
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// All faults of the file at once.
    pub fn open_file(path: &Path) -> Result<Self, FormatError> {
        let mut opening = Opening::new(path);
        opening.add(path.to_owned(), "");
        if opening.faults.is_empty() {
            Ok(Self(Arc::new(opening.inner)))
        } else {
            Err(FormatError::Checkpoint {
                path: path.to_owned(),
                faults: Faults(opening.faults),
            })
        }
    }

    fn gather(dir: &Path) -> Result<(Opening, Vec<Issue>), FormatError> {
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
            Self::add_shards(&mut opening, dir, &index, &mut issues);
        } else {
            return Err(FormatError::Checkpoint {
                path: dir.to_owned(),
                faults: Faults(vec![nothing_there(dir)]),
            });
        }
        if let Some(block) = configured_block(dir) {
            opening.inner.block = block;
        }
        Ok((opening, issues))
    }

    fn add_shards(
        opening: &mut Opening,
        dir: &Path,
        index: &index::Index,
        issues: &mut Vec<Issue>,
    ) {
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
            let found = opening.inner.tensors.get(tensor).and_then(|info| {
                opening
                    .inner
                    .shards
                    .get(info.shard)
                    .map(|(path, _)| file_name(path))
            });
            match found {
                None => opening.faults.push(format!(
                    "`{file}`: tensor `{tensor}` of the index is missing"
                )),
                Some(other) if other != *file => opening.faults.push(format!(
                    "tensor `{tensor}` is in `{other}`, but the index says `{file}`"
                )),
                Some(_) => {}
            }
        }
        let unlisted: Vec<&str> = opening
            .inner
            .tensors
            .keys()
            .filter(|name| !index.weight_map.contains_key(*name))
            .map(String::as_str)
            .collect();
        if let Some(first) = unlisted.first() {
            issues.push(Issue::warning(format!(
                "{} tensors of the shards are not in `{INDEX_NAME}`, the first is `{first}`",
                unlisted.len()
            )));
        }
        let actual: u64 = opening
            .inner
            .tensors
            .values()
            .map(|t| t.byte_len() as u64)
            .sum();
        if let Some(said) = index.total_size
            && lost.is_empty()
            && said != actual
        {
            issues.push(Issue::warning(format!(
                "`{INDEX_NAME}` says `total_size` {said}; the tensors have {actual} bytes"
            )));
        }
    }

    /// File or folder this was opened from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Shard files in the order they were opened.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.shards.iter().map(|(path, _)| path.as_path())
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.tensors.keys().map(String::as_str)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.tensors.values()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.0.tensors.is_empty()
    }

    /// Name, type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.tensors.get(name)
    }

    /// File that holds a tensor.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.0
            .shards
            .get(self.info(name)?.shard)
            .map(|(path, _)| path.as_path())
    }

    /// The `__metadata__` of the file; of shards, the union with the first one winning.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// Rows and columns that share one FP8 scale.
    pub fn block_size(&self) -> [usize; 2] {
        self.0.block
    }

    /// The same tensors with another FP8 block; zeros count as 1.
    pub fn with_block_size(&self, block: [usize; 2]) -> Self {
        let mut inner = (*self.0).clone();
        inner.block = block.map(|b| b.max(1));
        Self(Arc::new(inner))
    }

    fn required(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.info(name).ok_or_else(|| FormatError::NoTensor {
            path: self.0.path.clone(),
            tensor: name.to_owned(),
        })
    }

    fn wrong(&self, name: &str, expected: String, actual: String) -> FormatError {
        FormatError::Tensor {
            path: self.0.path.clone(),
            tensor: name.to_owned(),
            expected,
            actual,
        }
    }

    /// The stored bytes of a tensor, little endian, row-major.
    ///
    /// # Errors
    /// [`FormatError::NoTensor`].
    pub fn bytes(&self, name: &str) -> Result<TensorBytes, FormatError> {
        let info = self.required(name)?;
        let (_, map) = self
            .0
            .shards
            .get(info.shard)
            .ok_or_else(|| FormatError::NoTensor {
                path: self.0.path.clone(),
                tensor: name.to_owned(),
            })?;
        Ok(TensorBytes::new(Arc::clone(map), info.range.clone()))
    }

    /// A tensor as f32. FP8 `e4m3` weights are multiplied by `<name>_scale_inv`, one factor a block.
    ///
    /// # Errors
    /// No such tensor, not a float type, or an FP8 weight without scales of the right shape.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>, FormatError> {
        let mut values = vec![0.0; self.required(name)?.numel()];
        self.read_f32(name, &mut values)?;
        Ok(values)
    }

    /// As [`Checkpoint::to_f32`], into memory of the caller of exactly the tensor's length.
    ///
    /// # Errors
    /// As [`Checkpoint::to_f32`], or another length.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), FormatError> {
        let info = self.required(name)?;
        if out.len() != info.numel() {
            return Err(self.wrong(
                name,
                format!("{} elements", out.len()),
                format!("shape {:?}", info.shape),
            ));
        }
        let scales = if info.dtype == DType::F8E4M3 {
            Some(self.scales(name, info)?)
        } else {
            None
        };
        if !convert::to_f32(info.dtype, &self.bytes(name)?, out) {
            return Err(self.wrong(name, "a float type".into(), info.dtype.to_string()));
        }
        if let (Some(scales), Some(columns)) = (scales, info.shape.last()) {
            convert::apply_blocks(out, *columns, &scales, self.0.block);
        }
        Ok(())
    }

    /// A tensor as the bits of bfloat16: the stored ones, or rounded to nearest even from f32.
    ///
    /// # Errors
    /// As [`Checkpoint::to_f32`].
    pub fn to_bf16(&self, name: &str) -> Result<Vec<u16>, FormatError> {
        if self.required(name)?.dtype == DType::BF16 {
            let bytes = self.bytes(name)?;
            let (pairs, _) = bytes.as_chunks::<2>();
            return Ok(pairs.iter().map(|b| u16::from_le_bytes(*b)).collect());
        }
        Ok(self
            .to_f32(name)?
            .into_iter()
            .map(|v| bf16::from_f32(v).to_bits())
            .collect())
    }

    /// The scales of an FP8 weight, checked against its shape.
    fn scales(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, FormatError> {
        let [rows, columns] = info.shape.as_slice() else {
            return Err(self.wrong(
                name,
                "two dimensions for FP8 blocks".into(),
                format!("shape {:?}", info.shape),
            ));
        };
        let [block_rows, block_columns] = self.0.block;
        let expected = [rows.div_ceil(block_rows), columns.div_ceil(block_columns)];
        let scale_name = format!("{name}_scale_inv");
        let Some(scale) = self.info(&scale_name) else {
            return Err(self.wrong(
                name,
                format!("FP8 scales `{scale_name}` of shape {expected:?}"),
                "none".into(),
            ));
        };
        if scale.shape != expected {
            return Err(self.wrong(
                &scale_name,
                format!("shape {expected:?} for blocks of {block_rows} x {block_columns}"),
                format!("shape {:?}", scale.shape),
            ));
        }
        let mut values = vec![0.0; scale.numel()];
        if !convert::to_f32(scale.dtype, &self.bytes(&scale_name)?, &mut values) {
            return Err(self.wrong(&scale_name, "a float type".into(), scale.dtype.to_string()));
        }
        Ok(values)
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
    let block = config
        .get("quantization_config")?
        .get("weight_block_size")?
        .as_array()?;
    let size = |v: &Value| {
        v.as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0)
    };
    match block.as_slice() {
        [rows, columns] => Some([size(rows)?, size(columns)?]),
        _ => None,
    }
}
