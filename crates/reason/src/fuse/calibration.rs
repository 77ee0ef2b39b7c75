//! Everything that was measured for one setting, and the file that keeps it.
//!
//! A calibration belongs to a model, adapter, template and sampler (by digest), to a version of answer
//! extraction and to versions of verifiers. What it says of answers made with anything else is not
//! calibrated, and [`Keys::differences`] names what differs. JSON, versioned, written atomically.

use super::confidence::Confidence;
use super::conformal::Threshold;
use super::independent::{self, Alternatives};
use super::pattern::Pattern;
use super::posterior::{self, Correlated};
use super::ratio::Ratio;
use super::score::Outcome;
use super::special::{logit, sigmoid};
use super::vote::{vote, weighted};
use super::{Ballot, Fused, Groups, Method, Term};
use loar_artifact::ArtifactError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Version of the file.
pub const VERSION: u32 = 1;

/// What a calibration belongs to. Digests are hexadecimal SHA-256 or any other stable name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// Digest of the model.
    pub model: String,
    /// Digest of the adapter, empty without one.
    pub adapter: String,
    /// Digest of the prompt template.
    pub template: String,
    /// Digest of the sampler's options.
    pub sampler: String,
    /// Version of answer extraction.
    pub extractor: u32,
    /// Version of each verifier.
    pub verifiers: BTreeMap<String, u32>,
}

impl Keys {
    /// Names of what differs from `other`; empty when the calibration holds.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |name: &str, same: bool| {
            if !same {
                found.push(name.to_owned());
            }
        };
        check("model", self.model == other.model);
        check("adapter", self.adapter == other.adapter);
        check("template", self.template == other.template);
        check("sampler", self.sampler == other.sampler);
        check("extractor", self.extractor == other.extractor);
        for name in self.verifiers.keys().chain(other.verifiers.keys().filter(|n| !self.verifiers.contains_key(*n))) {
            check(&format!("verifier {name}"), self.verifiers.get(name) == other.verifiers.get(name));
        }
        found
    }
}

/// All that fusion needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Version of the file.
    pub version: u32,
    /// What it belongs to.
    pub keys: Keys,
    /// Questions it was measured on; 0: nothing was measured.
    pub questions: usize,
    /// How paths are fused.
    pub method: Method,
    /// α, β, g, K.
    pub correlated: Correlated,
    /// Probability that the path at each position is right, and K, of the independent form.
    pub witnesses: (Vec<f64>, f64),
    /// Agreement patterns, when there are few experts.
    pub pattern: Option<Pattern>,
    /// Worth of each verifier.
    pub ratios: BTreeMap<String, Ratio>,
    /// Worth of features.
    pub confidence: Option<Confidence>,
    /// Temperature of the weighted vote; none: infinite, the plain vote.
    pub temperature: Option<f64>,
    /// How each calibration question came out under a fit that did not see it.
    pub outcomes: Vec<Outcome>,
}

/// Why a calibration file is no use.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// It cannot be read.
    #[error("cannot read calibration `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not one.
    #[error("`{}` is not a calibration file: {source}; make one with `loar fuse --save-calibration`", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// It is of another version.
    #[error("calibration `{}` has version {found}, this program reads {VERSION}; make it again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] ArtifactError),
}

impl Calibration {
    /// What is assumed before anything was measured.
    pub fn uncalibrated(method: Method) -> Self {
        Self {
            version: VERSION,
            keys: Keys::default(),
            questions: 0,
            method,
            correlated: Correlated::UNCALIBRATED,
            witnesses: (vec![0.5], 10.0),
            pattern: None,
            ratios: BTreeMap::new(),
            confidence: None,
            temperature: None,
            outcomes: Vec::new(),
        }
    }

    /// The threshold for a stated risk.
    pub fn threshold(&self, risk: f64) -> Threshold {
        Threshold::at_risk(&self.outcomes, risk)
    }

    /// Fuses by [`Calibration::method`].
    pub fn fuse(&self, ballot: &Ballot) -> Fused {
        self.fuse_by(self.method, ballot)
    }

    /// Fuses by another method. Best and weighted votes without a fitted confidence use the first feature
    /// as it is (higher is better), without features they are the plain vote.
    pub fn fuse_by(&self, method: Method, ballot: &Ballot) -> Fused {
        let classes = &ballot.classes;
        let groups = Groups::of(classes);
        match method {
            Method::Vote => vote(classes),
            Method::Best => weighted(classes, &self.path_confidence(ballot), 0.0),
            Method::Weighted => {
                weighted(classes, &self.path_confidence(ballot), self.temperature.unwrap_or(f64::INFINITY))
            }
            Method::Independent => {
                let at = |i: usize| self.witnesses.0.get(i).or(self.witnesses.0.last()).copied().unwrap_or(0.5);
                let p: Vec<f64> = (0..classes.len()).map(at).map(|p| sigmoid(logit(p))).collect();
                let alternatives = ballot.options.map_or(Alternatives::Open(self.witnesses.1), Alternatives::Closed);
                let (mut each, none) = independent::terms(&groups, &p, alternatives);
                self.add_evidence(ballot, &groups, &mut each, true);
                Fused::normalise(method, groups, each, none)
            }
            Method::Posterior => {
                let (mut each, none) = posterior::terms(&groups, &self.correlated, ballot.options);
                self.add_evidence(ballot, &groups, &mut each, false);
                Fused::normalise(method, groups, each, none)
            }
            Method::Pattern => {
                let (mut each, none) = match &self.pattern {
                    Some(pattern) => pattern.terms(classes, &groups, ballot.options),
                    None => posterior::terms(&groups, &self.correlated, ballot.options),
                };
                self.add_evidence(ballot, &groups, &mut each, false);
                Fused::normalise(method, groups, each, none)
            }
        }
    }

    /// Confidence of each path for votes.
    fn path_confidence(&self, ballot: &Ballot) -> Vec<Option<f64>> {
        match &self.confidence {
            Some(confidence) => confidence.log_odds(ballot).into_iter().map(Some).collect(),
            None => ballot.features.values().next().cloned().unwrap_or_else(|| vec![None; ballot.classes.len()]),
        }
    }

    /// Adds what features and verifiers say; `each_path`: verdicts of paths count as independent.
    fn add_evidence(&self, ballot: &Ballot, groups: &Groups, terms: &mut [Vec<Term>], each_path: bool) {
        if let Some(confidence) = self.confidence.as_ref().filter(|c| c.weight > 0.0) {
            for (terms, evidence) in terms.iter_mut().zip(confidence.evidence(ballot, groups)) {
                terms.push(Term::new("confidence", confidence.weight * evidence));
            }
        }
        for (name, ratio) in self.ratios.iter().filter(|(_, ratio)| ratio.is_worth_something()) {
            let Some(verdicts) = ballot.verdicts.get(name) else { continue };
            for (terms, (_, paths)) in terms.iter_mut().zip(&groups.classes) {
                let of = paths.iter().filter_map(|&i| verdicts.get(i).copied());
                let value = if each_path { of.map(|v| ratio.of_path(v)).sum() } else { ratio.of_class(of) };
                terms.push(Term::new(format!("verifier {name}"), value));
            }
        }
    }

    /// Writes the file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), CalibrationError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| CalibrationError::Form { path: path.to_owned(), source })?;
        Ok(loar_artifact::write_atomic(path, (text + "\n").as_bytes())?)
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, CalibrationError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| CalibrationError::Read { path: path.to_owned(), source })?;
        let form = |source| CalibrationError::Form { path: path.to_owned(), source };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(form)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(VERSION) => {
                Err(CalibrationError::Version { path: path.to_owned(), found })
            }
            _ => serde_json::from_str(&text).map_err(form),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Verdict;

    #[test]
    fn what_differs_is_named() {
        let one = Keys { model: "a".into(), verifiers: [("arithmetic".into(), 1)].into(), ..Keys::default() };
        let mut other = one.clone();
        assert!(one.differences(&other).is_empty());
        (other.model, other.extractor) = ("b".into(), 2);
        other.verifiers = [("letters".into(), 1)].into();
        assert_eq!(one.differences(&other), ["model", "extractor", "verifier arithmetic", "verifier letters"]);
    }

    #[test]
    fn a_file_comes_back_as_it_went_and_a_wrong_one_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calibration.json");
        let mut calibration = Calibration::uncalibrated(Method::Posterior);
        calibration.correlated.alpha = 0.1 + 0.2;
        calibration.temperature = Some(1.0 / 3.0);
        calibration.save(&path).unwrap();
        assert_eq!(Calibration::load(&path).unwrap(), calibration);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"version\": 1", "\"version\": 99")).unwrap();
        assert!(Calibration::load(&path).unwrap_err().to_string().contains("version 99"));
        std::fs::write(&path, text.replace("\"questions\"", "\"question\"")).unwrap();
        assert!(Calibration::load(&path).unwrap_err().to_string().contains("line"));
        assert!(matches!(Calibration::load(&dir.path().join("none")), Err(CalibrationError::Read { .. })));
    }

    #[test]
    fn a_worthless_verifier_leaves_no_term_and_a_good_one_turns_the_answer() {
        let ratio = Ratio {
            right: [700, 10, 0],
            wrong: [60, 240, 0],
            ln_ratio: [1.6, -4.0, 0.0],
            half_width: [0.2, 0.6, 9.0],
            counts: [true, true, false],
            spread_right: 10.0,
            spread_wrong: 10.0,
        };
        let mut ballot = Ballot::of(&[Some(0), Some(0), Some(1)]);
        ballot.verdicts.insert("letters".into(), vec![Verdict::Fail, Verdict::Fail, Verdict::Pass]);
        let mut calibration = Calibration::uncalibrated(Method::Posterior);
        assert_eq!(calibration.fuse(&ballot).top().unwrap().class, 0);
        calibration.ratios.insert("letters".into(), ratio.clone());
        let fused = calibration.fuse(&ballot);
        assert_eq!(fused.top().unwrap().class, 1);
        assert!(fused.candidates[0].terms.iter().any(|t| t.name == "verifier letters" && t.value > 0.0));
        calibration.ratios.insert("letters".into(), Ratio { counts: [false; 3], ..ratio });
        assert!(calibration.fuse(&ballot).candidates.iter().all(|c| c.terms.len() == 2));
    }
}
