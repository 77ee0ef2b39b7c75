//! The store: gates, kills, several writers, tampering, and what comes out of it.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{answer, check, open, read, write};
use loar_annotate::export::{EVENTS, TRAIN, export};
use loar_annotate::log::verify;
use loar_annotate::report::Report;
use loar_annotate::store::{Imported, Store};
use loar_annotate::workflow::{Answer, Stage};
use loar_annotate::{AnnotateError, Task};
use loar_data::ReadOptions;
use loar_text::Body;

#[test]
fn agreement_accepts_and_disagreement_goes_to_the_fourth() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "", 10);
    let mut store = open(&task);
    for id in 1..=10 {
        let labels = match id {
            1..=4 => ["wrong"; 3],
            10 => ["right", "wrong", "right"],
            _ => ["right"; 3],
        };
        check(&mut store, id, labels);
    }
    assert_eq!(store.ids(|i| i.stage() == Stage::Rejected), [1, 2, 3, 4]);
    assert_eq!(store.ids(|i| i.stage() == Stage::Accepted), [5, 6, 7, 8, 9]);
    assert_eq!(store.ids(|i| i.stage() == Stage::Adjudication), [10]);
    let guideline = task.guideline_version();
    let mended = Answer { correction: Some("better".into()), ..answer("right") };
    let by_annotator = store.adjudicate("ann", 10, mended.clone(), true, 5, &guideline).unwrap_err();
    assert!(by_annotator.to_string().contains("not their role"), "{by_annotator}");
    store.adjudicate("eve", 10, mended, true, 5, &guideline).unwrap();
    assert_eq!(store.item(10).unwrap().stage(), Stage::Accepted);

    // 13 of 30 ratings are `wrong`; one unit has 4 of 6 ordered pairs unequal, each of weight 1/2
    let report = Report::of(&store);
    let alpha = 1.0 - 29.0 * 2.0 / (2.0 * 13.0 * 17.0);
    assert!((report.rubrics[0].alpha.unwrap() - alpha).abs() < 1e-12, "{:?}", report.rubrics[0]);
    assert_eq!(report.rubrics[0].verdict, "reliable");
    // the gate wrote six decimals, and a second reading of the log decides the same
    assert_eq!(report.batches[0].alpha["correct"], Some((alpha * 1e6).round() / 1e6));
    assert_eq!(Store::open(task.clone()).unwrap().items(), store.items());
    assert_eq!(report.batches[0].outcomes["adjudicate"], 1);
    assert_eq!(report.annotators[0].median_seconds, Some(7));

    assert_eq!(export(&store, dir.path()).unwrap(), 6);
    let again = loar_data::read(&[dir.path().join(TRAIN)], &ReadOptions::default()).unwrap();
    let answers: Vec<String> = again
        .examples
        .iter()
        .map(|e| match &e.body {
            Body::Chat(chat) => chat.messages[1].content.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers, ["a4", "a5", "a6", "a7", "a8", "better"]);
    let events = std::fs::read_to_string(dir.path().join(EVENTS)).unwrap();
    assert_eq!(events.lines().count() as u64, store.head().seq);
    assert!(events.lines().last().unwrap().contains(&store.head().hash.to_string()));
    assert!(verify(&task, Some(report.head.hash)).unwrap().faults.is_empty());
}

#[test]
fn low_agreement_stops_until_the_guideline_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "", 4);
    let mut store = open(&task);
    for id in 1..=4 {
        check(&mut store, id, if id % 2 == 0 { ["right", "wrong", "right"] } else { ["wrong", "right", "wrong"] });
    }
    assert_eq!(store.ids(|i| i.stage() == Stage::Stopped).len(), 4);
    drop(store);
    // the same guideline changes nothing
    assert_eq!(open(&task).ids(|i| i.stage() == Stage::Stopped).len(), 4);
    let old = task.guideline_version();
    std::fs::write(dir.path().join("guideline.md"), "Be right, and say why.").unwrap();
    let mut store = open(&read(dir.path()));
    assert_eq!(store.ids(|i| i.stage() == Stage::Open && i.round() == 2).len(), 4);
    let stale = store.check("ann", 1, answer("right"), 1, &old).unwrap_err();
    assert!(matches!(stale, AnnotateError::OldGuideline), "{stale}");
    for id in 1..=4 {
        check(&mut store, id, if id == 1 { ["wrong"; 3] } else { ["right"; 3] });
    }
    assert_eq!(store.ids(|i| i.stage() == Stage::Accepted), [2, 3, 4]);
}

#[test]
fn import_takes_each_row_once_and_rules_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "gold = \"gold.jsonl\"", 3);
    let mut rows = std::fs::read_to_string(dir.path().join("rows.jsonl")).unwrap();
    rows.push_str(rows.lines().next().unwrap().to_owned().as_str());
    std::fs::write(dir.path().join("rows.jsonl"), &rows).unwrap();
    let gold = "{\"question\":\"g\",\"answer\":\"h\",\"labels\":{\"correct\":\"LABEL\"}}";
    std::fs::write(dir.path().join("gold.jsonl"), gold.replace("LABEL", "nice")).unwrap();
    let mut store = Store::open(task.clone()).unwrap();
    let error = store.import().unwrap_err().to_string();
    assert!(error.contains("gold.jsonl:1") && error.contains("no label `nice`"), "{error}");
    assert!(store.items().is_empty());
    std::fs::write(dir.path().join("gold.jsonl"), gold.replace("LABEL", "wrong")).unwrap();
    assert_eq!(store.import().unwrap(), Imported { new: 4, refused: 1, known: 0, gold: 1 });
    assert_eq!(store.import().unwrap(), Imported { new: 0, refused: 0, known: 5, gold: 0 });
    let stages: Vec<Stage> = store.items().iter().map(|i| i.stage()).collect();
    assert_eq!(stages, [Stage::Gold, Stage::Open, Stage::Open, Stage::Open, Stage::Refused]);
    // gold measures, and never becomes a row
    let guideline = task.guideline_version();
    for (who, label) in [("ann", "wrong"), ("bob", "right"), ("cat", "wrong"), ("dan", "wrong")] {
        store.check(who, 1, answer(label), 1, &guideline).unwrap();
    }
    let report = Report::of(&store);
    let right: Vec<usize> = report.annotators.iter().map(|a| a.gold_right).collect();
    assert_eq!(right, [1, 0, 1, 1]);
    assert!((report.annotators[0].gold_interval.0 - 0.2065).abs() < 5e-5);
    assert_eq!(store.item(1).unwrap().stage(), Stage::Gold);
}

#[test]
fn accepted_rows_are_drawn_for_a_second_look() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "", 6);
    let text = std::fs::read_to_string(dir.path().join("task.toml")).unwrap().replace("audit = 0", "audit = 1.0");
    std::fs::write(dir.path().join("task.toml"), text).unwrap();
    let task = read(dir.path());
    let mut store = open(&task);
    for id in 1..=6 {
        check(&mut store, id, if id < 4 { ["wrong"; 3] } else { ["right"; 3] });
    }
    assert_eq!(store.ids(|i| i.stage() == Stage::Audit), [4, 5, 6]);
    let guideline = task.guideline_version();
    store.audit("eve", 4, answer("right"), 3, &guideline).unwrap();
    store.audit("eve", 5, answer("wrong"), 3, &guideline).unwrap();
    assert_eq!(store.item(4).unwrap().stage(), Stage::Accepted);
    assert_eq!(store.item(5).unwrap().stage(), Stage::Rejected);
    let audit = Report::of(&store).audit;
    assert_eq!((audit.waiting, audit.done, audit.wrong, audit.allowed, audit.passes), (1, 2, 1, 0, Some(false)));
}

/// Every scale at once: α, posterior and gate go by the rubric's own values.
#[test]
fn sets_orders_and_numbers_pass_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "", 8);
    let more = "[[rubric]]\nname = \"flaws\"\nscale = \"multi\"\n\
        labels = [{ name = \"rude\" }, { name = \"long\" }, { name = \"false\" }]\n\
        [[rubric]]\nname = \"clear\"\nscale = \"ordinal\"\nlabels = [{ name = \"low\" }, { name = \"mid\" }, { name = \"high\" }]\n\
        [[rubric]]\nname = \"stars\"\nscale = \"ratio\"\n\
        labels = [{ name = \"one\", value = 1 }, { name = \"two\", value = 2 }, { name = \"five\", value = 5 }]\n";
    let text = std::fs::read_to_string(dir.path().join("task.toml")).unwrap();
    std::fs::write(dir.path().join("task.toml"), text + more).unwrap();
    let task = read(dir.path());
    let mut store = open(&task);
    let said = |correct: &str, flaws: &[&str], clear: &str, stars: &str| {
        let mut answer = answer(correct);
        answer.labels.insert("flaws".into(), flaws.iter().map(|f| (*f).to_owned()).collect());
        answer.labels.insert("clear".into(), vec![clear.into()]);
        answer.labels.insert("stars".into(), vec![stars.into()]);
        answer
    };
    let guideline = task.guideline_version();
    for id in 1..=8 {
        for who in ["ann", "bob", "cat"] {
            // the order in which labels are chosen does not matter; cat sees one flaw more in row 8
            let flaws: &[&str] = match (id, who) {
                (8, "cat") => &["long", "rude"],
                (8, _) => &["rude"],
                (1..=3, "bob") => &["false", "rude"],
                (1..=3, _) => &["rude", "false"],
                _ => &[],
            };
            let answer = match id {
                1..=3 => said("wrong", flaws, "low", "one"),
                4..=5 => said("right", flaws, "mid", "two"),
                _ => said("right", flaws, "high", "five"),
            };
            store.check(who, id, answer, 1, &guideline).unwrap();
        }
    }
    assert_eq!(store.ids(|i| i.stage() == Stage::Rejected), [1, 2, 3]);
    assert_eq!(store.ids(|i| i.stage() == Stage::Accepted), [4, 5, 6, 7]);
    assert_eq!(store.ids(|i| i.stage() == Stage::Adjudication), [8]);
    let report = Report::of(&store);
    let alpha = |name: &str| report.rubrics.iter().find(|r| r.name == name).unwrap().alpha.unwrap();
    assert_eq!((alpha("correct"), alpha("clear"), alpha("stars")), (1.0, 1.0, 1.0));
    // by hand: margins {} 12, {rude, false} 9, {rude} 2, {rude, long} 1; row 8 has 2 pairs of 2/2,
    // each 1 - 1/2·2/3 apart; {rude, false} and {rude} likewise; {rude, false} and {rude, long} 1 - 1/3·1/3
    let apart = 2.0 / 3.0;
    let expected = 2.0 * (12.0 * 12.0 + 9.0 * 2.0 * apart + 9.0 * (8.0 / 9.0) + 2.0 * apart) / 23.0;
    assert!((alpha("flaws") - (1.0 - 2.0 * apart / expected)).abs() < 1e-12, "{}", alpha("flaws"));
    assert!(store.item(4).unwrap().gate().unwrap().posterior > 0.95);
    assert!(verify(&task, None).unwrap().faults.is_empty());
}

#[test]
fn tampering_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "", 2);
    let mut store = open(&task);
    check(&mut store, 1, ["right"; 3]);
    let head = store.head().clone();
    drop(store);
    assert!(verify(&task, Some(head.hash)).unwrap().faults.is_empty());
    let tamper = |sql: &str| {
        let copy = tempfile::tempdir().unwrap();
        for name in ["task.toml", "guideline.md"] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        let db = rusqlite::Connection::open(&task.store).unwrap();
        let path = copy.path().join("task.sqlite");
        db.execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
        let db = rusqlite::Connection::open(&path).unwrap();
        let kept = db.execute_batch(sql).unwrap_err().to_string();
        assert!(kept.contains("append-only"), "{kept}");
        db.execute_batch("DROP TRIGGER events_stay; DROP TRIGGER events_last; DROP TRIGGER items_stay;").unwrap();
        db.execute_batch(sql).unwrap();
        let task: std::sync::Arc<Task> = read(copy.path());
        (verify(&task, Some(head.hash)).unwrap().faults, Store::open(task).err())
    };
    let (faults, opened) = tamper("UPDATE events SET json = replace(json, 'right', 'wrong') WHERE seq = 8");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("event 8:"), "{faults:?}");
    assert!(opened.unwrap().to_string().contains("event 8"));
    let (faults, opened) = tamper("DELETE FROM events WHERE seq = 8");
    assert!(faults.iter().any(|f| f.starts_with("event 8: missing")), "{faults:?}");
    assert!(opened.is_some());
    // the end cut off: a whole chain, but not the one that was noted
    let (faults, _) = tamper("DELETE FROM events WHERE seq = 9");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("given head"), "{faults:?}");
    let (faults, _) = tamper("UPDATE items SET body = replace(body, 'a0', 'a9') WHERE id = 1");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("rows.jsonl:1) was changed"), "{faults:?}");
}

#[test]
fn two_processes_write_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "", 40);
    open(&task);
    let work = |who: &'static str| {
        let task = task.clone();
        std::thread::spawn(move || {
            let mut store = Store::open(task.clone()).unwrap();
            for id in 1..=40 {
                store.check(who, id, answer("right"), 1, &task.guideline_version()).unwrap();
            }
        })
    };
    for thread in ["ann", "bob"].map(work) {
        thread.join().unwrap();
    }
    let found = verify(&task, None).unwrap();
    assert_eq!((found.faults, found.items, found.head.seq), (vec![], 40, 2 + 80 + 80));
}

#[test]
fn other_rubrics_do_not_read_old_events() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "", 1);
    open(&task);
    let text = std::fs::read_to_string(dir.path().join("task.toml")).unwrap();
    std::fs::write(dir.path().join("task.toml"), text.replace("\"wrong\"", "\"bad\"")).unwrap();
    let error = Store::open(read(dir.path())).err().unwrap();
    assert!(matches!(error, AnnotateError::OtherRubrics { .. }), "{error}");
}

/// Where the writing half of the next test is told its folder.
const FOLDER: &str = "LOAR_ANNOTATE_KILL_TEST";

/// The writing half: does nothing unless the next test started it.
#[test]
fn kill_writer() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let task = read(std::path::Path::new(&dir));
    let mut store = Store::open(task.clone()).unwrap();
    for id in store.ids(|i| i.stage() == Stage::Open) {
        for who in ["ann", "bob", "cat"] {
            if store.item(id).unwrap().checks().iter().all(|c| c.who != who) {
                store.check(who, id, answer("right"), 1, &task.guideline_version()).unwrap();
                println!("acknowledged {}", store.head().seq);
            }
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path(), "batch = 1000", 1000);
    open(&task);
    for kill_after in 1..=12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill_writer", "--exact", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut told = lines.filter_map(|line| line.rsplit_once("acknowledged ")?.1.parse::<u64>().ok());
        for seq in told.by_ref().take(kill_after) {
            acknowledged = seq;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // what it still said before it died counts too
        acknowledged = told.last().unwrap_or(acknowledged);
        let found = verify(&task, None).unwrap();
        assert_eq!(found.faults, Vec::<String>::new());
        assert!(acknowledged >= 2000 && found.head.seq >= acknowledged, "{acknowledged} {}", found.head.seq);
    }
}
