//! Credit assessment: schema, written policy and decision of an output.
//!
//! The gold answer holds the application's values, so a plain conversations file is a complete test set.
use super::Score;
use crate::credit::{Answer, Application, Conclusion, Decision, Policy, check};

/// Names of the measures: the JSON schema holds; the decision is right; schema and every rule of the policy hold.
pub const MEASURES: [&str; 3] = ["schema", "decision", "policy"];

/// The decisions.
pub const CLASSES: [&str; 3] = ["approve", "review", "decline"];

/// The application behind a gold answer.
///
/// # Errors
/// Why the text is not the answer that the policy demands.
pub fn application(policy: &Policy, gold: &str) -> Result<Application, String> {
    let answer = Answer::parse(gold.trim())?;
    let application =
        Application::of_answer(policy, &answer).ok_or("the steps hold a value that the policy does not know")?;
    match check(policy, &application, gold.trim()).violations.first() {
        Some(violation) => Err(format!("the gold answer breaks the policy: {violation}")),
        None => Ok(application),
    }
}

fn class(decision: Decision) -> usize {
    Decision::ALL.iter().position(|&d| d == decision).unwrap_or(0)
}

/// Scores an output. White space around it is free, all else is strict.
pub fn score(policy: &Policy, gold: &str, output: &str) -> Score {
    let application = match application(policy, gold) {
        Ok(application) => application,
        Err(reason) => {
            return Score { hits: vec![false; 3], class: None, notes: vec![reason] };
        }
    };
    let total: u32 =
        policy.factors.iter().zip(&application.values).map(|(f, &value)| f.points(value).unwrap_or(0)).sum();
    let truth = policy.decide(total, application.values.contains(&crate::credit::Value::Missing));
    let verdict = check(policy, &application, output.trim());
    Score {
        hits: vec![verdict.schema_ok(), verdict.decision == Some(truth), verdict.policy_ok()],
        class: Some((class(truth), verdict.decision.map(class))),
        notes: verdict.violations.iter().map(ToString::to_string).collect(),
    }
}

/// Scores an output without steps. Its policy measure asks for the decision and exactly the reasons that the policy
/// demands; there are no steps to check.
pub fn score_direct(policy: &Policy, gold: &str, output: &str) -> Score {
    let truth = match application(policy, gold) {
        Ok(application) => application.answer(policy),
        Err(reason) => return Score { hits: vec![false; 3], class: None, notes: vec![reason] },
    };
    let of = |word: &str| Decision::parse(word).map(class);
    let (said, mut notes) = match Conclusion::parse(output.trim()) {
        Ok(said) => (Some(said), Vec::new()),
        Err(reason) => (None, vec![format!("schema: {reason}")]),
    };
    let predicted = said.as_ref().and_then(|s| of(&s.decision));
    let codes = policy.reason_codes();
    let schema = predicted.is_some() && said.as_ref().is_some_and(|s| s.reasons.iter().all(|r| codes.contains(r)));
    let decision = predicted.is_some() && predicted == of(&truth.decision);
    let reasons = said.as_ref().is_some_and(|s| s.reasons == truth.reasons);
    if said.is_some() && !schema {
        notes.push("schema: a word that the policy does not know".into());
    }
    if schema && !decision {
        notes.push(format!("decision: it is `{}`", truth.decision));
    }
    if schema && !reasons {
        notes.push(format!("reasons: they are {:?}", truth.reasons));
    }
    Score {
        hits: vec![schema, decision, schema && decision && reasons],
        class: of(&truth.decision).map(|truth| (truth, predicted)),
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::{Generator, Language};

    fn policy() -> Policy {
        Policy::from_toml(include_str!("../../../../demo/policy.toml")).unwrap()
    }

    #[test]
    fn gold_answers_score_full() {
        let policy = policy();
        for case in Generator::new(&policy, 8).cases(200, &[Language::En]) {
            let score = score(&policy, &case.answer, &format!("{}\n", case.answer));
            assert_eq!(score.hits, [true; 3]);
            let (truth, predicted) = score.class.unwrap();
            assert_eq!(predicted, Some(truth));
        }
    }

    #[test]
    fn a_right_decision_with_wrong_points_is_not_the_policy() {
        let policy = policy();
        let case = &Generator::new(&policy, 8).cases(1, &[Language::En])[0];
        let first = case.answer.find("]").unwrap();
        let broken = format!("{}1{}", &case.answer[..first], &case.answer[first..]);
        let score = score(&policy, &case.answer, &broken);
        assert_eq!(score.hits, [true, true, false]);
        assert!(score.notes[0].starts_with("sum"), "{:?}", score.notes);
    }

    #[test]
    fn without_steps_decision_and_reasons_are_judged() {
        let policy = policy();
        for case in Generator::new(&policy, 8).cases(200, &[Language::Zh]) {
            let truth = Conclusion::from(case.application.answer(&policy));
            let hits = |said: &Conclusion| score_direct(&policy, &case.answer, &said.to_json()).hits;
            assert_eq!(hits(&truth), [true; 3]);
            let other = if truth.decision == "review" { "approve" } else { "review" };
            assert_eq!(hits(&Conclusion { decision: other.into(), ..truth.clone() }), [true, false, false]);
            let mut more = truth.clone();
            more.reasons.push(if truth.reasons.contains(&"debt".to_string()) { "missing_debt" } else { "debt" }.into());
            assert_eq!(hits(&more), [true, true, false]);
            more.reasons.push("weather".into());
            assert_eq!(hits(&more), [false, true, false]);
            assert_eq!(score_direct(&policy, &case.answer, &case.answer).hits, [false; 3], "steps are another form");
        }
    }

    #[test]
    fn no_output_is_no_class() {
        let policy = policy();
        let case = &Generator::new(&policy, 8).cases(1, &[Language::En])[0];
        let score = score(&policy, &case.answer, "I would approve.");
        assert_eq!(score.hits, [false; 3]);
        assert_eq!(score.class.unwrap().1, None);
    }

    #[test]
    fn a_gold_answer_against_the_policy_is_refused() {
        let policy = policy();
        let case = &Generator::new(&policy, 8).cases(1, &[Language::En])[0];
        assert!(application(&policy, &case.answer).is_ok());
        for word in ["approve", "review", "decline"] {
            let changed = case.answer.replace(&case.application.answer(&policy).decision, word);
            assert_eq!(application(&policy, &changed).is_ok(), changed == case.answer);
        }
    }
}
