//! PEFT's rules: which modules an adapter targets, which are saved whole, and rank and alpha of each.
//!
//! Module paths are those of the base model (`model.layers.0.self_attn.q_proj`). Source of the
//! rules: `peft/tuners/tuners_utils.py` (check_target_module_exists) and
//! `peft/utils/other.py` (get_pattern_key), version 0.21.

use regex::{Regex, RegexBuilder};

use super::{AdapterConfig, Targets};

/// Bound on the compiled size of one pattern in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Bound on the search cache of one pattern in bytes.
const MAX_CACHE_BYTES: usize = 256 << 10;
/// Bound on the entries of `rank_pattern` and `alpha_pattern`; one for each expert of V3 is 15 000.
const MAX_PATTERNS: usize = 1 << 17;
/// Bound on those of them that are more than a module name.
const MAX_REGEXES: usize = 2048;

/// An entry of `rank_pattern` or `alpha_pattern`: `(.*\.)?(entry)$`.
#[derive(Debug, Clone)]
enum Pattern {
    /// Letters, digits, `_` and dots, compared without a regular expression: adapters with a rank
    /// for each expert have thousands.
    Name(String),
    Regex(Regex),
}

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(path),
            Self::Name(name) => {
                let mut rest = path.chars().rev();
                // a dot of a pattern stands for any character but a line end
                let same = |p: char, c: char| p == c || (p == '.' && c != '\n');
                name.chars().rev().all(|p| rest.next().is_some_and(|c| same(p, c)))
                    && rest.next().is_none_or(|c| c == '.')
            }
        }
    }
}

fn patterns<T: Copy>(key: &str, entries: &[(String, T)], faults: &mut Vec<String>) -> Vec<(Pattern, T)> {
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    let regexes = entries.iter().filter(|(text, _)| !is_name(text)).count();
    if entries.len() > MAX_PATTERNS || regexes > MAX_REGEXES {
        faults.push(format!(
            "`{key}` has {} entries, {regexes} of them regular expressions; at most {MAX_PATTERNS} and \
             {MAX_REGEXES} are read",
            entries.len()
        ));
        return Vec::new();
    }
    let mut list = Vec::with_capacity(entries.len());
    for (text, value) in entries {
        if is_name(text) {
            list.push((Pattern::Name(text.clone()), *value));
            continue;
        }
        match compile(key, r"\A(?:.*\.)?", text, r"\z") {
            Ok(regex) => list.push((Pattern::Regex(regex), *value)),
            Err(fault) => faults.push(fault),
        }
    }
    list
}

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
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
    r: usize,
    alpha: f64,
    rslora: bool,
}

/// Compiles `before (pattern) after`; the pattern must be valid on its own, so that its brackets
/// cannot reach outside. Capture groups of `before` and `after` come first.
fn compile(key: &str, before: &str, pattern: &str, after: &str) -> Result<Regex, String> {
    let build =
        |text: &str| RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_CACHE_BYTES).build();
    let explain = |e: regex::Error| {
        let text = e.to_string();
        let reason = text.lines().last().unwrap_or("").trim().trim_start_matches("error: ");
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
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
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
            compiled.filter_map(|r| r.map_err(|fault| faults.push(fault)).ok()).collect()
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
        let ranks = patterns("rank_pattern", &config.rank_pattern, &mut faults);
        let alphas = patterns("alpha_pattern", &config.alpha_pattern, &mut faults);
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
            ranks,
            alphas,
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
                self.targets.matches(path) && self.layer_of(path).is_some_and(|layer| layers.contains(&layer))
            }
            _ => self.targets.matches(path),
        }
    }

    fn layer_of(&self, path: &str) -> Option<usize> {
        self.layer_index
            .iter()
            .find_map(|regex| regex.captures(path))
            // the index is the last group: a pattern may bring groups of its own
            .and_then(|groups| groups.iter().flatten().last().and_then(|m| m.as_str().parse().ok()))
    }

    /// Whether a parameter that is no module (`….mlp.experts.gate_up_proj`) gets A and B.
    pub fn matches_parameter(&self, path: &str) -> bool {
        self.parameters.iter().any(|name| is_or_ends_with(path, name))
    }

    /// Whether a module is stored whole. PEFT compares the ends of names without a dot, so `norm`
    /// also means `input_layernorm`.
    pub fn is_saved(&self, path: &str) -> bool {
        self.saved.iter().any(|name| path.ends_with(name.as_str()))
    }

    /// Rank and alpha of a module or parameter; the first pattern that fits counts.
    pub fn rank_alpha_for(&self, path: &str) -> (usize, f64) {
        let rank = self.ranks.iter().find(|(pattern, _)| pattern.matches(path));
        let alpha = self.alphas.iter().find(|(pattern, _)| pattern.matches(path));
        (rank.map_or(self.r, |(_, r)| *r), alpha.map_or(self.alpha, |(_, a)| *a))
    }

    /// Factor on B·A of a module or parameter: `alpha / r`, or `alpha / √r` with rsLoRA.
    pub fn scaling_for(&self, path: &str) -> f64 {
        let (r, alpha) = self.rank_alpha_for(path);
        let r = r.max(1) as f64;
        if self.rslora { alpha / r.sqrt() } else { alpha / r }
    }
}
