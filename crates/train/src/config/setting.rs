//! How one value of a run file is read from TOML and written back.
//!
//! Takes a TOML value with its place, gives the typed value or faults with the place inside it.
//! Never knows which key it belongs to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

/// A fault inside a value: bytes of the source and what is wrong there.
pub type ValueFault = (Range<usize>, String);

/// A value that a run file can hold.
pub trait Setting: Sized + Clone + PartialEq {
    /// The type as the manual names it.
    fn kind() -> String;
    /// Reads a value; every fault inside it at once.
    ///
    /// # Errors
    /// The faults with their places.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>>;
    /// The value as TOML.
    fn toml(&self) -> String;
}

fn wrong<T>(value: &Spanned<DeValue<'_>>, expected: &str) -> Result<T, Vec<ValueFault>> {
    Err(vec![(value.span(), format!("expected {expected}, found {}", describe(value)))])
}

/// A value as a fault shows it.
pub(super) fn describe(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(s) => format!("the text `{}`", s.chars().take(60).collect::<String>()),
        DeValue::Integer(i) => format!("the number `{i}`"),
        DeValue::Float(x) => format!("the number `{x}`"),
        DeValue::Boolean(b) => format!("`{b}`"),
        DeValue::Datetime(d) => format!("the date `{d}`"),
        DeValue::Array(a) => format!("a list of {}", a.len()),
        DeValue::Table(_) => "a table".into(),
    }
}

/// Text as a TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Setting for bool {
    fn kind() -> String {
        "true or false".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match value.get_ref().as_bool() {
            Some(b) => Ok(b),
            None => wrong(value, "true or false"),
        }
    }
    fn toml(&self) -> String {
        self.to_string()
    }
}

/// Which layers keep only their input during the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpointing {
    /// As few as the memory allows.
    Auto,
    /// None of them.
    None,
    /// All of them.
    All,
    /// The first so many.
    Layers(usize),
}

impl Setting for Checkpointing {
    fn kind() -> String {
        "\"auto\", true, false or a number of layers".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match value.get_ref() {
            DeValue::Boolean(true) => Ok(Checkpointing::All),
            DeValue::Boolean(false) => Ok(Checkpointing::None),
            DeValue::String(s) if s == "auto" => Ok(Checkpointing::Auto),
            _ => match integer(value).and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(Checkpointing::Layers(n)),
                None => wrong(value, "\"auto\", true, false or a number of layers"),
            },
        }
    }
    fn toml(&self) -> String {
        match self {
            Checkpointing::Auto => "\"auto\"".into(),
            Checkpointing::All => "true".into(),
            Checkpointing::None => "false".into(),
            Checkpointing::Layers(n) => n.to_string(),
        }
    }
}

fn integer(value: &Spanned<DeValue<'_>>) -> Option<u64> {
    let i = value.get_ref().as_integer()?;
    u64::from_str_radix(i.as_str(), i.radix()).ok()
}

impl Setting for usize {
    fn kind() -> String {
        "whole number".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match integer(value).and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(n),
            None => wrong(value, "a whole number from 0"),
        }
    }
    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    fn kind() -> String {
        "whole number".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match integer(value) {
            Some(n) => Ok(n),
            None => wrong(value, "a whole number from 0"),
        }
    }
    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for f64 {
    fn kind() -> String {
        "number".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let number = match value.get_ref() {
            DeValue::Float(x) => x.as_str().parse::<f64>().ok(),
            DeValue::Integer(i) if i.radix() == 10 => i.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match number.filter(|x| x.is_finite()) {
            Some(x) => Ok(x),
            None => wrong(value, "a finite number"),
        }
    }
    fn toml(&self) -> String {
        // `{:?}` keeps a point or an exponent, so that the value reads back as a float
        format!("{self:?}")
    }
}

impl Setting for String {
    fn kind() -> String {
        "text".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match value.get_ref().as_str() {
            Some(s) => Ok(s.to_owned()),
            None => wrong(value, "text in quotes"),
        }
    }
    fn toml(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn kind() -> String {
        "path".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match value.get_ref().as_str() {
            Some("") => wrong(value, "a path"),
            Some(s) => Ok(PathBuf::from(s)),
            None => wrong(value, "a path in quotes"),
        }
    }
    fn toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn kind() -> String {
        format!("list of {}", T::kind())
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let Some(list) = value.get_ref().as_array() else {
            return wrong(value, &format!("a {}", Self::kind()));
        };
        let (mut out, mut faults) = (Vec::with_capacity(list.len()), Vec::new());
        for element in list.iter() {
            match T::read(element) {
                Ok(x) => out.push(x),
                Err(f) => faults.extend(f),
            }
        }
        if faults.is_empty() { Ok(out) } else { Err(faults) }
    }
    fn toml(&self) -> String {
        format!("[{}]", self.iter().map(Setting::toml).collect::<Vec<_>>().join(", "))
    }
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn kind() -> String {
        format!("table of {}", T::kind())
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let Some(table) = value.get_ref().as_table() else {
            return wrong(value, &format!("a {}", Self::kind()));
        };
        let (mut out, mut faults) = (BTreeMap::new(), Vec::new());
        for (key, element) in table.iter() {
            match T::read(element) {
                Ok(x) => {
                    out.insert(key.get_ref().to_string(), x);
                }
                Err(f) => faults.extend(f),
            }
        }
        if faults.is_empty() { Ok(out) } else { Err(faults) }
    }
    fn toml(&self) -> String {
        let entries: Vec<String> = self.iter().map(|(k, v)| format!("{} = {}", quoted(k), v.toml())).collect();
        if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
    }
}

/// AdamW's decay rates of the two moments, written `[0.9, 0.999]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Betas(pub f64, pub f64);

impl Setting for Betas {
    fn kind() -> String {
        "two numbers".into()
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match Vec::<f64>::read(value)?[..] {
            [first, second] if (0.0..1.0).contains(&first) && (0.0..1.0).contains(&second) => Ok(Betas(first, second)),
            _ => wrong(value, "two numbers from 0 to below 1, as in `[0.9, 0.999]`"),
        }
    }
    fn toml(&self) -> String {
        format!("[{:?}, {:?}]", self.0, self.1)
    }
}

/// Modules that get an adapter: a preset, a list of module names, or `{ regex = "…" }`.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// `attention`, `mlp`, `experts` or `all-linear`.
    Preset(String),
    /// Module names, matched by suffix as PEFT does.
    Modules(Vec<String>),
    /// A regular expression that must match the whole module path.
    Regex(String),
}

/// The presets a run file can name.
pub const PRESETS: [&str; 4] = ["all-linear", "attention", "mlp", "experts"];

impl Setting for Targets {
    fn kind() -> String {
        format!(
            "one of {}, a list of module names, or {{ regex = \"…\" }}",
            PRESETS.map(|p| format!("`{p}`")).join(", ")
        )
    }
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        match value.get_ref() {
            DeValue::String(s) if PRESETS.contains(&s.as_ref()) => Ok(Targets::Preset(s.to_string())),
            DeValue::Array(a) if !a.is_empty() => Ok(Targets::Modules(Vec::<String>::read(value)?)),
            DeValue::Table(t) => match (t.len(), t.get("regex").and_then(|v| v.get_ref().as_str())) {
                (1, Some(regex)) => Ok(Targets::Regex(regex.to_owned())),
                _ => wrong(value, "`{ regex = \"…\" }`"),
            },
            _ => wrong(value, &format!("{} (a single module: `[\"q_proj\"]`)", Self::kind())),
        }
    }
    fn toml(&self) -> String {
        match self {
            Targets::Preset(name) => quoted(name),
            Targets::Modules(names) => names.toml(),
            Targets::Regex(regex) => format!("{{ regex = {} }}", quoted(regex)),
        }
    }
}

/// Declares an enum whose variants are words of a run file.
macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $vdoc:literal])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $vdoc])* $variant,)* }

        impl $name {
            /// The word in a run file.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl Setting for $name {
            fn kind() -> String {
                [$(concat!("`", $word, "`"),)*].join(" \\| ")
            }
            fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
                match value.get_ref().as_str() {
                    $(Some($word) => Ok($name::$variant),)*
                    _ => wrong(value, &format!("one of {}", [$(concat!("`", $word, "`"),)*].join(", "))),
                }
            }
            fn toml(&self) -> String {
                quoted(self.word())
            }
        }
    )*};
}

words! {
    /// Precision of matrix products.
    Dtype {
        /// Operands rounded to bf16, sums in f32.
        Bf16 = "bf16",
        /// All in f32.
        F32 = "f32",
    }
    /// What the frozen base is held in.
    BaseForm {
        /// As the checkpoint has it.
        AsStored = "as-stored",
        /// Matrices and embedding in bf16.
        Bf16 = "bf16",
        /// One scale a row.
        Int8 = "int8",
        /// One scale for 64 numbers of a row.
        Int4 = "int4",
        /// E4M3, one scale a block of 128 x 128.
        Fp8Block = "fp8-block",
    }
    /// What is trained.
    Method {
        /// Low-rank adapters on a frozen base.
        Lora = "lora",
        /// Every weight but the router.
        Full = "full",
    }
    /// Row schema.
    RowFormat {
        /// Found by looking at the rows.
        Auto = "auto",
        /// OpenAI messages.
        Messages = "messages",
        /// `conversations` of `from` and `value`.
        ShareGpt = "sharegpt",
        /// `instruction`, `input`, `output`.
        Alpaca = "alpaca",
        /// A prompt and its answer.
        PromptCompletion = "prompt-completion",
        /// Text trained whole.
        Text = "text",
    }
    /// What a bad row does.
    BadRow {
        /// The run stops and lists every fault.
        Stop = "stop",
        /// The row is left out and counted.
        Drop = "drop",
    }
    /// How prompt/completion rows are taken.
    Pairs {
        /// By their field names.
        Auto = "auto",
        /// As a user and an assistant turn.
        Chat = "chat",
        /// As raw text.
        Completion = "completion",
    }
    /// How `<think>` inside an assistant's content is taken.
    Think {
        /// A leading pair is reasoning.
        Split = "split",
        /// Text before a lone `</think>` is reasoning too.
        SplitPrefilled = "split-prefilled",
        /// Left in the content.
        Keep = "keep",
    }
    /// What a row without reasoning does on a template that opens `<think>`.
    EmptyThinkPolicy {
        /// The empty block carries no loss.
        Mask = "mask",
        /// The empty block is learnt.
        Train = "train",
        /// The row is an error.
        Refuse = "refuse",
    }
    /// What a row longer than `max_seq_len` does.
    TooLong {
        /// Left out and counted.
        Drop = "drop",
        /// Cut at the end and counted.
        Cut = "cut",
        /// The run stops.
        Stop = "stop",
    }
    /// Layout of routed experts in the adapter.
    Layout {
        /// One pair of matrices per expert: what vLLM and older PEFT read.
        PerExpert = "per-expert",
        /// PEFT's `target_parameters` on fused experts.
        Fused = "fused",
    }
    /// Course of the learning rate after warm-up.
    ScheduleKind {
        /// Stays.
        Constant = "constant",
        /// Falls in a straight line to `min_lr_ratio`.
        Linear = "linear",
        /// Falls along half a cosine to `min_lr_ratio`.
        Cosine = "cosine",
    }
    /// Which direction of the metric is better.
    Goal {
        /// Smaller for names that end in `loss`, else larger.
        Auto = "auto",
        /// Smaller.
        Min = "min",
        /// Larger.
        Max = "max",
    }
    /// Language of the report.
    Lang {
        /// English.
        En = "en",
        /// Chinese.
        Zh = "zh",
    }
}
