//! An adapter as a whole: every name understood, every factor with its partner, ranks as configured.

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::{AdapterKey, Side, parse_key};
use super::{AdapterConfig, Matcher};
use crate::safetensors::DType;
use crate::{Faults, FormatError};

/// Name, type and shape of a tensor.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) shape: &'a [usize],
}

/// The two factors and the magnitude of one module.
#[derive(Default)]
struct Group {
    a: Option<Vec<usize>>,
    b: Option<Vec<usize>>,
    magnitude: Option<Vec<usize>>,
    fused: bool,
    embedding: bool,
}

/// Refuses an adapter with all faults at once.
pub(super) fn adapter<'a>(
    config: &AdapterConfig,
    tensors: impl Iterator<Item = View<'a>>,
    path: &Path,
) -> Result<(), FormatError> {
    let fail = |faults| Err(FormatError::Adapter { path: path.to_owned(), faults: Faults(faults) });
    let matcher = match Matcher::new(config) {
        Ok(matcher) => matcher,
        Err(faults) => return fail(faults),
    };
    let mut faults = Vec::new();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut count = 0usize;
    for tensor in tensors {
        count += 1;
        if !tensor.dtype.is_float() {
            faults.push(format!("tensor `{}`: expected a float type, found {}", tensor.name, tensor.dtype));
        }
        let key = match parse_key(&matcher, tensor.name) {
            Ok(key) => key,
            Err(reason) => {
                faults.push(format!("tensor `{}`: {reason}", tensor.name));
                continue;
            }
        };
        if matches!(key, AdapterKey::EmbeddingBase { .. } | AdapterKey::Saved { .. }) {
            continue;
        }
        let group = groups.entry(key.pattern_path()).or_default();
        let shape = Some(tensor.shape.to_vec());
        match key {
            AdapterKey::LoraA { .. } => group.a = shape,
            AdapterKey::LoraB { .. } => group.b = shape,
            AdapterKey::Magnitude { .. } => group.magnitude = shape,
            AdapterKey::EmbeddingA { .. } => (group.a, group.embedding) = (shape, true),
            AdapterKey::EmbeddingB { .. } => (group.b, group.embedding) = (shape, true),
            AdapterKey::FusedExperts { side: Side::A, .. } => (group.a, group.fused) = (shape, true),
            AdapterKey::FusedExperts { side: Side::B, .. } => (group.b, group.fused) = (shape, true),
            AdapterKey::EmbeddingBase { .. } | AdapterKey::Saved { .. } => {}
        }
    }
    if count == 0 {
        faults.push("it holds no tensor".into());
    }
    for (module, group) in &groups {
        faults.extend(check_group(config, &matcher, module, group));
    }
    if faults.is_empty() { Ok(()) } else { fail(faults) }
}

fn check_group(config: &AdapterConfig, matcher: &Matcher, module: &str, group: &Group) -> Vec<String> {
    let mut faults = Vec::new();
    if !group.fused && !matcher.matches_target(module) {
        faults.push(format!("`{module}` has tensors, but the configuration does not target it"));
    }
    match (config.use_dora, group.magnitude.is_some()) {
        (true, false) if !group.fused && !group.embedding => {
            faults.push(format!("`{module}`: `use_dora` is true, but its magnitude is missing"));
        }
        (false, true) => {
            faults.push(format!("`{module}` has a magnitude, but `use_dora` is false"));
        }
        (true, _) if group.embedding => {
            faults.push(format!("`{module}`: DoRA of an embedding is not supported"));
        }
        _ => {}
    }
    let (Some(a), Some(b)) = (&group.a, &group.b) else {
        let lost = if group.a.is_none() { "A" } else { "B" };
        faults.push(format!("`{module}`: factor {lost} is missing"));
        return faults;
    };
    let (&[rows, _], &[out, columns]) = (a.as_slice(), b.as_slice()) else {
        faults.push(format!("`{module}`: factors must be matrices, found {a:?} and {b:?}"));
        return faults;
    };
    let (r, _) = matcher.rank_alpha_for(module);
    let agrees =
        if group.fused { rows == columns && rows > 0 && rows.is_multiple_of(r) } else { rows == r && columns == r };
    if !agrees {
        let times = if group.fused { "a multiple of rank" } else { "rank" };
        faults.push(format!("`{module}`: expected {times} {r}, found factors {a:?} and {b:?}"));
    }
    if let Some(magnitude) = &group.magnitude
        && magnitude.as_slice() != [out]
        // older versions of PEFT keep a second dimension of 1
        && magnitude.as_slice() != [1, out]
    {
        faults.push(format!("`{module}`: expected a magnitude of [{out}], found {magnitude:?}"));
    }
    faults
}
