//! A checkpoint: one safetensors file or an index with its shards, seen as one set of tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use memmap2::Mmap;

use super::{DType, TensorBytes, TensorInfo, convert, open};
use crate::{Faults, FormatError, Issue};

/// File name of an unsharded checkpoint.
pub const SINGLE_NAME: &str = "model.safetensors";
/// File name of the index of a sharded checkpoint.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checkpoint(Arc<Inner>);

#[derive(Debug, Clone)]
pub(super) struct Inner {
    pub(super) path: PathBuf,
    pub(super) shards: Vec<(PathBuf, Arc<Mmap>)>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) block: [usize; 2],
}

impl Checkpoint {
    /// Opens `dir/model.safetensors`, or the shards of `dir/model.safetensors.index.json`. The FP8
    /// block comes from `quantization_config.weight_block_size` of `dir/config.json`, else 128×128.
    ///
    /// # Errors
    /// Neither file there, or all faults of index and shards at once. The returned issues are
    /// notes and warnings only.
    pub fn open_dir(dir: &Path) -> Result<(Self, Vec<Issue>), FormatError> {
        let (opening, issues) = open::gather(dir)?;
        if opening.faults.is_empty() {
            Ok((Self(Arc::new(opening.inner)), issues))
        } else {
            Err(FormatError::Checkpoint { path: dir.to_owned(), faults: Faults(opening.faults) })
        }
    }

    /// As [`Checkpoint::open_dir`], but with missing and damaged shards as issues of severity
    /// error and the tensors of the rest: for inspection, not for loading.
    ///
    /// # Errors
    /// Neither file there, or an unreadable index.
    pub fn inspect_dir(dir: &Path) -> Result<(Self, Vec<Issue>), FormatError> {
        let (opening, mut issues) = open::gather(dir)?;
        issues.extend(opening.faults.into_iter().map(Issue::error));
        Ok((Self(Arc::new(opening.inner)), issues))
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// All faults of the file at once.
    pub fn open_file(path: &Path) -> Result<Self, FormatError> {
        let mut opening = open::Opening::new(path);
        opening.add(path.to_owned(), "");
        if opening.faults.is_empty() {
            Ok(Self(Arc::new(opening.inner)))
        } else {
            Err(FormatError::Checkpoint { path: path.to_owned(), faults: Faults(opening.faults) })
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
        self.0.shards.get(self.info(name)?.shard).map(|(path, _)| path.as_path())
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
        self.info(name).ok_or_else(|| FormatError::NoTensor { path: self.0.path.clone(), tensor: name.to_owned() })
    }

    fn wrong(&self, name: &str, expected: String, actual: String) -> FormatError {
        FormatError::Tensor { path: self.0.path.clone(), tensor: name.to_owned(), expected, actual }
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
            .ok_or_else(|| FormatError::NoTensor { path: self.0.path.clone(), tensor: name.to_owned() })?;
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
            return Err(self.wrong(name, format!("{} elements", out.len()), format!("shape {:?}", info.shape)));
        }
        let scales = if info.dtype == DType::F8E4M3 { Some(self.scales(name, info)?) } else { None };
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
        Ok(self.to_f32(name)?.into_iter().map(|v| bf16::from_f32(v).to_bits()).collect())
    }

    /// The scales of an FP8 weight, checked against its shape.
    fn scales(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, FormatError> {
        let [rows, columns] = info.shape.as_slice() else {
            return Err(self.wrong(name, "two dimensions for FP8 blocks".into(), format!("shape {:?}", info.shape)));
        };
        let [block_rows, block_columns] = self.0.block;
        let expected = [rows.div_ceil(block_rows), columns.div_ceil(block_columns)];
        let scale_name = format!("{name}_scale_inv");
        let Some(scale) = self.info(&scale_name) else {
            return Err(self.wrong(name, format!("FP8 scales `{scale_name}` of shape {expected:?}"), "none".into()));
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
