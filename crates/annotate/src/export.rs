//! The store's results as files: accepted rows that `loar train` takes, the report, the event log.

use std::path::Path;

use loar_artifact::{write_atomic, write_atomic_with};
use loar_text::Body;
use serde_json::{Value, json};

use crate::error::AnnotateError;
use crate::report::Report;
use crate::store::{Store, corrected};
use crate::workflow::{Item, Stage};

/// Accepted rows.
pub const TRAIN: &str = "train.jsonl";
/// The report.
pub const AGREEMENT: &str = "agreement.json";
/// Every event with its hash.
pub const EVENTS: &str = "events.jsonl";

/// Writes [`TRAIN`], [`AGREEMENT`] and [`EVENTS`] into `dir`, each whole or not at all. Gives the
/// number of rows.
///
/// # Errors
/// The store or the disk.
pub fn export(store: &Store, dir: &Path) -> Result<usize, AnnotateError> {
    let accepted = store.ids(|item| matches!(item.stage(), Stage::Accepted | Stage::Audit));
    let mut rows = Vec::new();
    for id in &accepted {
        let row = row(store.item(*id)?, store.body(*id)?);
        serde_json::to_writer(&mut rows, &row).map_err(|e| io(TRAIN, e.into()))?;
        rows.push(b'\n');
    }
    write_atomic(&dir.join(TRAIN), &rows)?;
    let mut report = serde_json::to_vec_pretty(&Report::of(store)).map_err(|e| io(AGREEMENT, e.into()))?;
    report.push(b'\n');
    write_atomic(&dir.join(AGREEMENT), &report)?;
    let mut failed = None;
    let written = write_atomic_with(&dir.join(EVENTS), |out| {
        let events = store.events(|json, hash| writeln!(out, "{{\"hash\":\"{hash}\",\"event\":{json}}}"));
        events.map_err(|error| {
            let text = error.to_string();
            failed = Some(error);
            std::io::Error::other(text)
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written.map(|()| accepted.len())?),
    }
}

fn io(what: &str, source: std::io::Error) -> AnnotateError {
    AnnotateError::Io { what: what.to_owned(), source }
}

/// A row in the form that `loar train` reads, with what the experts said beside it.
fn row(item: &Item, body: Body) -> Value {
    let decision = item.decision();
    let body = match decision.and_then(|d| d.answer.correction.as_deref()) {
        Some(text) => corrected(body, text),
        None => body,
    };
    let mut row = match body {
        Body::Chat(chat) => {
            let mut row = json!({"messages": chat.messages});
            if let Some(tools) = chat.tools {
                row["tools"] = tools;
            }
            if !chat.template_kwargs.is_empty() {
                row["chat_template_kwargs"] = Value::Object(chat.template_kwargs);
            }
            row
        }
        Body::Completion { prompt, completion } => json!({"prompt": prompt, "completion": completion}),
        Body::Text(text) => json!({"text": text}),
    };
    row["annotation"] = json!({
        "source": item.source(),
        "labels": decision.map(|d| &d.answer.labels),
        "corrected": decision.is_some_and(|d| d.answer.correction.is_some()),
        "adjudicated": decision.is_some_and(|d| d.by.is_some()),
        "posterior": item.gate().map(|g| g.posterior),
    });
    row
}
