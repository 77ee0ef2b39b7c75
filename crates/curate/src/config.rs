//! The file of `loar data`: sources, and one section a stage. Every fault of every section is told
//! at once, each with its line. Paths are taken from the folder of the file.

use std::fmt;
use std::path::{Path, PathBuf};

use loar_data::{OnBadRow, ReadOptions};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::dedup::DedupOptions;
use crate::models::ScorerOptions;
use crate::options::{OptionFault, line_of};
use crate::select::IFD;
use crate::split::SplitOptions;
use crate::{
    augment, compliance, control, curriculum, decontaminate, embedding, language, pii, rules, select, semantic,
    taxonomy,
};

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceOptions {
    /// Name in counts and reports.
    pub name: String,
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Under which licence the rows may be used (an SPDX name, or words).
    pub licence: Option<String>,
    /// How often a row stands in the training part: 2.5 writes each row twice and every second a
    /// third time, 0.1 keeps a tenth.
    #[serde(default = "one")]
    pub weight: f64,
    /// How its files are read; `on_bad_row` does not apply, a bad row is dropped and kept beside
    /// the set.
    #[serde(default)]
    pub read: ReadOptions,
}

fn one() -> f64 {
    1.0
}

/// Keys of the file.
const SECTIONS: [&str; 21] = [
    "out",
    "seed",
    "report",
    "shard_mib",
    "source",
    "control",
    "language",
    "encoder",
    "taxonomy",
    "rules",
    "compliance",
    "pii",
    "decontaminate",
    "dedup",
    "semantic",
    "select",
    "split",
    "augment",
    "curriculum",
    "scorer",
    "agreement",
];

/// Language of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportLanguage {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

/// The whole file.
#[derive(Clone, Debug, Serialize)]
pub struct CurateConfig {
    /// Folder of the curated set.
    pub out: PathBuf,
    /// Seed of samples, splits and augmentation.
    pub seed: u64,
    /// Language of the report: `en` or `zh`.
    #[serde(rename = "report")]
    pub language_of_report: ReportLanguage,
    /// MiB of input in a shard: the unit of parallel work, of memory and of resuming.
    pub shard_mib: usize,
    /// Where rows come from.
    pub source: Vec<SourceOptions>,
    /// Control tokens in the text of rows; always on.
    pub control: control::Options,
    /// Languages; always on.
    pub language: language::Options,
    /// The model whose vectors `taxonomy`, `semantic`, `select` and the gate of `augment` use; on when
    /// the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<embedding::Options>,
    /// Task types; always on.
    pub taxonomy: taxonomy::Options,
    /// The rule engine; always on. `presets = []` without `files` turns it off.
    pub rules: rules::Options,
    /// Word lists and the acceptance sample; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compliance: Option<compliance::Options>,
    /// Personal data; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pii: Option<pii::Options>,
    /// Evaluation data to keep out; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decontaminate: Option<decontaminate::Options>,
    /// Repeated rows; always on.
    pub dedup: DedupOptions,
    /// Rows that mean the same in other words; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semantic: Option<semantic::Options>,
    /// A diverse choice of rows within a budget; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<select::Options>,
    /// Held-out parts.
    pub split: SplitOptions,
    /// Rows made from rows to train on, in a folder of their own; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<augment::Options>,
    /// A schedule from easy to hard; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<curriculum::Options>,
    /// A local model whose losses measure difficulty (`curriculum`), score rows (`select` with
    /// `score = "ifd"`) and measure links (`augment.dialogues`); on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorer: Option<ScorerOptions>,
    /// `agreement.json` files of `loar annotate export`, shown in the report.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<PathBuf>,
}

/// A config file with its faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub faults: Vec<OptionFault>,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let line = fault.line.map(|line| format!(":{line}")).unwrap_or_default();
            let end = if at + 1 < self.faults.len() { "\n" } else { "" };
            write!(f, "{}{line}: `{}`: {}; {}{end}", self.path.display(), fault.key, fault.found, fault.mend)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

impl CurateConfig {
    /// Reads a file. `text` is its content, `path` its place.
    ///
    /// # Errors
    /// All faults at once.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigFaults> {
        let mut reader = Sections { text, faults: Vec::new() };
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                reader.toml("", &error);
                return Err(ConfigFaults { path: path.into(), faults: reader.faults });
            }
        };
        let mut config = CurateConfig {
            out: PathBuf::new(),
            seed: 0,
            language_of_report: ReportLanguage::En,
            shard_mib: 16,
            source: Vec::new(),
            control: control::Options::default(),
            language: language::Options::default(),
            taxonomy: taxonomy::Options::default(),
            rules: rules::Options::default(),
            encoder: None,
            semantic: None,
            compliance: None,
            pii: None,
            decontaminate: None,
            select: None,
            augment: None,
            curriculum: None,
            scorer: None,
            agreement: Vec::new(),
            dedup: DedupOptions::default(),
            split: SplitOptions::default(),
        };
        let mut out = None;
        for (key, value) in table {
            let line = line_of(text, key.span().start);
            match key.get_ref().as_ref() {
                "out" => reader.section("out", value, &mut out),
                "seed" => reader.plain("seed", value, &mut config.seed),
                "report" => reader.plain("report", value, &mut config.language_of_report),
                "shard_mib" => reader.plain("shard_mib", value, &mut config.shard_mib),
                "source" => reader.sources(value, &mut config.source),
                "control" => reader.plain("control", value, &mut config.control),
                "language" => reader.plain("language", value, &mut config.language),
                "encoder" => reader.section("encoder", value, &mut config.encoder),
                "semantic" => reader.section("semantic", value, &mut config.semantic),
                "taxonomy" => reader.plain("taxonomy", value, &mut config.taxonomy),
                "rules" => reader.plain("rules", value, &mut config.rules),
                "compliance" => reader.section("compliance", value, &mut config.compliance),
                "pii" => reader.section("pii", value, &mut config.pii),
                "select" => reader.section("select", value, &mut config.select),
                "augment" => reader.section("augment", value, &mut config.augment),
                "curriculum" => reader.section("curriculum", value, &mut config.curriculum),
                "scorer" => reader.section("scorer", value, &mut config.scorer),
                "agreement" => reader.plain("agreement", value, &mut config.agreement),
                "decontaminate" => reader.section("decontaminate", value, &mut config.decontaminate),
                "dedup" => reader.plain("dedup", value, &mut config.dedup),
                "split" => reader.plain("split", value, &mut config.split),
                other => {
                    let near = crate::options::nearest(other, SECTIONS).map(|near| format!("did you mean `{near}`?"));
                    let mend = near.unwrap_or_else(|| format!("the sections are {}", SECTIONS.join(", ")));
                    reader.faults.push(OptionFault::new(other, "no such section", mend).line(line));
                }
            }
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        match out {
            Some(PathBuf { .. }) if reader.faults.iter().any(|fault| fault.key == "out") => {}
            Some(out) => config.out = folder.join(out),
            None => reader.faults.push(OptionFault::new("out", "missing", "name the folder of the curated set")),
        }
        for source in &mut config.source {
            source.paths.iter_mut().for_each(|path| *path = folder.join(&*path));
            source.read.on_bad_row = OnBadRow::Drop;
        }
        config.paths_from(folder);
        config.check(&mut reader.faults);
        if reader.faults.is_empty() {
            return Ok(config);
        }
        Err(ConfigFaults { path: path.into(), faults: reader.faults })
    }

    /// Paths of the file mean its folder.
    fn paths_from(&mut self, folder: &Path) {
        let mut paths: Vec<&mut PathBuf> = self.rules.files.iter_mut().chain(&mut self.rules.tokenizer).collect();
        paths.extend(&mut self.taxonomy.cues);
        paths.extend(self.encoder.iter_mut().map(|options| &mut options.model));
        paths.extend(self.decontaminate.iter_mut().flat_map(|options| &mut options.against));
        paths.extend(self.compliance.iter_mut().flat_map(|options| &mut options.files));
        paths.extend(self.augment.iter_mut().flat_map(|options| &mut options.lexicon));
        paths.extend(self.scorer.iter_mut().map(|options| &mut options.model));
        paths.extend(&mut self.agreement);
        paths.extend(self.pii.iter_mut().flat_map(|options| &mut options.key_file));
        paths.into_iter().for_each(|path| *path = folder.join(&*path));
    }

    fn asks_scorer(&self) -> bool {
        let selects = self.select.as_ref().is_some_and(|options| options.score.as_deref() == Some(IFD));
        selects || self.curriculum.is_some() || self.augment.as_ref().is_some_and(|o| o.dialogues.is_some())
    }

    fn check(&self, faults: &mut Vec<OptionFault>) {
        if self.source.is_empty() && !faults.iter().any(|fault| fault.key.starts_with("source")) {
            let mend = "add `[[source]]` with `name` and `paths`";
            faults.push(OptionFault::new("source", "no source", mend));
        }
        for (at, source) in self.source.iter().enumerate() {
            let key = |field: &str| format!("source.{}.{field}", source.name);
            if self.source[..at].iter().any(|other| other.name == source.name) {
                faults.push(OptionFault::new(key("name"), "a name that stands twice", "give each source its own"));
            }
            if !(source.weight.is_finite() && source.weight > 0.0 && source.weight <= 1000.0) {
                let found = source.weight.to_string();
                faults.push(OptionFault::new(key("weight"), found, "write a number above 0, at most 1000"));
            }
            if source.paths.is_empty() {
                faults.push(OptionFault::new(key("paths"), "no path", "name files or folders"));
            }
        }
        if !(1..=1024).contains(&self.shard_mib) {
            faults.push(OptionFault::new("shard_mib", self.shard_mib.to_string(), "write 1 to 1024"));
        }
        if let Some(scorer) = &self.scorer {
            if scorer.max_tokens < 16 {
                faults.push(OptionFault::new("scorer.max_tokens", scorer.max_tokens.to_string(), "give at least 16"));
            }
            if !self.asks_scorer() {
                let mend = "add `[curriculum]` or `[augment.dialogues]`, or leave the section out";
                faults.push(OptionFault::new("scorer", "nothing uses the model", mend));
            }
        } else if self.select.as_ref().is_some_and(|options| options.score.as_deref() == Some(IFD)) {
            let mend = "add `[scorer]` with `model`, a checkpoint folder";
            faults.push(OptionFault::new("select.score", "`ifd` needs a model", mend));
        }
        if let Some(options) = &self.semantic {
            faults.extend(options.check());
            if self.encoder.is_none() {
                let mend = "add `[encoder]` with `model`, the folder of a sentence encoder";
                faults.push(OptionFault::new("semantic", "meaning is measured by a model", mend));
            }
        }
        faults.extend(self.dedup.check());
        faults.extend(self.split.check());
    }
}

struct Sections<'a> {
    text: &'a str,
    faults: Vec<OptionFault>,
}

impl Sections<'_> {
    fn toml(&mut self, key: &str, error: &toml::de::Error) {
        let fault = OptionFault::new(key, error.message(), "see docs/curate.md");
        let line = error.span().map(|span| line_of(self.text, span.start));
        self.faults.push(OptionFault { line, ..fault });
    }

    fn plain<'de, T: Deserialize<'de>>(&mut self, key: &str, value: Spanned<DeValue<'de>>, into: &mut T) {
        let mut read = None;
        self.section(key, value, &mut read);
        if let Some(read) = read {
            *into = read;
        }
    }

    fn section<'de, T: Deserialize<'de>>(&mut self, key: &str, value: Spanned<DeValue<'de>>, into: &mut Option<T>) {
        let line = line_of(self.text, value.span().start);
        match T::deserialize(toml::de::ValueDeserializer::from(value)) {
            Ok(read) => *into = Some(read),
            Err(error) => {
                self.toml(key, &error);
                if let Some(fault) = self.faults.last_mut() {
                    fault.line.get_or_insert(line);
                }
            }
        }
    }

    fn sources(&mut self, value: Spanned<DeValue<'_>>, into: &mut Vec<SourceOptions>) {
        let line = line_of(self.text, value.span().start);
        let DeValue::Array(list) = value.into_inner() else {
            let fault = OptionFault::new("source", "one table", "write `[[source]]` with two brackets");
            return self.faults.push(fault.line(line));
        };
        for source in list {
            let mut read = None;
            self.section("source", source, &mut read);
            into.extend(read);
        }
    }
}
