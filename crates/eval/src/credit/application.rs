//! An application: one value per factor of the policy.
use crate::credit::answer::{Answer, Step, StepValue};
use crate::credit::policy::{Kind, Policy};

/// Language of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// English.
    En,
    /// Chinese.
    Zh,
}

impl Language {
    /// `en` or `zh`.
    pub fn as_str(self) -> &'static str {
        match self {
            Language::En => "en",
            Language::Zh => "zh",
        }
    }
}

/// Value of one factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A whole number.
    Number(u32),
    /// Index of an option.
    Choice(usize),
    /// Not stated.
    Missing,
}

/// One value per factor, in policy order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Application {
    /// The values.
    pub values: Vec<Value>,
}

impl Application {
    /// The answer that the policy demands.
    pub fn answer(&self, policy: &Policy) -> Answer {
        let mut steps = Vec::new();
        let mut reasons = Vec::new();
        let mut sum = 0;
        for (factor, &value) in policy.factors.iter().zip(&self.values) {
            let points = factor.points(value).unwrap_or(0);
            sum += points;
            let shown = match (&factor.kind, value) {
                (_, Value::Missing) => StepValue::Missing,
                (Kind::Choice { options }, Value::Choice(index)) => {
                    options.get(index).map_or(StepValue::Missing, |option| StepValue::Code(option.code.clone()))
                }
                (_, Value::Number(number)) => StepValue::Number(u64::from(number)),
                (_, Value::Choice(_)) => StepValue::Missing,
            };
            if value == Value::Missing {
                reasons.push(format!("missing_{}", factor.key));
            } else if points <= factor.reason_at_most {
                reasons.push(factor.key.clone());
            }
            steps.push(Step(factor.key.clone(), shown, u64::from(points), u64::from(sum)));
        }
        let decision = policy.decide(sum, self.values.contains(&Value::Missing));
        Answer { steps, total: u64::from(sum), decision: decision.as_str().to_string(), reasons }
    }

    /// The application behind an answer of the policy's form; `None` when a value does not fit the policy.
    pub fn of_answer(policy: &Policy, answer: &Answer) -> Option<Application> {
        if answer.steps.len() != policy.factors.len() {
            return None;
        }
        let mut values = Vec::new();
        for (factor, step) in policy.factors.iter().zip(&answer.steps) {
            values.push(match (&factor.kind, &step.1) {
                (_, StepValue::Missing) => Value::Missing,
                (Kind::Number { .. }, StepValue::Number(number)) => Value::Number(u32::try_from(*number).ok()?),
                (Kind::Choice { options }, StepValue::Code(code)) => {
                    Value::Choice(options.iter().position(|option| option.code == *code)?)
                }
                _ => return None,
            });
        }
        Some(Application { values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_application() {
        let policy = Policy::from_toml(include_str!("../../../../demo/policy.toml")).unwrap();
        let application = Application {
            values: vec![
                Value::Number(35),
                Value::Number(8),
                Value::Missing,
                Value::Choice(3),
                Value::Choice(1),
                Value::Number(6),
            ],
        };
        let answer = application.answer(&policy);
        assert_eq!(
            answer.to_json(),
            r#"{"steps":[["debt",35,5,5],["work",8,15,20],["late",null,0,20],["security","none",0,20],["purpose","school",10,30],["account",6,5,35]],"total":35,"decision":"review","reasons":["debt","missing_late","security"]}"#
        );
        assert_eq!(Application::of_answer(&policy, &answer), Some(application));
    }
}
