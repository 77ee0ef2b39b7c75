//! Rules: the first filter. A rule is a measure with bounds and the texts it speaks about (field,
//! language, task type); rules are data, in TOML files, and the presets are such files. Every rule
//! looks at every row, so that a row carries all that speaks against it, and [`Preview`] shows what
//! each rule would leave out before it does.
//!
//! Thresholds of web corpora do not fit fine-tuning sets: Gopher's drop nearly every good Chinese
//! answer. The default presets `sft`, `sft-zh`, `sft-en` drop what is broken and note what is odd.

mod facts;
mod form;
mod measure;
mod phrases;
mod preview;
mod read;
mod repeat;
#[cfg(test)]
mod tests;
mod whole;

use std::path::PathBuf;

use arrow_array::{Array, StringArray};
use loar_text::{Special, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Row, Turn};
use crate::language;
use crate::operator::{Action, Field, Finding, Operator, Outcome, Place};
use crate::options::{OptionFault, nearest};
use facts::Facts;
pub use measure::{Entry, Key, MEASURES, Measure};
use phrases::Phrases;
pub(crate) use phrases::is_whole;
pub use preview::{Example, Killed, Preview};
pub use read::{KEYS, Part, Rule, read};

/// Presets by name, with their text.
pub const PRESETS: &[(&str, &str)] = &[
    ("sft", include_str!("../presets/sft.toml")),
    ("sft-zh", include_str!("../presets/sft-zh.toml")),
    ("sft-en", include_str!("../presets/sft-en.toml")),
    ("gopher", include_str!("../presets/gopher.toml")),
    ("c4", include_str!("../presets/c4.toml")),
    ("fineweb", include_str!("../presets/fineweb.toml")),
    ("fineweb2-zh", include_str!("../presets/fineweb2-zh.toml")),
    ("nemo", include_str!("../presets/nemo.toml")),
];

/// Options of the stage `rules`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Presets: `sft`, `sft-zh`, `sft-en`, `gopher`, `c4`, `fineweb`, `fineweb2-zh`, `nemo`.
    /// Default `["sft", "sft-zh", "sft-en"]`.
    pub presets: Vec<String>,
    /// Rule files of your own; their rules are named by the stem of the file. Default none.
    pub files: Vec<PathBuf>,
    /// Rules that are left out, as `set/id`. Default none.
    pub off: Vec<String>,
    /// Rules that only note, as `set/id`. Default none.
    pub note: Vec<String>,
    /// Rules that drop, as `set/id`. Default none.
    pub drop: Vec<String>,
    /// Column, or kept field of the input, with the task type of a row. Default `task_type`.
    pub task_field: String,
    /// Folder with the `tokenizer.json` that `tokens` counts by. Default none.
    pub tokenizer: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            presets: ["sft", "sft-zh", "sft-en"].map(String::from).to_vec(),
            files: Vec::new(),
            off: Vec::new(),
            note: Vec::new(),
            drop: Vec::new(),
            task_field: "task_type".into(),
            tokenizer: None,
        }
    }
}

/// The stage `rules`.
pub struct Op {
    rules: Vec<Rule>,
    phrases: Phrases,
    task_field: String,
    /// Whether any rule asks for the task type.
    tasks: bool,
    tokenizer: Option<Tokenizer>,
    language: language::Options,
}

impl Op {
    /// Reads the presets and files.
    ///
    /// # Errors
    /// All faults of the options and of every rule file, with their lines.
    pub fn new(options: Options) -> Result<Op, Vec<OptionFault>> {
        let mut faults = Vec::new();
        let mut rules: Vec<Rule> = Vec::new();
        let mut sets: Vec<String> = Vec::new();
        let mut take = |set: String, file: &str, text: &str, faults: &mut Vec<OptionFault>| {
            if sets.contains(&set) {
                faults.push(OptionFault::new("files", format!("two sets of rules `{set}`"), "rename one of the files"));
                return;
            }
            match read(&set, file, text) {
                Ok(more) => rules.extend(more),
                Err(more) => faults.extend(more),
            }
            sets.push(set);
        };
        for name in &options.presets {
            match PRESETS.iter().find(|(known, _)| known == name) {
                Some((known, text)) => take((*known).to_owned(), &format!("presets/{known}.toml"), text, &mut faults),
                None => {
                    let known: Vec<&str> = PRESETS.iter().map(|(known, _)| *known).collect();
                    let mend = match nearest(name, known.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the presets are {}", known.join(", ")),
                    };
                    faults.push(OptionFault::new("presets", format!("no preset `{name}`"), mend));
                }
            }
        }
        for path in &options.files {
            let set = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            match std::fs::read_to_string(path) {
                Ok(text) => take(set, &path.display().to_string(), &text, &mut faults),
                Err(error) => {
                    let found = format!("{}: {error}", path.display());
                    faults.push(OptionFault::new("files", found, "name a rule file that can be read"));
                }
            }
        }
        for (key, names) in [("off", &options.off), ("note", &options.note), ("drop", &options.drop)] {
            for name in names {
                if !rules.iter().any(|rule| rule.name == *name) {
                    let near = nearest(name, rules.iter().map(|rule| rule.name.as_str()));
                    let mend = near.map_or("name a rule as `set/id`".into(), |near| format!("did you mean `{near}`?"));
                    faults.push(OptionFault::new(key, format!("no rule `{name}`"), mend));
                }
            }
        }
        rules.retain(|rule| !options.off.contains(&rule.name));
        for rule in &mut rules {
            if options.note.contains(&rule.name) {
                rule.action = Action::Note;
            } else if options.drop.contains(&rule.name) {
                rule.action = Action::Drop;
            }
        }
        let mut tokenizer = None;
        if let Some(dir) = &options.tokenizer {
            match Tokenizer::from_dir(dir) {
                Ok(loaded) => tokenizer = Some(loaded),
                Err(error) => {
                    let found = format!("{}: {error}", dir.display());
                    faults.push(OptionFault::new("tokenizer", found, "name a folder with a `tokenizer.json`"));
                }
            }
        } else if let Some(rule) = rules.iter().find(|rule| rule.measure == Measure::Tokens) {
            let found = format!("none, and `{}` counts tokens", rule.name);
            faults.push(OptionFault::new("tokenizer", found, "name the folder of the checkpoint to be trained"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let phrases = Phrases::new(&rules);
        let tasks = rules.iter().any(|rule| !rule.task.is_empty());
        Ok(Op {
            rules,
            phrases,
            task_field: options.task_field,
            tasks,
            tokenizer,
            language: language::Options::default(),
        })
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether a rule asks for the task type, so that the column must be there.
    pub fn asks_for_task(&self) -> bool {
        self.tasks
    }

    /// Calls with every text that fails a rule, and with every text a rule looked at: rule, place,
    /// value, broken bound.
    fn judge(&self, batch: &Batch, row: &Row<'_>, mut each: impl FnMut(usize, Option<Place>, f64, Option<f64>)) {
        let task = if self.tasks { task_of(batch, row, &self.task_field) } else { None };
        let known = batch.added("language").and_then(|column| column.as_any().downcast_ref::<StringArray>());
        let of_row = known.filter(|column| column.is_valid(row.index())).map(|column| column.value(row.index()));
        for (at, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.row) {
            let speaks = rule.task.is_empty() || task.as_ref().is_some_and(|task| rule.task.contains(task));
            let lengths = || row.responses().map(repeat::char_count).sum::<usize>();
            if speaks
                && (rule.over == 0 || lengths() >= rule.over)
                && let Some(value) = whole::value(rule, row, &self.language)
            {
                each(at, None, value, rule.broken(value));
            }
        }
        for (number, turn) in row.turns().enumerate() {
            let texts = [(Field::Content, Some(turn.content)), (Field::Reasoning, turn.reasoning)];
            for (field, text) in texts {
                let Some(text) = text.filter(|text| !text.is_empty() || expects_text(&turn, field)) else { continue };
                let part = part_of(&turn, field);
                // What scripts leave open, the row says; without the stage `language`, the model.
                let language = match (language::identify_plainly(text, &self.language), of_row) {
                    ("und", Some(of_row)) => language::known(of_row),
                    ("und", None) => language::identify(text, &self.language),
                    (told, _) => told,
                };
                let facts = Facts::new(text, language);
                let mut hits = None;
                for (at, rule) in self.rules.iter().enumerate() {
                    let speaks = !rule.row
                        && (rule.field.is_empty() || part.is_some_and(|part| rule.field.contains(&part)))
                        && (rule.language.is_empty() || rule.language.iter().any(|code| code == language))
                        && (rule.task.is_empty() || task.as_ref().is_some_and(|task| rule.task.contains(task)))
                        && (rule.over == 0 || (text.len() >= rule.over && facts.counts().chars >= rule.over));
                    if !speaks {
                        continue;
                    }
                    let (value, span) = match rule.measure {
                        Measure::Phrases => {
                            let hits = hits.get_or_insert_with(|| self.phrases.find(text));
                            match hits.iter().find(|hit| hit.rule == at) {
                                Some(hit) => (Some(hit.count as f64), Some(phrases::origin(text, hit))),
                                None => (Some(0.0), None),
                            }
                        }
                        _ => (self.value(rule, &facts), None),
                    };
                    if let Some(value) = value {
                        let broken = rule.broken(value);
                        let span = span.filter(|_| broken.is_some()).unwrap_or(0..text.len());
                        let place = Place { turn: number, field, start: span.start, end: span.end };
                        each(at, Some(place), value, broken);
                    }
                }
            }
        }
    }

    /// What a rule measures of a text; `None` where the measure says nothing about it.
    fn value(&self, rule: &Rule, facts: &Facts<'_>) -> Option<f64> {
        let text = facts.text;
        let flag = |holds: bool| Some(f64::from(u8::from(holds)));
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let chars = || facts.counts().chars;
        let of_chars = |part: usize| share(part, facts.counts().chars);
        let per_word = |part: usize| share(part, facts.word_counts().all);
        match rule.measure {
            Measure::Chars => Some(chars() as f64),
            Measure::Words => Some(facts.word_counts().plain as f64),
            Measure::Tokens => {
                let ids = self.tokenizer.as_ref()?.encode(text, Special::AsText).ok()?;
                Some(ids.len() as f64)
            }
            Measure::Lines => Some(facts.plain_lines().pieces as f64),
            Measure::MeanWordLength => share(facts.word_counts().plain_chars, facts.word_counts().plain),
            Measure::LongestWord => Some(text.split_whitespace().map(repeat::char_count).max().unwrap_or(0) as f64),
            Measure::AlphaWords => per_word(facts.word_counts().alpha),
            Measure::StopWords => {
                Some(rule.words.iter().filter(|word| facts.words().contains(&word.as_str())).count() as f64)
            }
            Measure::HashesPerWord => per_word(facts.counts().hashes),
            Measure::EllipsesPerWord => per_word(text.matches("...").count() + text.matches('…').count()),
            Measure::NewlinesPerWord => per_word(facts.counts().newlines),
            Measure::BulletLines => lines_where(text, |line| line.trim_start().starts_with(['•', '-'])),
            Measure::EllipsisLines => lines_where(text, |line| {
                let line = line.trim_end();
                line.ends_with("...") || line.ends_with('…')
            }),
            Measure::EndedLines => form::line_share(text, form::ended_line),
            Measure::Unended => form::line_share(text, |line| !form::ended_line(line)),
            Measure::ShortLines => form::line_share(text, |line| repeat::char_count(line) <= rule.n),
            Measure::LongLines => {
                Some(text.split('\n').filter(|line| repeat::char_count(line) >= rule.n).count() as f64)
            }
            Measure::BlankText => flag(text.trim().is_empty()),
            Measure::DupLines => share(facts.lines().repeated, facts.lines().pieces),
            Measure::DupLineChars => of_chars(facts.lines().repeated_chars),
            Measure::DupParagraphs => share(facts.paragraphs().repeated, facts.paragraphs().pieces),
            Measure::DupParagraphChars => of_chars(facts.paragraphs().repeated_chars),
            Measure::DupTextChars => share(facts.plain_lines().repeated_chars, chars() - facts.counts().newlines),
            Measure::UniqueLines => unique(facts.plain_lines().repeated, facts.plain_lines().pieces),
            Measure::UniqueLineChars => unique(facts.plain_lines().repeated_chars, facts.plain_lines().chars),
            Measure::UniqueParagraphs => unique(facts.paragraphs().repeated, facts.paragraphs().pieces),
            Measure::UniqueParagraphChars => unique(facts.paragraphs().repeated_chars, facts.paragraphs().chars),
            Measure::TopNgram => of_chars(facts.pieces().top_chars(rule.n)),
            Measure::DupNgram => of_chars(facts.pieces().repeated_chars(rule.n)),
            Measure::DupCharNgram => Some(repeat::repeated_char_share(text, rule.n, chars())),
            Measure::LongestRun => Some(facts.counts().longest_run as f64),
            Measure::NonAlnum => {
                let c = facts.counts();
                of_chars(c.chars - c.letters - c.digits - c.space)
            }
            Measure::Digits => of_chars(facts.counts().digits),
            Measure::Urls => of_chars(form::url_chars(text)),
            Measure::Space => of_chars(facts.counts().space),
            Measure::Parens => of_chars(facts.counts().parens),
            Measure::Symbols => {
                let c = facts.counts();
                of_chars(c.chars - c.letters - c.digits - c.space - c.marks - c.parens)
            }
            Measure::Replacements => Some(facts.counts().replacements as f64),
            Measure::Controls => Some(facts.counts().controls as f64),
            Measure::Invisibles => Some(facts.counts().invisibles as f64),
            Measure::Mojibake => Some(form::mojibake(text) as f64),
            Measure::Ended => flag(form::ended(text)),
            Measure::Dangling => flag(form::dangling(text)),
            Measure::OpenFence => flag(form::open_fence(text)),
            Measure::OpenBrackets => Some(form::open_brackets(text) as f64),
            Measure::Sentences => Some(form::c4_sentences(text) as f64),
            Measure::Braces => Some(facts.counts().braces as f64),
            Measure::PhraseLines => {
                let lower: Vec<String> = rule.words.iter().map(|word| word.to_lowercase()).collect();
                form::line_share(text, |line| {
                    let line = line.to_lowercase();
                    lower.iter().any(|word| line.contains(word.as_str()))
                })
            }
            Measure::Matches => Some(rule.pattern.as_ref()?.find_iter(text).count() as f64),
            Measure::Json => flag(form::is_json(text)),
            Measure::JsonKeys => Some(form::json_keys(text, &rule.words)),
            Measure::Label => flag(form::is_label(text, &rule.words)),
            Measure::Number => flag(form::ends_in_number(text)),
            Measure::Fence => Some(form::closed_fences(text) as f64),
            Measure::List => Some(form::list_items(text) as f64),
            // Phrases are found for all rules at once; the rest look at whole rows.
            Measure::Phrases
            | Measure::TurnFaults
            | Measure::Turns
            | Measure::LanguageDiffers
            | Measure::LengthRatio
            | Measure::Echo => None,
        }
    }
}

fn unique(repeated: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| 1.0 - repeated as f64 / whole as f64)
}

/// Share of lines, blank ones too.
fn lines_where(text: &str, holds: impl Fn(&str) -> bool) -> Option<f64> {
    let (lines, held) = text.lines().fold((0usize, 0usize), |(n, held), line| (n + 1, held + usize::from(holds(line))));
    (lines > 0).then(|| held as f64 / lines as f64)
}

/// Empty texts are looked at where a text is expected, so that rules can say so.
fn expects_text(turn: &Turn<'_>, field: Field) -> bool {
    field == Field::Content && (turn.is_request() || (turn.is_response() && turn.role != "assistant"))
}

fn part_of(turn: &Turn<'_>, field: Field) -> Option<Part> {
    match (field, turn.role) {
        (Field::Reasoning, _) => Some(Part::Reasoning),
        (_, "system" | "developer") => Some(Part::System),
        (_, "tool") => Some(Part::Tool),
        _ if turn.is_request() => Some(Part::Request),
        _ if turn.is_response() => Some(Part::Response),
        _ => None,
    }
}

/// The task type of a row: a column that a stage added, or a field kept from the input.
fn task_of(batch: &Batch, row: &Row<'_>, name: &str) -> Option<String> {
    if let Some(column) = batch.added(name).and_then(|column| column.as_any().downcast_ref::<StringArray>()) {
        return column.is_valid(row.index()).then(|| column.value(row.index()).to_owned());
    }
    row.kept().get(name).and_then(|value| value.as_str()).map(str::to_owned)
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let mut outcome = Outcome::default();
        for row in batch.rows() {
            self.judge(batch, &row, |rule, place, value, broken| {
                let Some(bound) = broken else { return };
                let rule = &self.rules[rule];
                let finding = Finding::new(row.index(), rule.name.clone(), rule.action).measured(value, bound);
                outcome.findings.push(Finding { at: place, note: rule.why.clone(), ..finding });
            });
        }
        outcome
    }
}
