//! A checkpoint against the table: everything missing, surplus or of the wrong shape, at once.

use std::collections::HashSet;

use super::table::{Component, expected_tensors, is_linear_weight, is_mtp};
use crate::Issue;
use crate::config::{ModelConfig, Quantization};
use crate::safetensors::{Checkpoint, DType};

/// Everything in `checkpoint` that disagrees with `config`. Severity error: it cannot be loaded.
///
/// Surplus tensors are errors, because they mean that the model computes something else than the
/// configuration says; known exceptions (old rotary buffers, a stored copy of a tied head,
/// multi-token-prediction layers) are notes or warnings.
pub fn compare(config: &ModelConfig, checkpoint: &Checkpoint) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut known = HashSet::new();
    let own = config.quantization.as_ref().filter(|q| matches!(q, Quantization::Int8 | Quantization::Int4));
    let mut quantized = 0usize;
    // a quantised head lies beside the embedding it is tied to, which lookups need in full
    let head = own.filter(|q| {
        let codes = checkpoint.info("lm_head.weight").map(|info| info.dtype);
        config.tie_word_embeddings && codes == Some(q.stored(1, 1).dtype)
    });
    let head =
        head.map(|_| ("lm_head.weight".to_owned(), vec![config.vocab_size, config.hidden_size], Component::Head));
    for (name, shape, component) in expected_tensors(config).into_iter().chain(head) {
        let own = own.filter(|_| is_linear_weight(&name, component));
        match checkpoint.info(&name) {
            Some(info) if own.is_some_and(|q| q.stored(1, 1).dtype == info.dtype) => {
                quantized += 1;
                known.extend(own.map(|q| check_codes(checkpoint, q, &name, &shape, &mut issues)));
            }
            None => issues.push(Issue::error(format!(
                "tensor `{name}` of shape {shape:?} is missing{}",
                hint_missing(config, checkpoint, &name)
            ))),
            Some(info) if info.shape != shape => {
                issues.push(Issue::error(format!("tensor `{name}`: expected shape {shape:?}, found {:?}", info.shape)))
            }
            Some(info) if info.dtype == DType::F8E4M3 => {
                check_scale(checkpoint, &name, &shape, &mut issues);
                known.insert(format!("{name}_scale_inv"));
            }
            Some(info) if !info.dtype.is_float() => {
                let codes = matches!(info.dtype, DType::I8 | DType::U8);
                let hint = if codes { "; its codes need the `quantization_config` of `loar quantize`" } else { "" };
                issues.push(Issue::error(format!("tensor `{name}`: expected a float type, found {}{hint}", info.dtype)))
            }
            Some(_) => {}
        }
        known.insert(name);
    }
    if let Some(q) = own.filter(|_| quantized == 0) {
        issues.push(Issue::error(format!("`quantization_config` says {}, but no matrix is stored so", q.word())));
    }
    let (mut mtp, mut buffers) = (0usize, 0usize);
    for info in checkpoint.tensors().filter(|info| !known.contains(&info.name)) {
        let name = &info.name;
        if is_mtp(config, name) {
            mtp += 1;
        } else if name.ends_with(".rotary_emb.inv_freq") {
            buffers += 1;
        } else if name == "lm_head.weight" && config.tie_word_embeddings {
            issues.push(tied_head(checkpoint));
        } else {
            issues.push(Issue::error(format!(
                "tensor `{name}` of shape {:?} is not part of {} with this config.json",
                info.shape,
                config.architecture.model_type()
            )));
        }
    }
    if mtp > 0 {
        issues.push(Issue::note(format!(
            "{mtp} tensors of multi-token-prediction layers are not trained or run, and passed on by exports"
        )));
    }
    if buffers > 0 {
        issues.push(Issue::note(format!(
            "{buffers} stored `rotary_emb.inv_freq` buffers are not used: frequencies follow config.json"
        )));
    }
    issues
}

fn hint_missing(config: &ModelConfig, checkpoint: &Checkpoint, name: &str) -> String {
    if name == "lm_head.weight" && checkpoint.info("model.embed_tokens.weight").is_some() {
        return "; if the head is the embedding, `tie_word_embeddings` must be true".into();
    }
    let fused = name.split(".experts.").next().map(|head| format!("{head}.experts.gate_up_proj"));
    if config.moe.is_some() && fused.is_some_and(|f| checkpoint.info(&f).is_some()) {
        return "; the file holds fused experts, which only exist in memory of transformers 5".into();
    }
    String::new()
}

fn check_scale(checkpoint: &Checkpoint, name: &str, shape: &[usize], issues: &mut Vec<Issue>) {
    let [rows, columns] = shape else {
        issues.push(Issue::error(format!("tensor `{name}`: FP8 needs two dimensions, found {shape:?}")));
        return;
    };
    let [block_rows, block_columns] = checkpoint.block_size();
    let expected = [rows.div_ceil(block_rows), columns.div_ceil(block_columns)];
    let scale = format!("{name}_scale_inv");
    match checkpoint.info(&scale) {
        None => issues.push(Issue::error(format!(
            "tensor `{name}` is FP8, but its scales `{scale}` of shape {expected:?} are missing"
        ))),
        Some(info) if info.shape != expected => issues.push(Issue::error(format!(
            "tensor `{scale}`: expected shape {expected:?} for blocks of {block_rows} x {block_columns}, \
             found {:?}",
            info.shape
        ))),
        Some(info) if !info.dtype.is_float() => {
            issues.push(Issue::error(format!("tensor `{scale}`: expected a float type, found {}", info.dtype)))
        }
        Some(_) => {}
    }
}

/// The two tensors of a matrix quantised by this project; gives the name of the scales.
fn check_codes(
    checkpoint: &Checkpoint,
    quantization: &Quantization,
    name: &str,
    shape: &[usize],
    issues: &mut Vec<Issue>,
) -> String {
    let (rows, columns) = (shape.first().copied().unwrap_or(0), shape.get(1).copied().unwrap_or(0));
    let form = quantization.stored(rows, columns);
    let scale = format!("{name}{}", form.scale_suffix);
    if let Some(found) = checkpoint.info(name).map(|i| &i.shape).filter(|found| **found != form.shape) {
        issues.push(Issue::error(format!(
            "tensor `{name}`: expected {} codes of shape {:?} for a matrix {shape:?}, found {found:?}",
            quantization.word(),
            form.shape
        )));
    }
    match checkpoint.info(&scale) {
        None => issues.push(Issue::error(format!(
            "tensor `{name}` is {}, but its scales `{scale}` of shape {:?} are missing",
            quantization.word(),
            form.scale_shape
        ))),
        Some(info) if info.shape != form.scale_shape || info.dtype != form.scale_dtype => {
            issues.push(Issue::error(format!(
                "tensor `{scale}`: expected {} of shape {:?}, found {} of shape {:?}",
                form.scale_dtype, form.scale_shape, info.dtype, info.shape
            )));
        }
        Some(_) => {}
    }
    scale
}

/// A head stored beside the embedding it is tied to.
fn tied_head(checkpoint: &Checkpoint) -> Issue {
    let same = match (checkpoint.bytes("lm_head.weight"), checkpoint.bytes("model.embed_tokens.weight")) {
        (Ok(head), Ok(embedding)) => *head == *embedding,
        _ => false,
    };
    if same {
        Issue::note("`lm_head.weight` is stored although it is the embedding; the copy is not used")
    } else {
        Issue::warning(
            "`lm_head.weight` differs from the embedding, but `tie_word_embeddings` is true: the embedding \
             is used, as in transformers",
        )
    }
}
