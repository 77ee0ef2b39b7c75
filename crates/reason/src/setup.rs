//! What an answer is asked with: the question, the strategy and everything that decides the result.
//!
//! A [`Setup`] is plain data and part of the record: the same setup, question, examples and source give the
//! same paths.

use loar_decode::Sampling;
use serde::{Deserialize, Serialize};

use crate::answer::ExtractOptions;
use crate::fuse::Method;
use crate::generate::Forcing;
use crate::generate::metered::Budgets;
use crate::policy::{ExtractWhen, Nature, Policy};
use crate::stop::Rule;
use crate::verify::Passage;

/// A question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Question {
    /// Its id in a file.
    pub id: Option<String>,
    /// Its text.
    pub text: String,
    /// Passages that are given with it.
    pub context: Vec<Passage>,
    /// How its answer is read.
    pub answer: ExtractOptions,
}

/// A worked example.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// Its id in the library.
    pub id: String,
    /// The question.
    pub question: String,
    /// The chain.
    pub rationale: String,
    /// The answer.
    pub answer: String,
    /// Who made it, from what.
    #[serde(default)]
    pub provenance: serde_json::Value,
}

/// Where examples come from: a library that retrieves them, or a list.
pub trait Examples {
    /// At most `k` examples for a question, the most fitting last; the same seed gives the same ones.
    ///
    /// # Errors
    /// Whatever keeps the library from answering.
    fn examples(&self, question: &Question, k: usize, seed: u64) -> Result<Vec<Example>, String>;
}

/// A fixed list: the first `k`.
impl Examples for Vec<Example> {
    fn examples(&self, _: &Question, k: usize, _: u64) -> Result<Vec<Example>, String> {
        Ok(self.iter().take(k).cloned().collect())
    }
}

/// How a question is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// At once, without a chain.
    Direct,
    /// One chain, then the answer.
    ZeroShot,
    /// One chain after worked examples.
    FewShot,
    /// Several chains, fused.
    #[default]
    SelfConsistency,
    /// Chains after examples that a library made of verified chains.
    AutoCot,
    /// The best of several chains by a score.
    BestOfN,
    /// Thinking ended at a cap, or drawn out.
    BudgetForcing,
}

/// Cutting paths by token confidence (DeepConf).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Paths that run to their end first.
    pub warm_up: usize,
    /// Share of them that the bar would have kept.
    pub keep: f64,
}

/// A score of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Mean log-probability of the chain.
    Logprob,
    /// What the model itself says of its answer.
    PTrue,
    /// Share of verifiers that pass it; none sure counts half.
    Verifiers,
}

impl Score {
    /// Its name among the features of a path.
    pub fn name(self) -> &'static str {
        match self {
            Score::Logprob => "logprob",
            Score::PTrue => "p_true",
            Score::Verifiers => "verifiers",
        }
    }
}

/// Everything that decides how a question is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// How.
    pub strategy: Strategy,
    /// What the model's prompt shows of it.
    pub nature: Nature,
    /// How the model is asked.
    pub policy: Policy,
    /// How tokens are chosen, with the seed.
    pub sampling: Sampling,
    /// Paths at most.
    pub paths: usize,
    /// Paths that run side by side.
    pub parallel: usize,
    /// Examples at most.
    pub examples: usize,
    /// How paths become one answer.
    pub method: Method,
    /// What weighs paths where the method weighs them.
    pub score: Score,
    /// Temperature of those weights.
    pub weight_temperature: f64,
    /// When there are enough paths.
    pub rule: Rule,
    /// Probability that an answer must reach, or it is not given.
    pub target_p: Option<f64>,
    /// What it may cost.
    pub budgets: Budgets,
    /// Whether paths are cut by token confidence.
    pub prune: Option<Prune>,
    /// Bounds on thinking.
    pub forcing: Option<Forcing>,
    /// Times a wrong step is sampled anew.
    pub repairs: usize,
    /// Names of the deterministic verifiers.
    pub verifiers: Vec<String>,
    /// Whether the model judges each step.
    pub judge: bool,
}

impl Setup {
    /// The defaults of a strategy under a policy.
    pub fn of(strategy: Strategy, nature: Nature, policy: Policy, seed: u64) -> Self {
        let many = matches!(strategy, Strategy::SelfConsistency | Strategy::BestOfN | Strategy::AutoCot);
        let sampled = many || nature == Nature::Reasoning;
        let mut policy = policy;
        if strategy == Strategy::ZeroShot && nature != Nature::Reasoning {
            policy.extract_when = ExtractWhen::Always;
        }
        let sampling = Sampling {
            temperature: if sampled { policy.temperature } else { 0.0 },
            top_p: if sampled { policy.top_p } else { 1.0 },
            seed,
            max_new_tokens: policy.max_new_tokens,
            stop: policy.stop.clone(),
            ..Sampling::default()
        };
        let close = format!("{}{}", policy.close, policy.extract);
        let forced = strategy == Strategy::BudgetForcing;
        let forcing = forced.then(|| Forcing { close, wait: policy.wait.clone(), ..Forcing::default() });
        let paths = if many { 8 } else { 1 };
        Self {
            strategy,
            nature,
            examples: match strategy {
                Strategy::FewShot | Strategy::AutoCot => policy.examples.max(3),
                _ => policy.examples,
            },
            sampling,
            paths,
            parallel: paths,
            method: if strategy == Strategy::BestOfN { Method::Best } else { Method::Posterior },
            score: Score::Logprob,
            weight_temperature: 0.0,
            rule: if many && strategy != Strategy::BestOfN {
                Rule::Consistency { threshold: 0.95 }
            } else {
                Rule::Never
            },
            target_p: None,
            budgets: Budgets::default(),
            prune: None,
            forcing,
            repairs: 0,
            verifiers: Vec::new(),
            judge: false,
            policy,
        }
    }

    /// Everything that cannot work, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.sampling.faults();
        if self.paths == 0 || self.parallel == 0 {
            faults.push("at least one path is needed".into());
        }
        if self.paths > 1 && self.sampling.temperature == 0.0 {
            faults.push(format!("{} paths at temperature 0 are all the same; raise it or take one", self.paths));
        }
        if self.target_p.is_some_and(|p| !(p > 0.0 && p < 1.0)) {
            faults.push("a target probability lies between 0 and 1".into());
        }
        if self.budgets.seconds.is_some_and(|s| !(s > 0.0 && s.is_finite())) || self.budgets.tokens == Some(0) {
            faults.push("a budget is above 0".into());
        }
        if self.prune.is_some_and(|p| p.warm_up == 0 || !(p.keep > 0.0 && p.keep <= 1.0)) {
            faults.push("pruning needs at least one warm-up path and a share to keep above 0 and at most 1".into());
        }
        if self.weight_temperature.is_nan() || self.weight_temperature < 0.0 {
            faults.push("the temperature of weights is at least 0".into());
        }
        let bounds = self.forcing.as_ref().is_some_and(|f| f.at_most.is_none() && f.waits == 0);
        if bounds {
            faults.push("budget forcing needs a cap on thinking tokens or a number of waits".into());
        }
        faults
    }

    /// Whether examples stand before the question.
    pub fn takes_examples(&self) -> bool {
        self.strategy != Strategy::Direct && self.strategy != Strategy::ZeroShot && self.examples > 0
    }
}
