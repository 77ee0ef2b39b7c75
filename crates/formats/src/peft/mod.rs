//! PEFT LoRA adapters: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Takes what PEFT 0.21 writes. Gives the configuration, the meaning of each tensor name and the
//! rules by which PEFT chooses modules, ranks and scales. Refuses by name whatever it does not
//! support, all of it at once; never loads a part of an adapter.

mod check;
mod compare;
mod config;
mod keys;
mod pattern;
mod read_config;

use std::collections::BTreeMap;
use std::path::Path;

pub use compare::compare;
pub use config::{AdapterConfig, PEFT_VERSION, Targets};
pub use keys::{AdapterKey, Side, format_key, parse_key, parse_keys};
pub use pattern::Matcher;

use crate::safetensors::{Checkpoint, TensorInfo, TensorOut, write_file};
use crate::{Faults, FormatError};

/// File name of the configuration.
pub const CONFIG_NAME: &str = "adapter_config.json";
/// File name of the tensors.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";
/// Bound on the configuration; one with a rank for each of 15 000 experts has 2 MB.
const MAX_CONFIG_BYTES: u64 = 64 << 20;

impl AdapterConfig {
    /// Reads `dir/adapter_config.json`.
    ///
    /// # Errors
    /// Unreadable file, invalid JSON, or everything unsupported at once.
    pub fn read(dir: &Path) -> Result<Self, FormatError> {
        let path = dir.join(CONFIG_NAME);
        let bytes = crate::json::read_file(&path, CONFIG_NAME, MAX_CONFIG_BYTES)?;
        Self::from_bytes(&bytes, &path)
    }

    /// Reads the text of a configuration; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`AdapterConfig::read`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, FormatError> {
        let value = crate::json::parse(bytes, path)?;
        read_config::from_value(&value)
            .map_err(|faults| FormatError::Adapter { path: path.to_owned(), faults: Faults(faults) })
    }

    /// The compiled rules of this configuration.
    ///
    /// # Errors
    /// Patterns that this reader's regular expressions do not have (look-around, back-references).
    pub fn matcher(&self) -> Result<Matcher, FormatError> {
        Matcher::new(self).map_err(|faults| FormatError::Adapter { path: CONFIG_NAME.into(), faults: Faults(faults) })
    }
}

/// Reads an adapter folder. Every tensor name is understood, every A has its B, and the ranks
/// follow the configuration.
///
/// # Errors
/// Unreadable files, or everything that is wrong or unsupported at once.
pub fn read(dir: &Path) -> Result<(AdapterConfig, Checkpoint), FormatError> {
    let config = AdapterConfig::read(dir)?;
    let path = dir.join(WEIGHTS_NAME);
    if !path.exists() {
        let bin = dir.join("adapter_model.bin").exists();
        let text = if bin {
            format!("`{WEIGHTS_NAME}` is missing; the PyTorch pickle `adapter_model.bin` is not read")
        } else {
            format!("`{WEIGHTS_NAME}` is missing")
        };
        return Err(FormatError::Adapter { path: dir.to_owned(), faults: Faults(vec![text]) });
    }
    let tensors = Checkpoint::open_file(&path)?;
    check::adapter(&config, tensors.tensors().map(view), &path)?;
    Ok((config, tensors))
}

fn view(info: &TensorInfo) -> check::View<'_> {
    check::View { name: &info.name, dtype: info.dtype, shape: &info.shape }
}

/// Writes an adapter folder as PEFT lays it out: the tensors first, then the configuration, each
/// whole or not at all. What [`read`] would refuse is not written.
///
/// # Errors
/// As [`read`], or a refusal of the disk.
pub fn write(dir: &Path, config: &AdapterConfig, tensors: &[TensorOut<'_>]) -> Result<(), FormatError> {
    let path = dir.join(WEIGHTS_NAME);
    let views = tensors.iter().map(|t| check::View { name: &t.name, dtype: t.dtype, shape: &t.shape });
    check::adapter(config, views, &path)?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_file(&path, tensors, &metadata)?;
    let text = format!("{:#}\n", config.to_json());
    Ok(loar_artifact::write_atomic(&dir.join(CONFIG_NAME), text.as_bytes())?)
}
