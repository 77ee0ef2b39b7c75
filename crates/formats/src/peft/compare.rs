//! An adapter against the model it is to be put on: shapes, modules, and what PEFT left out.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{AdapterKey, Side, parse_key};
use super::{AdapterConfig, Matcher};
use crate::Issue;
use crate::config::ModelConfig;
use crate::names::{Component, expected_tensors};
use crate::safetensors::Checkpoint;

/// What stands in the way of putting `adapter` on a model of configuration `model`, and what the
/// user should know about it. `base` adds the check that a stored copy of the embedding is the
/// base's own. Severity error: the adapter does not fit.
pub fn compare(
    config: &AdapterConfig,
    adapter: &Checkpoint,
    model: &ModelConfig,
    base: Option<&Checkpoint>,
) -> Vec<Issue> {
    let matcher = match Matcher::new(config) {
        Ok(matcher) => matcher,
        Err(faults) => return faults.into_iter().map(Issue::error).collect(),
    };
    let table: BTreeMap<String, (Vec<usize>, Component)> =
        expected_tensors(model).into_iter().map(|(n, s, c)| (n, (s, c))).collect();
    let mut issues = Vec::new();
    let mut adapted = BTreeSet::new();
    for info in adapter.tensors() {
        let key = match parse_key(&matcher, &info.name) {
            Ok(key) => key,
            Err(reason) => {
                issues.push(Issue::error(format!("tensor `{}`: {reason}", info.name)));
                continue;
            }
        };
        let weight = table.get(&format!("{}.weight", key.module())).map(|(shape, _)| shape.as_slice());
        if let Err(text) = fits(&key, &info.shape, weight, &table, model) {
            issues.push(Issue::error(format!("tensor `{}`: {text}", info.name)));
        }
        if matches!(key, AdapterKey::EmbeddingBase { .. }) {
            issues.extend(same_embedding(&info.name, &key, adapter, base));
        }
        if !matches!(key, AdapterKey::EmbeddingBase { .. } | AdapterKey::Saved { .. }) {
            adapted.insert(key.pattern_path());
        }
    }
    issues.extend(left_out(&matcher, &table, model, &adapted));
    issues
}

type Table = BTreeMap<String, (Vec<usize>, Component)>;

fn fits(
    key: &AdapterKey,
    shape: &[usize],
    weight: Option<&[usize]>,
    table: &Table,
    model: &ModelConfig,
) -> Result<(), String> {
    if let AdapterKey::FusedExperts { module, parameter, side } = key {
        return fits_experts(module, parameter, *side, shape, table, model);
    }
    if let AdapterKey::Saved { module, tensor } = key {
        let name = format!("{module}.{tensor}");
        return match table.get(&name) {
            Some((expected, _)) if expected == shape => Ok(()),
            Some((expected, _)) => Err(format!("expected shape {expected:?}, found {shape:?}")),
            // a tied head is the embedding; stored whole it comes loose
            None => Err(format!("the model has no tensor `{name}`")),
        };
    }
    let module = key.module();
    let Some(&[out, width]) = weight else {
        return Err(format!("the model has no linear layer or embedding `{module}`"));
    };
    let embedding = module.ends_with("embed_tokens");
    let (what, expected, found) = match key {
        AdapterKey::LoraA { .. } => ("input width", width, shape.get(1)),
        AdapterKey::LoraB { .. } => ("output width", out, shape.first()),
        AdapterKey::Magnitude { .. } => ("output width", out, shape.last()),
        AdapterKey::EmbeddingA { .. } => ("vocabulary", out, shape.get(1)),
        AdapterKey::EmbeddingB { .. } => ("width", width, shape.first()),
        AdapterKey::EmbeddingBase { .. } if shape == [out, width] => return Ok(()),
        _ => return Err(format!("expected shape [{out}, {width}], found {shape:?}")),
    };
    if embedding && !matches!(key, AdapterKey::EmbeddingA { .. } | AdapterKey::EmbeddingB { .. }) {
        return Err(format!("`{module}` is an embedding, whose factors are `lora_embedding_A` and `_B`"));
    }
    if found == Some(&expected) {
        Ok(())
    } else {
        Err(format!("expected {what} {expected} of `{module}`, found shape {shape:?}"))
    }
}

fn fits_experts(
    module: &str,
    parameter: &str,
    side: Side,
    shape: &[usize],
    table: &Table,
    model: &ModelConfig,
) -> Result<(), String> {
    let first = format!("{module}.0.down_proj.weight");
    let (Some(moe), true) = (&model.moe, table.contains_key(&first)) else {
        return Err(format!("the model has no routed experts at `{module}`"));
    };
    let (hidden, inner, experts) = (model.hidden_size, moe.moe_intermediate_size, moe.n_routed_experts);
    let (input, output) = match parameter {
        "down_proj" => (inner, hidden),
        _ => (hidden, inner.saturating_mul(2)), // gate rows, then up rows
    };
    let (rank, width, expected) = match side {
        Side::A => (shape.first(), shape.get(1), input),
        Side::B => (shape.get(1), shape.first(), output),
    };
    let wide = |n: usize| rank.is_some_and(|r| *r % experts == 0) && width == Some(&n);
    if wide(expected) {
        return Ok(());
    }
    let other = if side == Side::A { output } else { input };
    if wide(other) {
        return Err(format!(
            "width {other} where {expected} is expected: PEFT 0.18 and 0.19 exchanged the factors of fused \
             experts; load and save the adapter with PEFT 0.21"
        ));
    }
    Err(format!("expected width {expected} and a multiple of {experts} experts, found shape {shape:?}"))
}

fn same_embedding(name: &str, key: &AdapterKey, adapter: &Checkpoint, base: Option<&Checkpoint>) -> Option<Issue> {
    let weight = format!("{}.weight", key.module());
    let (copy, own) = (adapter.to_f32(name).ok()?, base?.to_f32(&weight).ok()?);
    (copy != own).then(|| {
        Issue::error(format!("tensor `{name}`: this copy of the embedding differs from the base's `{weight}`"))
    })
}

/// What the configuration targets and the file does not have.
fn left_out(matcher: &Matcher, table: &Table, model: &ModelConfig, adapted: &BTreeSet<String>) -> Vec<Issue> {
    let mut issues = Vec::new();
    let modules = || {
        table.iter().filter_map(|(name, (shape, component))| {
            (shape.len() == 2).then_some((name.strip_suffix(".weight")?, *component))
        })
    };
    let missing: Vec<&str> = modules()
        .filter(|(_, component)| *component != Component::Router)
        .map(|(module, _)| module)
        .filter(|module| matcher.matches_target(module) && !adapted.contains(*module))
        .collect();
    if let Some(first) = missing.first() {
        issues.push(Issue::warning(format!(
            "{} modules are targeted but have no factors, the first is `{first}`: they stay as in the base",
            missing.len()
        )));
    }
    let layers = (0..model.num_hidden_layers).filter(|layer| model.is_moe_layer(*layer));
    let lost: Vec<String> = layers
        .flat_map(|layer| ["gate_up_proj", "down_proj"].map(|p| format!("model.layers.{layer}.mlp.experts.{p}")))
        .filter(|path| matcher.matches_parameter(path) && !adapted.contains(path))
        .collect();
    if let Some(first) = lost.first() {
        issues.push(Issue::warning(format!(
            "{} fused experts are targeted but have no factors, the first is `{first}`",
            lost.len()
        )));
    }
    let fused = adapted.iter().any(|path| path.ends_with(".experts.gate_up_proj"));
    let beside = modules().any(|(module, component)| {
        matches!(component, Component::Dense | Component::Shared) && adapted.contains(module)
    });
    if fused && !beside {
        issues.push(Issue::note(
            "routed experts are adapted, dense layers and shared experts are not: PEFT 0.21 with \
             transformers 5 leaves them out even when gate_proj, up_proj and down_proj were asked for",
        ));
    }
    issues
}
