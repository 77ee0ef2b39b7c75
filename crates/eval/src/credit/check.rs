//! Checks an answer against the written policy, rule by rule.
//!
//! Takes the policy, the application and the text of an answer; gives whether the text satisfies the JSON schema and
//! every rule it breaks. Never compares with a stored answer: each rule is applied by itself, so one slip is one
//! violation and not a wrong rest.
use crate::credit::answer::{Answer, StepValue};
use crate::credit::application::{Application, Value};
use crate::credit::policy::{Decision, Factor, Kind, Policy};
use std::collections::BTreeSet;
use std::fmt;

/// A written rule that an answer breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The text is not the JSON form, or holds a word or number that the form does not know.
    Schema(String),
    /// The value column differs from the application.
    Value {
        /// Factor.
        factor: String,
    },
    /// The points are not those of the policy for the application's value.
    Points {
        /// Factor.
        factor: String,
        /// By the policy.
        expected: u64,
        /// In the answer.
        actual: u64,
    },
    /// A running sum is not the sum before plus the points.
    Sum {
        /// Factor.
        factor: String,
        /// By addition of the answer's own points.
        expected: u64,
        /// In the answer.
        actual: u64,
    },
    /// The total is not the sum of the points.
    Total {
        /// By addition of the answer's own points.
        expected: u64,
        /// In the answer.
        actual: u64,
    },
    /// The decision is not the policy's for the answer's total.
    Decision {
        /// By the thresholds.
        expected: Decision,
        /// In the answer.
        actual: Decision,
    },
    /// The reasons are not those of the policy for the answer's points, in policy order.
    Reasons {
        /// By the policy.
        expected: Vec<String>,
        /// In the answer.
        actual: Vec<String>,
    },
}

impl Violation {
    /// Short name of the rule, for counting.
    pub fn rule(&self) -> &'static str {
        match self {
            Violation::Schema(_) => "schema",
            Violation::Value { .. } => "value",
            Violation::Points { .. } => "points",
            Violation::Sum { .. } => "sum",
            Violation::Total { .. } => "total",
            Violation::Decision { .. } => "decision",
            Violation::Reasons { .. } => "reasons",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Schema(reason) => write!(f, "schema: {reason}"),
            Violation::Value { factor } => {
                write!(f, "value: `{factor}` differs from the application")
            }
            Violation::Points { factor, expected, actual } => {
                write!(f, "points: `{factor}` earns {expected}, the answer says {actual}")
            }
            Violation::Sum { factor, expected, actual } => {
                write!(f, "sum: after `{factor}` it is {expected}, the answer says {actual}")
            }
            Violation::Total { expected, actual } => {
                write!(f, "total: it is {expected}, the answer says {actual}")
            }
            Violation::Decision { expected, actual } => {
                write!(f, "decision: the total means {}, the answer says {}", expected.as_str(), actual.as_str())
            }
            Violation::Reasons { expected, actual } => {
                write!(f, "reasons: they are {expected:?}, the answer says {actual:?}")
            }
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The decision, if the text is JSON with one of the three words, even when the rest breaks the schema.
    pub decision: Option<Decision>,
    /// All violations; a schema violation stands alone, the other rules need the form.
    pub violations: Vec<Violation>,
}

impl Verdict {
    /// The text satisfies the JSON schema.
    pub fn schema_ok(&self) -> bool {
        !self.violations.iter().any(|v| matches!(v, Violation::Schema(_)))
    }

    /// The text satisfies the schema and every rule of the policy.
    pub fn policy_ok(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Checks the text of an answer.
pub fn check(policy: &Policy, application: &Application, text: &str) -> Verdict {
    let (answer, decision) = match parse(policy, text) {
        Ok(parsed) => parsed,
        Err(reason) => {
            let decision = serde_json::from_str::<serde_json::Value>(text)
                .ok()
                .and_then(|json| json.get("decision").and_then(|d| d.as_str()).and_then(Decision::parse));
            return Verdict { decision, violations: vec![Violation::Schema(reason)] };
        }
    };
    let mut violations = Vec::new();
    let (mut sum_before, mut points_sum) = (0_u64, 0_u64);
    let (mut reasons, mut any_missing) = (Vec::new(), false);
    for ((factor, &value), step) in policy.factors.iter().zip(&application.values).zip(&answer.steps) {
        let (key, points, sum) = (&step.0, step.2, step.3);
        if !same(factor, value, &step.1) {
            violations.push(Violation::Value { factor: key.clone() });
        }
        let expected = u64::from(factor.points(value).unwrap_or(0));
        if points != expected {
            violations.push(Violation::Points { factor: key.clone(), expected, actual: points });
        }
        let expected = sum_before.saturating_add(points);
        if sum != expected {
            violations.push(Violation::Sum { factor: key.clone(), expected, actual: sum });
        }
        sum_before = sum;
        points_sum = points_sum.saturating_add(points);
        // Decision and reasons are judged on what the answer itself holds, so that one wrong value is not three faults.
        if step.1 == StepValue::Missing {
            any_missing = true;
            reasons.push(format!("missing_{key}"));
        } else if points <= u64::from(factor.reason_at_most) {
            reasons.push(key.clone());
        }
    }
    if answer.total != points_sum {
        violations.push(Violation::Total { expected: points_sum, actual: answer.total });
    }
    let expected = policy.decide(u32::try_from(answer.total).unwrap_or(u32::MAX), any_missing);
    if decision != expected {
        violations.push(Violation::Decision { expected, actual: decision });
    }
    if answer.reasons != reasons {
        violations.push(Violation::Reasons { expected: reasons, actual: answer.reasons });
    }
    Verdict { decision: Some(decision), violations }
}

fn same(factor: &Factor, value: Value, shown: &StepValue) -> bool {
    match (value, shown, &factor.kind) {
        (Value::Missing, StepValue::Missing, _) => true,
        (Value::Number(number), StepValue::Number(seen), _) => u64::from(number) == *seen,
        (Value::Choice(index), StepValue::Code(code), Kind::Choice { options }) => {
            options.get(index).is_some_and(|option| option.code == *code)
        }
        _ => false,
    }
}

/// The form with the policy's words: factors in order, values of their kind, points that the factor can give.
fn parse(policy: &Policy, text: &str) -> Result<(Answer, Decision), String> {
    let answer = Answer::parse(text)?;
    if answer.steps.len() != policy.factors.len() {
        return Err(format!("{} steps, the form has {}", answer.steps.len(), policy.factors.len()));
    }
    for (factor, step) in policy.factors.iter().zip(&answer.steps) {
        if factor.key != step.0 {
            return Err(format!("step `{}` stands where `{}` belongs", step.0, factor.key));
        }
        match (&factor.kind, &step.1) {
            (_, StepValue::Missing) | (Kind::Number { .. }, StepValue::Number(_)) => {}
            (Kind::Choice { options }, StepValue::Code(code)) if options.iter().any(|o| o.code == *code) => {}
            (_, other) => {
                return Err(format!("step `{}` holds {other:?}, which it cannot", factor.key));
            }
        }
        if !factor.point_set().iter().any(|&points| u64::from(points) == step.2) {
            return Err(format!("step `{}` gives {} points, which it cannot", factor.key, step.2));
        }
    }
    let decision = Decision::parse(&answer.decision)
        .ok_or_else(|| format!("decision `{}` is not approve, review or decline", answer.decision))?;
    let codes = policy.reason_codes();
    let mut seen = BTreeSet::new();
    for reason in &answer.reasons {
        if !codes.contains(reason) {
            return Err(format!("reason `{reason}` does not exist"));
        }
        if !seen.insert(reason) {
            return Err(format!("reason `{reason}` stands twice"));
        }
    }
    Ok((answer, decision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::from_toml(include_str!("../../../../demo/policy.toml")).unwrap()
    }

    fn application() -> Application {
        Application {
            values: vec![
                Value::Number(35),
                Value::Number(8),
                Value::Number(0),
                Value::Choice(3),
                Value::Missing,
                Value::Number(30),
            ],
        }
    }

    /// Rules broken by the right answer after `from` became `to`.
    fn rules(from: &str, to: &str) -> Vec<&'static str> {
        let (policy, application) = (policy(), application());
        let right = application.answer(&policy).to_json();
        assert!(right.contains(from), "`{from}` is not in {right}");
        let verdict = check(&policy, &application, &right.replacen(from, to, 1));
        assert_eq!(verdict.schema_ok(), !verdict.violations.iter().any(|v| v.rule() == "schema"));
        verdict.violations.iter().map(Violation::rule).collect()
    }

    #[test]
    fn the_right_answer_passes() {
        assert_eq!(rules("steps", "steps"), Vec::<&str>::new());
    }

    #[test]
    fn each_rule_is_caught_by_a_mutation_of_its_own() {
        // Right: debt 35 5 5, work 8 15 20, late 0 25 45, security none 0 45, purpose null 0 45, account 30 10 55.
        assert_eq!(rules(r#"["debt",35,"#, r#"["debt",36,"#), ["value"]);
        assert_eq!(rules(r#""none",0"#, r#""guarantor",0"#), ["value"]);
        assert_eq!(rules(r#"["work",8,15,20]"#, r#"["work",8,10,15]"#), ["points", "sum", "total"]);
        assert_eq!(rules(r#"["work",8,15,20]"#, r#"["work",8,15,25]"#), ["sum", "sum"]);
        assert_eq!(rules(r#"["account",30,10,55]"#, r#"["account",30,10,60]"#), ["sum"]);
        assert_eq!(rules(r#""total":55"#, r#""total":50"#), ["total"]);
        assert_eq!(rules("review", "approve"), ["decision"]);
        assert_eq!(rules(r#"["debt","security","missing_purpose"]"#, r#"["debt","security"]"#), ["reasons"]);
        assert_eq!(
            rules(r#"["debt","security","missing_purpose"]"#, r#"["security","debt","missing_purpose"]"#),
            ["reasons"]
        );
        assert_eq!(rules(r#"["purpose",null,0,45]"#, r#"["purpose","travel",0,45]"#), ["value", "reasons"]);
    }

    #[test]
    fn words_the_form_does_not_know_are_schema_faults() {
        for (from, to) in [
            (r#"["debt","#, r#"["dept","#),
            (r#"["debt",35,5,5],["work",8,15,20]"#, r#"["work",8,15,20],["debt",35,5,5]"#),
            (r#","none","#, r#","nothing","#),
            (r#","none","#, ",3,"),
            (r#"["work",8,15,20]"#, r#"["work",8,12,20]"#),
            (r#",["account",30,10,55]"#, ""),
            ("review", "reject"),
            (r#"["debt","security","missing_purpose"]"#, r#"["debt","debt","security"]"#),
            ("missing_purpose", "missing_name"),
        ] {
            assert_eq!(rules(from, to), ["schema"], "`{from}` -> `{to}`");
        }
    }

    #[test]
    fn a_decision_is_read_even_from_a_broken_form() {
        let (policy, application) = (policy(), application());
        assert_eq!(check(&policy, &application, r#"{"decision":"decline"}"#).decision, Some(Decision::Decline));
        assert_eq!(check(&policy, &application, "decline").decision, None);
        assert_eq!(check(&policy, &application, "").decision, None);
    }

    #[test]
    fn huge_numbers_do_not_overflow() {
        let (policy, application) = (policy(), application());
        let text = application.answer(&policy).to_json().replace(r#""total":55"#, &format!(r#""total":{}"#, u64::MAX));
        assert_eq!(
            check(&policy, &application, &text).violations.iter().map(Violation::rule).collect::<Vec<_>>(),
            ["total"]
        );
    }
}
