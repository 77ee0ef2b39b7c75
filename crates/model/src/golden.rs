//! Golden fixtures: what transformers and PEFT compute on a tiny checkpoint, against what this decoder computes.
//!
//! A fixture folder holds the checkpoint, `adapter/`, `golden.safetensors` and `golden.json`; a folder with only an
//! adapter and goldens is checked on a base given beside it. Every tensor is compared and reported, none is skipped
//! in silence.
use crate::{AdapterTensor, ExpertsLayout, LoadOptions, Model, ModelError, PackedBatch, Pass};
use loar_formats::safetensors::Checkpoint;
use loar_kernels::rng::Stream;
use loar_tape::{AdamW, AdamWConfig, Grads, ParamId, Tensor};
use std::path::{Path, PathBuf};

/// Absolute on logits, at logits of order one and below (fixtures/README: good f32 code agrees to 2e-5).
const LOGITS: f64 = 2e-5;
const LOSS: f64 = 1e-5;
/// Relative to the tensor's largest entry.
const GRADIENT: f64 = 1e-4;
const TRAIN_LOSS: f64 = 1e-4;
const GRAD_NORM: f64 = 1e-3;
/// Relative, after ten AdamW steps: entries whose gradient is rounding noise still move by the learning rate.
const TRAINED: f64 = 1e-3;

/// One compared tensor or number.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    pub name: String,
    pub max_abs: f64,
    /// Largest difference over the reference's largest entry.
    pub max_rel: f64,
    pub tolerance: f64,
    /// Whether the tolerance bounds `max_rel` (else `max_abs`).
    pub relative: bool,
    pub ok: bool,
    /// Why the bound is wider than usual.
    pub note: Option<String>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct GoldenReport {
    pub dir: PathBuf,
    pub comparisons: Vec<Comparison>,
}

impl GoldenReport {
    pub fn passed(&self) -> bool {
        !self.comparisons.is_empty() && self.comparisons.iter().all(|c| c.ok)
    }

    fn compare(&mut self, name: impl Into<String>, ours: &[f32], golden: &[f32], tolerance: f64, relative: bool) {
        let mut max_abs = if ours.len() == golden.len() { 0f64 } else { f64::INFINITY };
        let mut largest = 0f64;
        for (a, b) in ours.iter().zip(golden) {
            let d = (f64::from(*a) - f64::from(*b)).abs();
            // A NaN on either side is the largest difference there is.
            max_abs = if d.is_nan() { f64::INFINITY } else { max_abs.max(d) };
            largest = largest.max(f64::from(*b).abs());
        }
        let max_rel = if max_abs == 0.0 { 0.0 } else { max_abs / largest.max(f64::MIN_POSITIVE) };
        // Logits of a larger fixture have larger entries; the bound grows with them.
        let bound = if relative { tolerance } else { tolerance * largest.max(1.0) };
        let ok = if relative { max_rel <= bound } else { max_abs <= bound };
        self.comparisons.push(Comparison {
            name: name.into(),
            max_abs,
            max_rel,
            tolerance: bound,
            relative,
            ok,
            note: None,
        });
    }
}

struct Golden {
    file: Checkpoint,
    json: serde_json::Value,
    dir: PathBuf,
}

impl Golden {
    fn open(dir: &Path) -> Result<Golden, ModelError> {
        let file = Checkpoint::open_file(&dir.join("golden.safetensors"))?;
        let path = dir.join("golden.json");
        let json = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| ModelError::Golden { path, message: e.to_string() })?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => serde_json::Value::Null,
            Err(e) => return Err(ModelError::Golden { path, message: e.to_string() }),
        };
        Ok(Golden { file, json, dir: dir.to_owned() })
    }

    fn fault(&self, message: impl Into<String>) -> ModelError {
        ModelError::Golden { path: self.dir.clone(), message: message.into() }
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>, ModelError> {
        let bytes = self.file.bytes(name)?;
        let bytes: &[u8] = bytes.as_ref();
        match self.file.info(name).map(|i| i.dtype.name()) {
            Some("I32") => {
                Ok(bytes.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect())
            }
            Some("I64") => Ok(bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect()),
            other => Err(self.fault(format!("`{name}` should hold I32 or I64, it is {other:?}"))),
        }
    }

    fn number(&self, path: &[&str]) -> Result<f64, ModelError> {
        let mut v = &self.json;
        for p in path {
            v = &v[*p];
        }
        v.as_f64().ok_or_else(|| self.fault(format!("golden.json has no number `{}`", path.join("."))))
    }

    fn numbers(&self, key: &str) -> Result<Vec<f32>, ModelError> {
        let list = self.json[key].as_array().ok_or_else(|| self.fault(format!("golden.json has no list `{key}`")))?;
        Ok(list.iter().filter_map(|v| v.as_f64()).map(|v| v as f32).collect())
    }
}

/// The rows of `input_ids` without their padding.
struct Rows {
    width: usize,
    ids: Vec<Vec<u32>>,
    train: Vec<Vec<bool>>,
}

impl Rows {
    fn read(golden: &Golden, source: &Golden) -> Result<Rows, ModelError> {
        let shape = source
            .file
            .info("input_ids")
            .map(|i| i.shape.clone())
            .ok_or_else(|| golden.fault("`input_ids` is missing"))?;
        let (rows, width) = match shape[..] {
            [r, w] => (r, w),
            _ => return Err(golden.fault(format!("`input_ids` should be a matrix, it has shape {shape:?}"))),
        };
        let ids = source.integers("input_ids")?;
        let mask = source.integers("attention_mask").unwrap_or_else(|_| vec![1; rows * width]);
        let labels = source.integers("labels").unwrap_or_else(|_| vec![-100; rows * width]);
        let (mut all_ids, mut all_train) = (Vec::new(), Vec::new());
        for r in 0..rows {
            let len = mask[r * width..(r + 1) * width].iter().filter(|m| **m != 0).count();
            all_ids.push(ids[r * width..r * width + len].iter().map(|i| *i as u32).collect());
            all_train.push(labels[r * width..r * width + len].iter().map(|l| *l != -100).collect());
        }
        Ok(Rows { width, ids: all_ids, train: all_train })
    }

    fn batch(&self) -> PackedBatch {
        let docs: Vec<(&[u32], &[bool])> = self.ids.iter().zip(&self.train).map(|(i, t)| (&i[..], &t[..])).collect();
        PackedBatch::pack(&docs)
    }

    /// The golden's rows at real positions, in packed order.
    fn real(&self, padded: &[f32], vocab: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for (r, ids) in self.ids.iter().enumerate() {
            let start = r * self.width * vocab;
            out.extend_from_slice(padded.get(start..start + ids.len() * vocab).unwrap_or(&[]));
        }
        out
    }
}

/// Runs every comparison the fixture offers.
pub fn check(dir: &Path, base: Option<&Path>, options: &LoadOptions) -> Result<GoldenReport, ModelError> {
    let golden = Golden::open(dir)?;
    let mut report = GoldenReport { dir: dir.to_owned(), comparisons: Vec::new() };
    let base_dir = base.unwrap_or(dir);
    let adapter_dir = if dir.join("adapter").is_dir() { dir.join("adapter") } else { dir.to_owned() };
    let inputs = if golden.file.info("input_ids").is_some() { Golden::open(dir)? } else { Golden::open(base_dir)? };
    let rows = Rows::read(&golden, &inputs)?;
    let batch = rows.batch();
    let mut model = Model::load(base_dir, options)?;
    let vocab = model.config.vocab_size;
    model.check_ids(&batch.ids)?;
    if golden.file.info("base.logits").is_some() {
        report.compare(
            "base.logits",
            &model.logits(&batch).data,
            &rows.real(&golden.file.to_f32("base.logits")?, vocab),
            LOGITS,
            false,
        );
        let mean = model.loss(&batch).sum / batch.targets.len() as f64;
        report.compare("base_loss", &[mean as f32], &[golden.number(&["base_loss"])? as f32], LOSS, false);
    }
    if golden.file.info("base.greedy").is_some() {
        check_greedy(&model, &golden, &mut report)?;
    }
    if adapter_dir.join("adapter_config.json").is_file() {
        model.load_adapter(&adapter_dir)?;
        if golden.file.info("adapter.logits").is_some() {
            report.compare(
                "adapter.logits",
                &model.logits(&batch).data,
                &rows.real(&golden.file.to_f32("adapter.logits")?, vocab),
                LOGITS,
                false,
            );
        }
        if golden.file.info("merged.logits").is_some() {
            let mut merged = Model::load(base_dir, options)?;
            merged.load_adapter(&adapter_dir)?;
            merged.fold_adapter();
            report.compare(
                "merged.logits",
                &merged.logits(&batch).data,
                &rows.real(&golden.file.to_f32("merged.logits")?, vocab),
                LOGITS,
                false,
            );
        }
        if golden.json["train_losses"].is_array() {
            check_training(base_dir, &adapter_dir, options, &golden, &batch, &mut report)?;
        }
    }
    Ok(report)
}

/// Greedy continuation through the cache, and the cached logits against the full pass.
fn check_greedy(model: &Model, golden: &Golden, report: &mut GoldenReport) -> Result<(), ModelError> {
    let all: Vec<u32> = golden.integers("base.greedy")?.into_iter().map(|i| i as u32).collect();
    // 12 prompt tokens, then the greedy ones (fixtures/README).
    let prompt = 12.min(all.len());
    model.check_ids(&all)?;
    let mut cache = model.new_cache();
    let mut tokens = all[..prompt].to_vec();
    let mut fed = 0;
    while tokens.len() < all.len() {
        let logits = model.step(&mut [(&tokens[fed..], &mut cache)]);
        fed = tokens.len();
        let best =
            (0..logits.cols).max_by(|a, b| logits.data[*a].total_cmp(&logits.data[*b]).then(b.cmp(a))).unwrap_or(0);
        tokens.push(best as u32);
    }
    let as_f32 = |t: &[u32]| t.iter().map(|i| *i as f32).collect::<Vec<_>>();
    report.compare("base.greedy", &as_f32(&tokens), &as_f32(&all), 0.0, false);
    let flags = vec![false; all.len()];
    let full = model.logits(&PackedBatch::pack(&[(&all, &flags)]));
    let mut cache = model.new_cache();
    let mut stepped = Vec::new();
    for t in &all {
        stepped.extend(model.step(&mut [(std::slice::from_ref(t), &mut cache)]).data.into_vec());
    }
    report.compare("cached = full pass", &stepped, &full.data, LOGITS, false);
    Ok(())
}

/// What ten AdamW steps give.
struct Trajectory {
    losses: Vec<f32>,
    norms: Vec<f32>,
    first_grads: Vec<AdapterTensor>,
    trained: Vec<AdapterTensor>,
}

/// Relative size of the changes used to measure how far rounding alone can carry a trajectory: about eight units in
/// the last place of f32, a tenth of the disagreement that two good f32 codes show on gradients.
const NUDGE: f32 = 1e-6;
const NUDGED_RUNS: u64 = 8;
/// How many times the largest deviation of the nudged runs another code may be away.
const NUDGE_MARGIN: f64 = 4.0;

/// Trains the fixture's adapter; `nudge` = 0 starts exactly at it, otherwise each value is first changed by a relative
/// ±NUDGE at random.
fn train(
    base_dir: &Path,
    adapter_dir: &Path,
    options: &LoadOptions,
    golden: &Golden,
    batch: &PackedBatch,
    nudge: u64,
) -> Result<Trajectory, ModelError> {
    let mut model = Model::load(base_dir, options)?;
    model.load_adapter(adapter_dir)?;
    if nudge > 0 {
        for i in 0..model.params.len() {
            let noise = Stream::new(nudge, i as u32, 0);
            for (j, x) in model.params.get_mut(ParamId(i)).value.data.iter_mut().enumerate() {
                *x *= 1.0 + NUDGE * (2.0 * noise.uniform(j as u64) - 1.0);
            }
        }
    }
    let beta = |i: usize| {
        golden.json["adamw"]["betas"][i].as_f64().ok_or_else(|| golden.fault("golden.json has no adamw.betas"))
    };
    let config = AdamWConfig {
        beta1: beta(0)?,
        beta2: beta(1)?,
        eps: golden.number(&["adamw", "eps"])?,
        weight_decay: golden.number(&["adamw", "weight_decay"])?,
    };
    let (lr, clip) = (golden.number(&["adamw", "lr"])?, golden.number(&["adamw", "max_grad_norm"])?);
    let layout = if golden.file.names().any(|n| n.ends_with(".experts.lora_A.weight")) {
        ExpertsLayout::Fused
    } else {
        ExpertsLayout::PerExpert
    };
    let mut optimizer = AdamW::new(config, &model.params);
    let mut out = Trajectory { losses: Vec::new(), norms: Vec::new(), first_grads: Vec::new(), trained: Vec::new() };
    for step in 0..golden.number(&["adamw", "steps"])? as usize {
        let mut grads = Grads::new(&model.params);
        // Every other step recomputes its layers: the trajectory holds the equality of both ways too.
        let pass = Pass { dropout: None, checkpoint: if step % 2 == 1 { usize::MAX } else { 0 } };
        let loss = model.loss_and_grads(batch, &mut grads, 1.0 / batch.targets.len() as f32, &pass);
        if step == 0 {
            out.first_grads = model.adapter_tensors(layout, &|id| grads.get(id).map(|t: &Tensor| t.data.to_vec()));
        }
        out.losses.push((loss.sum / batch.targets.len() as f64) as f32);
        let norm = grads.norm();
        out.norms.push(norm as f32);
        // torch.nn.utils.clip_grad_norm_: scale by max / (norm + 1e-6), never up.
        grads.scale((clip / (norm + 1e-6)).min(1.0) as f32);
        optimizer.step(&model.context.pool, &mut model.params, &grads, &|_| lr, &|_| true);
    }
    out.trained = model.adapter_tensors(layout, &|id| Some(model.params.get(id).value.data.to_vec()));
    Ok(out)
}

/// First-step gradients, the losses and norms of ten AdamW steps, final values.
///
/// Some trajectories are chaotic: a router that changes its mind, or a curvature near the step size, multiplies rounding
/// differences about tenfold a step, and then no two f32 codes agree at the end. Where the plain bound fails, the
/// trajectory is run again from nudged starts; what the nudges alone move is widened accordingly and said, what they do
/// not move is not.
fn check_training(
    base_dir: &Path,
    adapter_dir: &Path,
    options: &LoadOptions,
    golden: &Golden,
    batch: &PackedBatch,
    report: &mut GoldenReport,
) -> Result<(), ModelError> {
    let ours = train(base_dir, adapter_dir, options, golden, batch, 0)?;
    compare_all("grad.", &ours.first_grads, GRADIENT, golden, report)?;
    report.compare("adapter_loss", &ours.losses[..1], &[golden.number(&["adapter_loss"])? as f32], LOSS, false);
    let first = report.comparisons.len();
    let (losses, norms) = (golden.numbers("train_losses")?, golden.numbers("grad_norms")?);
    if losses.len() != ours.losses.len() || norms.len() != ours.norms.len() {
        return Err(golden.fault(format!(
            "{} losses and {} norms for {} steps",
            losses.len(),
            norms.len(),
            ours.losses.len()
        )));
    }
    for step in 0..losses.len() {
        report.compare(
            format!("train_loss step {step}"),
            &ours.losses[step..=step],
            &losses[step..=step],
            TRAIN_LOSS,
            false,
        );
    }
    for step in 0..norms.len() {
        report.compare(
            format!("grad_norm step {step}"),
            &ours.norms[step..=step],
            &norms[step..=step],
            GRAD_NORM,
            true,
        );
    }
    compare_all("trained.", &ours.trained, TRAINED, golden, report)?;
    if report.comparisons[first..].iter().all(|c| c.ok) {
        return Ok(());
    }
    let mut reach = GoldenReport { dir: PathBuf::new(), comparisons: Vec::new() };
    for run in 1..=NUDGED_RUNS {
        let nudged = train(base_dir, adapter_dir, options, golden, batch, run)?;
        for step in 0..losses.len() {
            reach.compare(
                format!("train_loss step {step}"),
                &nudged.losses[step..=step],
                &ours.losses[step..=step],
                0.0,
                false,
            );
            reach.compare(
                format!("grad_norm step {step}"),
                &nudged.norms[step..=step],
                &ours.norms[step..=step],
                0.0,
                true,
            );
        }
        for (a, b) in nudged.trained.iter().zip(&ours.trained) {
            reach.compare(format!("trained.{}", a.name), &a.data, &b.data, 0.0, true);
        }
    }
    for c in report.comparisons[first..].iter_mut().filter(|c| !c.ok) {
        let moved = reach
            .comparisons
            .iter()
            .filter(|r| r.name == c.name)
            .map(|r| if c.relative { r.max_rel } else { r.max_abs })
            .fold(0f64, f64::max);
        let bound = NUDGE_MARGIN * moved;
        if bound > c.tolerance {
            c.note = Some(format!(
                "changing the start by {NUDGE:e} moves this by {moved:.1e}; strict bound {:.0e}",
                c.tolerance
            ));
            c.tolerance = bound;
            c.ok = (if c.relative { c.max_rel } else { c.max_abs }) <= bound;
        }
    }
    Ok(())
}

/// Compares by PEFT name, and reports names that only one side has.
fn compare_all(
    prefix: &str,
    ours: &[AdapterTensor],
    tolerance: f64,
    golden: &Golden,
    report: &mut GoldenReport,
) -> Result<(), ModelError> {
    for t in ours {
        let name = format!("{prefix}{}", t.name);
        match golden.file.info(&name) {
            Some(_) => report.compare(name.as_str(), &t.data, &golden.file.to_f32(&name)?, tolerance, true),
            None => report.compare(format!("{name} (not in the golden file)"), &[f32::NAN], &[0.0], tolerance, true),
        }
    }
    for name in
        golden.file.names().filter(|n| n.strip_prefix(prefix).is_some_and(|n| !ours.iter().any(|t| t.name == n)))
    {
        report.compare(format!("{name} (not in the model)"), &[f32::NAN], &[0.0], tolerance, true);
    }
    Ok(())
}

#[cfg(test)]
mod mutations;
