//! The state machine: no sequence of events, whoever sends them, skips a state.

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{answer, task_text};
use loar_annotate::Task;
use loar_annotate::judge::Verdict;
use loar_annotate::workflow::{Action, Answer, Event, Gate, Item, Outcome, Refusal, Stage};
use loar_artifact::ContentId;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn task() -> Task {
    Task::from_text(&task_text(""), Path::new("task.toml")).unwrap()
}

fn event(who: &str, guideline: &str, action: Action) -> Event {
    let (who, guideline) = (who.to_owned(), guideline.to_owned());
    Event { seq: 1, at: String::new(), who, item: Some(1), seconds: Some(3), guideline, action }
}

fn imported() -> Event {
    let content = ContentId::of_bytes(b"row");
    event("loar", "g", Action::Imported { source: "rows:1".into(), content, batch: Some(0), gold: None })
}

fn gate(alpha: Option<f64>, posterior: f64, outcome: Outcome) -> Action {
    Action::Gated(Gate { alpha: BTreeMap::from([("correct".into(), alpha)]), posterior, outcome })
}

/// Any event by anybody.
fn any_event() -> impl Strategy<Value = Event> {
    let label = prop::sample::select(vec!["right", "right", "right", "wrong"]);
    let said = (label, prop::option::weighted(0.1, Just("better".to_owned())))
        .prop_map(|(label, correction)| Answer { correction, ..answer(label) });
    let alpha = prop::sample::select(vec![None, Some(0.3), Some(0.7), Some(0.9)]);
    let outcome = prop::sample::select(vec![Outcome::Pass, Outcome::Adjudicate, Outcome::Stop]);
    let action = prop_oneof![
        1 => prop::collection::vec(Just("rule@1".to_owned()), 0..2)
            .prop_map(|failed| Action::Screened { rules: vec![], failed }),
        8 => said.clone().prop_map(Action::Checked),
        6 => (alpha, prop::sample::select(vec![0.5, 0.99]), outcome).prop_map(|(a, p, o)| gate(a, p, o)),
        2 => Just(Action::Reopened),
        3 => (said.clone(), any::<bool>()).prop_map(|(answer, keep)| Action::Adjudicated { answer, keep }),
        1 => Just(Action::Drawn),
        2 => said.prop_map(Action::Audited),
        1 => Just(Action::Judged(Verdict::default())),
    ];
    let who = prop::sample::select(vec!["ann", "bob", "cat", "dan", "eve", "fay", "gus", "loar", "judge", "nobody"]);
    // mostly by whom it belongs to, so that deep states are reached
    (action, who, prop::sample::select(vec!["g", "h"]), any::<u8>()).prop_map(|(action, who, guideline, dice)| {
        let proper = match &action {
            Action::Checked(_) => ["ann", "bob", "cat", "dan"][usize::from(dice) % 4],
            Action::Adjudicated { .. } | Action::Audited(_) => ["eve", "fay"][usize::from(dice) % 2],
            Action::Judged(_) => "judge",
            _ => "loar",
        };
        event(if dice < 200 { proper } else { who }, guideline, action)
    })
}

/// What the accepted events prove, told again without the state machine.
fn retell(log: &[Event], item: &Item) -> Result<(), String> {
    let want = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
    let decided = matches!(item.stage(), Stage::Accepted | Stage::Audit) || item.stage() == Stage::Rejected;
    if !decided {
        return Ok(());
    }
    want(matches!(&log[0].action, Action::Screened { failed, .. } if failed.is_empty()), "the rules come first")?;
    let round = log.iter().rposition(|e| matches!(e.action, Action::Reopened)).map_or(0, |at| at + 1);
    let checks: Vec<(usize, &Event, &Answer)> = log
        .iter()
        .enumerate()
        .skip(round)
        .filter_map(|(at, e)| if let Action::Checked(a) = &e.action { Some((at, e, a)) } else { None })
        .collect();
    let people: BTreeSet<&str> = checks.iter().map(|(_, e, _)| e.who.as_str()).collect();
    want(checks.len() == 3 && people.len() == 3, "three checks by three people")?;
    want(people.iter().all(|p| ["ann", "bob", "cat", "dan"].contains(p)), "by annotators")?;
    let gated = log.iter().rposition(|e| matches!(e.action, Action::Gated(_))).ok_or("a gate")?;
    want(checks.iter().all(|(at, ..)| *at < gated), "the gate after the checks")?;
    let Action::Gated(gate) = &log[gated].action else { return Err("a gate".into()) };
    let same = checks.iter().all(|(_, _, a)| a.labels == checks[0].2.labels && a.correction == checks[0].2.correction);
    let good = gate.alpha["correct"].is_some_and(|a| a >= 0.8) && gate.posterior >= 0.95;
    let by = log.iter().find(|e| matches!(e.action, Action::Adjudicated { .. }));
    match (gate.outcome, by) {
        (Outcome::Pass, None) => want(same && good, "passed on agreement and posterior")?,
        (Outcome::Adjudicate, Some(e)) => {
            let everybody = log.iter().filter(|e| matches!(e.action, Action::Checked(_)));
            want(everybody.into_iter().all(|c| c.who != e.who), "a fourth person")?;
            want(["eve", "fay"].contains(&e.who.as_str()), "an adjudicator")?;
            want(!(same && good), "adjudicated because the gate did not pass")?;
        }
        other => return Err(format!("decided by {other:?}")),
    }
    if item.stage() != Stage::Rejected {
        let labels = &item.decision().ok_or("a decision")?.answer.labels;
        want(labels["correct"] == ["right"], "a label that drops is not accepted")?;
        want(item.audit().is_none_or(|(_, _, agrees)| *agrees), "the second look agreed")?;
    }
    if let Some((who, ..)) = item.audit() {
        want(item.checkers().all(|c| c != who), "the second look by somebody else")?;
        want(by.is_none_or(|e| e.who != *who), "not by who decided")?;
    }
    Ok(())
}

#[test]
fn no_sequence_of_events_skips_a_state() {
    let task = task();
    let reached = RefCell::new(BTreeMap::new());
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 3000, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let screened = event("loar", "g", Action::Screened { rules: vec![], failed: vec![] });
    let sequences = prop::collection::vec(any_event(), 1..60)
        .prop_flat_map(move |events| (Just(events), prop::option::weighted(0.8, Just(screened.clone()))));
    let checked = runner.run(&sequences, |(events, first)| {
        let mut item = Item::begin(&imported(), &task).unwrap();
        let mut log = Vec::new();
        for event in first.into_iter().chain(events) {
            let before = item.clone();
            match item.apply(&event, &task) {
                Err(_) => prop_assert_eq!(&item, &before, "a refused event changed something"),
                Ok(()) => {
                    if matches!(event.action, Action::Judged(_)) {
                        prop_assert_eq!(item.stage(), before.stage(), "a verdict moved the row");
                        prop_assert_eq!(item.checks(), before.checks(), "a verdict counted as a check");
                    }
                    log.push(event);
                    *reached.borrow_mut().entry(item.stage()).or_insert(0) += 1;
                    if let Err(why) = retell(&log, &item) {
                        return Err(TestCaseError::fail(format!("{why}: {:?} {log:#?}", item.stage())));
                    }
                }
            }
        }
        Ok(())
    });
    checked.unwrap();
    let reached = reached.into_inner();
    for stage in [
        Stage::Refused,
        Stage::Open,
        Stage::Checked,
        Stage::Stopped,
        Stage::Adjudication,
        Stage::Audit,
        Stage::Accepted,
        Stage::Rejected,
    ] {
        assert!(reached.get(&stage).is_some_and(|n| *n > 20), "{stage} hardly reached: {reached:?}");
    }
}

fn opened(task: &Task) -> Item {
    let mut item = Item::begin(&imported(), task).unwrap();
    item.apply(&event("loar", "g", Action::Screened { rules: vec![], failed: vec![] }), task).unwrap();
    item
}

#[test]
fn refusals_say_why() {
    let task = task();
    let mut item = opened(&task);
    let mut refused = |who: &str, action: Action| item.apply(&event(who, "g", action), &task).unwrap_err().to_string();
    assert!(refused("eve", Action::Checked(answer("right"))).contains("not their role"));
    assert!(refused("zoe", Action::Checked(answer("right"))).contains("does not name them"));
    assert!(refused("ann", Action::Checked(answer("maybe"))).contains("no label `maybe`"));
    assert!(refused("ann", Action::Checked(Answer::default())).contains("`correct` has no label"));
    assert_eq!(refused("loar", gate(Some(0.9), 0.99, Outcome::Pass)), "a row that is Open cannot be gated");
    let draft =
        Item::begin(&imported(), &task).unwrap().apply(&event("ann", "g", Action::Checked(answer("right"))), &task);
    assert_eq!(draft, Err(Refusal::Stage { stage: Stage::Draft, action: "checked" }));
}

#[test]
fn gates_follow_the_cut_offs() {
    let task = task();
    let alpha = |a| BTreeMap::from([("correct".to_owned(), a)]);
    let decide = |a, same, posterior| Gate::decide(&task, &alpha(a), same, posterior);
    assert_eq!(decide(Some(0.800), true, 0.95), Outcome::Pass);
    assert_eq!(decide(Some(0.799), true, 0.99), Outcome::Adjudicate);
    assert_eq!(decide(Some(0.667), true, 0.99), Outcome::Adjudicate);
    assert_eq!(decide(Some(0.666), true, 0.99), Outcome::Stop);
    assert_eq!(decide(None, true, 0.99), Outcome::Adjudicate);
    assert_eq!(decide(Some(0.9), false, 0.99), Outcome::Adjudicate);
    assert_eq!(decide(Some(0.9), true, 0.94), Outcome::Adjudicate);
    let mut constant = task.clone();
    constant.rubrics[0].constant_ok = true;
    assert_eq!(Gate::decide(&constant, &alpha(None), true, 0.99), Outcome::Pass);
}

#[test]
fn checks_begin_anew_only_under_another_guideline() {
    let task = task();
    let mut item = opened(&task);
    for (who, label) in [("ann", "right"), ("bob", "wrong"), ("cat", "right")] {
        item.apply(&event(who, "g", Action::Checked(answer(label))), &task).unwrap();
    }
    let same_person = item.apply(&event("ann", "g", Action::Checked(answer("right"))), &task);
    assert!(same_person.is_err());
    item.apply(&event("loar", "g", gate(Some(0.2), 0.9, Outcome::Stop)), &task).unwrap();
    let same = item.apply(&event("loar", "g", Action::Reopened), &task);
    assert_eq!(same, Err(Refusal::SameGuideline("g".into())));
    item.apply(&event("loar", "h", Action::Reopened), &task).unwrap();
    assert_eq!((item.stage(), item.round(), item.checks().len()), (Stage::Open, 2, 0));
    assert_eq!(item.checkers().collect::<Vec<_>>(), ["ann", "bob", "cat"]);
}

#[test]
fn events_keep_their_meaning_as_json() {
    for action in [
        Action::Checked(Answer { correction: Some("中文 \"x\"".into()), ..answer("right") }),
        Action::Adjudicated { answer: answer("wrong"), keep: false },
        gate(None, 0.5, Outcome::Adjudicate),
        Action::Drawn,
        imported().action,
    ] {
        let event = event("ann", "g", action);
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
    }
}

#[test]
fn every_fault_of_a_task_file_has_its_line() {
    let text = "[task]\nname = \"\"\nguideline = \"g.md\"\ndata = []\nbatch = 0\ncolour = 1\n\n[[rubric]]\nname = \"r\"\n\
        scale = \"loud\"\nlabels = [{ name = \"a\" }, { name = \"a\", drop = 3 }]\n\n[[people]]\nname = \"ann\"\nrole = \"boss\"\n";
    let error = Task::from_text(text, Path::new("task.toml")).unwrap_err();
    let shown = error.to_string();
    for part in [
        "task.toml:2:8: `name`: expected a text, found an empty one",
        "task.toml:4:8: `data`: expected a list of files",
        "task.toml:5:9: `batch`: expected a number from 1",
        "task.toml:6:1: unknown key `colour` in [task]",
        "task.toml:10:9: `scale`: expected one of nominal, ordinal",
        "two labels of this rubric are called `a`",
        "`drop`: expected true or false",
        "task.toml:15:8: `role`: expected one of annotator",
        "at least 3 [[people]] have role = \"annotator\"; found 0",
        "at least 1 [[people]] have role = \"adjudicator\"; found 0",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    let broken = Task::from_text("[task\n", Path::new("task.toml")).unwrap_err();
    assert!(broken.to_string().contains("task.toml:1:"), "{broken}");
}
