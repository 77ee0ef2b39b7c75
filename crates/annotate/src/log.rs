//! The event log's chain: each event's hash covers its text and the hash before it, so a changed,
//! removed or inserted event breaks every hash after it. Cutting off the end leaves a whole chain:
//! against that, keep a head (it stands in every report) and ask [`verify`] for it.

use std::collections::BTreeMap;
use std::path::Path;

use loar_artifact::{ContentId, IdHasher};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::error::AnnotateError;
use crate::task::Task;
use crate::workflow::{Action, Event, Item};

/// The end of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Events so far.
    pub seq: u64,
    /// Hash over all of them.
    pub hash: ContentId,
}

impl Head {
    /// Before the first event.
    pub fn start() -> Self {
        Head { seq: 0, hash: ContentId::of_bytes(b"") }
    }

    /// After an event with this JSON text.
    pub fn then(&self, json: &str) -> Head {
        let mut hasher = IdHasher::new();
        hasher.update(self.hash.to_string().as_bytes());
        hasher.update(b"\n");
        hasher.update(json.as_bytes());
        Head { seq: self.seq + 1, hash: hasher.finish() }
    }
}

/// Items and guideline as the events make them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Item i + 1.
    pub items: Vec<Item>,
    /// Version of the guideline in force.
    pub guideline: String,
    /// Its text.
    pub guideline_text: String,
    /// Id of the rubrics.
    pub rubrics: String,
}

impl State {
    /// Takes an event or refuses it unchanged.
    ///
    /// # Errors
    /// In words: what does not fit.
    pub fn apply(&mut self, event: &Event, task: &Task) -> Result<(), String> {
        match (&event.action, event.item) {
            (Action::Opened { rubrics }, None) if self.rubrics.is_empty() => self.rubrics.clone_from(rubrics),
            (Action::Guideline { text }, None) => {
                self.guideline.clone_from(&event.guideline);
                self.guideline_text.clone_from(text);
            }
            (Action::Imported { .. }, Some(id)) if id == self.items.len() as u64 + 1 => {
                self.items.push(Item::begin(event, task).map_err(|e| e.to_string())?);
            }
            (action, Some(id)) if !matches!(action, Action::Imported { .. }) => {
                let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
                let item = index.and_then(|i| self.items.get_mut(i)).ok_or(format!("there is no row {id}"))?;
                item.apply(event, task).map_err(|e| e.to_string())?;
            }
            (action, item) => return Err(format!("`{}` does not go with row {item:?}", action.name())),
        }
        Ok(())
    }
}

/// What a check of the log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The end of the log as stored.
    pub head: Head,
    /// Rows.
    pub items: usize,
    /// Everything that is not as it was written, in words.
    pub faults: Vec<String>,
}

/// Reads the whole store, changes nothing: hashes, order, every transition, every stored row, and
/// that the log still holds `expected`, the hash of a head noted earlier.
///
/// # Errors
/// A store that cannot be read at all.
pub fn verify(task: &Task, expected: Option<ContentId>) -> Result<Verified, AnnotateError> {
    let path: &Path = &task.store;
    let fail = |e: rusqlite::Error| AnnotateError::store(path, &e);
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(fail)?;
    let (mut faults, mut head, mut state) = (Vec::new(), Head::start(), State::default());
    let mut met = expected.is_none_or(|hash| hash == head.hash);
    let mut statement = db.prepare("SELECT seq, json, hash FROM events ORDER BY seq").map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let (seq, json): (u64, String) = (row.get(0).map_err(fail)?, row.get(1).map_err(fail)?);
        let stored: String = row.get(2).map_err(fail)?;
        let next = head.then(&json);
        if seq != next.seq {
            faults.push(format!("event {}: missing; the log goes on with event {seq}", next.seq));
        }
        if stored != next.hash.to_string() {
            faults.push(format!(
                "event {seq}: its text is not the one that was hashed, or the event before it was another"
            ));
        }
        // what follows is checked against what is stored, so that one change is one fault
        head = Head { seq, hash: ContentId::parse(&stored).unwrap_or(next.hash) };
        met |= Some(head.hash) == expected;
        match serde_json::from_str::<Event>(&json) {
            Err(e) => faults.push(format!("event {seq}: not readable: {e}")),
            Ok(event) => {
                if event.seq != seq {
                    faults.push(format!("event {seq}: says that it is event {}", event.seq));
                }
                faults.extend(state.apply(&event, task).err().map(|why| format!("event {seq}: {why}")));
            }
        }
    }
    if !met {
        faults.push("the log does not hold the given head: its end was cut off, or it is another log".into());
    }
    faults.extend(rows_faults(&db, &state).map_err(fail)?);
    Ok(Verified { head, items: state.items.len(), faults })
}

/// Rows whose stored text is not what the log says came in.
fn rows_faults(db: &Connection, state: &State) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT id, body FROM items")?;
    let stored: BTreeMap<u64, String> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut faults = Vec::new();
    for (id, item) in (1..).zip(&state.items) {
        match stored.get(&id) {
            None => faults.push(format!("row {id} ({}) is missing", item.source())),
            Some(body) if ContentId::of_bytes(body.as_bytes()) != item.content() => {
                faults.push(format!("row {id} ({}) was changed", item.source()));
            }
            Some(_) => {}
        }
    }
    let added = stored.keys().filter(|id| **id > state.items.len() as u64);
    faults.extend(added.map(|id| format!("row {id} was added without an event")));
    Ok(faults)
}
