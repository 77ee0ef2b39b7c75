//! The result of a run: the adapter (or the model, after full training) of the chosen step, with the
//! manifest of what it came from.

use std::path::{Path, PathBuf};

use loar_artifact::{ContentId, Manifest, Parent};
use loar_model::{ExpertsLayout, StoredDtype};
use serde_json::json;

use crate::TrainError;
use crate::config::{Dtype, Layout, Method};
use crate::session::Session;

impl Session<'_> {
    /// Takes the parameters of the best checkpoint if the run says so. Gives the step they are of.
    pub fn choose(&mut self) -> Result<u64, TrainError> {
        let step = match &self.state.best {
            Some(best) if self.run.eval.restore_best => best.step,
            _ => self.state.step,
        };
        if step != self.state.step {
            self.checkpoints.load(step, &mut self.inputs.model.params, None).map_err(|fault| TrainError::Io {
                path: self.checkpoints.path(step),
                source: std::io::Error::new(std::io::ErrorKind::InvalidData, fault),
            })?;
        }
        Ok(step)
    }

    /// What the result comes from: base, data, the values of the run, this program.
    pub fn parents(&self) -> Vec<Parent> {
        let mut parents = self.inputs.parents.clone();
        parents.push(Parent { role: "config".into(), path: "resolved.toml".into(), id: self.run.training_id() });
        let code = std::env::current_exe().ok().and_then(|exe| ContentId::of_file(&exe).ok());
        let version = concat!("loar ", env!("CARGO_PKG_VERSION"));
        // where a system hides the program's file, its version stands for it
        parents.push(Parent {
            role: "code".into(),
            path: version.into(),
            id: code.unwrap_or_else(|| ContentId::of_bytes(version.as_bytes())),
        });
        parents
    }

    /// Writes `adapter/` (LoRA) or `model/` (full training) with the manifest of its parents.
    pub fn export(&self, of_step: u64) -> Result<PathBuf, TrainError> {
        let (run, model) = (self.run, &self.inputs.model);
        let (name, kind) = match run.adapter.method {
            Method::Lora => ("adapter", "adapter"),
            Method::Full => ("model", "model"),
        };
        self.folder.replace_dir(name, |dir| {
            match run.adapter.method {
                Method::Lora => {
                    let layout = match run.adapter.experts_layout {
                        Layout::PerExpert => ExpertsLayout::PerExpert,
                        Layout::Fused => ExpertsLayout::Fused,
                    };
                    model.save_adapter(dir, layout, &run.model.path.to_string_lossy())?;
                }
                Method::Full => {
                    let dtype = match run.model.dtype {
                        Dtype::Bf16 => StoredDtype::Bf16,
                        Dtype::F32 => StoredDtype::F32,
                    };
                    model.save_base(dir, dtype)?;
                    copy_text_files(&run.model.path, dir)?;
                }
            }
            let facts = json!({
                "step": of_step,
                "method": run.adapter.method.word(),
                "base_dtype": model.base_dtype(),
                "base_forms": model.base_forms(),
                "trainable": model.trainable_count(),
                "training_id": self.state.training_id,
                "rows_id": self.state.rows_id,
            });
            Ok(Manifest::describe(dir, kind, self.parents(), facts)?.write(dir)?)
        })
    }
}

/// Tokenizer, template and generation settings go with a model that was trained whole.
fn copy_text_files(from: &Path, to: &Path) -> Result<(), TrainError> {
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let source = from.join(name);
        if source.exists() {
            std::fs::copy(&source, to.join(name)).map_err(TrainError::io(source))?;
        }
    }
    Ok(())
}
