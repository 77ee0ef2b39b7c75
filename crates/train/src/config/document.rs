//! From TOML text and `--set` overrides to [`RunConfig`], with every fault and its place.
//!
//! Takes texts, never files. Gives all faults of all texts at once; an unknown key comes with the
//! nearest known one.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{FIELDS, RunConfig, SECTIONS};

/// Bytes `span` of text number `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into [`RunConfig::texts`]: 0 is the run file, then each `--set`.
    pub text: usize,
    /// Byte range in that text.
    pub span: Range<usize>,
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// A text that places point into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceText {
    /// Path of the run file, or `--set`.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// One fault of a run file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where; absent for a value that is missing.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// Everything that is wrong with a run file and its overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The texts.
    pub texts: Vec<SourceText>,
    /// All faults, in the order of the texts.
    pub faults: Vec<ConfigFault>,
}

/// Faults shown before the rest is only counted.
const SHOWN: usize = 20;

impl ConfigError {
    /// Line and column (in characters), both from 1, of a place.
    pub fn line_column(&self, place: &Place) -> (usize, usize) {
        let text = self.texts.get(place.text).map_or("", |t| t.text.as_str());
        let before = text.get(..place.span.start.min(text.len())).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or("").chars().count() + 1)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.faults.len();
        write!(f, "{n} fault{} in the run configuration", if n == 1 { "" } else { "s" })?;
        if n > SHOWN {
            write!(f, " (the first {SHOWN} are shown)")?;
        }
        for fault in self.faults.iter().take(SHOWN) {
            write!(f, "\n  ")?;
            let place = fault.place.as_ref();
            if let Some((place, text)) = place.and_then(|p| Some((p, self.texts.get(p.text)?))) {
                let (line, column) = self.line_column(place);
                if place.text == 0 {
                    write!(f, "{}:{line}:{column}: ", text.name)?;
                } else {
                    write!(f, "--set {}: ", text.text)?;
                }
            }
            write!(f, "{}", fault.message)?;
            if let Some(help) = &fault.help {
                write!(f, "; {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Names of other tools → ours, where the edit distance would not find them.
const FOREIGN: &[(&str, &str)] = &[
    ("r", "adapter.rank"),
    ("lora_r", "adapter.rank"),
    ("lora_rank", "adapter.rank"),
    ("lora_alpha", "adapter.alpha"),
    ("lora_dropout", "adapter.dropout"),
    ("lora_target", "adapter.targets"),
    ("target_modules", "adapter.targets"),
    ("exclude_modules", "adapter.exclude"),
    ("layers_to_transform", "adapter.layers"),
    ("finetuning_type", "adapter.method"),
    ("loraplus_lr_ratio", "adapter.lora_plus_ratio"),
    ("lr", "train.learning_rate"),
    ("max_lr", "train.learning_rate"),
    ("num_train_epochs", "train.epochs"),
    ("num_epochs", "train.epochs"),
    ("max_steps", "train.steps"),
    ("iters", "train.steps"),
    ("batch_size", "train.batch_rows"),
    ("global_batch_size", "train.batch_rows"),
    ("per_device_train_batch_size", "train.micro_batch_tokens"),
    ("micro_batch_size", "train.micro_batch_tokens"),
    ("gradient_accumulation_steps", "train.micro_batch_tokens"),
    ("gradient_checkpointing", "train.activation_checkpointing"),
    ("lr_scheduler", "train.schedule"),
    ("lr_scheduler_type", "train.schedule"),
    ("warmup", "train.warmup_steps"),
    ("grad_clip", "train.max_grad_norm"),
    ("max_norm", "train.max_grad_norm"),
    ("adam_epsilon", "train.eps"),
    ("adam_beta1", "train.betas"),
    ("adam_beta2", "train.betas"),
    ("max_length", "data.max_seq_len"),
    ("max_seq_length", "data.max_seq_len"),
    ("cutoff_len", "data.max_seq_len"),
    ("sequence_len", "data.max_seq_len"),
    ("chat_template", "data.template"),
    ("val_set_size", "data.eval_fraction"),
    ("dataset", "data.train"),
    ("datasets", "data.train"),
    ("base_model", "model.path"),
    ("model_name_or_path", "model.path"),
    ("bf16", "model.dtype"),
    ("save_steps", "checkpoint.every_steps"),
    ("save_total_limit", "checkpoint.keep"),
    ("eval_steps", "eval.every_steps"),
    ("early_stopping_patience", "eval.patience"),
    ("output_dir", "output.dir"),
];

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let up = row.get(j + 1).copied().unwrap_or(usize::MAX - 1);
            let best = (diagonal + usize::from(ca != *cb)).min(left + 1).min(up + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            diagonal = up;
            left = best;
        }
        if let Some(last) = row.last_mut() {
            *last = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (distance(&name.to_lowercase(), k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// What to do about a key that a section does not have.
fn help_for_key(section: &str, key: &str) -> String {
    let in_section = |s: &str| FIELDS.iter().filter(move |f| f.section == s).map(|f| f.key).collect::<Vec<_>>();
    if let Some(near) = nearest(key, in_section(section).into_iter()) {
        return format!("did you mean `{near}`?");
    }
    if let Some(field) = FIELDS.iter().find(|f| f.key == key) {
        return format!("`{key}` belongs to [{}]", field.section);
    }
    if let Some((_, ours)) = FOREIGN.iter().find(|(foreign, _)| *foreign == key) {
        return format!("the key is `{ours}` here");
    }
    if let Some(near) = nearest(key, FIELDS.iter().map(|f| f.key)) {
        let field = FIELDS.iter().find(|f| f.key == near);
        return format!("did you mean `{}.{near}`?", field.map_or("", |f| f.section));
    }
    format!("[{section}] has {}", in_section(section).join(", "))
}

struct Reader {
    config: RunConfig,
    faults: Vec<ConfigFault>,
}

impl Reader {
    fn fault(&mut self, text: usize, span: Range<usize>, message: String, help: Option<String>) {
        self.faults.push(ConfigFault { place: Some(Place { text, span }), message, help });
    }

    fn document(&mut self, text: usize, document: &DeTable<'_>) {
        for (section, value) in document.iter() {
            let name = section.get_ref().as_ref();
            if !SECTIONS.iter().any(|(s, _)| *s == name) {
                let near = nearest(name, SECTIONS.iter().map(|(s, _)| *s)).map(|n| format!("did you mean [{n}]?"));
                let help = near.unwrap_or_else(|| match FIELDS.iter().find(|f| f.key == name) {
                    Some(field) => format!("`{name}` belongs to [{}]", field.section),
                    None => match FOREIGN.iter().find(|(foreign, _)| *foreign == name) {
                        Some((_, ours)) => format!("the key is `{ours}` here"),
                        None => format!(
                            "the sections are {}",
                            SECTIONS.iter().map(|(s, _)| *s).collect::<Vec<_>>().join(", ")
                        ),
                    },
                });
                self.fault(text, section.span(), format!("unknown section `{name}`"), Some(help));
                continue;
            }
            let Some(keys) = value.get_ref().as_table() else {
                self.fault(
                    text,
                    value.span(),
                    format!("`{name}` is a section, not a value"),
                    Some(format!("write [{name}] and its keys below")),
                );
                continue;
            };
            for (key, value) in keys.iter() {
                self.key(text, name, key, value);
            }
        }
    }

    fn key(
        &mut self,
        text: usize,
        section: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = key.get_ref().as_ref();
        match self.config.set(section, name, value, text) {
            Some(Ok(())) => {}
            Some(Err(faults)) => {
                for (span, message) in faults {
                    self.fault(text, span, format!("`{section}.{name}`: {message}"), None);
                }
            }
            None => {
                let help = help_for_key(section, name);
                self.fault(text, key.span(), format!("unknown key `{name}` in [{section}]"), Some(help));
            }
        }
    }

    fn parse(&mut self, text: usize, source: &str) {
        let (document, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.fault(text, span, error.message().to_owned(), None);
        }
        self.document(text, document.get_ref());
    }
}

impl RunConfig {
    /// Reads a run file's `text` (its path is `name`, and its stem names the run) and the overrides
    /// `section.key=value` of the command line; a value that is not TOML is taken as text.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault of every text.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<RunConfig, ConfigError> {
        let stem =
            std::path::Path::new(name).file_stem().map_or_else(|| "run".into(), |s| s.to_string_lossy().into_owned());
        let mut reader = Reader { config: RunConfig { name: stem, ..RunConfig::default() }, faults: Vec::new() };
        let mut texts = vec![SourceText { name: name.to_owned(), text: text.to_owned() }];
        reader.parse(0, text);
        for (i, set) in overrides.iter().enumerate() {
            let number = i + 1;
            let mut kept = set.clone();
            match set.split_once('=') {
                Some((path, value)) if path.trim().split('.').count() == 2 => {
                    if DeTable::parse(set).is_err() {
                        kept = format!("{path}={}", super::setting::quoted(value.trim()));
                    }
                    reader.parse(number, &kept);
                }
                _ => reader.fault(
                    number,
                    0..set.len(),
                    format!("`{set}` is not an override"),
                    Some("write `--set section.key=value`".into()),
                ),
            }
            texts.push(SourceText { name: "--set".into(), text: kept });
        }
        reader.config.texts = texts.clone();
        if reader.faults.is_empty() {
            Ok(reader.config)
        } else {
            reader.faults.sort_by_key(|f| f.place.as_ref().map(|p| (p.text, p.span.start)));
            Err(ConfigError { texts, faults: reader.faults })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, d) in
            [("rank", "rnk", 1), ("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
            assert_eq!(distance(b, a), d, "{b} {a}");
        }
    }
}
