//! The configuration of a LoRA adapter, in the field names of PEFT.

use serde_json::{Map, Value, json};

/// Version of PEFT whose keys are written.
pub const PEFT_VERSION: &str = "0.21.2";

/// A choice of modules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Targets {
    /// No module.
    #[default]
    None,
    /// `"all-linear"`: every linear layer but the head and the router.
    AllLinear,
    /// Module names: the whole path or its last parts.
    Names(Vec<String>),
    /// A regular expression for the whole path.
    Regex(String),
}

impl Targets {
    fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::AllLinear => "all-linear".into(),
            Self::Names(names) => json!(names),
            Self::Regex(pattern) => pattern.clone().into(),
        }
    }
}

/// The supported part of a PEFT 0.21 `LoraConfig`. Everything else must have its default.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Base model, a path or a hub name.
    pub base_model_name_or_path: Option<String>,
    /// Revision of the base model.
    pub revision: Option<String>,
    /// Task, `CAUSAL_LM` here.
    pub task_type: Option<String>,
    /// Version of PEFT that wrote the file.
    pub peft_version: Option<String>,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Probability that an input of A is zeroed in training, in [0, 1).
    pub lora_dropout: f64,
    /// Adapted modules.
    pub target_modules: Targets,
    /// Modules left out whatever `target_modules` says.
    pub exclude_modules: Targets,
    /// Adapted parameters that are not modules: fused experts.
    pub target_parameters: Vec<String>,
    /// Rank by pattern; the first match in this order counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alpha by pattern; the first match in this order counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Scale by the root of the rank.
    pub use_rslora: bool,
    /// Weight-decomposed LoRA.
    pub use_dora: bool,
    /// Modules trained and stored whole.
    pub modules_to_save: Vec<String>,
    /// Layers adapted; `None`: all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names before the layer index, for `layers_to_transform`.
    pub layers_pattern: Vec<String>,
    /// How A and B began; says nothing about a trained adapter, kept as read.
    pub init_lora_weights: Value,
    /// Saved for use (true) or for further training.
    pub inference_mode: bool,
}

impl Default for AdapterConfig {
    /// PEFT's defaults, for a causal language model.
    fn default() -> Self {
        Self {
            base_model_name_or_path: None,
            revision: None,
            task_type: Some("CAUSAL_LM".into()),
            peft_version: Some(PEFT_VERSION.into()),
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Targets::None,
            exclude_modules: Targets::None,
            target_parameters: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_rslora: false,
            use_dora: false,
            modules_to_save: Vec::new(),
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            init_lora_weights: Value::Bool(true),
            inference_mode: true,
        }
    }
}

/// Whole numbers without a decimal point: several readers parse `lora_alpha` as an integer.
fn number(value: f64) -> Value {
    // 2^53: every whole f64 below is an exact i64
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 { (value as i64).into() } else { value.into() }
}

fn list_or_null(items: &[String]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

impl AdapterConfig {
    /// `alpha / r`, or `alpha / √r` with rank-stabilised scaling.
    pub fn scaling(&self, r: usize, alpha: f64) -> f64 {
        let r = r.max(1) as f64;
        if self.use_rslora { alpha / r.sqrt() } else { alpha / r }
    }

    /// The file as PEFT 0.21 writes it: all of its keys, sorted.
    pub fn to_json(&self) -> Value {
        let ranks: Map<String, Value> = self.rank_pattern.iter().map(|(k, r)| (k.clone(), (*r).into())).collect();
        let alphas: Map<String, Value> = self.alpha_pattern.iter().map(|(k, a)| (k.clone(), number(*a))).collect();
        let layers_pattern = match self.layers_pattern.as_slice() {
            [] => Value::Null,
            [one] => one.clone().into(),
            many => json!(many),
        };
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| {
            map.insert(key.to_owned(), value);
        };
        for key in super::read_config::NULL_BY_DEFAULT {
            put(key, Value::Null);
        }
        put("alpha_pattern", alphas.into());
        put("base_model_name_or_path", json!(self.base_model_name_or_path));
        put("bias", "none".into());
        put("ensure_weight_tying", false.into());
        put("exclude_modules", self.exclude_modules.to_json());
        put("fan_in_fan_out", false.into());
        put("inference_mode", self.inference_mode.into());
        put("init_lora_weights", self.init_lora_weights.clone());
        put("layers_pattern", layers_pattern);
        put("layers_to_transform", json!(self.layers_to_transform));
        put("loftq_config", json!({}));
        put("lora_alpha", number(self.lora_alpha));
        put("lora_bias", false.into());
        put("lora_dropout", self.lora_dropout.into());
        put("megatron_core", "megatron.core".into());
        put("modules_to_save", list_or_null(&self.modules_to_save));
        put("peft_type", "LORA".into());
        put("peft_version", json!(self.peft_version));
        put("qalora_group_size", 16.into());
        put("r", self.r.into());
        put("rank_pattern", ranks.into());
        put("revision", json!(self.revision));
        put("target_modules", self.target_modules.to_json());
        put("target_parameters", list_or_null(&self.target_parameters));
        put("task_type", json!(self.task_type));
        put("use_dora", self.use_dora.into());
        put("use_qalora", false.into());
        put("use_rslora", self.use_rslora.into());
        // the order inside rank_pattern and alpha_pattern decides ties and stays as it is
        let mut keys: Vec<String> = map.keys().cloned().collect();
        keys.sort();
        keys.into_iter().filter_map(|key| map.remove_entry(&key)).collect::<Map<_, _>>().into()
    }
}
