//! PEFT adapters and the parameters of this decoder: reading both expert layouts, writing either.
//!
//! Routed experts come as one pair of matrices a projection (`…experts.3.gate_proj.lora_A.weight`) or fused over all
//! experts by `target_parameters`: A `[r·E, in]` blocked by expert, B `[out, r·E]` strided by expert,
//! ΔW_e = s · B[:, e::E] · A[e·r .. (e+1)·r, :], with gate above up in one matrix. Fused gate and up of an expert share
//! their A: here both layers then point to one parameter, so gradients and optimiser steps are those of the fused one.
use crate::ModelError;
use crate::adapter::{AdapterSpec, dropout_stream, fresh_dora, named, scaling};
use crate::layer::{Mlp, SwigluMlp};
use crate::model::Model;
use loar_formats::peft::{AdapterConfig, AdapterKey, Matcher, Side, Targets as PeftTargets, parse_key};
use loar_formats::safetensors::{Checkpoint, TensorOut};
use loar_tape::{Linear, Lora, ParamId, ParamRole, ParamStore, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How the file names routed experts' tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExpertsLayout {
    /// One 2-D pair an expert and projection: PEFT with transformers 5, vLLM, SGLang and llama.cpp read it.
    #[default]
    PerExpert,
    /// PEFT's 3-D `target_parameters` layout.
    Fused,
}

/// What the saved config must say beyond ranks and scales.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    pub use_rslora: bool,
    pub use_dora: bool,
    pub dropout: f32,
    pub modules_to_save: Vec<String>,
}

impl Attached {
    pub fn from_spec(spec: &AdapterSpec) -> Attached {
        Attached {
            use_rslora: spec.use_rslora,
            use_dora: spec.use_dora,
            dropout: spec.dropout,
            modules_to_save: spec.modules_to_save.clone(),
        }
    }
}

/// A tensor of an adapter file.
pub struct AdapterTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

#[derive(Default)]
struct Pair {
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
}

impl Model {
    /// Attaches the adapter of a PEFT folder, trainable. All that does not fit is listed; nothing is loaded in part.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<(), ModelError> {
        if !self.params.is_empty() {
            return Err(ModelError::Spec { faults: vec!["the model already has an adapter".into()] });
        }
        let (config, tensors) = loar_formats::peft::read(dir)?;
        let matcher = config.matcher()?;
        let mut faults = Vec::new();
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        let mut embedding = Pair::default();
        let mut fused: BTreeMap<(String, &'static str), Pair> = BTreeMap::new();
        let mut saved: Vec<(String, String, Tensor)> = Vec::new();
        for name in tensors.names().map(str::to_owned).collect::<Vec<_>>() {
            let value = tensor(&tensors, &name)?;
            match parse_key(&matcher, &name) {
                Ok(AdapterKey::LoraA { module }) => pairs.entry(module).or_default().a = Some(value),
                Ok(AdapterKey::LoraB { module }) => pairs.entry(module).or_default().b = Some(value),
                Ok(AdapterKey::Magnitude { module }) => pairs.entry(module).or_default().magnitude = Some(value),
                Ok(AdapterKey::EmbeddingA { .. }) => embedding.a = Some(value),
                Ok(AdapterKey::EmbeddingB { .. }) => embedding.b = Some(value),
                Ok(AdapterKey::EmbeddingBase { .. }) => self.check_embedding_copy(&name, &value, &mut faults),
                Ok(AdapterKey::FusedExperts { module, parameter, side }) => {
                    let pair = fused.entry((module, parameter)).or_default();
                    match side {
                        Side::A => pair.a = Some(value),
                        Side::B => pair.b = Some(value),
                    }
                }
                Ok(AdapterKey::Saved { module, tensor }) => saved.push((module, tensor.to_owned(), value)),
                Err(reason) => faults.push(format!("tensor `{name}`: {reason}")),
            }
        }
        let mut params = ParamStore::default();
        self.set_embedding(&config, &matcher, embedding, &mut params, &mut faults);
        let loaded = self.set_pairs(&config, &matcher, &mut pairs, &mut params, &mut faults);
        for module in pairs.keys().filter(|m| !loaded.contains(*m)) {
            faults.push(format!("`{module}`: no such module in the base"));
        }
        for ((module, parameter), pair) in fused {
            self.set_fused(&config, &matcher, &module, parameter, pair, &mut params, &mut faults);
        }
        self.params = params;
        for (module, part, value) in saved {
            self.set_saved(&module, &part, value, &mut faults);
        }
        if !faults.is_empty() {
            self.detach();
            return Err(ModelError::adapter(dir, faults));
        }
        self.attached = Some(Attached {
            use_rslora: config.use_rslora,
            use_dora: config.use_dora,
            dropout: config.lora_dropout as f32,
            modules_to_save: config.modules_to_save.clone(),
        });
        Ok(())
    }

    /// Removes adapters that are not whole; replaced base weights cannot come back, so the model is then unusable and
    /// the caller drops it.
    fn detach(&mut self) {
        self.embed_lora = None;
        self.each_linear_mut(&mut |l| l.lora = None);
    }

    /// PEFT stores the base embedding beside its adapter; another base would make another model.
    fn check_embedding_copy(&self, name: &str, copy: &Tensor, faults: &mut Vec<String>) {
        let own = self.embed_tokens.to_f32(&self.params);
        let gap = if own.len() == copy.data.len() {
            own.iter().zip(&copy.data).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
        } else {
            f32::INFINITY
        };
        // Half a unit in the last place of bf16 at magnitude 1: the copy may have been stored narrower than the base.
        if gap > 4e-3 {
            faults.push(format!("tensor `{name}` differs from the base's embedding by up to {gap:e}; the adapter was made on another base"));
        }
    }

    fn set_embedding(
        &mut self,
        config: &AdapterConfig,
        matcher: &Matcher,
        pair: Pair,
        params: &mut ParamStore,
        faults: &mut Vec<String>,
    ) {
        let (Some(a), Some(b)) = (&pair.a, &pair.b) else {
            if pair.a.is_some() || pair.b.is_some() {
                faults.push(
                    "`model.embed_tokens`: half of the pair of lora_embedding_A and lora_embedding_B is missing".into(),
                );
            }
            return;
        };
        let path = "model.embed_tokens";
        let (vocab, d) = self.embed_tokens.shape(&self.params);
        let (rank, alpha) = matcher.rank_alpha_for(path);
        if (a.rows, a.cols) != (rank, vocab) || (b.rows, b.cols) != (d, rank) {
            faults.push(format!(
                "`{path}`: expected A [{rank}, {vocab}] and B [{d}, {rank}], found [{}, {}] and [{}, {}]",
                a.rows, a.cols, b.rows, b.cols
            ));
            return;
        }
        let scaling = scaling(alpha, rank, config.use_rslora);
        let a = params.add(format!("{path}.lora_embedding_A"), ParamRole::EmbeddingA, a.clone(), None);
        let b = params.add(format!("{path}.lora_embedding_B"), ParamRole::EmbeddingB, b.clone(), None);
        self.embed_lora = Some(Lora { a, b, rank, scaling, dropout: 0.0, dora: None, stream: 0 });
    }

    fn set_pairs(
        &mut self,
        config: &AdapterConfig,
        matcher: &Matcher,
        pairs: &mut BTreeMap<String, Pair>,
        params: &mut ParamStore,
        faults: &mut Vec<String>,
    ) -> BTreeSet<String> {
        let mut loaded = BTreeSet::new();
        self.each_linear_mut(&mut |l| {
            let Some(pair) = pairs.get_mut(&l.name) else { return };
            loaded.insert(l.name.clone());
            let (Some(a), Some(b)) = (pair.a.take(), pair.b.take()) else {
                faults.push(format!("`{}`: half of the pair of lora_A and lora_B is missing", l.name));
                return;
            };
            let (rank, alpha) = matcher.rank_alpha_for(&l.name);
            if (a.rows, a.cols) != (rank, l.in_features) {
                faults.push(format!(
                    "`{}.lora_A`: expected [{rank}, {}], found [{}, {}]",
                    l.name, l.in_features, a.rows, a.cols
                ));
                return;
            }
            if (b.rows, b.cols) != (l.out_features, rank) {
                faults.push(format!(
                    "`{}.lora_B`: expected [{}, {rank}], found [{}, {}]",
                    l.name, l.out_features, b.rows, b.cols
                ));
                return;
            }
            if config.use_dora != pair.magnitude.is_some() {
                faults.push(format!(
                    "`{}`: use_dora is {} but a magnitude vector is {}",
                    l.name,
                    config.use_dora,
                    if config.use_dora { "missing" } else { "present" }
                ));
                return;
            }
            let a = params.add(format!("{}.lora_A", l.name), ParamRole::LoraA, a, None);
            let b = params.add(format!("{}.lora_B", l.name), ParamRole::LoraB, b, None);
            let dora = match pair.magnitude.take() {
                None => None,
                Some(m) if m.data.len() == l.out_features => {
                    let dora = fresh_dora(params, l);
                    params.get_mut(dora.magnitude).value.data = m.data;
                    Some(dora)
                }
                Some(m) => {
                    faults.push(format!(
                        "`{}.lora_magnitude_vector`: expected [{}], found [{}]",
                        l.name,
                        l.out_features,
                        m.data.len()
                    ));
                    None
                }
            };
            l.lora = Some(Lora {
                a,
                b,
                rank,
                scaling: scaling(alpha, rank, config.use_rslora),
                dropout: config.lora_dropout as f32,
                dora,
                stream: dropout_stream(&l.name),
            });
        });
        loaded
    }

    fn experts_mut(&mut self, module: &str) -> Option<&mut Vec<SwigluMlp>> {
        let layer: usize = module.strip_prefix("model.layers.")?.strip_suffix(".mlp.experts")?.parse().ok()?;
        match &mut self.layers.get_mut(layer)?.mlp {
            Mlp::Moe(m) => Some(&mut m.experts),
            Mlp::Dense(_) => None,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn set_fused(
        &mut self,
        config: &AdapterConfig,
        matcher: &Matcher,
        module: &str,
        leaf: &'static str,
        pair: Pair,
        params: &mut ParamStore,
        faults: &mut Vec<String>,
    ) {
        let dropout = config.lora_dropout;
        let Some(experts) = self.experts_mut(module) else {
            faults.push(format!("`{module}`: the base has no experts there"));
            return;
        };
        let (Some(a), Some(b)) = (pair.a, pair.b) else {
            faults.push(format!("`{module}`: half of the pair of lora_A and lora_B is missing"));
            return;
        };
        let n = experts.len();
        let (hidden, width) = (experts[0].gate_proj.in_features, experts[0].gate_proj.out_features);
        let gate_up = leaf == "gate_up_proj";
        let (rank, alpha) = matcher.rank_alpha_for(&format!("{module}.{leaf}"));
        let (inp, out) = if gate_up { (hidden, 2 * width) } else { (width, hidden) };
        if (a.rows, a.cols) != (rank * n, inp) || (b.rows, b.cols) != (out, rank * n) {
            faults.push(format!(
                "`{module}` {leaf}: expected A [{}, {inp}] and B [{out}, {}] for {n} experts of rank {rank}, found [{}, {}] and [{}, {}]",
                rank * n,
                rank * n,
                a.rows,
                a.cols,
                b.rows,
                b.cols
            ));
            return;
        }
        if dropout != 0.0 {
            faults.push(format!(
                "`{module}`: lora_dropout {dropout} with fused experts, which PEFT does not allow either"
            ));
        }
        let s = scaling(alpha, rank, config.use_rslora);
        for (e, expert) in experts.iter_mut().enumerate() {
            let a_e = Tensor::new(rank, inp, a.data[e * rank * inp..(e + 1) * rank * inp].to_vec());
            let b_rows = |from: usize, rows: usize| {
                let mut t = Tensor::zeros(rows, rank);
                for r in 0..rows {
                    for j in 0..rank {
                        t.row_mut(r)[j] = b.data[(from + r) * rank * n + j * n + e];
                    }
                }
                t
            };
            let lora = |params: &mut ParamStore, l: &mut Linear, a: ParamId, b: Tensor| {
                let b = params.add(format!("{}.lora_B", l.name), ParamRole::LoraB, b, None);
                l.lora = Some(Lora { a, b, rank, scaling: s, dropout: 0.0, dora: None, stream: 0 });
            };
            let a_id = params.add(format!("{module}.{e}.{leaf}.lora_A"), ParamRole::LoraA, a_e, None);
            if gate_up {
                lora(params, &mut expert.gate_proj, a_id, b_rows(0, width));
                lora(params, &mut expert.up_proj, a_id, b_rows(width, width));
            } else {
                lora(params, &mut expert.down_proj, a_id, b_rows(0, out));
            }
        }
    }

    /// A whole module stored with the adapter (`modules_to_save`, or the base layer PEFT stores beside an embedding).
    fn set_saved(&mut self, module: &str, part: &str, value: Tensor, faults: &mut Vec<String>) {
        let before = self.params.len();
        let savable = self.savable().iter().any(|p| p == module);
        let module = module.to_owned();
        if savable {
            self.make_full(&mut |path| path == module);
        }
        match self.params.find(&format!("{module}.{part}")).filter(|id| id.0 >= before) {
            None => faults.push(format!("`{module}.{part}`: no such tensor in the base to replace")),
            Some(id) => {
                let slot = &mut self.params.get_mut(id).value;
                if slot.data.len() != value.data.len() {
                    faults.push(format!(
                        "`{module}.{part}`: expected [{}, {}], found {} numbers",
                        slot.rows,
                        slot.cols,
                        value.data.len()
                    ));
                } else {
                    slot.data = value.data;
                }
            }
        }
    }

    /// The tensors of the adapter file, with `get` giving each parameter's values (or gradients), zeros where it has none.
    pub fn adapter_tensors(
        &self,
        layout: ExpertsLayout,
        get: &dyn Fn(ParamId) -> Option<Vec<f32>>,
    ) -> Vec<AdapterTensor> {
        let read = |id: ParamId| {
            let p = self.params.get(id);
            Tensor::new(p.value.rows, p.value.cols, get(id).unwrap_or_else(|| vec![0.0; p.value.data.len()]))
        };
        let mut out = Vec::new();
        let mut put = |name: String, shape: Vec<usize>, data: Vec<f32>| {
            out.push(AdapterTensor { name: format!("base_model.model.{name}"), shape, data })
        };
        if let Some(l) = &self.embed_lora {
            let (a, b) = (read(l.a), read(l.b));
            put("model.embed_tokens.lora_embedding_A".into(), vec![a.rows, a.cols], a.data.into_vec());
            put("model.embed_tokens.lora_embedding_B".into(), vec![b.rows, b.cols], b.data.into_vec());
        }
        for l in self.linears() {
            let Some(lora) = &l.lora else { continue };
            if layout == ExpertsLayout::Fused && l.name.contains(".mlp.experts.") {
                continue;
            }
            let (a, b) = (read(lora.a), read(lora.b));
            put(format!("{}.lora_A.weight", l.name), vec![a.rows, a.cols], a.data.into_vec());
            put(format!("{}.lora_B.weight", l.name), vec![b.rows, b.cols], b.data.into_vec());
            if let Some(d) = &lora.dora {
                let m = read(d.magnitude);
                put(format!("{}.lora_magnitude_vector", l.name), vec![m.rows], m.data.into_vec());
            }
        }
        if layout == ExpertsLayout::Fused {
            for layer in &self.layers {
                if let Mlp::Moe(m) = &layer.mlp {
                    let module = format!("model.layers.{}.mlp.experts", layer.index);
                    let gate_up = fuse(&m.experts, &read, true);
                    let down = fuse(&m.experts, &read, false);
                    let inner = if gate_up.is_some() && down.is_some() { ".base_layer" } else { "" };
                    for (level, pair) in [(inner, gate_up), ("", down)] {
                        if let Some((a, b)) = pair {
                            put(format!("{module}{level}.lora_A.weight"), vec![a.rows, a.cols], a.data.into_vec());
                            put(format!("{module}{level}.lora_B.weight"), vec![b.rows, b.cols], b.data.into_vec());
                        }
                    }
                }
            }
        }
        for (id, p) in self.params.iter() {
            if matches!(p.role, ParamRole::Full | ParamRole::FullVector) {
                let shape = if p.value.cols == 1 { vec![p.value.rows] } else { vec![p.value.rows, p.value.cols] };
                put(p.name.clone(), shape, read(id).data.into_vec());
            }
        }
        out
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` in f32.
    ///
    /// # Errors
    /// Routed experts with DoRA or dropout in the fused layout, which has neither; a disk that refuses.
    pub fn save_adapter(&self, dir: &Path, layout: ExpertsLayout, base_name: &str) -> Result<(), ModelError> {
        if layout == ExpertsLayout::Fused {
            self.check_fused()?;
        }
        let tensors = self.adapter_tensors(layout, &|id| Some(self.params.get(id).value.data.to_vec()));
        let out: Vec<TensorOut> =
            tensors.iter().map(|t| TensorOut::f32(t.name.clone(), t.shape.clone(), &t.data)).collect();
        loar_formats::peft::write(dir, &self.adapter_config(layout, base_name), &out)?;
        Ok(())
    }

    /// PEFT's `target_parameters` knows no magnitudes, and refuses `lora_dropout`: saving there would drop a part.
    fn check_fused(&self) -> Result<(), ModelError> {
        let linears = self.linears();
        let experts: Vec<&Lora> =
            linears.iter().filter(|l| l.name.contains(".mlp.experts.")).filter_map(|l| l.lora.as_ref()).collect();
        let mut faults = Vec::new();
        if experts.iter().any(|l| l.dora.is_some()) {
            faults.push("the fused layout of experts has no DoRA magnitudes; save with one pair an expert".to_string());
        }
        if let Some(l) = experts.iter().find(|l| l.dropout > 0.0) {
            faults.push(format!(
                "the fused layout of experts does not allow lora_dropout {}; save with one pair an expert",
                l.dropout
            ));
        }
        if faults.is_empty() { Ok(()) } else { Err(ModelError::Spec { faults }) }
    }

    /// The config that describes the attached adapter: the commonest rank and alpha as defaults, patterns for the rest.
    pub fn adapter_config(&self, layout: ExpertsLayout, base_name: &str) -> AdapterConfig {
        let attached = self.attached.clone().unwrap_or_default();
        let alpha_of = |rank: usize, s: f32| {
            let scale = if attached.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            // The scale is kept in f32; its alpha is a short decimal again.
            (f64::from(s) * scale * 1e4).round() / 1e4
        };
        let mut modules: Vec<(String, usize, f64)> = Vec::new();
        if let Some(l) = &self.embed_lora {
            modules.push(("model.embed_tokens".into(), l.rank, alpha_of(l.rank, l.scaling)));
        }
        let mut target_parameters = BTreeSet::new();
        for l in self.linears() {
            let Some(lora) = &l.lora else { continue };
            if layout == ExpertsLayout::Fused && l.name.contains(".mlp.experts.") {
                target_parameters.insert(if l.name.ends_with("down_proj") {
                    "mlp.experts.down_proj"
                } else {
                    "mlp.experts.gate_up_proj"
                });
                continue;
            }
            modules.push((l.name.clone(), lora.rank, alpha_of(lora.rank, lora.scaling)));
        }
        let mut fused: Vec<(String, usize, f64)> = Vec::new();
        if layout == ExpertsLayout::Fused {
            for layer in &self.layers {
                let Mlp::Moe(m) = &layer.mlp else { continue };
                for (leaf, gate_up) in [("gate_up_proj", true), ("down_proj", false)] {
                    if let Some((rank, s)) = fused_rank(&m.experts, gate_up) {
                        fused.push((
                            format!("model.layers.{}.mlp.experts.{leaf}", layer.index),
                            rank,
                            alpha_of(rank, s),
                        ));
                    }
                }
            }
        }
        let (r, lora_alpha) = commonest(modules.iter().chain(&fused).map(|(_, r, a)| (*r, *a)));
        let mut config = AdapterConfig { r, lora_alpha, ..AdapterConfig::default() };
        for (path, rank, alpha) in modules.iter().chain(&fused) {
            if *rank != r {
                config.rank_pattern.push((path.replace('.', r"\."), *rank));
            }
            if *alpha != lora_alpha {
                config.alpha_pattern.push((path.replace('.', r"\."), *alpha));
            }
        }
        config.target_modules =
            if modules.is_empty() { PeftTargets::None } else { PeftTargets::Names(self.target_names(&modules)) };
        config.target_parameters = target_parameters.into_iter().map(str::to_owned).collect();
        config.use_rslora = attached.use_rslora;
        config.use_dora = attached.use_dora;
        config.lora_dropout = f64::from(attached.dropout);
        config.modules_to_save = attached.modules_to_save;
        config.base_model_name_or_path = Some(base_name.to_owned());
        config
    }

    /// Last names when they select exactly the adapted modules, else whole paths.
    fn target_names(&self, adapted: &[(String, usize, f64)]) -> Vec<String> {
        let chosen: BTreeSet<&str> = adapted.iter().map(|(p, _, _)| p.as_str()).collect();
        let leaves: BTreeSet<&str> = chosen.iter().filter_map(|p| p.rsplit('.').next()).collect();
        let mut all: Vec<String> = self.linears().iter().map(|l| l.name.clone()).collect();
        all.push("model.embed_tokens".into());
        let exact = all.iter().all(|p| leaves.iter().any(|n| named(p, n)) == chosen.contains(p.as_str()));
        let names = if exact { leaves } else { chosen };
        names.into_iter().map(str::to_owned).collect()
    }
}

fn tensor(file: &Checkpoint, name: &str) -> Result<Tensor, ModelError> {
    let shape = file.info(name).map(|i| i.shape.clone()).unwrap_or_default();
    let data = file.to_f32(name)?;
    let rows = shape.first().copied().unwrap_or(1);
    let cols = data.len().checked_div(rows).unwrap_or(0);
    Ok(Tensor::new(rows, cols, data))
}

fn commonest(pairs: impl Iterator<Item = (usize, f64)>) -> (usize, f64) {
    let mut counts: Vec<((usize, f64), usize)> = Vec::new();
    for p in pairs {
        match counts.iter_mut().find(|(q, _)| *q == p) {
            Some((_, n)) => *n += 1,
            None => counts.push((p, 1)),
        }
    }
    // First among equals, so that the file does not depend on hashing.
    let best = counts.iter().map(|(_, n)| *n).max().unwrap_or(0);
    counts.into_iter().find(|(_, n)| *n == best).map_or((8, 8.0), |(p, _)| p)
}

fn side(expert: &SwigluMlp, gate_up: bool) -> Vec<&Linear> {
    if gate_up { vec![&expert.gate_proj, &expert.up_proj] } else { vec![&expert.down_proj] }
}

/// Rank and scale the fused pair of a layer needs: gate and up with an A each stack to twice the rank.
fn fused_rank(experts: &[SwigluMlp], gate_up: bool) -> Option<(usize, f32)> {
    let mut rank = 0;
    let mut scale = None;
    for e in experts {
        let mut seen: Vec<ParamId> = Vec::new();
        let mut r = 0;
        for l in side(e, gate_up).iter().filter_map(|l| l.lora.as_ref()) {
            scale.get_or_insert(l.scaling);
            if !seen.contains(&l.a) {
                seen.push(l.a);
                r += l.rank;
            }
        }
        rank = rank.max(r);
    }
    scale.map(|s| (rank, s))
}

/// A `[r·E, in]` and B `[out, r·E]` of one fused projection.
fn fuse(experts: &[SwigluMlp], read: &dyn Fn(ParamId) -> Tensor, gate_up: bool) -> Option<(Tensor, Tensor)> {
    let (rank, scale) = fused_rank(experts, gate_up)?;
    let n = experts.len();
    let (inp, width) = (side(&experts[0], gate_up)[0].in_features, side(&experts[0], gate_up)[0].out_features);
    let out = if gate_up { 2 * width } else { width };
    let (mut a_all, mut b_all) = (Tensor::zeros(rank * n, inp), Tensor::zeros(out, rank * n));
    for (e, expert) in experts.iter().enumerate() {
        let mut placed: Vec<(ParamId, usize)> = Vec::new();
        let mut next = 0;
        for (half, l) in side(expert, gate_up).into_iter().enumerate() {
            let Some(lora) = &l.lora else { continue };
            let at = match placed.iter().find(|(id, _)| *id == lora.a) {
                Some((_, at)) => *at,
                None => {
                    let a = read(lora.a);
                    for j in 0..lora.rank {
                        a_all.row_mut(e * rank + next + j).copy_from_slice(a.row(j));
                    }
                    placed.push((lora.a, next));
                    next += lora.rank;
                    next - lora.rank
                }
            };
            let b = read(lora.b);
            let ratio = lora.scaling / scale;
            for o in 0..width {
                for j in 0..lora.rank {
                    b_all.row_mut(half * width + o)[(at + j) * n + e] = b.row(o)[j] * ratio;
                }
            }
        }
    }
    Some((a_all, b_all))
}
