//! A checkpoint written shard by shard: the tensors are asked for one at a time, so that a model
//! larger than memory can be exported.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::write::{byte_len, check, header_bytes, order};
use super::{DType, INDEX_NAME, SINGLE_NAME};
use crate::{Faults, FormatError};

/// Name, type and shape of a tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    fn view(&self) -> (&str, DType, &[usize]) {
        (&self.name, self.dtype, &self.shape)
    }
    fn bytes(&self) -> usize {
        byte_len(self.dtype, &self.shape).unwrap_or(0) // overflow was refused by `new`
    }
}

/// The plan of a sharded checkpoint: which tensor goes into which file.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    shards: Vec<(String, Vec<TensorSpec>)>,
    metadata: BTreeMap<String, String>,
    total_size: u64,
}

impl ShardWriter {
    /// Distributes `tensors`, in the order given, over files of at most `max_shard_bytes` bytes of
    /// data (a larger tensor gets a file of its own), named `model-0000i-of-0000N.safetensors`;
    /// one file alone is `model.safetensors`. Writes nothing yet.
    ///
    /// # Errors
    /// Names given twice, shapes that overflow, or weights of another export in `dir`, which would
    /// be read together with the new ones.
    pub fn new(
        dir: &Path,
        tensors: Vec<TensorSpec>,
        max_shard_bytes: u64,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self, FormatError> {
        let mut faults = check(tensors.iter().map(TensorSpec::view));
        let mut groups: Vec<Vec<TensorSpec>> = Vec::new();
        let (mut used, mut total_size) = (0u64, 0u64);
        for tensor in tensors {
            let bytes = tensor.bytes() as u64;
            total_size = total_size.saturating_add(bytes);
            match groups.last_mut() {
                Some(group) if used.saturating_add(bytes) <= max_shard_bytes => {
                    group.push(tensor);
                    used += bytes;
                }
                _ => {
                    groups.push(vec![tensor]);
                    used = bytes;
                }
            }
        }
        let count = groups.len();
        let shards: Vec<(String, Vec<TensorSpec>)> = groups
            .into_iter()
            .enumerate()
            .map(|(i, mut group)| {
                group.sort_by(|a, b| order(a.dtype, &a.name).cmp(&order(b.dtype, &b.name)));
                let name = if count == 1 {
                    SINGLE_NAME.to_owned()
                } else {
                    format!("model-{:05}-of-{count:05}.safetensors", i + 1)
                };
                (name, group)
            })
            .collect();
        if shards.is_empty() {
            faults.push("there is no tensor to write".into());
        }
        faults.extend(strangers(dir, &shards));
        if faults.is_empty() {
            Ok(Self { dir: dir.to_owned(), shards, metadata, total_size })
        } else {
            Err(FormatError::Checkpoint { path: dir.to_owned(), faults: Faults(faults) })
        }
    }

    /// Bytes of all tensors.
    pub fn total_size(&self) -> u64 {
        self.total_size
    }

    /// File names, in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|(name, _)| name.as_str())
    }

    /// Writes all files, each whole or not at all, and the index last. `data` gives the bytes of a
    /// tensor and is called once for each; bytes of a checkpoint passed on stay as they are.
    ///
    /// # Errors
    /// The first error of `data`, data of the wrong length, or a refusal of the disk.
    pub fn write<'a>(
        &self,
        mut data: impl FnMut(&TensorSpec) -> Result<Cow<'a, [u8]>, FormatError>,
    ) -> Result<(), FormatError> {
        let mut weight_map = BTreeMap::new();
        for (file, tensors) in &self.shards {
            let path = self.dir.join(file);
            let mut failed = None;
            let written = loar_artifact::write_atomic_with(&path, |out| {
                out.write_all(&header_bytes(tensors.iter().map(TensorSpec::view), &self.metadata))?;
                for tensor in tensors {
                    let bytes = match data(tensor) {
                        Ok(bytes) if bytes.len() == tensor.bytes() => bytes,
                        Ok(bytes) => {
                            failed = Some(FormatError::Tensor {
                                path: path.clone(),
                                tensor: tensor.name.clone(),
                                expected: format!("{} bytes", tensor.bytes()),
                                actual: format!("{} bytes", bytes.len()),
                            });
                            return Err(io::Error::other("wrong length"));
                        }
                        Err(e) => {
                            failed = Some(e);
                            return Err(io::Error::other("no data"));
                        }
                    };
                    out.write_all(&bytes)?;
                }
                Ok(())
            });
            if let Some(error) = failed {
                return Err(error);
            }
            written?;
            weight_map.extend(tensors.iter().map(|t| (t.name.as_str(), file.as_str())));
        }
        if self.shards.len() > 1 {
            let index = json!({"metadata": {"total_size": self.total_size}, "weight_map": weight_map});
            let text = format!("{index:#}\n");
            loar_artifact::write_atomic(&self.dir.join(INDEX_NAME), text.as_bytes())?;
        }
        Ok(())
    }
}

/// Weights already in the folder that this plan would not replace.
fn strangers(dir: &Path, shards: &[(String, Vec<TensorSpec>)]) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<String> = names
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors") || (name == INDEX_NAME && shards.len() == 1))
        .filter(|name| !name.starts_with('.') && shards.iter().all(|(own, _)| own != name))
        .map(|name| format!("`{name}` of another export is there; write to an empty folder"))
        .collect();
    found.sort();
    found
}
