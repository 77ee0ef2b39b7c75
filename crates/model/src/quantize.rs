//! A checkpoint with its matrices quantised, written tensor by tensor: what `BaseDtype` would make of the folder while
//! loading, to the last bit, in a file.
//!
//! A file's scales lie before its codes (wide types first), so each matrix is quantised twice, once for either, rather
//! than holding the codes of a whole shard. Memory is one matrix.
use crate::ModelError;
use crate::base::{BaseDtype, codes_and_scales, relative_error};
use crate::load::{FileSource, LoadOptions, faults_of};
use crate::merge::pt_metadata;
use loar_formats::FormatError;
use loar_formats::config::{ModelConfig, Quantization};
use loar_formats::names::{Component, component_of, expected_tensors, is_linear_weight, is_mtp};
use loar_formats::safetensors::{Checkpoint, DType, ShardWriter, TensorSpec};
use loar_tape::Frozen;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// What quantisation did to the matrices of one kind: ‖W − Ŵ‖ / ‖W‖ of each, in the Frobenius norm.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct KindError {
    pub component: String,
    pub matrices: usize,
    pub mean: f64,
    pub worst: f64,
    pub worst_tensor: String,
}

/// What [`quantize`] wrote.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QuantizeReport {
    pub dtype: String,
    /// Bytes of all tensors of the source.
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub matrices: usize,
    /// Tensors passed on byte for byte.
    pub unchanged_tensors: usize,
    /// Bytes of the quantised copy of an embedding that is also the head; 0 without one.
    pub tied_head_bytes: u64,
    pub kinds: Vec<KindError>,
}

/// Where the bytes of a tensor to be written come from.
enum Origin {
    /// The source's own.
    Same,
    /// The source's FP8 numbers in a tensor that stays unquantised.
    Dequantized,
    Codes,
    /// The scales of this matrix.
    Scales(String),
}

fn quantization(base: BaseDtype) -> Option<Quantization> {
    match base {
        BaseDtype::Int8 => Some(Quantization::Int8),
        BaseDtype::Int4 => Some(Quantization::Int4),
        BaseDtype::Fp8Block => Some(Quantization::fp8_blocks()),
        BaseDtype::AsStored | BaseDtype::Bf16 => None,
    }
}

struct Plan {
    specs: Vec<TensorSpec>,
    origins: BTreeMap<String, Origin>,
}

impl Plan {
    fn put(&mut self, name: String, dtype: DType, shape: Vec<usize>, origin: Origin) {
        self.specs.push(TensorSpec { name: name.clone(), dtype, shape });
        self.origins.insert(name, origin);
    }

    fn same(&mut self, source: &Checkpoint, name: &str) {
        if let Some(info) = source.info(name) {
            self.put(name.to_owned(), info.dtype, info.shape.clone(), Origin::Same);
        }
    }

    /// All tensors in the order of the forward pass, then those of layers that are neither run nor trained.
    fn of(config: &ModelConfig, source: &Checkpoint, to: &Quantization, base: BaseDtype) -> Plan {
        let mut plan = Plan { specs: Vec::new(), origins: BTreeMap::new() };
        let head = (config.tie_word_embeddings && base.takes_head())
            .then(|| ("lm_head.weight".to_owned(), vec![config.vocab_size, config.hidden_size], Component::Head));
        for (name, shape, component) in expected_tensors(config).into_iter().chain(head) {
            let stays = component == Component::Head && !base.takes_head();
            let stored = source.info(&name).map(|i| i.dtype);
            if is_linear_weight(&name, component) && !stays {
                let form = to.stored(shape[0], shape[1]);
                plan.put(
                    format!("{name}{}", form.scale_suffix),
                    form.scale_dtype,
                    form.scale_shape,
                    Origin::Scales(name.clone()),
                );
                plan.put(name, form.dtype, form.shape, Origin::Codes);
            } else if stored == Some(DType::F8E4M3) {
                plan.put(name, DType::BF16, shape, Origin::Dequantized);
            } else {
                plan.same(source, &name);
            }
        }
        let mtp: Vec<String> = source.names().filter(|n| is_mtp(config, n)).map(str::to_owned).collect();
        mtp.iter().for_each(|name| plan.same(source, name));
        plan
    }
}

/// Writes the weights and `config.json` of the checkpoint in `source` with its linear layers as `base` has them into the
/// folder `out`. `progress` hears bytes written and bytes in all. Files that are not weights are the caller's to copy.
///
/// # Errors
/// A checkpoint that does not fit its config, a form that is no quantisation or that the checkpoint already has, a value
/// that is not finite, or a refusal of the disk.
pub fn quantize(
    source: &Path,
    out: &Path,
    base: BaseDtype,
    threads: usize,
    max_shard_bytes: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<QuantizeReport, ModelError> {
    let (mut config, _) = ModelConfig::read(source)?;
    let (checkpoint, _) = Checkpoint::open_dir(source)?;
    let mut faults = faults_of(&config, &checkpoint, base);
    let to = quantization(base);
    if to.is_none() {
        faults.push(format!("`{base}` is no quantisation; take `int8`, `int4` or `fp8-block`"));
    }
    if let (Some(to), Some(from)) = (&to, &config.quantization)
        && to.word() == from.word()
    {
        faults.push(format!("the checkpoint is {} already", to.word()));
    }
    let Some(to) = to.filter(|_| faults.is_empty()) else {
        return Err(ModelError::checkpoint(source, faults));
    };
    let options = LoadOptions { threads, base, ..LoadOptions::default() };
    let files = FileSource::new(&checkpoint, &options, config.quantization.clone(), options.context());
    let Plan { specs, origins } = Plan::of(&config, &checkpoint, &to, base);
    let shapes: BTreeMap<String, Vec<usize>> =
        expected_tensors(&config).into_iter().map(|(name, shape, _)| (name, shape)).collect();
    let pairs = |name: &str| -> Result<(Frozen, Frozen), ModelError> {
        let tied = !shapes.contains_key(name);
        let from = if tied { "model.embed_tokens.weight" } else { name };
        let shape = shapes.get(from).map_or([0, 0], |s| [s[0], s[1]]);
        let stored = files.stored(from, shape[0], shape[1])?;
        let made = files.converted(from, stored.clone(), base)?;
        Ok((stored, made))
    };
    let mut errors: BTreeMap<Component, Vec<(f64, String)>> = BTreeMap::new();
    let (mut done, mut failed, mut unchanged, mut tied_head_bytes) = (0u64, None, 0usize, 0u64);
    let tied = config.tie_word_embeddings;
    let writer = ShardWriter::new(out, specs, max_shard_bytes, pt_metadata())?;
    let total = writer.total_size();
    let written = writer.write(|spec| {
        let name = spec.name.as_str();
        let bytes: Result<Vec<u8>, ModelError> = (|| match &origins[name] {
            Origin::Same => {
                unchanged += 1;
                let stored = checkpoint.bytes(name)?;
                let bytes = stored.to_vec();
                stored.release();
                Ok(bytes)
            }
            Origin::Dequantized => Ok(bytemuck::cast_slice(&checkpoint.to_bf16(name)?).to_vec()),
            Origin::Scales(of) => Ok(codes_and_scales(&pairs(of)?.1).1),
            Origin::Codes => {
                let (stored, made) = pairs(name)?;
                if let Some(component) = component_of(&config, name) {
                    let error = relative_error(files.pool(), &stored, &made);
                    errors.entry(component).or_default().push((error, name.to_owned()));
                }
                if tied && name == "lm_head.weight" {
                    tied_head_bytes = made.bytes() as u64;
                }
                // Comparing has touched the source once more.
                let from = if tied && name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
                checkpoint.bytes(from)?.release();
                Ok(codes_and_scales(&made).0)
            }
        })();
        let bytes = bytes.map_err(|e| {
            failed = Some(e);
            FormatError::NoTensor { path: source.to_owned(), tensor: name.to_owned() }
        })?;
        done += bytes.len() as u64;
        progress(done, total);
        Ok(Cow::Owned(bytes))
    });
    if let Some(error) = failed {
        return Err(error);
    }
    written?;
    let bytes_before = checkpoint.tensors().map(|t| t.byte_len() as u64).sum();
    config.quantization = Some(to);
    write_config(&config, out)?;
    let kinds: Vec<KindError> = errors.into_iter().map(|(component, list)| kind(component, &list)).collect();
    Ok(QuantizeReport {
        dtype: base.word().to_owned(),
        bytes_before,
        bytes_after: total,
        matrices: kinds.iter().map(|k| k.matrices).sum(),
        unchanged_tensors: unchanged,
        tied_head_bytes,
        kinds,
    })
}

fn kind(component: Component, list: &[(f64, String)]) -> KindError {
    let worst = list.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    KindError {
        component: component.to_string(),
        matrices: list.len(),
        mean: list.iter().map(|(e, _)| e).sum::<f64>() / list.len().max(1) as f64,
        worst: worst.map_or(0.0, |w| w.0),
        worst_tensor: worst.map_or_else(String::new, |w| w.1.clone()),
    }
}

fn write_config(config: &ModelConfig, out: &Path) -> Result<(), ModelError> {
    let path = out.join("config.json");
    let fail = |message: String| ModelError::Write { path: path.clone(), message };
    let text = serde_json::to_string_pretty(&config.to_json()).map_err(|e| fail(e.to_string()))? + "\n";
    loar_artifact::write_atomic(&path, text.as_bytes()).map_err(|e| fail(e.to_string()))?;
    Ok(())
}
