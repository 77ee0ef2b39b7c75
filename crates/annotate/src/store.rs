//! Where events live: one SQLite file, written ahead and synced, one transaction a decision, so that
//! a kill at any moment loses nothing that was answered and leaves nothing half done. Several
//! processes may write: each first takes in what the others wrote.
//!
//! Items are not stored as state: they are what the events make of them, at every start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use loar_artifact::{ContentId, now_rfc3339};
use loar_data::{Dataset, ReadOptions};
use loar_text::Body;
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::error::AnnotateError;
use crate::judge::Verdict;
use crate::log::{Head, State};
use crate::random::Random;
use crate::report;
use crate::task::Task;
use crate::workflow::{Action, Answer, Event, Gate, Item, Labels, Outcome, SYSTEM, Stage};

/// Rules every row passes before a person sees it.
pub const RULES: [&str; 2] = ["answer-present@1", "not-a-duplicate@1"];

/// Another process holds the file for this long at most before a write gives up.
const BUSY: Duration = Duration::from_secs(20);

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS tokens (who TEXT PRIMARY KEY, token TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, json TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_last BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS items_stay BEFORE UPDATE ON items BEGIN SELECT RAISE(ABORT, 'rows are append-only'); END;
CREATE TRIGGER IF NOT EXISTS items_last BEFORE DELETE ON items BEGIN SELECT RAISE(ABORT, 'rows are append-only'); END;
";

/// Counts of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows that are new.
    pub new: usize,
    /// New rows that a rule refused.
    pub refused: usize,
    /// Rows that were there.
    pub known: usize,
    /// New gold rows.
    pub gold: usize,
}

/// The store of a task.
pub struct Store {
    db: Connection,
    task: Arc<Task>,
    state: State,
    head: Head,
}

impl Store {
    /// Opens or makes the task's store and replays its events.
    ///
    /// # Errors
    /// [`AnnotateError`].
    pub fn open(task: Arc<Task>) -> Result<Store, AnnotateError> {
        let fail = |e: rusqlite::Error| AnnotateError::store(&task.store, &e);
        let db = Connection::open(&task.store).map_err(fail)?;
        db.busy_timeout(BUSY).map_err(fail)?;
        db.execute_batch(SCHEMA).map_err(fail)?;
        let mut store = Store { db, task: task.clone(), state: State::default(), head: Head::start() };
        store.write(|store| {
            if store.head.seq == 0 {
                let rubrics = task.rubrics_id();
                store.append(SYSTEM, None, None, Action::Opened { rubrics })?;
            }
            if store.state.rubrics != task.rubrics_id() {
                return Err(AnnotateError::OtherRubrics { path: task.store.clone() });
            }
            for person in &task.people {
                // SQLite seeds its generator from the system's
                let insert = "INSERT OR IGNORE INTO tokens VALUES (?1, lower(hex(randomblob(16))))";
                store.db.execute(insert, [&person.name]).map_err(|e| store.fault(&e))?;
            }
            Ok(())
        })?;
        Ok(store)
    }

    fn fault(&self, error: &rusqlite::Error) -> AnnotateError {
        AnnotateError::store(&self.task.store, error)
    }

    /// The task.
    pub fn task(&self) -> &Arc<Task> {
        &self.task
    }
    /// Item i + 1.
    pub fn items(&self) -> &[Item] {
        &self.state.items
    }
    /// Rows and guideline as the events make them.
    pub fn state(&self) -> &State {
        &self.state
    }
    /// End of the log.
    pub fn head(&self) -> &Head {
        &self.head
    }
    /// Version and text of the guideline in force.
    pub fn guideline(&self) -> (&str, &str) {
        (&self.state.guideline, &self.state.guideline_text)
    }
    /// The row `id`, from 1.
    ///
    /// # Errors
    /// [`AnnotateError::NoRow`].
    pub fn item(&self, id: u64) -> Result<&Item, AnnotateError> {
        let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        index.and_then(|i| self.state.items.get(i)).ok_or(AnnotateError::NoRow(id))
    }

    /// Ids of the items that `wanted` chooses.
    pub fn ids(&self, wanted: impl Fn(&Item) -> bool) -> Vec<u64> {
        (1..).zip(&self.state.items).filter(|(_, item)| wanted(item)).map(|(id, _)| id).collect()
    }

    /// The text of row `id`.
    ///
    /// # Errors
    /// [`AnnotateError::NoRow`], or the database.
    pub fn body(&self, id: u64) -> Result<Body, AnnotateError> {
        self.item(id)?;
        let json: String = self
            .db
            .query_row("SELECT body FROM items WHERE id = ?1", [id], |row| row.get(0))
            .map_err(|e| self.fault(&e))?;
        serde_json::from_str(&json).map_err(|e| AnnotateError::Store {
            path: self.task.store.clone(),
            message: format!("row {id} is not readable: {e}"),
        })
    }

    /// Everybody's token.
    ///
    /// # Errors
    /// The database.
    pub fn tokens(&self) -> Result<BTreeMap<String, String>, AnnotateError> {
        let mut statement = self.db.prepare("SELECT who, token FROM tokens").map_err(|e| self.fault(&e))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|e| self.fault(&e))?;
        rows.collect::<Result<_, _>>().map_err(|e| self.fault(&e))
    }

    /// Hands every event, oldest first, to `f` with its hash.
    ///
    /// # Errors
    /// The database, or `f`.
    pub fn events(&self, mut f: impl FnMut(&str, &str) -> std::io::Result<()>) -> Result<(), AnnotateError> {
        let mut statement =
            self.db.prepare("SELECT json, hash FROM events ORDER BY seq").map_err(|e| self.fault(&e))?;
        let mut rows = statement.query([]).map_err(|e| self.fault(&e))?;
        while let Some(row) = rows.next().map_err(|e| self.fault(&e))? {
            let (json, hash): (String, String) =
                (row.get(0).map_err(|e| self.fault(&e))?, row.get(1).map_err(|e| self.fault(&e))?);
            f(&json, &hash).map_err(|source| AnnotateError::Io { what: "events".into(), source })?;
        }
        Ok(())
    }

    /// Takes in what other processes wrote.
    ///
    /// # Errors
    /// The database, or a log that does not replay.
    pub fn refresh(&mut self) -> Result<(), AnnotateError> {
        let newer: Vec<(String, String)> = {
            let sql = "SELECT json, hash FROM events WHERE seq > ?1 ORDER BY seq";
            let mut statement = self.db.prepare_cached(sql).map_err(|e| self.fault(&e))?;
            let rows = statement
                .query_map([self.head.seq], |row| Ok((row.get(0)?, row.get(1)?)))
                .map_err(|e| self.fault(&e))?;
            rows.collect::<Result<_, _>>().map_err(|e| self.fault(&e))?
        };
        for (json, hash) in newer {
            let head = self.head.then(&json);
            let path = || self.task.store.clone();
            let bad = |why: String| AnnotateError::Log { path: path(), seq: head.seq, why };
            if head.hash.to_string() != hash {
                return Err(bad("the hash is not that of the events up to here".into()));
            }
            let event: Event = serde_json::from_str(&json).map_err(|e| bad(e.to_string()))?;
            self.state.apply(&event, &self.task).map_err(bad)?;
            self.head = head;
        }
        Ok(())
    }

    /// One transaction: everything `f` appends is there, or nothing.
    fn write<T>(&mut self, f: impl FnOnce(&mut Store) -> Result<T, AnnotateError>) -> Result<T, AnnotateError> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(|e| self.fault(&e))?;
        let refreshed = self.refresh();
        let before = self.head.seq;
        let done = refreshed.and_then(|()| f(self)).and_then(|value| {
            self.db.execute_batch("COMMIT").map_err(|e| self.fault(&e))?;
            Ok(value)
        });
        if done.is_err() {
            // SQLite may have rolled back by itself; an error here says only that
            let _ = self.db.execute_batch("ROLLBACK");
            if self.head.seq != before {
                (self.state, self.head) = (State::default(), Head::start());
                self.refresh()?;
            }
        }
        done
    }

    /// Checks an event, writes it and lets it act.
    fn append(
        &mut self,
        who: &str,
        item: Option<u64>,
        seconds: Option<u32>,
        action: Action,
    ) -> Result<(), AnnotateError> {
        let guideline = match &action {
            Action::Guideline { .. } => self.task.guideline_version(),
            _ => self.state.guideline.clone(),
        };
        let event =
            Event { seq: self.head.seq + 1, at: now_rfc3339(), who: who.to_owned(), item, seconds, guideline, action };
        match item.map(|id| self.item(id)) {
            // the state machine's own words reach the person who asked
            Some(Ok(found)) => found.clone().apply(&event, &self.task)?,
            Some(Err(error)) if !matches!(event.action, Action::Imported { .. }) => return Err(error),
            _ => {}
        }
        let seq = event.seq;
        let refused = |why| AnnotateError::Log { path: self.task.store.clone(), seq, why };
        let json = serde_json::to_string(&event).map_err(|e| refused(e.to_string()))?;
        let head = self.head.then(&json);
        self.state.apply(&event, &self.task).map_err(refused)?;
        // from here on `write` replays the log if anything fails
        self.head = head;
        self.db
            .prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3)")
            .and_then(|mut insert| insert.execute(params![seq, json, self.head.hash.to_string()]))
            .map_err(|e| self.fault(&e))?;
        Ok(())
    }

    /// Takes in the task's files: the guideline, which, where it changed, comes into force and opens
    /// what was stopped under the old one, and every row that is not there yet.
    ///
    /// # Errors
    /// All faults of the files; the database.
    pub fn import(&mut self) -> Result<Imported, AnnotateError> {
        let task = self.task.clone();
        self.write(|store| store.adopt_guideline())?;
        let data = loar_data::read(&task.data, &ReadOptions::default())?;
        let gold = match &task.gold {
            Some(path) => {
                let options = ReadOptions { keep: vec!["labels".into()], ..ReadOptions::default() };
                Some(loar_data::read(std::slice::from_ref(path), &options)?)
            }
            None => None,
        };
        self.import_rows(&data, gold.as_ref())
    }

    fn adopt_guideline(&mut self) -> Result<(), AnnotateError> {
        if self.state.guideline == self.task.guideline_version() {
            return Ok(());
        }
        let text = self.task.guideline.clone();
        self.append(SYSTEM, None, None, Action::Guideline { text })?;
        for id in self.ids(|item| item.stage() == Stage::Stopped) {
            self.append(SYSTEM, Some(id), None, Action::Reopened)?;
        }
        Ok(())
    }

    /// Takes in examples, and examples with known `labels` among their kept fields.
    ///
    /// # Errors
    /// A gold row without labels that the rubrics know; the database.
    pub fn import_rows(&mut self, data: &Dataset, gold: Option<&Dataset>) -> Result<Imported, AnnotateError> {
        let mut rows: Vec<(String, &Body, Option<Labels>)> = Vec::new();
        for example in gold.iter().flat_map(|g| &g.examples) {
            let labels = gold_labels(&self.task, example.kept.get("labels"))
                .map_err(|why| AnnotateError::Gold { place: example.id.clone(), why })?;
            rows.push((example.id.clone(), &example.body, Some(labels)));
        }
        rows.extend(data.examples.iter().map(|e| (e.id.clone(), &e.body, None)));
        self.write(|store| {
            let mut known: BTreeMap<ContentId, String> =
                store.items().iter().rev().map(|item| (item.content(), item.source().to_owned())).collect();
            let mut sources: std::collections::BTreeSet<(String, ContentId)> =
                store.items().iter().map(|item| (item.source().to_owned(), item.content())).collect();
            let first = store.items().iter().filter_map(Item::batch).max().map_or(0, |b| b + 1);
            let (mut counts, mut admitted) = (Imported::default(), 0);
            for (source, body, gold) in rows {
                let json = serde_json::to_string(body)
                    .map_err(|e| AnnotateError::Store { path: store.task.store.clone(), message: e.to_string() })?;
                let content = ContentId::of_bytes(json.as_bytes());
                if !sources.insert((source.clone(), content)) {
                    counts.known += 1;
                    continue;
                }
                let mut failed = Vec::new();
                if answer_of(body).is_none_or(|answer| answer.trim().is_empty()) {
                    failed.push(RULES[0].to_owned());
                }
                if known.contains_key(&content) {
                    failed.push(RULES[1].to_owned());
                }
                known.entry(content).or_insert_with(|| source.clone());
                let id = store.items().len() as u64 + 1;
                let batch = gold.is_none().then(|| first + (admitted / store.task.batch) as u32);
                counts.gold += usize::from(gold.is_some());
                counts.new += usize::from(gold.is_none());
                counts.refused += usize::from(!failed.is_empty());
                admitted += usize::from(gold.is_none() && failed.is_empty());
                store
                    .db
                    .execute("INSERT INTO items VALUES (?1, ?2)", params![id, json])
                    .map_err(|e| store.fault(&e))?;
                store.append(SYSTEM, Some(id), None, Action::Imported { source, content, batch, gold })?;
                let rules = RULES.map(str::to_owned).to_vec();
                store.append(SYSTEM, Some(id), None, Action::Screened { rules, failed })?;
            }
            Ok(counts)
        })
    }

    /// An annotator's check; the gate decides when it is the last of its batch.
    ///
    /// # Errors
    /// [`AnnotateError::Refused`], [`AnnotateError::OldGuideline`], the database.
    pub fn check(
        &mut self,
        who: &str,
        id: u64,
        answer: Answer,
        seconds: u32,
        guideline: &str,
    ) -> Result<(), AnnotateError> {
        self.decide(who, id, seconds, guideline, answer, Action::Checked)
    }

    /// The fourth person's decision.
    ///
    /// # Errors
    /// As [`Store::check`].
    pub fn adjudicate(
        &mut self,
        who: &str,
        id: u64,
        answer: Answer,
        keep: bool,
        seconds: u32,
        guideline: &str,
    ) -> Result<(), AnnotateError> {
        self.decide(who, id, seconds, guideline, answer, |answer| Action::Adjudicated { answer, keep })
    }

    /// The second look at an accepted row.
    ///
    /// # Errors
    /// As [`Store::check`].
    pub fn audit(
        &mut self,
        who: &str,
        id: u64,
        answer: Answer,
        seconds: u32,
        guideline: &str,
    ) -> Result<(), AnnotateError> {
        self.decide(who, id, seconds, guideline, answer, Action::Audited)
    }

    /// A model's verdict.
    ///
    /// # Errors
    /// As [`Store::check`].
    pub fn judge(&mut self, id: u64, verdict: Verdict) -> Result<(), AnnotateError> {
        self.write(|store| store.append("judge", Some(id), None, Action::Judged(verdict)))
    }

    fn decide(
        &mut self,
        who: &str,
        id: u64,
        seconds: u32,
        guideline: &str,
        mut answer: Answer,
        action: impl FnOnce(Answer) -> Action,
    ) -> Result<(), AnnotateError> {
        self.write(|store| {
            if guideline != store.state.guideline {
                return Err(AnnotateError::OldGuideline);
            }
            let body = store.body(id)?;
            tidy(&store.task, &body, &mut answer);
            if answer.correction.is_some() && answer_of(&body).is_none() {
                return Err(AnnotateError::NothingToCorrect(id));
            }
            store.append(who, Some(id), Some(seconds), action(answer))?;
            store.draw(id)?;
            match store.item(id)?.batch() {
                Some(batch) => store.gate(batch),
                None => Ok(()),
            }
        })
    }

    /// Decides a batch once none of its rows waits for a check.
    fn gate(&mut self, batch: u32) -> Result<(), AnnotateError> {
        let ready = self.ids(|i| i.batch() == Some(batch) && i.stage() == Stage::Checked);
        let waits = self.items().iter().any(|i| i.batch() == Some(batch) && i.stage() == Stage::Open);
        if waits || ready.is_empty() {
            return Ok(());
        }
        // six decimals: what is decided on is what the log's text gives back, to the last bit
        let six = |x: f64| (x * 1e6).round() / 1e6;
        let alpha = report::alphas(&self.task, ready.iter().filter_map(|id| self.item(*id).ok()));
        let alpha: BTreeMap<String, Option<f64>> = alpha.into_iter().map(|(name, a)| (name, a.map(six))).collect();
        let posteriors = report::posteriors(&self.task, self.items());
        let gates: Vec<(u64, Gate)> = ready
            .into_iter()
            .map(|id| {
                let unanimous = self.item(id).is_ok_and(|item| item.consensus().is_some());
                let posterior = six(posteriors.get(&id).copied().unwrap_or(0.0));
                let outcome = Gate::decide(&self.task, &alpha, unanimous, posterior);
                (id, Gate { alpha: alpha.clone(), posterior, outcome })
            })
            .collect();
        for (id, gate) in gates {
            let passed = gate.outcome == Outcome::Pass;
            self.append(SYSTEM, Some(id), None, Action::Gated(gate))?;
            if passed {
                self.draw(id)?;
            }
        }
        Ok(())
    }

    /// Draws an accepted row for its audit, by the task's seed and the row's number alone.
    fn draw(&mut self, id: u64) -> Result<(), AnnotateError> {
        let item = self.item(id)?;
        let drawn = Random::new(self.task.seed ^ id.wrapping_mul(0x9E37_79B9)).below(1_000_000) as f64;
        if item.stage() == Stage::Accepted && item.audit().is_none() && drawn < self.task.audit * 1e6 {
            self.append(SYSTEM, Some(id), None, Action::Drawn)?;
        }
        Ok(())
    }

    /// File of the store.
    pub fn path(&self) -> &PathBuf {
        &self.task.store
    }
}

/// Labels of a gold row: `{"rubric": "label"}` or a list of labels.
fn gold_labels(task: &Task, value: Option<&Value>) -> Result<Labels, String> {
    let Some(Value::Object(map)) = value else {
        return Err("a gold row has `labels`, an object of rubric and label".into());
    };
    let mut labels = Labels::new();
    for (rubric, chosen) in map {
        let chosen = match chosen {
            Value::String(one) => vec![one.clone()],
            Value::Array(list) => list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => return Err(format!("`labels.{rubric}`: expected a label or a list of labels")),
        };
        labels.insert(rubric.clone(), chosen);
    }
    in_order(task, &mut labels);
    let faults = task.label_faults(&labels);
    if faults.is_empty() { Ok(labels) } else { Err(faults.join("; ")) }
}

/// Labels in the order of their rubric.
fn in_order(task: &Task, labels: &mut Labels) {
    for rubric in &task.rubrics {
        if let Some(chosen) = labels.get_mut(&rubric.name) {
            chosen.sort_by_key(|name| rubric.index(name));
        }
    }
}

/// Labels in order; no correction where the text is as it was; no empty note.
fn tidy(task: &Task, body: &Body, answer: &mut Answer) {
    in_order(task, &mut answer.labels);
    answer.correction = answer.correction.take().filter(|text| answer_of(body) != Some(text));
    answer.note = answer.note.take().filter(|note| !note.trim().is_empty());
}

/// The text that is judged: the last assistant turn, the completion, the text.
pub fn answer_of(body: &Body) -> Option<&str> {
    match body {
        Body::Chat(chat) => chat.messages.iter().rev().find(|m| m.is_assistant()).map(|m| m.content.as_str()),
        Body::Completion { completion, .. } => Some(completion),
        Body::Text(text) => Some(text),
    }
}

/// The row with its answer replaced.
pub fn corrected(mut body: Body, text: &str) -> Body {
    match &mut body {
        Body::Chat(chat) => {
            if let Some(turn) = chat.messages.iter_mut().rev().find(|m| m.is_assistant()) {
                text.clone_into(&mut turn.content);
            }
        }
        Body::Completion { completion, .. } => text.clone_into(completion),
        Body::Text(old) => text.clone_into(old),
    }
    body
}
