//! The tensor names of an adapter file.

use super::{AdapterConfig, Matcher};

/// What PEFT puts before the module path of the base model.
const PREFIX: &str = "base_model.model.";

/// One of the two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// `[r, in]`.
    A,
    /// `[out, r]`.
    B,
}

/// What a tensor of an adapter is. `module` is the path in the base model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdapterKey {
    /// `[r, in]`.
    LoraA {
        /// Linear layer.
        module: String,
    },
    /// `[out, r]`.
    LoraB {
        /// Linear layer.
        module: String,
    },
    /// DoRA magnitude `[out]`.
    Magnitude {
        /// Linear layer.
        module: String,
    },
    /// `[r, vocab]`.
    EmbeddingA {
        /// Embedding.
        module: String,
    },
    /// `[hidden, r]`.
    EmbeddingB {
        /// Embedding.
        module: String,
    },
    /// A copy of the base embedding that PEFT stores beside an adapted embedding.
    EmbeddingBase {
        /// Embedding.
        module: String,
    },
    /// All experts of a layer: A is `[r·E, in]`, blocked by expert; B is `[out, r·E]`, expert `e`
    /// in columns `e, e+E, …`.
    FusedExperts {
        /// `….mlp.experts`.
        module: String,
        /// `gate_up_proj` or `down_proj`.
        parameter: &'static str,
        /// Which factor.
        side: Side,
    },
    /// A module stored whole.
    Saved {
        /// Module.
        module: String,
        /// `weight` or `bias`.
        tensor: &'static str,
    },
}

impl AdapterKey {
    /// Path of the module in the base model.
    pub fn module(&self) -> &str {
        match self {
            Self::LoraA { module }
            | Self::LoraB { module }
            | Self::Magnitude { module }
            | Self::EmbeddingA { module }
            | Self::EmbeddingB { module }
            | Self::EmbeddingBase { module }
            | Self::FusedExperts { module, .. }
            | Self::Saved { module, .. } => module,
        }
    }

    /// The path that rank and alpha patterns are matched with: the module, or the parameter of
    /// fused experts.
    pub fn pattern_path(&self) -> String {
        match self {
            Self::FusedExperts { module, parameter, .. } => format!("{module}.{parameter}"),
            other => other.module().to_owned(),
        }
    }
}

/// The parameters of fused experts an adapter has, innermost last: PEFT wraps them in the order
/// of their names, and the first wrap ends up innermost after the second went around it.
fn wrapped(matcher: &Matcher, module: &str) -> Vec<&'static str> {
    let candidates = ["down_proj", "gate_up_proj"]; // outer first when both are targeted
    candidates.into_iter().filter(|p| matcher.matches_parameter(&format!("{module}.{p}"))).collect()
}

fn fused(matcher: &Matcher, module: &str, nested: bool, side: Side) -> Result<AdapterKey, String> {
    let targeted = wrapped(matcher, module);
    let parameter = match (targeted.as_slice(), nested) {
        ([outer, _], false) => *outer,
        ([_, inner], true) => *inner,
        ([only], false) => *only,
        _ => {
            return Err(format!(
                "`target_parameters` names {} parameters of `{module}`, which does not explain this tensor",
                targeted.len()
            ));
        }
    };
    Ok(AdapterKey::FusedExperts { module: module.to_owned(), parameter, side })
}

/// Reads one tensor name.
///
/// # Errors
/// Why the name is not understood, or which unsupported feature it belongs to.
pub fn parse_key(matcher: &Matcher, name: &str) -> Result<AdapterKey, String> {
    let Some(path) = name.strip_prefix(PREFIX) else {
        return Err(format!("its name does not start with `{PREFIX}`"));
    };
    let sides = [(".lora_A.weight", Side::A), (".lora_B.weight", Side::B)];
    for (suffix, side) in sides {
        let Some(module) = path.strip_suffix(suffix) else {
            continue;
        };
        let inner = module.strip_suffix(".base_layer");
        let layer = inner.unwrap_or(module);
        if layer.ends_with(".experts") || layer == "experts" {
            return fused(matcher, layer, inner.is_some(), side);
        }
        if inner.is_some() {
            return Err("nested `base_layer` outside fused experts is not supported".into());
        }
        let module = module.to_owned();
        return Ok(match side {
            Side::A => AdapterKey::LoraA { module },
            Side::B => AdapterKey::LoraB { module },
        });
    }
    let own = |module: &str| module.to_owned();
    // older versions of PEFT store the magnitude as a module with a weight
    for suffix in [".lora_magnitude_vector", ".lora_magnitude_vector.weight"] {
        if let Some(module) = path.strip_suffix(suffix) {
            return Ok(AdapterKey::Magnitude { module: own(module) });
        }
    }
    if let Some(module) = path.strip_suffix(".lora_embedding_A") {
        return Ok(AdapterKey::EmbeddingA { module: own(module) });
    }
    if let Some(module) = path.strip_suffix(".lora_embedding_B") {
        return Ok(AdapterKey::EmbeddingB { module: own(module) });
    }
    for (part, feature) in [
        (".lora_B.bias", "`lora_bias`"),
        (".token_adapter.", "`trainable_token_indices`"),
        (".trainable_tokens_delta", "`trainable_token_indices`"),
    ] {
        if path.contains(part) || path.ends_with(part) {
            return Err(format!("it belongs to {feature}, which is not supported"));
        }
    }
    if path.contains("lora_") || path.contains(".modules_to_save.") {
        return Err("its name is not one that PEFT saves".into());
    }
    if let Some(module) = path.strip_suffix(".base_layer.weight") {
        if module.ends_with("embed_tokens") {
            return Ok(AdapterKey::EmbeddingBase { module: own(module) });
        }
        return Err("a base weight in an adapter file".into());
    }
    for tensor in ["weight", "bias"] {
        let Some(module) = path.strip_suffix(tensor).and_then(|p| p.strip_suffix('.')) else {
            continue;
        };
        // PEFT stores embedding and head whole, unasked, when the vocabulary was resized
        let vocabulary = module == "lm_head" || module.ends_with("embed_tokens");
        if matcher.is_saved(module) || vocabulary {
            return Ok(AdapterKey::Saved { module: own(module), tensor });
        }
        return Err("a whole tensor whose module `modules_to_save` does not name".into());
    }
    Err("its name is not one that PEFT saves".into())
}

/// Reads all tensor names of an adapter.
///
/// # Errors
/// Every name that is not understood, with the reason.
pub fn parse_keys<'a>(
    config: &AdapterConfig,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<(String, AdapterKey)>, Vec<String>> {
    let matcher = Matcher::new(config)?;
    let (mut keys, mut faults) = (Vec::new(), Vec::new());
    for name in names {
        match parse_key(&matcher, name) {
            Ok(key) => keys.push((name.to_owned(), key)),
            Err(reason) => faults.push(format!("tensor `{name}`: {reason}")),
        }
    }
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

/// The tensor name PEFT gives a key. `matcher` decides how deep fused experts are nested.
pub fn format_key(matcher: &Matcher, key: &AdapterKey) -> String {
    let side = |side: &Side| match side {
        Side::A => "lora_A",
        Side::B => "lora_B",
    };
    let tail = match key {
        AdapterKey::LoraA { module } => format!("{module}.lora_A.weight"),
        AdapterKey::LoraB { module } => format!("{module}.lora_B.weight"),
        AdapterKey::Magnitude { module } => format!("{module}.lora_magnitude_vector"),
        AdapterKey::EmbeddingA { module } => format!("{module}.lora_embedding_A"),
        AdapterKey::EmbeddingB { module } => format!("{module}.lora_embedding_B"),
        AdapterKey::EmbeddingBase { module } => format!("{module}.base_layer.weight"),
        AdapterKey::Saved { module, tensor } => format!("{module}.{tensor}"),
        AdapterKey::FusedExperts { module, parameter, side: s } => {
            let nested = match wrapped(matcher, module).as_slice() {
                [_, inner] => inner == parameter,
                _ => false,
            };
            let level = if nested { ".base_layer" } else { "" };
            format!("{module}{level}.{}.weight", side(s))
        }
    };
    format!("{PREFIX}{tail}")
}
