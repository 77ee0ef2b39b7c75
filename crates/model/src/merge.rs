//! Whole checkpoints out of a decoder: the adapter folded into the weights, or a base made here.
use crate::ModelError;
use crate::model::Model;
use loar_formats::config::ModelConfig;
use loar_formats::names::{expected_tensors, is_mtp};
use loar_formats::safetensors::{Checkpoint, DType, ShardWriter, TensorSpec};
use loar_tape::{Frozen, Linear, Weight};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDtype {
    Bf16,
    F32,
}

/// Shards of 5 GB, as the hub's tools cut them.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// What merging did to the weights.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct MergeReport {
    /// Tensors an adapter changed.
    pub merged_tensors: usize,
    /// Tensors passed on byte for byte.
    pub unchanged_tensors: usize,
    /// Tensors no adapter changed, written as the numbers their codes stand for.
    pub dequantized_tensors: usize,
    /// Entries of merged tensors that differ from the base after rounding, of all their entries.
    pub changed_entries: u64,
    pub merged_entries: u64,
    /// Merged tensors in which rounding undid the whole update although the adapter's product is not zero.
    pub lost: Vec<String>,
}

impl Model {
    /// Writes the adapter folded into the weights (in f32, rounded once) beside everything else of the source
    /// checkpoint: untouched bf16 tensors and MTP layers byte for byte, quantised ones as the numbers they stand for in
    /// this model, `quantization_config` removed. A model quantised while loading thus gives the base it computes with,
    /// not the source's. Where a tied head is a quantised copy of its embedding, the two become two tensors and
    /// `tie_word_embeddings` false, since one matrix cannot be both. Files that are not weights are the caller's to copy.
    pub fn save_merged(&self, source: &Checkpoint, out: &Path, dtype: StoredDtype) -> Result<MergeReport, ModelError> {
        self.check_tied()?;
        let rewritten: HashMap<String, &Linear> = self
            .linears()
            .into_iter()
            .filter(|l| l.lora.is_some() || l.weight.values(&self.params).is_quantized())
            .map(|l| (format!("{}.weight", l.name), l))
            .collect();
        let shapes: HashMap<String, Vec<usize>> = self
            .linears()
            .iter()
            .map(|l| (format!("{}.weight", l.name), vec![l.out_features, l.in_features]))
            .collect();
        let target = match dtype {
            StoredDtype::Bf16 => DType::BF16,
            StoredDtype::F32 => DType::F32,
        };
        let scales: Vec<String> = source
            .tensors()
            .flat_map(|t| match t.dtype {
                DType::F8E4M3 => Some(format!("{}_scale_inv", t.name)),
                DType::I8 | DType::U8 => Some(format!("{}_scale", t.name)),
                _ => None,
            })
            .collect();
        let changed = |name: &str| {
            rewritten.contains_key(name)
                || self.params.find(name).is_some()
                || (name == "model.embed_tokens.weight" && self.embed_lora.is_some())
        };
        let mut specs: Vec<TensorSpec> = source
            .tensors()
            .filter(|t| !scales.contains(&t.name) && (t.name != "lm_head.weight" || !self.unties()))
            .map(|t| {
                let keep = !changed(&t.name) && t.dtype != DType::F8E4M3;
                // int4 codes have another shape than their matrix
                let shape = shapes.get(&t.name).unwrap_or(&t.shape).clone();
                TensorSpec { name: t.name.clone(), dtype: if keep { t.dtype } else { target }, shape }
            })
            .collect();
        if self.unties() {
            let shape = vec![self.config.vocab_size, self.config.hidden_size];
            specs.push(TensorSpec { name: "lm_head.weight".into(), dtype: target, shape });
        }
        let mut report = MergeReport::default();
        let writer = ShardWriter::new(out, specs, MAX_SHARD_BYTES, pt_metadata())?;
        writer.write(|spec| {
            let name = spec.name.as_str();
            if !changed(name) {
                report.unchanged_tensors += usize::from(source.info(name).is_some_and(|i| i.dtype == spec.dtype));
                return match source.info(name).map(|i| i.dtype) {
                    Some(DType::F8E4M3) => {
                        report.dequantized_tensors += 1;
                        Ok(Cow::Owned(encode(&source.to_f32(name)?, spec.dtype)))
                    }
                    _ => Ok(Cow::Owned(source.bytes(name)?.as_ref().to_vec())),
                };
            }
            let linear = rewritten.get(name);
            if let Some(l) = linear.filter(|l| l.lora.is_none()) {
                report.dequantized_tensors += 1;
                return Ok(Cow::Owned(encode(&l.weight.to_f32(&self.params), spec.dtype)));
            }
            let (base, merged) = match linear {
                // the base is what this model computes with, which need not be the file's
                Some(l) => (l.weight.to_f32(&self.params), l.merged(&self.params).data.to_vec()),
                None if name == "model.embed_tokens.weight" && self.embed_lora.is_some() => {
                    (self.embed_tokens.to_f32(&self.params), self.merged_embedding())
                }
                None => {
                    let own = self.params.find(name).map(|id| self.params.get(id).value.data.to_vec());
                    let own = own.unwrap_or_default();
                    // codes are no numbers of this tensor: all of it counts as changed
                    (source.to_f32(name).unwrap_or_else(|_| vec![f32::NAN; own.len()]), own)
                }
            };
            let (new, old) = (encode(&merged, spec.dtype), encode(&base, spec.dtype));
            let size = if spec.dtype == DType::BF16 { 2 } else { 4 };
            let differing = new.chunks_exact(size).zip(old.chunks_exact(size)).filter(|(a, b)| a != b).count() as u64;
            report.merged_tensors += 1;
            report.merged_entries += merged.len() as u64;
            report.changed_entries += differing;
            if differing == 0 && merged.iter().zip(&base).any(|(a, b)| a != b) {
                report.lost.push(name.to_owned());
            }
            Ok(Cow::Owned(new))
        })?;
        write_config(&self.untied_config(), out, dtype)?;
        Ok(report)
    }

    /// Writes the decoder's own weights, adapters folded in, as a checkpoint folder's `model.safetensors` and
    /// `config.json`: how a base that was trained here becomes a base for others.
    pub fn save_base(&self, out: &Path, dtype: StoredDtype) -> Result<(), ModelError> {
        self.check_tied()?;
        let mut values: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for l in self.linears() {
            values.insert(format!("{}.weight", l.name), l.merged(&self.params).data.into_vec());
            if let Some(b) = &l.bias {
                values.insert(format!("{}.bias", l.name), b.to_f32(&self.params));
            }
        }
        values.insert("model.embed_tokens.weight".into(), self.merged_embedding());
        for (name, w) in self.other_weights() {
            values.insert(name, w.to_f32(&self.params));
        }
        for layer in &self.layers {
            if let crate::Mlp::Moe(m) = &layer.mlp
                && let Some(b) = &m.rule.bias
            {
                values.insert(format!("model.layers.{}.mlp.gate.e_score_correction_bias", layer.index), b.to_vec());
            }
        }
        let config = self.untied_config();
        let specs = base_specs(&config, dtype);
        ShardWriter::new(out, specs, MAX_SHARD_BYTES, pt_metadata())?
            .write(|spec| Ok(Cow::Owned(encode(values.get(&spec.name).map_or(&[], |v| v), spec.dtype))))?;
        write_config(&config, out, dtype)
    }

    /// Whether the head is tied to the embedding by the config and a quantised copy of it in memory.
    fn unties(&self) -> bool {
        self.config.tie_word_embeddings
            && self.lm_head.weight.values(&self.params).is_quantized()
            && !self.head_is_embedding()
    }

    fn untied_config(&self) -> ModelConfig {
        let mut config = self.config.clone();
        config.tie_word_embeddings &= !self.unties();
        config
    }

    /// Replaces every adapted weight by the merged one in f32; the adapter is gone afterwards.
    pub fn fold_adapter(&mut self) {
        let params = std::mem::take(&mut self.params);
        self.params = params.clone();
        self.embed_tokens =
            Weight::Frozen(Frozen::from_f32(self.config.vocab_size, self.config.hidden_size, self.merged_embedding()));
        self.embed_lora = None;
        self.each_linear_mut(&mut |l| {
            if l.is_trainable() {
                let merged = l.merged(&params);
                l.weight = Weight::Frozen(Frozen::from_f32(merged.rows, merged.cols, merged.data));
                if let Some(b) = &mut l.bias {
                    let (rows, cols) = b.shape(&params);
                    *b = Weight::Frozen(Frozen::from_f32(rows, cols, b.to_f32(&params)));
                }
                l.lora = None;
            }
        });
        let freeze = |w: &mut Weight| {
            let (rows, cols) = w.shape(&params);
            *w = Weight::Frozen(Frozen::from_f32(rows, cols, w.to_f32(&params)));
        };
        for layer in &mut self.layers {
            layer.each_norm_mut(&mut |_, w| freeze(w));
        }
        freeze(&mut self.norm);
        self.params = loar_tape::ParamStore::default();
        self.attached = None;
    }

    /// A tied checkpoint stores one matrix for embedding and head: what changes only one of them cannot be folded into it.
    fn check_tied(&self) -> Result<(), ModelError> {
        let apart = self.embed_lora.is_some()
            || self.lm_head.lora.is_some()
            || self.lm_head.weight.param() != self.embed_tokens.param();
        if self.config.tie_word_embeddings && apart && !self.unties() {
            let fault = "the adapter changes the embedding or the head alone, but `tie_word_embeddings` is true: the merged checkpoint has one matrix for both; serve the adapter unmerged";
            return Err(ModelError::Spec { faults: vec![fault.into()] });
        }
        Ok(())
    }

    fn merged_embedding(&self) -> Vec<f32> {
        let mut w = self.embed_tokens.to_f32(&self.params);
        if let Some(l) = &self.embed_lora {
            let (vocab, d) = self.embed_tokens.shape(&self.params);
            let (a, b) = (&self.params.get(l.a).value, &self.params.get(l.b).value);
            for v in 0..vocab {
                for o in 0..d {
                    let sum: f64 =
                        (0..l.rank).map(|j| f64::from(b.data[o * l.rank + j]) * f64::from(a.data[j * vocab + v])).sum();
                    w[v * d + o] += (f64::from(l.scaling) * sum) as f32;
                }
            }
        }
        w
    }

    /// Norms and routers by tensor name.
    pub(crate) fn other_weights(&self) -> Vec<(String, &Weight)> {
        let mut all = vec![("model.norm.weight".to_string(), &self.norm)];
        for layer in &self.layers {
            layer.each_norm(&mut |path, w| all.push((format!("{path}.weight"), w)));
            if let crate::Mlp::Moe(m) = &layer.mlp {
                all.push((format!("model.layers.{}.mlp.gate.weight", layer.index), &m.gate));
            }
        }
        all
    }
}

/// Every tensor of a checkpoint of this config, MTP layers left out.
pub(crate) fn base_specs(config: &ModelConfig, dtype: StoredDtype) -> Vec<TensorSpec> {
    let target = if dtype == StoredDtype::Bf16 { DType::BF16 } else { DType::F32 };
    expected_tensors(config)
        .into_iter()
        .filter(|(name, ..)| !is_mtp(config, name))
        .map(|(name, shape, _)| {
            // The choice bias decides between near-equal experts: release files keep it in f32.
            let dtype = if name.ends_with("e_score_correction_bias") { DType::F32 } else { target };
            TensorSpec { name, dtype, shape }
        })
        .collect()
}

pub(crate) fn pt_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_string(), "pt".to_string())])
}

pub(crate) fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

pub(crate) fn write_config(config: &ModelConfig, out: &Path, dtype: StoredDtype) -> Result<(), ModelError> {
    let mut config = config.clone();
    config.quantization = None;
    config.set_dtype(if dtype == StoredDtype::Bf16 { "bfloat16" } else { "float32" });
    let path = out.join("config.json");
    let text = serde_json::to_string_pretty(&config.to_json())
        .map_err(|e| ModelError::Write { path: path.clone(), message: e.to_string() })?
        + "\n";
    loar_artifact::write_atomic(&path, text.as_bytes())
        .map_err(|e| ModelError::Write { path: path.clone(), message: e.to_string() })?;
    Ok(())
}
