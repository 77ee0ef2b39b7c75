//! From the JSON of `adapter_config.json` to [`AdapterConfig`], refusing by name, all at once.

use serde_json::{Map, Value};

use super::{AdapterConfig, Targets, pattern};
use crate::config::Keys;

/// Bound on ranks; the largest useful one is the width of a layer.
const MAX_RANK: usize = 1 << 16;

/// Keys of PEFT 0.21 that are null unless a feature outside this reader is on.
pub(super) const NULL_BY_DEFAULT: [&str; 13] = [
    "alora_invocation_tokens",
    "arrow_config",
    "auto_mapping",
    "corda_config",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "trainable_token_indices",
    "use_bdlora",
    "velora_config",
];

/// Keys read below.
const SUPPORTED: [&str; 19] = [
    "base_model_name_or_path",
    "revision",
    "task_type",
    "peft_version",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "init_lora_weights",
    "inference_mode",
];

/// Keys without any effect on a loaded LoRA adapter.
const WITHOUT_EFFECT: [&str; 4] = [
    "auto_mapping",      // class of the base model, for loading without a task type
    "megatron_core",     // module name, used only with `megatron_config`
    "qalora_group_size", // used only with `use_qalora`
    "peft_type",         // checked on its own
];

pub(super) fn from_value(value: &Value) -> Result<AdapterConfig, Vec<String>> {
    let Value::Object(map) = value else {
        return Err(vec!["expected an object at the top".into()]);
    };
    let mut keys = Keys::new(map);
    match map.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => {
            // another method: its keys mean nothing here
            return Err(vec![format!("`peft_type` is `{}`; only LORA is supported", clip(other))]);
        }
        None => keys.fault("`peft_type` is missing; expected LORA".into()),
    }
    let dropout = keys.opt_f64("lora_dropout").unwrap_or(0.0);
    if !(0.0..1.0).contains(&dropout) {
        keys.fault(format!("`lora_dropout` is {dropout}; expected 0 up to but not including 1"));
    }
    let config = AdapterConfig {
        base_model_name_or_path: keys.opt_str("base_model_name_or_path"),
        revision: keys.opt_str("revision"),
        task_type: keys.opt_str("task_type"),
        peft_version: keys.opt_str("peft_version"),
        r: rank(&mut keys, "r").unwrap_or(8),
        lora_alpha: keys.positive_or("lora_alpha", 8.0),
        lora_dropout: dropout,
        target_modules: targets(&mut keys, "target_modules"),
        exclude_modules: targets(&mut keys, "exclude_modules"),
        target_parameters: strings(&mut keys, "target_parameters"),
        rank_pattern: ranks(&mut keys),
        alpha_pattern: alphas(&mut keys),
        use_rslora: keys.bool_or("use_rslora", false),
        use_dora: keys.bool_or("use_dora", false),
        modules_to_save: strings(&mut keys, "modules_to_save"),
        layers_to_transform: layers(&mut keys),
        layers_pattern: strings(&mut keys, "layers_pattern"),
        init_lora_weights: map.get("init_lora_weights").cloned().unwrap_or(Value::Bool(true)),
        inference_mode: keys.bool_or("inference_mode", false),
    };
    refuse(&mut keys, map, &config);
    if let Err(faults) = pattern::Matcher::new(&config) {
        faults.into_iter().for_each(|f| keys.fault(f));
    }
    let faults = keys.faults();
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Whether a value switches something on.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Number(_) | Value::Bool(true) => true,
    }
}

fn refuse(keys: &mut Keys<'_>, map: &Map<String, Value>, config: &AdapterConfig) {
    let unsupported =
        |key: &str, value: &Value| format!("`{key}` is `{}`, which is not supported", clip(&value.to_string()));
    let init = config.init_lora_weights.as_str().unwrap_or_default().to_lowercase();
    for (key, value) in map {
        let key = key.as_str();
        let fault = match key {
            _ if SUPPORTED.contains(&key) || WITHOUT_EFFECT.contains(&key) => None,
            "bias" => match value.as_str() {
                None if value.is_null() => None,
                Some("none") => None,
                _ => Some(format!(
                    "`bias` is `{}`; adapters that train biases are not supported, expected none",
                    clip(&value.to_string())
                )),
            },
            // says how A and B began; the base weights stay as they are
            "eva_config" if init == "eva" => None,
            // fan_in_fan_out, lora_bias, use_qalora, configs of other methods, and keys that
            // PEFT 0.21 does not have
            _ => is_set(value).then(|| unsupported(key, value)),
        };
        if let Some(fault) = fault {
            keys.fault(fault);
        }
    }
    let known = ["", "gaussian", "orthogonal", "eva"];
    if !known.contains(&init.as_str()) {
        keys.fault(format!(
            "`init_lora_weights` is `{}`: this start changes the base weights, so the adapter does not fit \
             the released base; convert it with PEFT's `path_initial_model_for_weight_conversion`",
            clip(&init)
        ));
    }
    if config.target_modules == Targets::None && config.target_parameters.is_empty() {
        keys.fault("neither `target_modules` nor `target_parameters` names anything".into());
    }
    if !config.target_parameters.is_empty() && (config.use_dora || config.lora_dropout > 0.0) {
        keys.fault("`target_parameters` cannot go with `use_dora` or `lora_dropout`".into());
    }
    if config.layers_to_transform.is_none() && !config.layers_pattern.is_empty() {
        keys.fault("`layers_pattern` is given without `layers_to_transform`".into());
    }
    if config.layers_to_transform.is_some() && !matches!(config.target_modules, Targets::Names(_) | Targets::None) {
        keys.fault("`layers_to_transform` needs `target_modules` as a list".into());
    }
}

fn rank(keys: &mut Keys<'_>, key: &str) -> Option<usize> {
    let r = keys.opt_size(key)?;
    if r > MAX_RANK {
        keys.fault(format!("`{key}` is {r}; at most {MAX_RANK} is read"));
        return None;
    }
    Some(r)
}

fn targets(keys: &mut Keys<'_>, key: &str) -> Targets {
    match keys.get(key) {
        None => Targets::None,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
        Some(Value::String(text)) if text.is_empty() => Targets::None,
        Some(Value::String(text)) => Targets::Regex(text.clone()),
        Some(_) => match strings(keys, key) {
            names if names.is_empty() => Targets::None,
            names => Targets::Names(names),
        },
    }
}

/// A string or a list of strings.
fn strings(keys: &mut Keys<'_>, key: &str) -> Vec<String> {
    let items = match keys.get(key) {
        None => return Vec::new(),
        Some(Value::String(one)) => return vec![one.clone()],
        Some(Value::Array(items)) => items,
        Some(_) => {
            keys.fault(format!("`{key}` must be a string or a list of strings"));
            return Vec::new();
        }
    };
    let names: Vec<String> = items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if names.len() != items.len() || names.iter().any(String::is_empty) {
        keys.fault(format!("`{key}` must hold non-empty strings only"));
    }
    names
}

fn ranks(keys: &mut Keys<'_>) -> Vec<(String, usize)> {
    let Some(map) = keys.opt_object("rank_pattern") else {
        return Vec::new();
    };
    let mut inner = Keys::nested(map, "rank_pattern");
    let list = map.keys().filter_map(|k| Some((k.clone(), rank(&mut inner, k)?))).collect();
    keys.take_faults(inner);
    list
}

fn alphas(keys: &mut Keys<'_>) -> Vec<(String, f64)> {
    let Some(map) = keys.opt_object("alpha_pattern") else {
        return Vec::new();
    };
    let mut inner = Keys::nested(map, "alpha_pattern");
    let list = map.keys().map(|k| (k.clone(), inner.positive(k))).collect();
    keys.take_faults(inner);
    list
}

fn layers(keys: &mut Keys<'_>) -> Option<Vec<usize>> {
    let value = keys.get("layers_to_transform")?;
    let items = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let layers: Vec<usize> = items.iter().filter_map(|v| usize::try_from(v.as_u64()?).ok()).collect();
    if layers.len() != items.len() {
        keys.fault("`layers_to_transform` must be a layer index or a list of them".into());
    }
    // PEFT reads an empty list as no restriction
    (!layers.is_empty()).then_some(layers)
}
