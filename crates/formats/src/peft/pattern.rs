//! PEFT's rules: which modules an adapter targets, which are saved whole, and rank and alpha of each.
//!
//! Module paths are those of the base model (`model.layers.0.self_attn.q_proj`). Source of the
//! rules: `peft/tuners/tuners_utils.py` (check_target_module_exists) and
//! `peft/utils/other.py` (get_pattern_key), version 0.21.

use regex::{Regex, RegexBuilder};

use super::{AdapterConfig, Targets};

/// Bound on the compiled size of one pattern in bytes.
const MAX_REGEX_BYTES: usize = 4 << 20;

/// Modules chosen by name or pattern.
#[derive(Debug, Clone)]
enum Rule {
    None,
    AllLinear,
    Names(Vec<String>),
    Whole(Regex),
}

/// The compiled rules of one [`AdapterConfig`].
#[derive(Debug, Clone)]
pub struct Matcher {
    targets: Rule,
    excluded: Rule,
    saved: Vec<String>,
    saved_path: Vec<Regex>,
    parameters: Vec<String>,
    layers: Option<Vec<usize>>,
    layer_index: Vec<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    r: usize,
    alpha: f64,
    rslora: bool,
}

/// Compiles `before (pattern) after`; the pattern must be valid on its own, so that its brackets
/// cannot reach outside. Capture groups of `before` and `after` come first.
fn compile(key: &str, before: &str, pattern: &str, after: &str) -> Result<Regex, String> {
    let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build();
    let explain = |e: regex::Error| {
        let text = e.to_string();
        let reason = text
            .lines()
            .last()
            .unwrap_or("")
            .trim()
            .trim_start_matches("error: ");
        let shown: String = pattern.chars().take(80).collect();
        format!(
            "`{key}`: pattern `{shown}` cannot be read: {reason}; write it without look-around and \
             back-references"
        )
    };
    build(pattern).map_err(explain)?;
    build(&format!("{before}(?:{pattern}){after}")).map_err(explain)
}

fn rule(key: &str, targets: &Targets, faults: &mut Vec<String>) -> Rule {
    match targets {
        Targets::None => Rule::None,
        Targets::AllLinear => Rule::AllLinear,
        Targets::Names(names) => Rule::Names(names.clone()),
        Targets::Regex(pattern) => match compile(key, r"\A", pattern, r"\z") {
            Ok(regex) => Rule::Whole(regex),
            Err(fault) => {
                faults.push(fault);
                Rule::None
            }
        },
    }
}

fn is_or_ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A linear layer of the families here that is neither the head nor the router.
fn is_linear(path: &str) -> bool {
    let leaf = path.rsplit('.').next().unwrap_or(path);
    leaf.ends_with("_proj") || leaf == "kv_a_proj_with_mqa"
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::None => false,
            Self::AllLinear => is_linear(path),
            Self::Names(names) => names.iter().any(|name| is_or_ends_with(path, name)),
            Self::Whole(regex) => regex.is_match(path),
        }
    }
}

impl Matcher {
    pub(super) fn new(config: &AdapterConfig) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let targets = rule("target_modules", &config.target_modules, &mut faults);
        let excluded = rule("exclude_modules", &config.exclude_modules, &mut faults);
        let mut all = |key: &str, before: &str, patterns: &[&str], after: &str| -> Vec<Regex> {
            let compiled = patterns.iter().map(|p| compile(key, before, p, after));
            compiled
                .filter_map(|r| r.map_err(|fault| faults.push(fault)).ok())
                .collect()
        };
        let saved = config.modules_to_save.clone();
        let texts: Vec<&str> = saved.iter().map(String::as_str).collect();
        let saved_path = all("modules_to_save", r"\A(?:.*\.)?", &texts, r"(?:\..*)?\z");
        let texts: Vec<&str> = config.layers_pattern.iter().map(String::as_str).collect();
        let layer_index = if texts.is_empty() {
            // any name before a number; greedy, so the last number in a path counts, as in PEFT
            all("layers_pattern", r"\A.*\.", &["[^.]*"], r"\.(\d+)\.")
        } else {
            all("layers_pattern", r"\A.*\.", &texts, r"\.(\d+)\.")
        };
        let texts: Vec<&str> = config
            .rank_pattern
            .iter()
            .map(|(k, _)| k.as_str())
            .collect();
        let ranks = all("rank_pattern", r"\A(?:.*\.)?", &texts, r"\z");
        let texts: Vec<&str> = config
            .alpha_pattern
            .iter()
            .map(|(k, _)| k.as_str())
            .collect();
        let alphas = all("alpha_pattern", r"\A(?:.*\.)?", &texts, r"\z");
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            targets,
            excluded,
            saved,
            saved_path,
            parameters: config.target_parameters.clone(),
            layers: config.layers_to_transform.clone(),
            layer_index,
            ranks: ranks
                .into_iter()
                .zip(config.rank_pattern.iter().map(|(_, r)| *r))
                .collect(),
            alphas: alphas
                .into_iter()
                .zip(config.alpha_pattern.iter().map(|(_, a)| *a))
                .collect(),
            r: config.r,
            alpha: config.lora_alpha,
            rslora: config.use_rslora,
        })
    }

    /// Whether a module gets A and B. The caller asks about linear layers and the embedding only:
    /// names may also fit modules that cannot be adapted.
    pub fn matches_target(&self, path: &str) -> bool {
        if self.excluded.matches(path) || self.saved_path.iter().any(|r| r.is_match(path)) {
            return false;
        }
        match (&self.targets, &self.layers) {
            // a path given in full is taken whatever its layer
            (Rule::Names(names), Some(_)) if names.iter().any(|name| name == path) => true,
            (Rule::Names(_), Some(layers)) => {
                self.targets.matches(path)
                    && self
                        .layer_of(path)
                        .is_some_and(|layer| layers.contains(&layer))
            }
            _ => self.targets.matches(path),
        }
    }

    fn layer_of(&self, path: &str) -> Option<usize> {
        self.layer_index
            .iter()
            .find_map(|regex| regex.captures(path))
            // the index is the last group: a pattern may bring groups of its own
            .and_then(|groups| {
                groups
                    .iter()
                    .flatten()
                    .last()
                    .and_then(|m| m.as_str().parse().ok())
            })
    }

    /// Whether a parameter that is no module (`….mlp.experts.gate_up_proj`) gets A and B.
    pub fn matches_parameter(&self, path: &str) -> bool {
        self.parameters
            .iter()
            .any(|name| is_or_ends_with(path, name))
    }

    /// Whether a module is stored whole. PEFT compares the ends of names without a dot, so `norm`
    /// also means `input_layernorm`.
    pub fn is_saved(&self, path: &str) -> bool {
        self.saved.iter().any(|name| path.ends_with(name.as_str()))
    }

    /// Rank and alpha of a module or parameter; the first pattern that fits counts.
    pub fn rank_alpha_for(&self, path: &str) -> (usize, f64) {
        let r = self
            .ranks
            .iter()
            .find(|(regex, _)| regex.is_match(path))
            .map_or(self.r, |(_, r)| *r);
        let alpha = self.alphas.iter().find(|(regex, _)| regex.is_match(path));
        (r, alpha.map_or(self.alpha, |(_, a)| *a))
    }

    /// Factor on B·A of a module or parameter: `alpha / r`, or `alpha / √r` with rsLoRA.
    pub fn scaling_for(&self, path: &str) -> f64 {
        let (r, alpha) = self.rank_alpha_for(path);
        let r = r.max(1) as f64;
        if self.rslora {
            alpha / r.sqrt()
        } else {
            alpha / r
        }
    }
}
