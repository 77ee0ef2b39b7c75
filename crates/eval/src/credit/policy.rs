//! The written policy: factors with bins or options, points, thresholds.
//!
//! Takes the policy's TOML, gives a checked [`Policy`] and from it points and decisions. Never guesses: a policy with a
//! gap or a doubt in it is refused with all its faults.
use crate::EvalError;
use crate::credit::application::{Language, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The loan is granted.
    Approve,
    /// A person looks at it.
    Review,
    /// The loan is refused.
    Decline,
}

impl Decision {
    /// All decisions, in the order of tables.
    pub const ALL: [Decision; 3] = [Decision::Approve, Decision::Review, Decision::Decline];

    /// The word in the JSON form.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Approve => "approve",
            Decision::Review => "review",
            Decision::Decline => "decline",
        }
    }

    /// The decision of a word.
    pub fn parse(word: &str) -> Option<Decision> {
        Decision::ALL.into_iter().find(|d| d.as_str() == word)
    }
}

/// A text in both languages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Both<T> {
    /// English.
    pub en: T,
    /// Chinese.
    pub zh: T,
}

impl<T> Both<T> {
    /// The text of a language.
    pub fn of(&self, language: Language) -> &T {
        match language {
            Language::En => &self.en,
            Language::Zh => &self.zh,
        }
    }
}

/// A range of a number with its points.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// Values below this belong here (and not to an earlier bin); `None` in the last bin.
    pub below: Option<u32>,
    /// Points.
    pub points: u32,
}

/// A value of a categorical factor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Its code in the JSON form.
    pub code: String,
    /// Points.
    pub points: u32,
    /// Words for it in an application.
    pub words: Both<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FactorFile {
    key: String,
    about: Both<String>,
    reason_at_most: u32,
    labels: Both<Vec<String>>,
    highest: Option<u32>,
    bins: Option<Vec<Bin>>,
    values: Option<Both<Vec<String>>>,
    options: Option<Vec<Choice>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    name: String,
    version: u32,
    decision: Thresholds,
    factor: Vec<FactorFile>,
}

/// Totals from which a decision holds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// This total or more is approved.
    pub approve_from: u32,
    /// This total or more, below `approve_from`, is reviewed.
    pub review_from: u32,
}

/// How a factor is measured.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A whole number with bins.
    Number {
        /// Highest value that applications hold.
        highest: u32,
        /// Bins in rising order.
        bins: Vec<Bin>,
        /// Ways to write the number, `{}` stands for it.
        values: Both<Vec<String>>,
    },
    /// One of several options.
    Choice {
        /// The options.
        options: Vec<Choice>,
    },
}

/// One factor of the policy.
#[derive(Clone, Debug)]
pub struct Factor {
    /// Its key in the JSON form.
    pub key: String,
    /// What it measures.
    pub about: Both<String>,
    /// A factor with at most these points is a reason.
    pub reason_at_most: u32,
    /// Names of the field in applications.
    pub labels: Both<Vec<String>>,
    /// Number or choice.
    pub kind: Kind,
}

/// A checked policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name.
    pub name: String,
    /// Version.
    pub version: u32,
    /// Decision thresholds.
    pub decision: Thresholds,
    /// Factors, in the order of the JSON form.
    pub factors: Vec<Factor>,
}

impl Factor {
    /// Points of a value; 0 when it is missing; `None` when the value is of the wrong kind.
    pub fn points(&self, value: Value) -> Option<u32> {
        match (&self.kind, value) {
            (_, Value::Missing) => Some(0),
            (Kind::Number { bins, .. }, Value::Number(number)) => {
                bins.iter().find(|bin| bin.below.is_none_or(|below| number < below)).map(|bin| bin.points)
            }
            (Kind::Choice { options }, Value::Choice(index)) => options.get(index).map(|option| option.points),
            _ => None,
        }
    }

    /// Every number of points this factor can give.
    pub fn point_set(&self) -> BTreeSet<u32> {
        let mut set: BTreeSet<u32> = match &self.kind {
            Kind::Number { bins, .. } => bins.iter().map(|bin| bin.points).collect(),
            Kind::Choice { options } => options.iter().map(|option| option.points).collect(),
        };
        set.insert(0);
        set
    }

    fn faults(&self, faults: &mut Vec<String>) {
        let key = &self.key;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            faults.push(format!("factor key `{key}` must be lower-case letters and `_`"));
        }
        for (language, labels) in [("en", &self.labels.en), ("zh", &self.labels.zh)] {
            if labels.is_empty() {
                faults.push(format!("factor `{key}` has no labels in `{language}`"));
            }
        }
        match &self.kind {
            Kind::Number { highest, bins, values } => {
                let bounds: Vec<u32> = bins.iter().filter_map(|bin| bin.below).collect();
                if bounds.len() + 1 != bins.len() || bins.last().is_some_and(|bin| bin.below.is_some()) {
                    faults
                        .push(format!("factor `{key}`: every bin but the last needs `below`, the last must have none"));
                }
                if bounds.windows(2).any(|pair| pair.first() >= pair.last()) {
                    faults.push(format!("factor `{key}`: the bounds {bounds:?} must rise"));
                }
                if bounds.iter().any(|bound| bound > highest) {
                    faults.push(format!("factor `{key}`: a bound of {bounds:?} lies above `highest` = {highest}"));
                }
                for text in values.en.iter().chain(&values.zh) {
                    if text.matches("{}").count() != 1 {
                        faults.push(format!("factor `{key}`: value text `{text}` needs exactly one `{{}}`"));
                    }
                }
                if values.en.is_empty() || values.zh.is_empty() {
                    faults.push(format!("factor `{key}` needs value texts in both languages"));
                }
            }
            Kind::Choice { options } => {
                let codes: BTreeSet<&str> = options.iter().map(|option| option.code.as_str()).collect();
                if codes.len() != options.len() || options.len() < 2 {
                    faults.push(format!("factor `{key}` needs at least two options with different codes"));
                }
                for option in options {
                    if option.words.en.is_empty() || option.words.zh.is_empty() {
                        faults.push(format!("factor `{key}`: option `{}` needs words in both languages", option.code));
                    }
                }
            }
        }
        if self.point_set().iter().any(|points| points % 5 != 0) {
            faults.push(format!("factor `{key}`: points must be multiples of 5, they are {:?}", self.point_set()));
        }
    }
}

impl Policy {
    /// Reads and checks a policy.
    ///
    /// # Errors
    /// [`EvalError::Policy`] with every fault.
    pub fn from_toml(text: &str) -> Result<Policy, EvalError> {
        let file: PolicyFile =
            toml::from_str(text).map_err(|error| EvalError::Policy { faults: vec![error.to_string()] })?;
        let mut faults = Vec::new();
        let mut factors = Vec::new();
        for factor in file.factor {
            let kind = match (factor.bins, factor.options) {
                (Some(bins), None) => Kind::Number {
                    highest: factor.highest.unwrap_or_else(|| {
                        faults.push(format!("factor `{}` has bins but no `highest`", factor.key));
                        0
                    }),
                    bins,
                    values: factor.values.unwrap_or_default(),
                },
                (None, Some(options)) => Kind::Choice { options },
                _ => {
                    faults.push(format!("factor `{}` needs either `bins` or `options`", factor.key));
                    continue;
                }
            };
            let factor = Factor {
                key: factor.key,
                about: factor.about,
                reason_at_most: factor.reason_at_most,
                labels: factor.labels,
                kind,
            };
            factor.faults(&mut faults);
            if factors.iter().any(|other: &Factor| other.key == factor.key) {
                faults.push(format!("factor `{}` stands twice", factor.key));
            }
            factors.push(factor);
        }
        if factors.is_empty() {
            faults.push("there is no factor".to_string());
        }
        if file.decision.review_from >= file.decision.approve_from {
            faults.push(format!(
                "`review_from` = {} must be below `approve_from` = {}",
                file.decision.review_from, file.decision.approve_from
            ));
        }
        if !faults.is_empty() {
            return Err(EvalError::Policy { faults });
        }
        Ok(Policy { name: file.name, version: file.version, decision: file.decision, factors })
    }

    /// The decision for a total of points; any missing factor means review.
    pub fn decide(&self, total: u32, any_missing: bool) -> Decision {
        if any_missing {
            Decision::Review
        } else if total >= self.decision.approve_from {
            Decision::Approve
        } else if total >= self.decision.review_from {
            Decision::Review
        } else {
            Decision::Decline
        }
    }

    /// Every reason code there is.
    pub fn reason_codes(&self) -> Vec<String> {
        self.factors.iter().flat_map(|f| [f.key.clone(), format!("missing_{}", f.key)]).collect()
    }

    /// The policy as a Markdown table, for the docs.
    pub fn to_markdown(&self, language: Language) -> String {
        let zh = language == Language::Zh;
        let mut out = String::from(if zh {
            "| 因素 | 含义 | 分值 | 列为理由 |\n|---|---|---|---|\n"
        } else {
            "| factor | measures | points | named as a reason |\n|---|---|---|---|\n"
        });
        for factor in &self.factors {
            let points: Vec<String> = match &factor.kind {
                Kind::Number { bins, .. } => {
                    let mut from = 0;
                    bins.iter()
                        .map(|bin| {
                            let range = match bin.below {
                                Some(below) if below == from + 1 => format!("{from}"),
                                Some(below) => format!("{from}–{}", below - 1),
                                None => format!("{from}+"),
                            };
                            from = bin.below.unwrap_or(from);
                            format!("{range}: {}", bin.points)
                        })
                        .collect()
                }
                Kind::Choice { options } => options.iter().map(|o| format!("{}: {}", o.code, o.points)).collect(),
            };
            out.push_str(&format!(
                "| `{}` | {} | {} | ≤ {} |\n",
                factor.key,
                factor.about.of(language),
                points.join(", "),
                factor.reason_at_most
            ));
        }
        let (approve, review) = (self.decision.approve_from, self.decision.review_from);
        out.push_str(&if zh {
            format!("\n总分 {approve} 及以上为 `approve`，{review}–{} 为 `review`，更低为 `decline`；缺项一律 `review`。\n", approve - 1)
        } else {
            format!("\nA total of {approve} or more is `approve`, {review}–{} is `review`, less is `decline`; a missing factor is always `review`.\n", approve - 1)
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = include_str!("../../../../demo/policy.toml");

    #[test]
    fn the_demo_policy_is_sound_and_reaches_100_points() {
        let policy = Policy::from_toml(POLICY).unwrap();
        let best: u32 = policy.factors.iter().filter_map(|f| f.point_set().into_iter().max()).sum();
        assert_eq!(best, 100);
        assert_eq!(policy.factors.len(), 6);
    }

    #[test]
    fn bounds_belong_to_the_upper_bin() {
        let policy = Policy::from_toml(POLICY).unwrap();
        let debt = &policy.factors[0];
        assert_eq!(debt.points(Value::Number(19)), Some(25));
        assert_eq!(debt.points(Value::Number(20)), Some(15));
        assert_eq!(debt.points(Value::Number(4_000)), Some(0));
        assert_eq!(debt.points(Value::Choice(0)), None);
        assert_eq!(policy.decide(70, false), Decision::Approve);
        assert_eq!(policy.decide(69, false), Decision::Review);
        assert_eq!(policy.decide(45, false), Decision::Review);
        assert_eq!(policy.decide(44, false), Decision::Decline);
        assert_eq!(policy.decide(100, true), Decision::Review);
    }

    #[test]
    fn faults_are_reported_together() {
        let text = POLICY
            .replace("below = 35", "below = 10")
            .replace("review_from = 45", "review_from = 75")
            .replace("points = 15, words", "points = 13, words");
        let Err(EvalError::Policy { faults }) = Policy::from_toml(&text) else { panic!("accepted") };
        assert_eq!(faults.len(), 3, "{faults:?}");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(Policy::from_toml(&POLICY.replace("version = 1", "version = 1\nversoin = 2")).is_err());
    }

    #[test]
    fn the_table_shows_every_bin() {
        let policy = Policy::from_toml(POLICY).unwrap();
        let table = policy.to_markdown(Language::En);
        assert!(table.contains("0–19: 25, 20–34: 15, 35–49: 5, 50+: 0"), "{table}");
        assert!(table.contains("0: 25, 1–2: 15"), "{table}");
        assert!(policy.to_markdown(Language::Zh).contains("缺项一律"));
    }
}
