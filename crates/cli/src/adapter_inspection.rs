//! What an adapter folder holds: how it was made, which modules it touches, who can apply it.
//!
//! Takes a PEFT folder; reads its configuration and the header of its tensors. Gives one value that
//! prints and serialises. Never reads a tensor's data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use loar_formats::Issue;
use loar_formats::config::ModelConfig;
use loar_formats::peft::{self, AdapterConfig, AdapterKey, Targets};
use serde::Serialize;

use crate::compat::{self, Profile, Row};
use crate::console::Lang;
use crate::inspection::{IssueFacts, push_error};

/// Everything `loar inspect ADAPTER` says.
#[derive(Debug, Default, Serialize)]
pub struct AdapterInspection {
    /// The folder.
    pub path: String,
    /// Always `adapter`.
    pub kind: &'static str,
    /// Base model by name or path, as the adapter says.
    pub base_model_name_or_path: Option<String>,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// `alpha / r`, or `alpha / √r`.
    pub scaling: f64,
    /// Scale by the root of the rank.
    pub use_rslora: bool,
    /// Weight-decomposed.
    pub use_dora: bool,
    /// Modules the configuration names.
    pub target_modules: String,
    /// What is adapted, by the last part of the module's path.
    pub modules: Vec<ModuleFacts>,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Layers that have an adapter.
    pub layers: Vec<usize>,
    /// Who applies what.
    pub compatibility: Vec<Row>,
    /// Everything that keeps it from being loaded.
    pub issues: Vec<IssueFacts>,
}

/// Modules of one name.
#[derive(Debug, Default, Serialize)]
pub struct ModuleFacts {
    /// Last part of the path; experts and shared experts apart.
    pub name: String,
    /// Modules of this name.
    pub modules: usize,
    /// Numbers in their tensors.
    pub parameters: u64,
    /// Types of their tensors.
    pub dtypes: BTreeSet<String>,
}

impl AdapterInspection {
    /// Reads the folder `dir`. The base is `base`, or what the adapter names if that is a folder.
    pub fn of(dir: &Path, base: Option<&Path>, lang: Lang) -> Self {
        let mut issues = Vec::new();
        let mut this = Self { path: dir.display().to_string(), kind: "adapter", ..Self::default() };
        match peft::read(dir) {
            Ok((config, tensors)) => {
                this.config(&config);
                match peft::parse_keys(&config, tensors.names()) {
                    Ok(keys) => {
                        let base = base_of(&config, base);
                        if base.is_none() {
                            issues.push(Issue::note(
                                "the base is not at hand, so which architecture this adapter belongs to is guessed from its module names; `--base DIR` names it",
                            ));
                        }
                        this.modules(&keys, &tensors);
                        let profile = Profile::of(&config, keys.iter().map(|(_, k)| k), base.as_ref());
                        this.compatibility = compat::rows(&profile, lang);
                    }
                    Err(faults) => issues.extend(faults.into_iter().map(Issue::error)),
                }
            }
            Err(e) => push_error(&mut issues, &e),
        }
        issues.sort_by_key(|i| std::cmp::Reverse(i.severity));
        this.issues = issues.into_iter().map(IssueFacts::of).collect();
        this
    }

    /// Whether the adapter cannot be loaded.
    pub fn is_broken(&self) -> bool {
        self.issues.iter().any(|i| i.severity == "error")
    }

    fn config(&mut self, config: &AdapterConfig) {
        self.base_model_name_or_path.clone_from(&config.base_model_name_or_path);
        self.r = config.r;
        self.lora_alpha = config.lora_alpha;
        self.scaling = config.scaling(config.r, config.lora_alpha);
        self.use_rslora = config.use_rslora;
        self.use_dora = config.use_dora;
        self.target_modules = match &config.target_modules {
            Targets::None => config.target_parameters.join(", "),
            Targets::AllLinear => "all-linear".into(),
            Targets::Names(names) => {
                names.iter().chain(&config.target_parameters).cloned().collect::<Vec<_>>().join(", ")
            }
            Targets::Regex(pattern) => format!("/{pattern}/"),
        };
    }

    fn modules(&mut self, keys: &[(String, AdapterKey)], tensors: &loar_formats::safetensors::Checkpoint) {
        let mut by_name: BTreeMap<String, (BTreeSet<String>, ModuleFacts)> = BTreeMap::new();
        let mut layers = BTreeSet::new();
        for (tensor, key) in keys {
            let path = key.pattern_path();
            let leaf = path.rsplit('.').next().unwrap_or(&path);
            let name = match () {
                () if path.contains(".mlp.experts.") => format!("experts.{leaf}"),
                () if path.contains(".shared_experts.") => format!("shared_experts.{leaf}"),
                () => leaf.to_owned(),
            };
            let (modules, facts) = by_name.entry(name).or_default();
            if let Some(info) = tensors.info(tensor) {
                facts.parameters += info.numel() as u64;
                facts.dtypes.insert(info.dtype.name().to_owned());
                self.parameters += info.numel() as u64;
                self.bytes += info.byte_len() as u64;
            }
            let layer = path.split(".layers.").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
            layers.extend(layer.into_iter().collect::<Vec<usize>>());
            modules.insert(path);
        }
        self.layers = layers.into_iter().collect();
        self.modules = by_name
            .into_iter()
            .map(|(name, (modules, facts))| ModuleFacts { name, modules: modules.len(), ..facts })
            .collect();
    }
}

/// Configuration of the base, where there is one.
fn base_of(config: &AdapterConfig, given: Option<&Path>) -> Option<ModelConfig> {
    let named = config.base_model_name_or_path.as_deref().map(Path::new);
    ModelConfig::read(given.or(named)?).ok().map(|(config, _)| config)
}
