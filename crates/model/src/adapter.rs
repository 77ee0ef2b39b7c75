//! Attaching a fresh adapter, or making every weight trainable.
//!
//! LoRA (Hu et al. 2021), rsLoRA's α/√r (Kalajdzievski 2023), DoRA (Liu et al. 2024). Block-wise FFN: each MLP's width
//! is cut into `ffn_blocks` parts with an independent low-rank update each. With gate and up cut by rows and down by
//! columns that is ordinary LoRA of rank `blocks · rank` whose B (gate, up) or A (down) is block-diagonal, so it is
//! trained under a mask and saved as plain LoRA of the same product.
use crate::ModelError;
use crate::model::Model;
use crate::peft::Attached;
use crate::random::stream_of;
use loar_tape::{BlockMask, Dora, Frozen, Linear, Lora, ParamId, ParamRole, ParamStore, Tensor, Weight};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Named groups of modules; the router, its bias and all norms are frozen in every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// q, k, v, o; with MLA: the query projections, `kv_a_proj_with_mqa`, `o_proj`. `kv_b_proj` is left out because
    /// servers that absorb it ignore its adapter in silence; name it to have it.
    Attention,
    /// Every linear layer of the body, routed experts too.
    AllLinear,
    /// Dense MLPs and shared experts.
    Mlp,
    /// Routed experts.
    Experts,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    Preset(Preset),
    /// PEFT's list: a module matches by its whole path or by ending in `.name`.
    Modules(Vec<String>),
    /// PEFT's string: the whole path must match.
    Regex(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSpec {
    pub rank: usize,
    pub alpha: f64,
    /// Dropout on the adapter's input.
    pub dropout: f32,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub targets: Targets,
    /// Modules taken out again, by whole path or last name.
    pub exclude: Vec<String>,
    /// Only these layers.
    pub layers: Option<Vec<usize>>,
    /// Rank by module, keys matched as PEFT does: `(.*\.)?(key)$`.
    pub rank_pattern: BTreeMap<String, usize>,
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Independent updates along the width of each MLP.
    pub ffn_blocks: Option<usize>,
    /// Trained whole and saved with the adapter.
    pub modules_to_save: Vec<String>,
}

impl AdapterSpec {
    pub fn new(rank: usize, alpha: f64, targets: Targets) -> AdapterSpec {
        AdapterSpec {
            rank,
            alpha,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            targets,
            exclude: Vec::new(),
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            ffn_blocks: None,
            modules_to_save: Vec::new(),
        }
    }
}

/// Scale of an adapter's product: α/r, or α/√r.
pub(crate) fn scaling(alpha: f64, rank: usize, use_rslora: bool) -> f32 {
    (if use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }) as f32
}

/// PEFT's rule for a name in a list.
pub(crate) fn named(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|head| head.ends_with('.'))
}

/// PEFT's rule for `modules_to_save`: the end of the path, without a dot before it, so `norm` is every norm.
fn saved_by(path: &str, name: &str) -> bool {
    path.ends_with(name)
}

/// Where a module sits, for the presets.
fn in_preset(preset: Preset, path: &str) -> bool {
    let attention = path.contains(".self_attn.");
    let routed = path.contains(".mlp.experts.");
    match preset {
        Preset::Attention => attention && !path.ends_with(".kv_b_proj"),
        Preset::AllLinear => attention || path.contains(".mlp."),
        Preset::Mlp => path.contains(".mlp.") && !routed,
        Preset::Experts => routed,
    }
}

fn layer_of(path: &str) -> Option<usize> {
    path.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

pub(crate) fn full_match(pattern: &str) -> Result<regex::Regex, String> {
    regex::Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|e| format!("`{pattern}` is not a pattern this program can match: {e}"))
}

/// Patterns compiled once; values looked up by module path.
struct Pattern<T>(Vec<(regex::Regex, T)>);

impl<T: Copy> Pattern<T> {
    fn new(map: &BTreeMap<String, T>, faults: &mut Vec<String>) -> Pattern<T> {
        let mut compiled = Vec::new();
        for (key, value) in map {
            match full_match(&format!(r"(?:.*\.)?(?:{key})")) {
                Ok(r) => compiled.push((r, *value)),
                Err(e) => faults.push(e),
            }
        }
        Pattern(compiled)
    }

    fn get(&self, path: &str) -> Option<T> {
        self.0.iter().find(|(r, _)| r.is_match(path)).map(|(_, v)| *v)
    }
}

impl Model {
    /// Modules an adapter may target: every linear of the body, `lm_head`, `model.embed_tokens`.
    fn module_paths(&self) -> Vec<String> {
        let mut paths = vec!["model.embed_tokens".to_string()];
        paths.extend(self.linears().iter().map(|l| l.name.clone()));
        paths
    }

    fn select(&self, spec: &AdapterSpec, faults: &mut Vec<String>) -> BTreeSet<String> {
        let paths = self.module_paths();
        let regex = match &spec.targets {
            Targets::Regex(p) => full_match(p).map_err(|e| faults.push(e)).ok(),
            _ => None,
        };
        let wanted = |path: &str| match &spec.targets {
            Targets::Preset(p) => in_preset(*p, path),
            Targets::Modules(names) => names.iter().any(|n| named(path, n)),
            Targets::Regex(_) => regex.as_ref().is_some_and(|r| r.is_match(path)),
        };
        if let Targets::Modules(names) = &spec.targets {
            for n in names.iter().filter(|n| !paths.iter().any(|p| named(p, n))) {
                faults.push(format!("target `{n}` names no module of this model; it has {}", leaf_names(&paths)));
            }
        }
        if let Some(layers) = &spec.layers {
            for l in layers.iter().filter(|l| **l >= self.config.num_hidden_layers) {
                faults.push(format!(
                    "layer {l} does not exist; the model has layers 0 to {}",
                    self.config.num_hidden_layers - 1
                ));
            }
        }
        let chosen: BTreeSet<String> = paths
            .iter()
            .filter(|p| wanted(p) && !spec.exclude.iter().any(|e| named(p, e)))
            .filter(|p| spec.layers.as_ref().is_none_or(|ls| layer_of(p).is_some_and(|l| ls.contains(&l))))
            .cloned()
            .collect();
        if let Targets::Modules(names) = &spec.targets {
            let left_out = |n: &&String| paths.iter().any(|p| named(p, n)) && !chosen.iter().any(|p| named(p, n));
            for n in names.iter().filter(left_out) {
                faults.push(format!("target `{n}` is left without a module by `layers` and `exclude`"));
            }
        }
        if chosen.is_empty() && spec.modules_to_save.is_empty() {
            faults.push(format!("the targets match no module; the model has {}", leaf_names(&paths)));
        }
        chosen
    }

    /// Adds a fresh adapter: A ~ U(−1/√in, 1/√in), B = 0, as PEFT initialises. Faults are reported together and leave
    /// the model as it was.
    pub fn attach(&mut self, spec: &AdapterSpec, seed: u64) -> Result<(), ModelError> {
        let mut faults = Vec::new();
        if !self.params.is_empty() {
            faults.push("the model already has trainable parameters".to_string());
        }
        if spec.rank == 0 {
            faults.push("rank 0 trains nothing; use 8 to 64".to_string());
        }
        if !(0.0..1.0).contains(&spec.dropout) {
            faults.push(format!("dropout {} is outside 0 to 1", spec.dropout));
        }
        let chosen = self.select(spec, &mut faults);
        let ranks = Pattern::new(&spec.rank_pattern, &mut faults);
        let alphas = Pattern::new(&spec.alpha_pattern, &mut faults);
        for m in spec.modules_to_save.iter().filter(|m| !self.savable().iter().any(|p| saved_by(p, m))) {
            faults.push(format!("`{m}` in modules_to_save names no module"));
        }
        if let Some(b) = spec.ffn_blocks {
            let widths = self
                .linears()
                .iter()
                .filter(|l| chosen.contains(&l.name))
                .filter_map(|l| mlp_width(l))
                .collect::<BTreeSet<_>>();
            if b == 0 || widths.iter().any(|w| *w < b) {
                faults.push(format!("ffn_blocks = {b} does not cut MLPs of width {widths:?}"));
            }
            if widths.is_empty() {
                faults.push("ffn_blocks is set but no MLP is among the targets".to_string());
            }
            if spec.use_dora {
                faults.push("ffn_blocks and DoRA do not combine: a row norm spans all blocks".to_string());
            }
        }
        if !faults.is_empty() {
            return Err(ModelError::Spec { faults });
        }
        let mut params = ParamStore::default();
        if chosen.contains("model.embed_tokens") {
            self.embed_lora = Some(self.fresh_embedding(&mut params, spec, &ranks, &alphas, seed));
        }
        let saved_modules = spec.modules_to_save.clone();
        self.each_linear_mut(&mut |l| {
            if chosen.contains(&l.name) && !saved_modules.iter().any(|m| saved_by(&l.name, m)) {
                let rank = ranks.get(&l.name).unwrap_or(spec.rank);
                let alpha = alphas.get(&l.name).unwrap_or(spec.alpha);
                let lora = fresh(&mut params, l, spec, rank, alpha, seed);
                l.lora = Some(lora);
            }
        });
        self.params = params;
        for m in &spec.modules_to_save {
            self.make_full(&mut |path| saved_by(path, m));
        }
        self.attached = Some(Attached::from_spec(spec));
        Ok(())
    }

    fn fresh_embedding(
        &self,
        params: &mut ParamStore,
        spec: &AdapterSpec,
        ranks: &Pattern<usize>,
        alphas: &Pattern<f64>,
        seed: u64,
    ) -> Lora {
        let path = "model.embed_tokens";
        let (rank, alpha) = (ranks.get(path).unwrap_or(spec.rank), alphas.get(path).unwrap_or(spec.alpha));
        let (vocab, d) = self.embed_tokens.shape(&self.params);
        // PEFT: A = 0, B ~ N(0, 1) for embeddings.
        let mut b = Tensor::zeros(d, rank);
        stream_of(seed, "model.embed_tokens.lora_embedding_B").fill_normal(0, 1.0, &mut b.data);
        let a = params.add(format!("{path}.lora_embedding_A"), ParamRole::EmbeddingA, Tensor::zeros(rank, vocab), None);
        let b = params.add(format!("{path}.lora_embedding_B"), ParamRole::EmbeddingB, b, None);
        Lora { a, b, rank, scaling: scaling(alpha, rank, spec.use_rslora), dropout: 0.0, dora: None, stream: 0 }
    }

    /// Makes every weight of the base trainable in f32, except the router and its bias. The tied head stays tied.
    pub fn train_full(&mut self) -> Result<(), ModelError> {
        if !self.params.is_empty() {
            return Err(ModelError::Spec { faults: vec!["the model already has trainable parameters".into()] });
        }
        self.make_full(&mut |_| true);
        Ok(())
    }

    /// Turns the chosen base weights into parameters.
    pub(crate) fn make_full(&mut self, wanted: &mut dyn FnMut(&str) -> bool) {
        let mut params = std::mem::take(&mut self.params);
        let tied = self.config.tie_word_embeddings;
        if wanted("model.embed_tokens") {
            thaw(&mut params, "model.embed_tokens.weight", ParamRole::Full, &mut self.embed_tokens);
        }
        for layer in &mut self.layers {
            layer.each_norm_mut(&mut |path, w| {
                if wanted(&path) {
                    thaw(&mut params, &format!("{path}.weight"), ParamRole::FullVector, w);
                }
            });
            layer.each_linear_mut(&mut |l| {
                if wanted(&l.name) {
                    thaw_linear(&mut params, l);
                }
            });
        }
        if wanted("model.norm") {
            thaw(&mut params, "model.norm.weight", ParamRole::FullVector, &mut self.norm);
        }
        if tied && self.embed_tokens.param().is_some() {
            self.lm_head.weight = self.embed_tokens.clone();
        } else if wanted("lm_head") {
            thaw_linear(&mut params, &mut self.lm_head);
        }
        self.params = params;
    }

    /// Modules that `modules_to_save` may name.
    pub(crate) fn savable(&self) -> Vec<String> {
        let mut paths = self.module_paths();
        paths.push("model.norm".into());
        for layer in &self.layers {
            layer.each_norm(&mut |path, _| paths.push(path));
        }
        paths
    }
}

fn thaw(params: &mut ParamStore, name: &str, role: ParamRole, w: &mut Weight) -> Option<ParamId> {
    if w.param().is_some() {
        return w.param();
    }
    let (rows, cols) = w.shape(params);
    let id = params.add(name.to_string(), role, Tensor::new(rows, cols, w.to_f32(params)), None);
    *w = Weight::Param(id);
    Some(id)
}

fn thaw_linear(params: &mut ParamStore, l: &mut Linear) {
    let name = l.name.clone();
    thaw(params, &format!("{name}.weight"), ParamRole::Full, &mut l.weight);
    if let Some(b) = &mut l.bias {
        thaw(params, &format!("{name}.bias"), ParamRole::FullVector, b);
    }
}

/// Width of the MLP a linear belongs to (its cut side), if it is one of gate, up, down.
fn mlp_width(l: &Linear) -> Option<usize> {
    match l.name.rsplit('.').next() {
        Some("gate_proj" | "up_proj") => Some(l.out_features),
        Some("down_proj") => Some(l.in_features),
        _ => None,
    }
}

fn fresh(params: &mut ParamStore, l: &Linear, spec: &AdapterSpec, rank: usize, alpha: f64, seed: u64) -> Lora {
    let s = scaling(alpha, rank, spec.use_rslora);
    let blocks = spec.ffn_blocks.filter(|_| mlp_width(l).is_some());
    let mask = blocks.map(|blocks| BlockMask { blocks });
    let rank = rank * blocks.unwrap_or(1);
    let down = l.name.ends_with(".down_proj");
    let (a_mask, b_mask) = if down { (mask, None) } else { (None, mask) };
    // kaiming_uniform(a = √5) of PyTorch: U(−1/√fan_in, 1/√fan_in); a block of down_proj sees its own inputs only.
    let fan_in = if down { l.in_features / blocks.unwrap_or(1) } else { l.in_features };
    let bound = 1.0 / (fan_in as f32).sqrt();
    let mut a = Tensor::zeros(rank, l.in_features);
    stream_of(seed, &format!("{}.lora_A", l.name)).fill_uniform(0, -bound, bound, &mut a.data);
    let a = params.add(format!("{}.lora_A", l.name), ParamRole::LoraA, a, a_mask);
    let b = params.add(format!("{}.lora_B", l.name), ParamRole::LoraB, Tensor::zeros(l.out_features, rank), b_mask);
    let dora = spec.use_dora.then(|| fresh_dora(params, l));
    Lora { a, b, rank, scaling: s, dropout: spec.dropout, dora, stream: dropout_stream(&l.name) }
}

pub(crate) fn dropout_stream(name: &str) -> u64 {
    stream_of(0, name).seed
}

pub(crate) fn row_norms2(w: &Frozen) -> Vec<f32> {
    let data = Weight::Frozen(w.clone()).to_f32(&ParamStore::default());
    data.chunks_exact(w.cols).map(|r| r.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() as f32).collect()
}

/// Magnitudes start at the row norms of the frozen weight.
pub(crate) fn fresh_dora(params: &mut ParamStore, l: &Linear) -> Dora {
    let base_norm2 = match &l.weight {
        Weight::Frozen(w) => row_norms2(w),
        Weight::Param(_) => unreachable!("adapters attach to frozen weights"),
    };
    let m = base_norm2.iter().map(|x| x.sqrt()).collect();
    let magnitude = params.add(
        format!("{}.lora_magnitude_vector", l.name),
        ParamRole::Magnitude,
        Tensor::new(l.out_features, 1, m),
        None,
    );
    Dora { magnitude, base_norm2: Arc::new(base_norm2) }
}

/// The last names of module paths, once each, for messages.
fn leaf_names(paths: &[String]) -> String {
    let leaves: BTreeSet<&str> = paths.iter().filter_map(|p| p.rsplit('.').next()).collect();
    leaves.into_iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ")
}
