//! A task in a scratch folder and rows for it.
#![allow(dead_code)] // every test binary uses its part

pub mod chromium;

use std::path::Path;
use std::sync::Arc;

use loar_annotate::Task;
use loar_annotate::store::Store;
use loar_annotate::workflow::{Answer, Labels};

/// The task file: one nominal and one ordinal rubric, four annotators, two adjudicators.
pub fn task_text(options: &str) -> String {
    let mut text = format!(
        "[task]\nname = \"t\"\nguideline = \"guideline.md\"\ndata = [\"rows.jsonl\"]\naudit = 0\n{options}\n\
         [[rubric]]\nname = \"correct\"\nscale = \"nominal\"\n\
         labels = [{{ name = \"right\" }}, {{ name = \"wrong\", drop = true }}]\n"
    );
    for (name, role) in [
        ("ann", "annotator"),
        ("bob", "annotator"),
        ("cat", "annotator"),
        ("dan", "annotator"),
        ("eve", "adjudicator"),
        ("fay", "adjudicator"),
        ("gus", "admin"),
    ] {
        text.push_str(&format!("[[people]]\nname = \"{name}\"\nrole = \"{role}\"\n"));
    }
    text
}

/// Writes task, guideline and `rows` rows into `dir`.
pub fn write(dir: &Path, options: &str, rows: usize) -> Arc<Task> {
    std::fs::write(dir.join("task.toml"), task_text(options)).unwrap();
    std::fs::write(dir.join("guideline.md"), "Be right.").unwrap();
    let row = |i: usize| {
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"q{i}\"}},{{\"role\":\"assistant\",\"content\":\"a{i}\"}}]}}\n"
        )
    };
    std::fs::write(dir.join("rows.jsonl"), (0..rows).map(row).collect::<String>()).unwrap();
    read(dir)
}

/// Reads the task of `dir`.
pub fn read(dir: &Path) -> Arc<Task> {
    Arc::new(Task::read(&dir.join("task.toml")).unwrap())
}

/// The store with its rows imported.
pub fn open(task: &Arc<Task>) -> Store {
    let mut store = Store::open(task.clone()).unwrap();
    store.import().unwrap();
    store
}

/// An answer with this label.
pub fn answer(label: &str) -> Answer {
    Answer { labels: Labels::from([("correct".into(), vec![label.into()])]), ..Answer::default() }
}

/// Checks a row by three people under the guideline in force.
pub fn check(store: &mut Store, id: u64, labels: [&str; 3]) {
    let guideline = store.guideline().0.to_owned();
    for (who, label) in ["ann", "bob", "cat"].iter().zip(labels) {
        store.check(who, id, answer(label), 7, &guideline).unwrap();
    }
}
