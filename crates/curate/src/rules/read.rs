//! Rule files. A file is TOML: `[[rule]]` tables with an `id`, a `measure`, bounds `min` and `max`,
//! and where the rule applies. Every fault of a file is found at once, each with its line.

use std::ops::Range;

use regex::Regex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::measure::{Key, MEASURES, Measure};
use crate::operator::Action;
use crate::options::{OptionFault, line_of, nearest};

/// Which texts of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// User turns and prompts.
    Request,
    /// Assistant turns, completions and texts.
    Response,
    /// Chains of thought.
    Reasoning,
    /// System and developer turns.
    System,
    /// Answers of tools.
    Tool,
}

const PARTS: [(&str, Part); 5] = [
    ("request", Part::Request),
    ("response", Part::Response),
    ("reasoning", Part::Reasoning),
    ("system", Part::System),
    ("tool", Part::Tool),
];

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Set and id: `sft-zh/answer-too-short`.
    pub name: String,
    /// What it measures.
    pub measure: Measure,
    /// Whether that is about the whole row.
    pub row: bool,
    /// Least value that passes.
    pub min: Option<f64>,
    /// Greatest value that passes.
    pub max: Option<f64>,
    /// Length of n-grams, of lines.
    pub n: usize,
    /// Phrases, labels, stop words.
    pub words: Vec<String>,
    /// Regular expression.
    pub pattern: Option<Regex>,
    /// Texts it looks at. Empty: all.
    pub field: Vec<Part>,
    /// Languages of text it looks at. Empty: all.
    pub language: Vec<String>,
    /// Task types of row it looks at. Empty: all.
    pub task: Vec<String>,
    /// Looks only at texts of at least so many characters.
    pub over: usize,
    /// Phrases count only when they begin within so many characters from the start. 0: anywhere.
    pub within: usize,
    /// What a failing text means for its row: drop or note.
    pub action: Action,
    /// The reason, for reports.
    pub why: String,
}

impl Rule {
    /// The bound that a value breaks.
    pub fn broken(&self, value: f64) -> Option<f64> {
        let low = self.min.filter(|min| value < *min);
        low.or_else(|| self.max.filter(|max| value > *max))
    }
}

/// Keys of a rule, as the reference shows them.
pub const KEYS: &[(&str, &str)] = &[
    ("id", "name within the file; findings carry `set/id`"),
    ("measure", "what is measured, from the table of measures"),
    ("min", "least value that passes"),
    ("max", "greatest value that passes; one of the two is needed"),
    ("n", "length in words or characters, for measures that take it"),
    ("words", "list of phrases, labels or words, for measures that take it"),
    ("pattern", "regular expression (crate `regex`: linear time, no look-around)"),
    ("field", "`request`, `response`, `reasoning`, `system`, `tool`, or a list of them; left out: all"),
    ("language", "`zh`, `en`, `mixed`, `code`, … or a list of them; left out: all"),
    ("task", "task type or a list of them; left out: all"),
    ("over", "look only at texts of at least so many characters"),
    ("within", "count phrases only when they begin within so many characters from the start"),
    ("action", "`drop` (the default) or `note`"),
    ("why", "the reason, shown in reports"),
];

/// Reads the rules of one file; `set` names them, `file` names the faults.
///
/// # Errors
/// Every fault of the file, with its line.
pub fn read(set: &str, file: &str, text: &str) -> Result<Vec<Rule>, Vec<OptionFault>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { file, text, place: String::new(), faults: Vec::new() };
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        reader.fault(span, error.message().to_owned(), "write TOML: `[[rule]]` tables of `key = value`");
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut ids: Vec<(String, usize)> = Vec::new();
    for (key, value) in document.get_ref().iter() {
        let name = key.get_ref().as_ref();
        let tables = value.get_ref().as_array().filter(|_| name == "rule");
        let Some(tables) = tables else {
            reader.fault(key.span(), format!("`{name}` at the top"), "a rule file has `[[rule]]` tables only");
            continue;
        };
        for (at, table) in tables.iter().enumerate() {
            reader.place = format!("rule {}", at + 1);
            let Some(keys) = table.get_ref().as_table() else {
                reader.fault(table.span(), describe(table), "write a `[[rule]]` table");
                continue;
            };
            if let Some((rule, line)) = reader.rule(set, keys, table.span()) {
                if let Some((_, first)) = ids.iter().find(|(id, _)| *id == rule.name) {
                    let found = format!("`{}` again, first at line {first}", rule.name);
                    reader.fault(table.span(), found, "give every rule of a file its own id");
                }
                ids.push((rule.name.clone(), line));
                rules.push(rule);
            }
        }
    }
    reader.place.clear();
    if rules.is_empty() && reader.faults.is_empty() {
        reader.fault(0..0, "no rule".into(), "write at least one `[[rule]]` table");
    }
    if reader.faults.is_empty() { Ok(rules) } else { Err(reader.faults) }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    place: String,
    faults: Vec<OptionFault>,
}

fn describe(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(s) => format!("the text `{}`", s.chars().take(40).collect::<String>()),
        DeValue::Integer(i) => format!("the number {i}"),
        DeValue::Float(x) => format!("the number {x}"),
        DeValue::Boolean(b) => format!("`{b}`"),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(a) => format!("a list of {}", a.len()),
        DeValue::Table(_) => "a table".into(),
    }
}

type Value<'d> = Spanned<DeValue<'d>>;

impl Reader<'_> {
    fn fault(&mut self, span: Range<usize>, found: String, mend: impl Into<String>) {
        let key = if self.place.is_empty() { self.file.to_owned() } else { format!("{}: {}", self.file, self.place) };
        self.faults.push(OptionFault::new(key, found, mend).line(line_of(self.text, span.start)));
    }

    fn wrong(&mut self, key: &str, value: &Value<'_>, mend: &str) {
        self.fault(value.span(), format!("`{key}` is {}", describe(value)), mend);
    }

    fn string(&mut self, keys: &DeTable<'_>, key: &str) -> Option<String> {
        let value = keys.get(key)?;
        match value.get_ref().as_str() {
            Some(text) if !text.trim().is_empty() => Some(text.to_owned()),
            _ => {
                self.wrong(key, value, "write a text in quotes");
                None
            }
        }
    }

    fn number(&mut self, keys: &DeTable<'_>, key: &str) -> Option<f64> {
        let value = keys.get(key)?;
        let number = match value.get_ref() {
            DeValue::Float(x) => x.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(i) if i.radix() == 10 => i.as_str().replace('_', "").parse::<f64>().ok(),
            _ => None,
        };
        if number.is_none_or(|n| !n.is_finite()) {
            self.wrong(key, value, "write a number");
            return None;
        }
        number
    }

    fn whole(&mut self, keys: &DeTable<'_>, key: &str) -> Option<usize> {
        let number = self.number(keys, key)?;
        if number < 1.0 || number.fract() != 0.0 || number > 1e9 {
            self.wrong(key, keys.get(key)?, "write a whole number from 1");
            return None;
        }
        Some(number as usize)
    }

    fn list(&mut self, keys: &DeTable<'_>, key: &str) -> Vec<(String, Range<usize>)> {
        let Some(value) = keys.get(key) else { return Vec::new() };
        let one = [value.clone()];
        let items: &[Value<'_>] = match value.get_ref() {
            DeValue::Array(items) => items,
            _ => &one,
        };
        if items.is_empty() {
            self.wrong(key, value, "name at least one, or leave the key out");
        }
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_str() {
                Some(text) if !text.is_empty() => texts.push((text.to_owned(), item.span())),
                _ => self.wrong(key, item, "write a text, or a list of texts"),
            }
        }
        texts
    }

    /// A rule and the line it begins at, when nothing is wrong with it.
    fn rule(&mut self, set: &str, keys: &DeTable<'_>, span: Range<usize>) -> Option<(Rule, usize)> {
        let before = self.faults.len();
        for (key, value) in keys.iter() {
            let name = key.get_ref().as_ref();
            if !KEYS.iter().any(|(known, _)| *known == name) {
                let known: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
                let mend = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys are {}", known.join(", ")),
                };
                self.fault(key.span(), format!("unknown key `{name}` with {}", describe(value)), mend);
            }
        }
        let id = self.string(keys, "id");
        if let Some(id) = &id {
            self.place = format!("rule `{id}`");
        } else if keys.get("id").is_none() {
            self.fault(span.clone(), "no `id`".into(), "give the rule a name: `id = \"answer-too-short\"`");
        }
        let entry = self.measure(keys, &span);
        let (min, max) = (self.number(keys, "min"), self.number(keys, "max"));
        if keys.get("min").is_none() && keys.get("max").is_none() {
            self.fault(span.clone(), "neither `min` nor `max`".into(), "give the rule a bound");
        }
        if let (Some(low), Some(high)) = (min, max)
            && low > high
        {
            self.fault(span.clone(), format!("`min` {low} above `max` {high}"), "no value can pass: swap them");
        }
        let words: Vec<String> = self.list(keys, "words").into_iter().map(|(text, _)| text).collect();
        let n = self.whole(keys, "n");
        let pattern = self.string(keys, "pattern").and_then(|text| match Regex::new(&text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let at = keys.get("pattern").map_or(span.clone(), Spanned::span);
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                self.fault(at, format!("`pattern`: {reason}"), "write a regular expression without look-around");
                None
            }
        });
        if let Some(entry) = entry {
            self.keys_fit(keys, &span, entry.key, entry.name);
            if entry.row && keys.get("field").is_some() {
                let at = keys.get("field").map_or(span.clone(), Spanned::span);
                self.fault(
                    at,
                    format!("`field` with `{}`", entry.name),
                    "it looks at the whole row: leave `field` out",
                );
            }
        }
        let mut field = Vec::new();
        for (name, at) in self.list(keys, "field") {
            match PARTS.iter().find(|(known, _)| *known == name) {
                Some((_, part)) => field.push(*part),
                None => self.fault(
                    at,
                    format!("`field` is `{name}`"),
                    "write `request`, `response`, `reasoning`, `system` or `tool`",
                ),
            }
        }
        let action = match self.string(keys, "action").as_deref() {
            None | Some("drop") => Action::Drop,
            Some("note") => Action::Note,
            Some(other) => {
                let at = keys.get("action").map_or(span.clone(), Spanned::span);
                self.fault(at, format!("`action` is `{other}`"), "write `drop` or `note`");
                Action::Drop
            }
        };
        let rule = Rule {
            name: format!("{set}/{}", id.unwrap_or_default()),
            measure: entry.map_or(Measure::Chars, |entry| entry.measure),
            row: entry.is_some_and(|entry| entry.row),
            min,
            max,
            n: n.unwrap_or(1),
            words,
            pattern,
            field,
            language: self.list(keys, "language").into_iter().map(|(text, _)| text).collect(),
            task: self.list(keys, "task").into_iter().map(|(text, _)| text).collect(),
            over: self.whole(keys, "over").unwrap_or(0),
            within: self.whole(keys, "within").unwrap_or(0),
            action,
            why: self.string(keys, "why").unwrap_or_default(),
        };
        (self.faults.len() == before).then(|| (rule, line_of(self.text, span.start)))
    }

    fn measure(&mut self, keys: &DeTable<'_>, span: &Range<usize>) -> Option<&'static super::measure::Entry> {
        let Some(value) = keys.get("measure") else {
            self.fault(span.clone(), "no `measure`".into(), "say what is measured: `measure = \"chars\"`");
            return None;
        };
        let name = self.string(keys, "measure")?;
        let entry = Measure::named(&name);
        if entry.is_none() {
            let mend = match nearest(&name, MEASURES.iter().map(|entry| entry.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "the reference of rules lists all measures".into(),
            };
            self.fault(value.span(), format!("no measure `{name}`"), mend);
        }
        entry
    }

    /// Whether the keys that measures take are those that this one takes.
    fn keys_fit(&mut self, keys: &DeTable<'_>, span: &Range<usize>, takes: Option<Key>, name: &str) {
        let needs = [
            ("n", Some(Key::N), None, "`n = 5`"),
            ("words", Some(Key::Words), Some(Key::SomeWords), "`words = [\"…\"]`"),
            ("pattern", Some(Key::Pattern), None, "`pattern = '…'`"),
        ];
        for (key, needed, taken, example) in needs {
            match keys.get(key) {
                None if takes.is_some() && takes == needed => {
                    self.fault(span.clone(), format!("`{name}` without `{key}`"), format!("add {example}"));
                }
                Some(value) if takes.is_none() || (takes != needed && takes != taken) => {
                    self.fault(
                        value.span(),
                        format!("`{key}` with `{name}`"),
                        "the measure does not take it: leave it out",
                    );
                }
                _ => {}
            }
        }
    }
}
