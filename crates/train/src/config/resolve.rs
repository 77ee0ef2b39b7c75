//! From what was written to a run with nothing left open: defaults, values from the base model,
//! checks between keys. One pure function; records where each value came from.

use std::fmt;

use super::document::{ConfigError, ConfigFault, Place};
use super::{BaseForm, FIELDS, Method, ResolvedRun, RunConfig, ScheduleKind};
use loar_artifact::ContentId;

/// Where a resolved value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The default of the manual.
    Default,
    /// A default that follows from other values.
    Derived,
    /// The run file, at this line.
    File(usize),
    /// The base model.
    Base,
    /// `--set` on the command line.
    Set,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::Derived => write!(f, "default, derived"),
            Source::File(line) => write!(f, "run file, line {line}"),
            Source::Base => write!(f, "base model"),
            Source::Set => write!(f, "--set"),
        }
    }
}

/// What resolution needs to know of the base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseFacts {
    /// `max_position_embeddings` of its `config.json`.
    pub max_position_embeddings: usize,
    /// `num_hidden_layers` of its `config.json`.
    pub num_hidden_layers: usize,
}

/// What defaults may depend on.
pub(crate) struct Defaults<'a> {
    pub base: BaseFacts,
    pub name: &'a str,
    pub method: Method,
    pub max_seq_len: usize,
    pub eval_files: bool,
    pub steps: bool,
    pub batch_tokens: bool,
    pub warmup_steps: bool,
}

pub(crate) enum Default<T> {
    Required,
    Value(T, Source),
}

pub(crate) fn required<T>() -> Default<T> {
    Default::Required
}
pub(crate) fn fixed<T>(value: T) -> Default<T> {
    Default::Value(value, Source::Default)
}
pub(crate) fn derived<T>(value: T) -> Default<T> {
    Default::Value(value, Source::Derived)
}
pub(crate) fn of_base<T>(value: T) -> Default<T> {
    Default::Value(value, Source::Base)
}

/// Keys that change neither the adapter nor the metrics: a run may be resumed with other values.
/// Base and data are compared by content instead of by path.
const FREE: [&str; 9] = [
    "model.path",
    "model.threads",
    "data.train",
    "data.eval",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "output.name",
    "output.dir",
    "output.lang",
];

impl RunConfig {
    pub(super) fn source(&self, place: &Place) -> Source {
        if place.text > 0 {
            return Source::Set;
        }
        let text = self.texts.first().map_or("", |t| t.text.as_str());
        Source::File(text.get(..place.span.start.min(text.len())).unwrap_or("").matches('\n').count() + 1)
    }

    /// Decides every value.
    ///
    /// # Errors
    /// [`ConfigError`] with every missing value and every contradiction.
    pub fn resolve(&self, base: BaseFacts) -> Result<ResolvedRun, ConfigError> {
        let context = Defaults {
            base,
            name: self.output.name.as_ref().map_or(&self.name, |n| &n.value),
            method: self.adapter.method.as_ref().map_or(Method::Lora, |m| m.value),
            max_seq_len: self.data.max_seq_len.as_ref().map_or(base.max_position_embeddings.min(4096), |m| m.value),
            eval_files: self.data.eval.as_ref().is_some_and(|e| !e.value.is_empty()),
            steps: self.train.steps.as_ref().is_some_and(|s| s.value > 0),
            batch_tokens: self.train.batch_tokens.as_ref().is_some_and(|b| b.value > 0),
            warmup_steps: self.train.warmup_steps.as_ref().is_some_and(|w| w.value > 0),
        };
        let fail = |faults| ConfigError { texts: self.texts.clone(), faults };
        let run = self.fill(&context).map_err(|missing| {
            fail(
                missing
                    .into_iter()
                    .map(|name| ConfigFault {
                        place: None,
                        message: format!("`{name}` is missing"),
                        help: Some(hint_for_missing(name)),
                    })
                    .collect(),
            )
        })?;
        let faults = self.contradictions(&run, base);
        if faults.is_empty() { Ok(run) } else { Err(fail(faults)) }
    }

    fn contradictions(&self, run: &ResolvedRun, base: BaseFacts) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut wrong = |key: &str, bad: bool, message: String, help: &str| {
            if bad {
                let (section, name) = key.split_once('.').unwrap_or((key, ""));
                faults.push(ConfigFault {
                    place: self.place(section, name).cloned(),
                    message: format!("`{key}` {message}"),
                    help: (!help.is_empty()).then(|| help.to_owned()),
                });
            }
        };
        let (d, a, t, e) = (&run.data, &run.adapter, &run.train, &run.eval);
        let lora = a.method == Method::Lora;
        wrong(
            "base.dtype",
            !lora && run.base.dtype != BaseForm::AsStored,
            format!("is \"{}\" with `method = \"full\"`, which trains every weight in f32", run.base.dtype.word()),
            "remove it, or train an adapter",
        );
        wrong("data.train", d.train.is_empty(), "names no file".into(), "name at least one file or folder");
        wrong(
            "data.eval_fraction",
            !(0.0..=0.5).contains(&d.eval_fraction),
            format!("is {}", d.eval_fraction),
            "use a share from 0 to 0.5",
        );
        wrong(
            "data.eval_fraction",
            d.eval_fraction > 0.0 && !d.eval.is_empty(),
            "holds out rows although `data.eval` names files".into(),
            "remove one of the two",
        );
        wrong(
            "data.max_seq_len",
            d.max_seq_len < 2,
            format!("is {}", d.max_seq_len),
            "a row needs a token to predict and one before it",
        );
        wrong(
            "data.max_seq_len",
            d.max_seq_len > base.max_position_embeddings,
            format!(
                "is {}, beyond the model's `max_position_embeddings` of {}",
                d.max_seq_len, base.max_position_embeddings
            ),
            "use at most that",
        );
        wrong(
            "data.max_lost_fraction",
            !(0.0..=1.0).contains(&d.max_lost_fraction),
            format!("is {}", d.max_lost_fraction),
            "use a share from 0 to 1",
        );
        wrong("adapter.rank", lora && a.rank == 0, "is 0".into(), "use 1 or more, or `method = \"full\"`");
        wrong("adapter.alpha", lora && a.alpha <= 0.0, format!("is {}", a.alpha), "use a number above 0");
        wrong(
            "adapter.dropout",
            !(0.0..1.0).contains(&a.dropout),
            format!("is {}", a.dropout),
            "use a probability from 0 to below 1",
        );
        wrong(
            "adapter.lora_plus_ratio",
            a.lora_plus_ratio <= 0.0,
            format!("is {}", a.lora_plus_ratio),
            "use 1 for plain LoRA",
        );
        wrong("adapter.ffn_blocks", a.ffn_blocks == 0, "is 0".into(), "use 1 for whole updates");
        wrong(
            "adapter.layers",
            a.layers.iter().any(|l| *l >= base.num_hidden_layers),
            format!("names layers beyond the last, {}", base.num_hidden_layers.saturating_sub(1)),
            "count from 0",
        );
        wrong(
            "adapter.rank_pattern",
            a.rank_pattern.values().any(|r| *r == 0),
            "holds rank 0".into(),
            "put the module into `exclude` instead",
        );
        for key in [
            "rank",
            "alpha",
            "dropout",
            "targets",
            "exclude",
            "layers",
            "use_rslora",
            "use_dora",
            "lora_plus_ratio",
            "rank_pattern",
            "alpha_pattern",
            "ffn_blocks",
            "modules_to_save",
            "experts_layout",
        ] {
            wrong(
                &format!("adapter.{key}"),
                !lora && self.place("adapter", key).is_some(),
                "has no meaning with `method = \"full\"`".into(),
                "remove it",
            );
        }
        wrong("train.epochs", t.epochs < 0.0, format!("is {}", t.epochs), "use a number above 0");
        wrong("train.epochs", t.epochs == 0.0 && t.steps == 0, "is 0 and `train.steps` too".into(), "give one of them");
        wrong(
            "train.steps",
            t.epochs > 0.0 && t.steps > 0,
            "and `train.epochs` are both given".into(),
            "remove one of them",
        );
        wrong(
            "train.batch_rows",
            t.batch_rows == 0 && t.batch_tokens == 0,
            "is 0 and `train.batch_tokens` too".into(),
            "give one of them",
        );
        wrong(
            "train.batch_tokens",
            t.batch_rows > 0 && t.batch_tokens > 0,
            "and `train.batch_rows` are both given".into(),
            "remove one of them",
        );
        wrong(
            "train.warmup_ratio",
            !(0.0..1.0).contains(&t.warmup_ratio),
            format!("is {}", t.warmup_ratio),
            "use a share from 0 to below 1",
        );
        wrong(
            "train.warmup_steps",
            t.warmup_steps > 0 && t.warmup_ratio > 0.0,
            "and `train.warmup_ratio` are both given".into(),
            "remove one of them",
        );
        wrong(
            "train.warmup_steps",
            t.steps > 0 && t.warmup_steps >= t.steps,
            format!("is {}, all of the {} steps", t.warmup_steps, t.steps),
            "leave steps after the warm-up",
        );
        wrong(
            "train.micro_batch_tokens",
            t.micro_batch_tokens == 0,
            "is 0".into(),
            "use the tokens that fit one pass, 2048 for instance",
        );
        wrong("train.learning_rate", t.learning_rate <= 0.0, format!("is {}", t.learning_rate), "use a number above 0");
        wrong(
            "train.min_lr_ratio",
            !(0.0..=1.0).contains(&t.min_lr_ratio),
            format!("is {}", t.min_lr_ratio),
            "use a share from 0 to 1",
        );
        wrong(
            "train.min_lr_ratio",
            t.schedule == ScheduleKind::Constant && self.train.min_lr_ratio.is_some(),
            "has no meaning with `schedule = \"constant\"`".into(),
            "remove it",
        );
        wrong("train.weight_decay", t.weight_decay < 0.0, format!("is {}", t.weight_decay), "use 0 or more");
        wrong("train.eps", t.eps <= 0.0, format!("is {}", t.eps), "use a small number above 0, 1e-8 for instance");
        wrong("train.max_grad_norm", t.max_grad_norm < 0.0, format!("is {}", t.max_grad_norm), "use 0 for no bound");
        wrong(
            "eval.patience",
            e.patience > 0 && d.eval.is_empty() && d.eval_fraction == 0.0,
            "needs evaluation rows".into(),
            "set `data.eval` or `data.eval_fraction`",
        );
        wrong("eval.metric", e.metric.is_empty(), "is empty".into(), "use `eval_loss`");
        wrong(
            "checkpoint.keep",
            run.checkpoint.keep < 2,
            format!("is {}", run.checkpoint.keep),
            "keep 2 or more: a torn newest checkpoint falls back to the one before",
        );
        faults
    }
}

fn hint_for_missing(name: &str) -> String {
    match name {
        "model.path" => "add `path = \"…\"` below [model]: the folder of the base checkpoint".into(),
        "data.train" => "add `train = [\"….jsonl\"]` below [data]".into(),
        _ => format!("add it, or `--set {name}=…`"),
    }
}

impl ResolvedRun {
    /// `resolved.toml`: every value with its source as a comment. It is itself a run file.
    pub fn toml(&self) -> String {
        let mut out =
            format!("# run `{}`, every value decided; the comment says where each came from\n", self.output.name);
        let mut section = "";
        for (name, value) in self.values() {
            let (this, key) = name.split_once('.').unwrap_or(("", name));
            if this != section {
                section = this;
                out.push_str(&format!("\n[{section}]\n"));
            }
            let source = self.sources.get(name).map(ToString::to_string).unwrap_or_default();
            out.push_str(&format!("{key} = {value}  # {source}\n"));
        }
        out
    }

    /// Id of everything that decides the bytes of the adapter, apart from base and data, which are
    /// compared by their own content.
    pub fn training_id(&self) -> ContentId {
        let fixed: Vec<String> = self.fixed().map(|(name, value)| format!("{name} = {value}\n")).collect();
        ContentId::of_bytes(fixed.concat().as_bytes())
    }

    fn fixed(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.values().into_iter().filter(|(name, _)| !FREE.contains(name))
    }

    /// What differs between two runs among the values that decide the adapter, one line a key.
    pub fn differences(&self, earlier: &ResolvedRun) -> Vec<String> {
        self.fixed()
            .zip(earlier.fixed())
            .filter(|((_, now), (_, before))| now != before)
            .map(|((name, now), (_, before))| format!("`{name}` was {before} and is {now}"))
            .collect()
    }

    /// Reads a `resolved.toml` back; its name is `name`.
    ///
    /// # Errors
    /// [`ConfigError`] when it is not one, or lacks values.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<ResolvedRun, ConfigError> {
        let config = RunConfig::parse(name, text, overrides)?;
        // every value is in the file, so that nothing is taken from these bounds
        let absent: Vec<_> = FIELDS.iter().filter(|f| config.place(f.section, f.key).is_none()).collect();
        if !absent.is_empty() {
            let faults = absent
                .iter()
                .map(|f| ConfigFault {
                    place: None,
                    message: format!("`{}.{}` is missing", f.section, f.key),
                    help: None,
                })
                .collect();
            return Err(ConfigError { texts: config.texts, faults });
        }
        let context = Defaults {
            base: BaseFacts { max_position_embeddings: usize::MAX, num_hidden_layers: usize::MAX },
            name,
            method: Method::Lora,
            max_seq_len: 2,
            eval_files: false,
            steps: false,
            batch_tokens: false,
            warmup_steps: false,
        };
        config.fill(&context).map_err(|_| ConfigError { texts: config.texts.clone(), faults: Vec::new() })
    }
}
