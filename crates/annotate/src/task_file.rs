//! TOML → [`Task`], every fault with its place; unknown keys are faults.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::task::{JudgeConfig, Label, Person, Role, Rubric, Scale, Task, TaskError, TaskFault, Text};

/// Number keys of a keyboard without 0.
const MOST_LABELS: usize = 9;
/// Checks a row needs.
const CHECKS: usize = 3;

type Value<'a> = Spanned<DeValue<'a>>;

/// Collects faults while values are taken out of tables.
struct Walk {
    faults: Vec<TaskFault>,
}

/// A table that is being taken apart.
struct Section<'a> {
    name: &'static str,
    span: Range<usize>,
    left: DeTable<'a>,
}

impl Walk {
    fn fault(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.faults.push(TaskFault { span: Some(span), message: message.into() });
    }

    fn section<'a>(&mut self, name: &'static str, value: Value<'a>) -> Option<Section<'a>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(left) => Some(Section { name, span, left }),
            other => {
                self.fault(
                    span,
                    format!("`{name}` is a table: expected key = value lines, found {}", other.type_str()),
                );
                None
            }
        }
    }

    fn sections<'a>(&mut self, name: &'static str, value: Option<Value<'a>>) -> Vec<Section<'a>> {
        let Some(value) = value else { return Vec::new() };
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(list) => list.into_iter().filter_map(|v| self.section(name, v)).collect(),
            _ => {
                self.fault(span, format!("`{name}` is a list of tables: write [[{name}]]"));
                Vec::new()
            }
        }
    }

    /// Whatever was not taken is unknown.
    fn end(&mut self, section: Section<'_>, known: &[&str]) {
        for (key, _) in section.left.iter() {
            let name = key.get_ref();
            self.fault(key.span(), format!("unknown key `{name}` in [{}]; it has {}", section.name, known.join(", ")));
        }
    }

    fn text(&mut self, section: &mut Section<'_>, key: &str) -> Option<(String, Range<usize>)> {
        let value = section.left.remove(key)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Some((text.to_string(), span)),
            other => {
                let found = if other.is_str() { "an empty one" } else { other.type_str() };
                self.fault(span, format!("`{key}`: expected a text, found {found}"));
                None
            }
        }
    }

    fn needed(&mut self, section: &mut Section<'_>, key: &str) -> (String, Range<usize>) {
        let there = section.left.contains_key(key);
        let found = self.text(section, key);
        if !there {
            self.fault(section.span.clone(), format!("[{}] has no `{key}`", section.name));
        }
        found.unwrap_or((String::new(), section.span.clone()))
    }

    fn number(&mut self, section: &mut Section<'_>, key: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let value = section.left.remove(key)?;
        let span = value.span();
        let number = match value.get_ref() {
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(|n| n as f64),
            DeValue::Float(x) => x.as_str().parse().ok(),
            _ => None,
        };
        match number.filter(|n| range.contains(n)) {
            Some(number) => Some(number),
            None => {
                let (low, high) = range.into_inner();
                self.fault(span, format!("`{key}`: expected a number from {low} to {high}"));
                None
            }
        }
    }

    fn whole(&mut self, section: &mut Section<'_>, key: &str, least: u32, default: u32) -> usize {
        let span = section.left.get(key).map(Spanned::span);
        match (self.number(section, key, f64::from(least)..=1e9), span) {
            (Some(n), Some(span)) if n.fract() != 0.0 => {
                self.fault(span, format!("`{key}`: expected a whole number"));
                default as usize
            }
            (n, _) => n.map_or(default as usize, |n| n as usize),
        }
    }

    fn flag(&mut self, section: &mut Section<'_>, key: &str) -> bool {
        let Some(value) = section.left.remove(key) else { return false };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.fault(value.span(), format!("`{key}`: expected true or false"));
            false
        })
    }

    fn title(&mut self, section: &mut Section<'_>, default: &str) -> Text {
        let en = self.text(section, "title").map_or(default.to_owned(), |(t, _)| t);
        let zh = self.text(section, "title_zh").map_or(en.clone(), |(t, _)| t);
        Text { en, zh }
    }

    fn one_of<T: Copy>(&mut self, (name, span): (String, Range<usize>), known: &[(&str, T)], key: &str) -> Option<T> {
        let found = known.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        if found.is_none() && !name.is_empty() {
            let names: Vec<&str> = known.iter().map(|(n, _)| *n).collect();
            self.fault(span, format!("`{key}`: expected one of {}, found `{name}`", names.join(", ")));
        }
        found
    }

    fn paths(&mut self, section: &mut Section<'_>, key: &str, dir: &Path) -> Vec<PathBuf> {
        let Some(value) = section.left.remove(key) else {
            self.fault(section.span.clone(), format!("[{}] has no `{key}`: a list of files", section.name));
            return Vec::new();
        };
        let texts = value
            .get_ref()
            .as_array()
            .map(|list| list.iter().filter_map(|v| v.get_ref().as_str().map(|t| dir.join(t))).collect::<Vec<_>>());
        match (texts, value.get_ref().as_array()) {
            (Some(texts), Some(list)) if texts.len() == list.len() && !texts.is_empty() => texts,
            _ => {
                self.fault(value.span(), format!("`{key}`: expected a list of files, as [\"rows.jsonl\"]"));
                Vec::new()
            }
        }
    }

    fn unique(&mut self, seen: &mut BTreeSet<String>, name: &str, span: Range<usize>, what: &str) {
        if !name.is_empty() && !seen.insert(name.to_owned()) {
            self.fault(span, format!("two {what} are called `{name}`"));
        }
    }

    fn rubric(&mut self, mut section: Section<'_>, seen: &mut BTreeSet<String>) -> Rubric {
        let (name, span) = self.needed(&mut section, "name");
        self.unique(seen, &name, span, "rubrics");
        let scale = self.needed(&mut section, "scale");
        let scale = self.one_of(scale, &Scale::NAMES, "scale").unwrap_or(Scale::Nominal);
        let title = self.title(&mut section, &name);
        let constant_ok = self.flag(&mut section, "constant_ok");
        let listed = section.left.remove("label").or_else(|| section.left.remove("labels"));
        let place = listed.as_ref().map_or(section.span.clone(), Spanned::span);
        let mut labels = Vec::new();
        let mut names = BTreeSet::new();
        for mut label in self.sections("labels", listed) {
            let (name, span) = self.needed(&mut label, "name");
            self.unique(&mut names, &name, span.clone(), "labels of this rubric");
            let title = self.title(&mut label, &name);
            let value = self.number(&mut label, "value", -1e12..=1e12);
            if value.is_none() && matches!(scale, Scale::Interval | Scale::Ratio) {
                self.fault(span, format!("label `{name}` has no `value`: an interval or ratio scale needs one"));
            }
            let drop = self.flag(&mut label, "drop");
            self.end(label, &["name", "title", "title_zh", "value", "drop"]);
            labels.push(Label { name, title, value, drop });
        }
        if !(2..=MOST_LABELS).contains(&labels.len()) {
            let found = labels.len();
            self.fault(place.clone(), format!("a rubric has 2 to {MOST_LABELS} labels (number keys), found {found}"));
        }
        if labels.windows(2).any(|pair| pair[0].value.zip(pair[1].value).is_some_and(|(a, b)| a >= b)) {
            self.fault(place, "values of labels ascend");
        }
        self.end(section, &["name", "title", "title_zh", "scale", "constant_ok", "labels"]);
        Rubric { name, title, scale, labels, constant_ok }
    }

    fn people(&mut self, sections: Vec<Section<'_>>) -> Vec<Person> {
        let mut seen = BTreeSet::from(["loar".to_owned(), "judge".to_owned()]);
        let mut people = Vec::new();
        for mut section in sections {
            let (name, span) = self.needed(&mut section, "name");
            self.unique(&mut seen, &name, span, "people (`loar` and `judge` are taken)");
            let role = self.needed(&mut section, "role");
            let role = self.one_of(role, &Role::NAMES, "role");
            self.end(section, &["name", "role"]);
            people.extend(role.map(|role| Person { name, role }));
        }
        let count = |role| people.iter().filter(|p| p.role == role).count();
        let missing = |found: usize, least: usize, role: &str| {
            (found < least).then(|| TaskFault {
                span: None,
                message: format!("at least {least} [[people]] have role = \"{role}\"; found {found}"),
            })
        };
        self.faults.extend(missing(count(Role::Annotator), CHECKS, "annotator"));
        self.faults.extend(missing(count(Role::Adjudicator), 1, "adjudicator"));
        people
    }

    fn judge(&mut self, mut section: Section<'_>) -> JudgeConfig {
        let (url, span) = self.needed(&mut section, "url");
        if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
            self.fault(span, format!("`url`: expected http:// or https://, found `{url}`"));
        }
        let (model, _) = self.needed(&mut section, "model");
        let key_env = self.text(&mut section, "key_env").map(|(t, _)| t);
        let price_in = self.number(&mut section, "price_in", 0.0..=1e9).unwrap_or(0.0);
        let price_out = self.number(&mut section, "price_out", 0.0..=1e9).unwrap_or(0.0);
        self.end(section, &["url", "model", "key_env", "price_in", "price_out"]);
        JudgeConfig { url: url.trim_end_matches('/').to_owned(), model, key_env, price_in, price_out }
    }
}

/// Reads a task file; `guideline` of the result holds its path.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Task, TaskError> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let failed = |mut faults: Vec<TaskFault>| {
        faults.sort_by_key(|f| f.span.as_ref().map_or(usize::MAX, |s| s.start));
        TaskError { path: path.to_owned(), text: text.to_owned(), faults }
    };
    let whole = DeTable::parse(text)
        .map_err(|error| failed(vec![TaskFault { span: error.span(), message: error.message().to_owned() }]))?;
    let mut walk = Walk { faults: Vec::new() };
    let mut root = Section { name: "the file", span: 0..0, left: whole.into_inner() };
    let mut task = match root.left.remove("task") {
        Some(value) => walk.section("task", value),
        None => {
            walk.faults.push(TaskFault { span: None, message: "there is no [task]".into() });
            None
        }
    }
    .unwrap_or(Section { name: "task", span: 0..0, left: DeTable::default() });
    let (name, _) = walk.needed(&mut task, "name");
    let (guideline, _) = walk.needed(&mut task, "guideline");
    let title = walk.title(&mut task, &name);
    let data = walk.paths(&mut task, "data", dir);
    let gold = walk.text(&mut task, "gold").map(|(t, _)| dir.join(t));
    let gold_every = walk.whole(&mut task, "gold_every", 2, 20);
    let store = walk.text(&mut task, "store").map_or(path.with_extension("sqlite"), |(t, _)| dir.join(t));
    let batch = walk.whole(&mut task, "batch", 1, 50);
    let audit = walk.number(&mut task, "audit", 0.0..=1.0).unwrap_or(0.05);
    let quality = walk.number(&mut task, "quality", 0.0..=1.0).unwrap_or(0.01);
    let seed = walk.whole(&mut task, "seed", 0, 0) as u64;
    walk.end(
        task,
        &[
            "name",
            "title",
            "title_zh",
            "guideline",
            "data",
            "gold",
            "gold_every",
            "store",
            "batch",
            "audit",
            "quality",
            "seed",
        ],
    );
    let listed = root.left.remove("rubric");
    let sections = walk.sections("rubric", listed);
    if sections.is_empty() {
        walk.faults.push(TaskFault { span: None, message: "there is no [[rubric]]: nothing to judge".into() });
    }
    let mut seen = BTreeSet::new();
    let rubrics = sections.into_iter().map(|section| walk.rubric(section, &mut seen)).collect();
    let listed = root.left.remove("people");
    let sections = walk.sections("people", listed);
    let people = walk.people(sections);
    let judge = root.left.remove("judge").and_then(|v| walk.section("judge", v)).map(|s| walk.judge(s));
    walk.end(root, &["[task]", "[[rubric]]", "[[people]]", "[judge]"]);
    if !walk.faults.is_empty() {
        return Err(failed(walk.faults));
    }
    let guideline = dir.join(guideline).to_string_lossy().into_owned();
    Ok(Task {
        name,
        title,
        guideline,
        data,
        gold,
        gold_every,
        store,
        batch,
        audit,
        quality,
        seed,
        rubrics,
        people,
        judge,
    })
}
