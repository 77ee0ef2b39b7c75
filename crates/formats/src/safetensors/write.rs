//! One safetensors file from tensors in memory, byte for byte as the format's own writer lays it out.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use super::DType;
use crate::{Faults, FormatError};

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct TensorOut<'a> {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Elements, little endian, row-major.
    pub data: Cow<'a, [u8]>,
}

impl TensorOut<'static> {
    /// An f32 tensor from its values.
    pub fn f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        Self { name: name.into(), dtype: DType::F32, shape, data: Cow::Owned(data) }
    }

    /// A bfloat16 tensor from f32 values, rounded to nearest even.
    pub fn bf16(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        Self { name: name.into(), dtype: DType::BF16, shape, data: Cow::Owned(data) }
    }
}

/// Bytes of a tensor, `None` on overflow.
pub(super) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |n, s| n.checked_mul(*s))
}

/// Faults of a set of tensors that is to be written.
pub(super) fn check<'a>(tensors: impl Iterator<Item = (&'a str, DType, &'a [usize])>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    for (name, dtype, shape) in tensors {
        if name.is_empty() || name == "__metadata__" {
            faults.push(format!("`{name}` cannot be the name of a tensor"));
        }
        if !names.insert(name) {
            faults.push(format!("tensor `{name}` is given twice"));
        }
        if byte_len(dtype, shape).is_none() {
            faults.push(format!("tensor `{name}`: shape {shape:?} overflows"));
        }
    }
    faults
}

/// The order of the data in a file: wide types first, so that all are aligned, then by name.
pub(super) fn order(dtype: DType, name: &str) -> (std::cmp::Reverse<usize>, &str) {
    (std::cmp::Reverse(dtype.size()), name)
}

/// Length word and JSON of a header, padded with spaces to a multiple of 8.
pub(super) fn header_bytes<'a>(
    tensors: impl Iterator<Item = (&'a str, DType, &'a [usize])>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    // serialising a string or a string map to JSON cannot fail
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let mut json = String::from("{");
    if !metadata.is_empty() {
        let table: serde_json::Map<String, serde_json::Value> =
            metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let _ = write!(json, "\"__metadata__\":{}", serde_json::Value::from(table));
    }
    let mut at = 0usize;
    for (name, dtype, shape) in tensors {
        let end = at + byte_len(dtype, shape).unwrap_or(0); // overflow was refused by `check`
        let comma = if json.len() > 1 { "," } else { "" };
        let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
        let _ = write!(
            json,
            "{comma}{}:{{\"dtype\":\"{dtype}\",\"shape\":[{}],\"data_offsets\":[{at},{end}]}}",
            quote(name),
            sizes.join(",")
        );
        at = end;
    }
    json.push('}');
    while json.len() % 8 != 0 {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

fn sorted<'a, 'b>(tensors: &'b [TensorOut<'a>]) -> Result<Vec<&'b TensorOut<'a>>, Vec<String>> {
    let mut faults = check(tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice())));
    for tensor in tensors {
        if let Some(bytes) = byte_len(tensor.dtype, &tensor.shape)
            && bytes != tensor.data.len()
        {
            faults.push(format!(
                "tensor `{}`: shape {:?} of {} needs {bytes} bytes, {} are given",
                tensor.name,
                tensor.shape,
                tensor.dtype,
                tensor.data.len()
            ));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut list: Vec<_> = tensors.iter().collect();
    list.sort_by(|a, b| order(a.dtype, &a.name).cmp(&order(b.dtype, &b.name)));
    Ok(list)
}

fn stream(list: &[&TensorOut<'_>], metadata: &BTreeMap<String, String>, out: &mut dyn Write) -> std::io::Result<()> {
    let names = list.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice()));
    out.write_all(&header_bytes(names, metadata))?;
    list.iter().try_for_each(|tensor| out.write_all(&tensor.data))
}

/// A safetensors file in memory.
///
/// # Errors
/// Names given twice and data that does not fit its shape, all at once.
pub fn encode(tensors: &[TensorOut<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, Faults> {
    let list = sorted(tensors).map_err(Faults)?;
    let mut bytes = Vec::new();
    stream(&list, metadata, &mut bytes).map_err(|e| Faults(vec![e.to_string()]))?;
    Ok(bytes)
}

/// Writes a safetensors file, whole or not at all.
///
/// # Errors
/// As [`encode`], or [`FormatError::Artifact`] when the disk refuses.
pub fn write_file(
    path: &Path,
    tensors: &[TensorOut<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<(), FormatError> {
    let list =
        sorted(tensors).map_err(|faults| FormatError::Checkpoint { path: path.to_owned(), faults: Faults(faults) })?;
    Ok(loar_artifact::write_atomic_with(path, |out| stream(&list, metadata, out))?)
}
