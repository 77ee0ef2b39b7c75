//! What a checkpoint folder holds and what is suspicious about it.
//!
//! Takes a folder, reads headers and small files only, so that a checkpoint of 600 GB takes as long
//! as one of 600 kB. Gives one value that prints and serialises. Never reads a weight and never
//! stops at the first fault.

use std::collections::BTreeMap;
use std::path::Path;

use loar_formats::config::ModelConfig;
use loar_formats::generation::GenerationConfig;
use loar_formats::names::{self, Component};
use loar_formats::safetensors::Checkpoint;
use loar_formats::{FormatError, Issue, Severity};
use loar_text::{ChatTemplate, Tokenizer};
use serde::Serialize;

use crate::architecture::{ArchitectureFacts, active};

/// Control tokens worth showing with their ids, where the vocabulary has them.
const LANDMARKS: [&str; 18] = [
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|User|>",
    "<|Assistant|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<tool_call>",
    "</tool_call>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
];

/// Keys of released config.json files that are read, or that change nothing in the decoder. Others
/// are told: a key nobody knows may mean mathematics nobody computes.
const CONFIG_KEYS: &str = " architectures model_type torch_dtype dtype transformers_version auto_map _name_or_path \
    hidden_act hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim \
    vocab_size max_position_embeddings rms_norm_eps initializer_range tie_word_embeddings attention_bias mlp_bias \
    attention_dropout pretraining_tp use_cache output_router_logits rope_theta rope_scaling rope_parameters \
    rope_interleave sliding_window use_sliding_window max_window_layers layer_types mlp_layer_types use_mrope \
    bos_token_id eos_token_id pad_token_id q_lora_rank kv_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim \
    v_head_dim n_routed_experts n_shared_experts num_experts_per_tok moe_intermediate_size first_k_dense_replace \
    moe_layer_freq scoring_func topk_method n_group topk_group norm_topk_prob routed_scaling_factor \
    num_nextn_predict_layers num_local_experts aux_loss_alpha seq_aux ep_size router_aux_loss_coef \
    router_jitter_noise quantization_config ";

/// Everything `loar inspect MODEL` says.
#[derive(Debug, Default, Serialize)]
pub struct Inspection {
    /// The folder.
    pub path: String,
    /// Always `model`.
    pub kind: &'static str,
    /// Absent when `config.json` cannot be used.
    pub architecture: Option<ArchitectureFacts>,
    /// Stored tensors by component, in the order of the forward pass.
    pub components: Vec<ComponentFacts>,
    /// Parameters of the decoder, without multi-token prediction.
    pub parameters: u64,
    /// Of these, the ones a token passes through.
    pub active_parameters: u64,
    /// How matrices are stored when not as plain numbers: `fp8-block`, `int8`, `int4`, with its table in config.json.
    pub quantization: Option<QuantizationFacts>,
    /// Bytes.
    pub memory: MemoryFacts,
    /// Absent without a readable tokenizer.
    pub tokenizer: Option<TokenizerSection>,
    /// Absent without a template.
    pub template: Option<TemplateSection>,
    /// Values of `generation_config.json`.
    pub generation: BTreeMap<&'static str, serde_json::Value>,
    /// Licence files of the folder.
    pub licences: Vec<String>,
    /// Errors first, then warnings, then notes.
    pub issues: Vec<IssueFacts>,
}

/// The tensors of one component.
#[derive(Debug, Serialize)]
pub struct ComponentFacts {
    /// Name of the component, or `other`.
    pub component: String,
    /// Tensors stored, FP8 scales not counted.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: u64,
    /// Bytes in the file, scales included.
    pub bytes: u64,
    /// Tensors by stored type.
    pub dtypes: BTreeMap<String, usize>,
}

/// Quantised matrices of a checkpoint.
#[derive(Debug, Serialize)]
pub struct QuantizationFacts {
    /// `fp8-block`, `int8` or `int4`.
    pub dtype: &'static str,
    /// Matrices stored so.
    pub matrices: usize,
    /// Numbers in them.
    pub parameters: u64,
    /// Bytes of their codes and scales.
    pub bytes: u64,
}

/// Sizes of the decoder's weights.
#[derive(Debug, Default, Serialize)]
pub struct MemoryFacts {
    /// As stored, multi-token prediction included.
    pub stored_bytes: u64,
    /// Loaded as bfloat16.
    pub bf16_bytes: u64,
    /// Loaded as float32.
    pub f32_bytes: u64,
    /// Safetensors files.
    pub files: usize,
}

/// The tokenizer.
#[derive(Debug, Serialize)]
pub struct TokenizerSection {
    /// Highest id + 1.
    pub vocab_size: usize,
    /// Beginning of sequence.
    pub bos: Option<(String, u32)>,
    /// End of sequence.
    pub eos: Option<(String, u32)>,
    /// Padding.
    pub pad: Option<(String, u32)>,
    /// The tokenizer itself puts BOS in front when other tools ask it to.
    pub add_bos: bool,
    /// Known control tokens and their ids.
    pub control: Vec<(String, u32)>,
}

/// The chat template.
#[derive(Debug, Serialize)]
pub struct TemplateSection {
    /// File it comes from, or `builtin:NAME` when the folder has none and one fits.
    pub origin: String,
    /// Bytes of its source.
    pub bytes: usize,
    /// It writes BOS itself.
    pub writes_bos: bool,
}

/// One remark.
#[derive(Debug, Serialize)]
pub struct IssueFacts {
    /// `error`, `warning` or `note`.
    pub severity: &'static str,
    /// One sentence.
    pub text: String,
}

impl Inspection {
    /// Reads the folder `dir`. Whatever is wrong with it becomes an issue.
    pub fn of(dir: &Path) -> Self {
        let mut issues = Vec::new();
        let mut this =
            Self { path: dir.display().to_string(), kind: "model", licences: licences(dir), ..Self::default() };
        let config = match ModelConfig::read(dir) {
            Ok((config, found)) => {
                issues.extend(found);
                issues.extend(unknown_keys(&config));
                Some(config)
            }
            Err(e) => {
                push_error(&mut issues, &e);
                None
            }
        };
        this.architecture = config.as_ref().map(ArchitectureFacts::of);
        this.tensors(dir, config.as_ref(), &mut issues);
        this.text(dir, config.as_ref(), &mut issues);
        match GenerationConfig::read(dir) {
            Ok(found) => this.generation = generation(&found.unwrap_or_default()),
            // read once more than the model does; its faults must not be listed twice
            Err(_) if config.is_none() => {}
            Err(e) => push_error(&mut issues, &e),
        }
        if this.licences.is_empty() {
            issues.push(Issue::note(
                "no licence file; check the terms of the checkpoint before you share what comes of it",
            ));
        }
        issues.sort_by_key(|i| std::cmp::Reverse(i.severity));
        issues.dedup();
        this.issues = issues.into_iter().map(IssueFacts::of).collect();
        this
    }

    /// Whether the checkpoint cannot be used as it is.
    pub fn is_broken(&self) -> bool {
        self.issues.iter().any(|i| i.severity == "error")
    }

    fn tensors(&mut self, dir: &Path, config: Option<&ModelConfig>, issues: &mut Vec<Issue>) {
        let checkpoint = match Checkpoint::inspect_dir(dir) {
            Ok((checkpoint, found)) => {
                issues.extend(found);
                checkpoint
            }
            Err(e) => return push_error(issues, &e),
        };
        self.memory.files = checkpoint.files().count();
        let mut by_component: BTreeMap<Option<Component>, ComponentFacts> = BTreeMap::new();
        // int4 holds two numbers a byte, and the copy of a tied head is none of the model's parameters
        let counts: BTreeMap<String, u64> = config.map_or_else(BTreeMap::new, |c| {
            names::expected_tensors(c)
                .into_iter()
                .map(|(name, shape, _)| (name, shape.iter().map(|s| *s as u64).product()))
                .collect()
        });
        let copy = |name: &str| name == "lm_head.weight" && config.is_some_and(|c| c.tie_word_embeddings);
        self.quantization = config.and_then(|c| quantization(c, &checkpoint, &counts));
        for info in checkpoint.tensors() {
            let component = config.and_then(|c| names::component_of(c, &info.name));
            let facts = by_component.entry(component).or_insert_with(|| ComponentFacts {
                component: component.map_or("other", Component::label).to_owned(),
                tensors: 0,
                parameters: 0,
                bytes: 0,
                dtypes: BTreeMap::new(),
            });
            facts.bytes += info.byte_len() as u64;
            self.memory.stored_bytes += info.byte_len() as u64;
            let of = info.name.strip_suffix("_scale_inv").or_else(|| info.name.strip_suffix("_scale"));
            if of.is_none_or(|of| checkpoint.info(of).is_none()) {
                facts.tensors += 1;
                if !copy(&info.name) {
                    facts.parameters += counts.get(&info.name).copied().unwrap_or(info.numel() as u64);
                }
                *facts.dtypes.entry(info.dtype.name().to_owned()).or_default() += 1;
            }
        }
        // `other` (None) sorts first in the map but belongs last in the table
        let other = by_component.remove(&None);
        self.components = by_component.into_values().chain(other).collect();
        if let Some(config) = config {
            issues.extend(names::compare(config, &checkpoint));
            let counts = names::parameters(config);
            self.parameters = counts.values().sum();
            self.active_parameters = active(config, &counts);
            (self.memory.bf16_bytes, self.memory.f32_bytes) = (self.parameters * 2, self.parameters * 4);
        }
    }

    fn text(&mut self, dir: &Path, config: Option<&ModelConfig>, issues: &mut Vec<Issue>) {
        let own = ChatTemplate::from_dir(dir).unwrap_or_else(|e| {
            issues.push(Issue::error(e.to_string()));
            None
        });
        let tokenizer = match Tokenizer::from_dir(dir) {
            Ok(tokenizer) => tokenizer,
            Err(e) => return issues.push(Issue::error(e.to_string())),
        };
        let has_own = own.is_some();
        let model_type = config.map_or("", |c| c.architecture.model_type());
        let template = own.or_else(|| {
            let name = ChatTemplate::detect(&tokenizer, model_type)?;
            ChatTemplate::builtin(name).ok()
        });
        if !has_own {
            issues.push(Issue::note(match &template {
                Some(t) => format!("no chat template; `{}` fits the tokenizer and is used", t.origin()),
                None => "no chat template, and no built-in one fits for certain; name one for chat data".to_owned(),
            }));
        }
        let facts = tokenizer.facts(config.map(|c| c.vocab_size), template.as_ref());
        issues.extend(facts.warnings.iter().map(Issue::warning));
        if let Some(config) = config {
            end_tokens(config, &tokenizer, issues);
        }
        self.template = template.map(|t| TemplateSection {
            origin: t.origin().to_owned(),
            bytes: t.source().len(),
            writes_bos: t.writes_bos(),
        });
        self.tokenizer = Some(TokenizerSection {
            vocab_size: facts.vocab_size,
            bos: facts.bos,
            eos: facts.eos,
            pad: facts.pad,
            add_bos: facts.add_bos,
            control: LANDMARKS.iter().filter_map(|t| Some(((*t).to_owned(), tokenizer.id(t)?))).collect(),
        });
    }
}

/// The matrices that are stored as `quantization_config` says.
fn quantization(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    counts: &BTreeMap<String, u64>,
) -> Option<QuantizationFacts> {
    let quantization = config.quantization.as_ref()?;
    let mut facts = QuantizationFacts { dtype: quantization.word(), matrices: 0, parameters: 0, bytes: 0 };
    for info in checkpoint.tensors() {
        let form = quantization.stored(1, 1);
        let scales = checkpoint.info(&format!("{}{}", info.name, form.scale_suffix));
        if let Some(scales) = scales.filter(|_| info.dtype == form.dtype && !names::is_mtp(config, &info.name)) {
            facts.matrices += 1;
            let of = if counts.contains_key(&info.name) { &info.name } else { "model.embed_tokens.weight" };
            facts.parameters += counts.get(of).copied().unwrap_or(0);
            facts.bytes += (info.byte_len() + scales.byte_len()) as u64;
        }
    }
    Some(facts)
}

/// The keys of config.json outside [`CONFIG_KEYS`], in one remark.
fn unknown_keys(config: &ModelConfig) -> Option<Issue> {
    let keys = config.raw.as_object()?.keys();
    let unknown: Vec<String> =
        keys.filter(|k| !CONFIG_KEYS.contains(&format!(" {k} "))).map(|k| format!("`{k}`")).collect();
    (!unknown.is_empty()).then(|| {
        Issue::warning(format!(
            "config.json has keys that are not known here and have no effect: {}",
            unknown.join(", ")
        ))
    })
}

/// What `config.json` and the tokenizer say about begin and end.
fn end_tokens(config: &ModelConfig, tokenizer: &Tokenizer, issues: &mut Vec<Issue>) {
    if let (Some(model), Some(own)) = (config.bos_token_id, tokenizer.bos_id())
        && model != own
    {
        issues.push(Issue::warning(format!(
            "`bos_token_id` {model} of config.json differs from the tokenizer's {own}; the tokenizer's is fed"
        )));
    }
    match tokenizer.eos_id() {
        Some(own) if config.eos_token_ids.is_empty() => issues.push(Issue::warning(format!(
            "neither config.json nor generation_config.json names an end token; the tokenizer's {own} ends generation"
        ))),
        Some(own) if !config.eos_token_ids.contains(&own) => issues.push(Issue::warning(format!(
            "the tokenizer's end token {own} is not among `eos_token_id` {:?}; both end generation",
            config.eos_token_ids
        ))),
        _ => {}
    }
    if tokenizer.vocab_size() < config.vocab_size {
        issues.push(Issue::note(format!(
            "the embedding has {} rows, the tokenizer uses {}: {} rows are padding and stay as they are",
            config.vocab_size,
            tokenizer.vocab_size(),
            config.vocab_size - tokenizer.vocab_size()
        )));
    }
}

fn generation(config: &GenerationConfig) -> BTreeMap<&'static str, serde_json::Value> {
    let mut map = BTreeMap::new();
    let mut put = |key, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            map.insert(key, value);
        }
    };
    put("do_sample", config.do_sample.map(Into::into));
    put("temperature", config.temperature.map(Into::into));
    put("top_p", config.top_p.map(Into::into));
    put("top_k", config.top_k.map(Into::into));
    put("min_p", config.min_p.map(Into::into));
    put("repetition_penalty", config.repetition_penalty.map(Into::into));
    if !config.eos_token_ids.is_empty() {
        put("eos_token_id", Some(config.eos_token_ids.clone().into()));
    }
    map
}

/// Names of licence files, sorted.
fn licences(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let upper = name.to_ascii_uppercase();
            ["LICENSE", "LICENCE", "COPYING", "NOTICE"].iter().any(|w| upper.starts_with(w))
        })
        .collect();
    names.sort();
    names
}

/// One issue for each fault of an error that lists several.
pub fn push_error(issues: &mut Vec<Issue>, error: &FormatError) {
    match error {
        FormatError::Config { path, faults }
        | FormatError::Checkpoint { path, faults }
        | FormatError::Adapter { path, faults } => {
            let file =
                path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
            issues.extend(faults.0.iter().map(|f| Issue::error(format!("{file}: {f}"))));
        }
        other => issues.push(Issue::error(other.to_string())),
    }
}

impl IssueFacts {
    /// For printing and JSON.
    pub fn of(issue: Issue) -> Self {
        Self {
            severity: match issue.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            },
            text: issue.text,
        }
    }
}
