//! The run file: every section and key once, with its type, its default, the source of the default
//! and the text of the manual. From this table come the written form ([`RunConfig`]: everything
//! optional, with places), the resolved form ([`ResolvedRun`]: nothing optional, with sources),
//! `resolved.toml` and `docs/config.md`. Never reads a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

mod document;
mod reference;
mod resolve;
mod setting;

pub use document::{ConfigError, ConfigFault, Place, Placed, SourceText};
pub use reference::reference;
pub use resolve::{BaseFacts, Source};
pub use setting::{
    BadRow, BaseForm, Betas, Checkpointing, Dtype, EmptyThinkPolicy, Goal, Lang, Layout, Method, PRESETS, Pairs,
    RowFormat, ScheduleKind, Setting, Targets, Think, TooLong,
};

use resolve::{Default, Defaults, derived, fixed, of_base, required};

/// A key as the manual and the resolver see it.
pub(crate) struct FieldInfo {
    pub section: &'static str,
    pub key: &'static str,
    pub doc: &'static str,
    pub kind: fn() -> String,
    pub why: &'static str,
    pub default: fn(&Defaults<'_>) -> (Option<String>, Source),
}

macro_rules! sections {
    ($($(#[doc = $sdoc:literal])* $section:ident: $Resolved:ident, $Written:ident {
        $($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr, $why:literal;)*
    })*) => {
        $(
            $(#[doc = $sdoc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Resolved { $($(#[doc = $doc])* pub $key: $type,)* }

            /// The section as written.
            #[derive(Clone, Debug, Default)]
            pub struct $Written { $($(#[doc = $doc])* pub $key: Option<Placed<$type>>,)* }
        )*

        /// A run file as written: every key optional, each value with its place.
        #[derive(Clone, Debug, Default)]
        pub struct RunConfig {
            $($(#[doc = $sdoc])* pub $section: $Written,)*
            /// Name of the run: the run file's name without its extension.
            pub name: String,
            /// The texts that places point into: the run file, then each `--set`.
            pub texts: Vec<SourceText>,
        }

        /// A run with every value decided, and where each came from.
        #[derive(Clone, Debug, PartialEq)]
        pub struct ResolvedRun {
            $($(#[doc = $sdoc])* pub $section: $Resolved,)*
            /// Source of each value, by `section.key`.
            pub sources: BTreeMap<String, Source>,
            /// The run file as written.
            pub written: String,
        }

        /// All keys in the order of the manual.
        pub(crate) const FIELDS: &[FieldInfo] = &[$($(FieldInfo {
            section: stringify!($section),
            key: stringify!($key),
            doc: concat!($($doc, "\n",)*),
            kind: <$type as Setting>::kind,
            why: $why,
            default: |context| {
                let choose: fn(&Defaults<'_>) -> Default<$type> = $default;
                match choose(context) {
                    Default::Required => (None, Source::Default),
                    Default::Value(value, source) => (Some(value.toml()), source),
                }
            },
        },)*)*];

        /// Text of the manual by section.
        pub(crate) const SECTIONS: &[(&str, &str)] = &[$((stringify!($section), concat!($($sdoc, "\n",)*)),)*];

        impl RunConfig {
            /// Stores one value; `None` when there is no such key.
            fn set(&mut self, section: &str, key: &str, value: &toml::Spanned<toml::de::DeValue<'_>>, text: usize)
                -> Option<Result<(), Vec<setting::ValueFault>>> {
                match (section, key) {
                    $($((stringify!($section), stringify!($key)) => Some(<$type as Setting>::read(value).map(|read| {
                        self.$section.$key = Some(Placed { value: read, place: Place { text, span: value.span() } });
                    })),)*)*
                    _ => None,
                }
            }

            /// Place of a value that was written.
            pub fn place(&self, section: &str, key: &str) -> Option<&Place> {
                match (section, key) {
                    $($((stringify!($section), stringify!($key)) => self.$section.$key.as_ref().map(|p| &p.place),)*)*
                    _ => None,
                }
            }

            /// Fills in the defaults; the keys that are required and absent come back as names.
            fn fill(&self, context: &Defaults<'_>) -> Result<ResolvedRun, Vec<&'static str>> {
                let mut sources = BTreeMap::new();
                let mut missing = Vec::new();
                $($(
                    let choose: fn(&Defaults<'_>) -> Default<$type> = $default;
                    let name = concat!(stringify!($section), ".", stringify!($key));
                    let $key: Option<$type> = match (&self.$section.$key, choose(context)) {
                        (Some(written), _) => {
                            sources.insert(name.to_owned(), self.source(&written.place));
                            Some(written.value.clone())
                        }
                        (None, Default::Value(value, source)) => {
                            sources.insert(name.to_owned(), source);
                            Some(value)
                        }
                        (None, Default::Required) => {
                            missing.push(name);
                            None
                        }
                    };
                )*
                let $section = (|| Some($Resolved { $($key: $key?,)* }))();
                )*
                match ($($section,)*) {
                    ($(Some($section),)*) => Ok(ResolvedRun {
                        $($section,)*
                        sources,
                        written: self.texts.first().map(|t| t.text.clone()).unwrap_or_default(),
                    }),
                    _ => Err(missing),
                }
            }
        }

        impl ResolvedRun {
            /// Every value as TOML, by `section.key`, in the order of the manual.
            pub fn values(&self) -> Vec<(&'static str, String)> {
                vec![$($((concat!(stringify!($section), ".", stringify!($key)), self.$section.$key.toml()),)*)*]
            }
        }
    };
}

sections! {
    /// The base checkpoint and how it computes.
    model: ModelSection, ModelWritten {
        /// Folder with `config.json`, safetensors and tokenizer, as Hugging Face ships it.
        path: PathBuf = |_| required(), "";
        /// Threads for matrix products; 0 takes every core. The result does not depend on it.
        threads: usize = |_| fixed(0), "results are bit-equal for any number of threads, so all cores are used";
        /// Precision of matrix products. Sums, norms, softmax, router, adapters and their gradients are f32 in both.
        dtype: Dtype = |_| fixed(Dtype::Bf16), "the precision in which all DeepSeek distils and V2 are released";
    }
    /// How the frozen base lies in memory.
    base: BaseSection, BaseWritten {
        /// What attention, MLPs, experts and head are held in. Products see the dequantised numbers; norms, router, biases and embedding keep theirs (a tied head becomes a quantised copy beside the embedding). `fp8-block` leaves the head as it is. FP8, int8 and int4 checkpoints stay as stored with `as-stored`.
        dtype: BaseForm = |_| fixed(BaseForm::AsStored), "nothing is lost that the checkpoint has; int8 takes half the memory of bf16, int4 just above a quarter";
    }
    /// Rows, their rendering and their limits.
    data: DataSection, DataWritten {
        /// Files or folders with training rows: JSON, JSONL (also .gz, .zst), Parquet, CSV, text.
        train: Vec<PathBuf> = |_| required(), "";
        /// Files or folders with evaluation rows. Empty: `eval_fraction` of the training rows is held out.
        eval: Vec<PathBuf> = |_| fixed(Vec::new()), "";
        /// Share of the training rows held out for evaluation, chosen by `train.seed`; 0 holds out none.
        eval_fraction: f64 = |c| if c.eval_files { derived(0.0) } else { fixed(0.1) }, "10 % held out is the advice for small sets; 0 when `eval` names files";
        /// Most rows held out by `eval_fraction`.
        eval_max_rows: usize = |_| fixed(500), "size of the evaluation sets DeepSeek published with ESFT";
        /// Path of a curriculum, `schedule.jsonl`: which rows each stage takes. Stages follow one another, rows are shuffled inside a stage (with `train.shuffle`), and an epoch is one pass over all stages. Empty: none.
        schedule: String = |_| fixed(String::new()), "";
        /// Row schema.
        format: RowFormat = |_| fixed(RowFormat::Auto), "";
        /// Field names: the name this tool uses = the name in the file, as in `{ prompt = "q" }`.
        fields: BTreeMap<String, String> = |_| fixed(BTreeMap::new()), "";
        /// Further role names: the name in the file = `system`, `user`, `assistant` or `tool`.
        roles: BTreeMap<String, String> = |_| fixed(BTreeMap::new()), "";
        /// What a row that cannot be read or rendered does. `drop` counts it in the ledger.
        on_bad_row: BadRow = |_| fixed(BadRow::Stop), "rows skipped in silence are a frequent complaint about other trainers";
        /// Whether prompt/completion rows are chat turns or raw text.
        pairs: Pairs = |_| fixed(Pairs::Auto), "";
        /// How `<think>…</think>` inside an assistant's content is taken.
        think: Think = |_| fixed(Think::Split), "";
        /// Chat template: `checkpoint` takes the model's own, else the name of a built-in one.
        template: String = |_| fixed("checkpoint".to_owned()), "training and serving must render alike";
        /// What a row without reasoning does when the template opens `<think>`.
        empty_think: EmptyThinkPolicy = |_| fixed(EmptyThinkPolicy::Mask), "training the empty block teaches an R1 model to stop thinking";
        /// Whether control-token text inside data becomes control tokens. Leave it off for data from outside.
        allow_control_tokens: bool = |_| fixed(false), "text from outside must not be able to forge turns";
        /// Longest row in tokens.
        max_seq_len: usize = |c| of_base(c.base.max_position_embeddings.min(4096)), "the smaller of 4096 and the model's `max_position_embeddings`";
        /// What a longer row does.
        on_too_long: TooLong = |_| fixed(TooLong::Drop), "a cut row never shows the model its end token";
        /// Largest share of tokens or rows that may be lost by cutting or dropping before the run stops.
        max_lost_fraction: f64 = |_| fixed(0.01), "losses above 1 % are rarely intended; fully cut rows pass unseen elsewhere";
    }
    /// What is trained.
    adapter: AdapterSection, AdapterWritten {
        /// Low-rank adapters, or every weight but the router.
        method: Method = |_| fixed(Method::Lora), "";
        /// Rank of the update of each module.
        rank: usize = |_| fixed(16), "16 to 32 suits 500 to 10,000 rows";
        /// Numerator of the scale `alpha / rank`.
        alpha: f64 = |_| fixed(32.0), "fixed at 32 the best learning rate hardly depends on the rank (LoRA Without Regret)";
        /// Probability that an adapter input is dropped.
        dropout: f64 = |_| fixed(0.0), "fused experts have none; DeepSeek trained without";
        /// Modules that get an adapter.
        targets: Targets = |_| fixed(Targets::Preset("all-linear".into())), "adapting all linear layers beats attention alone at any rank (LoRA Without Regret; PEFT's comparison agrees)";
        /// Modules left out of `targets`.
        exclude: Vec<String> = |_| fixed(Vec::new()), "";
        /// Layer numbers that get adapters; empty means all.
        layers: Vec<usize> = |_| fixed(Vec::new()), "";
        /// Scale by `alpha / √rank` (rsLoRA).
        use_rslora: bool = |_| fixed(false), "at rank 64 it gains accuracy and doubles forgetting in PEFT's comparison";
        /// Train magnitude and direction apart (DoRA).
        use_dora: bool = |_| fixed(false), "";
        /// Learning rate of B divided by that of A (LoRA+); 1 is plain LoRA.
        lora_plus_ratio: f64 = |_| fixed(1.0), "plain LoRA; the LoRA+ authors use 16";
        /// Ranks of single modules: name or regular expression = rank.
        rank_pattern: BTreeMap<String, usize> = |_| fixed(BTreeMap::new()), "";
        /// Alphas of single modules: name or regular expression = alpha.
        alpha_pattern: BTreeMap<String, f64> = |_| fixed(BTreeMap::new()), "";
        /// Blocks into which each feed-forward update is split; 1 leaves it whole.
        ffn_blocks: usize = |_| fixed(1), "";
        /// Modules of the base trained whole and stored with the adapter.
        modules_to_save: Vec<String> = |_| fixed(Vec::new()), "embedding and head make an adapter huge, and vLLM and llama.cpp refuse it";
        /// Layout of routed experts in the adapter's files.
        experts_layout: Layout = |_| fixed(Layout::PerExpert), "read by more consumers than the fused layout";
    }
    /// The optimisation.
    train: TrainSection, TrainWritten {
        /// Passes over the training rows. Not together with `steps`.
        epochs: f64 = |c| if c.steps { derived(0.0) } else { fixed(2.0) }, "DeepSeek-V2, V3 and R1 were tuned for 2 epochs; 0 when `steps` is given";
        /// Optimizer steps; 0 means as many as `epochs` needs.
        steps: usize = |_| fixed(0), "";
        /// Rows of one optimizer step. Not together with `batch_tokens`.
        batch_rows: usize = |c| if c.batch_tokens { derived(0) } else { fixed(16) }, "below 32: at large batches LoRA loses more than full training; 0 when `batch_tokens` is given";
        /// Tokens of one optimizer step: rows are taken until it is reached. 0 means `batch_rows` decides.
        batch_tokens: usize = |_| fixed(0), "";
        /// Tokens packed into one forward and backward pass. A longer row gets a pass of its own. Accumulation follows from it.
        micro_batch_tokens: usize = |c| of_base(c.max_seq_len), "as `data.max_seq_len`, so that memory is bounded by the longest row";
        /// Peak learning rate.
        learning_rate: f64 = |c| if c.method == Method::Full { derived(1e-5) } else { derived(2e-4) }, "LoRA 2e-4 (about ten times that of full training: LoRA Without Regret; Unsloth uses the same); full 1e-5 (DeepSeek-MoE chat, ESFT)";
        /// Learning rate at the end, as a share of the peak.
        min_lr_ratio: f64 = |_| fixed(0.1), "the R1 distils end at a tenth";
        /// Course of the learning rate after warm-up.
        schedule: ScheduleKind = |_| fixed(ScheduleKind::Cosine), "used for V3's and the distils' tuning";
        /// Steps of linear warm-up. Not together with `warmup_ratio`.
        warmup_steps: usize = |_| fixed(0), "";
        /// Share of all steps spent on warm-up.
        warmup_ratio: f64 = |c| if c.warmup_steps { derived(0.0) } else { fixed(0.05) }, "5 to 10 % is axolotl's advice, 3 % Open-R1's; 0 when `warmup_steps` is given";
        /// Decoupled weight decay of matrices; vectors have none.
        weight_decay: f64 = |c| if c.method == Method::Full { derived(0.1) } else { derived(0.0) }, "LoRA 0 (TRL, PEFT); full 0.1 (ESFT)";
        /// Decay rates of AdamW's moments.
        betas: Betas = |c| if c.method == Method::Full { derived(Betas(0.9, 0.95)) } else { derived(Betas(0.9, 0.999)) }, "LoRA [0.9, 0.999] (torch); full [0.9, 0.95] (ESFT)";
        /// AdamW's epsilon.
        eps: f64 = |_| fixed(1e-8), "torch";
        /// Gradients are scaled down to this norm; 0 never scales.
        max_grad_norm: f64 = |_| fixed(1.0), "the usual bound; Open-R1 uses 0.2 for long chains of thought";
        /// Layers that keep only their input and compute the rest again during backward: less memory, up to a third more
        /// work, the same numbers. `"auto"` takes as few as the memory allows.
        activation_checkpointing: Checkpointing = |_| fixed(Checkpointing::Auto), "no layer is computed twice without need";
        /// Memory that a run may take in all, in GiB; 0 means four fifths of what the machine has free at the start.
        memory_gib: f64 = |_| fixed(0.0), "decides how many layers are computed again";
        /// Seed of initialisation, order, dropout and the held-out rows.
        seed: u64 = |_| fixed(42), "";
        /// A new order of the rows for each epoch.
        shuffle: bool = |_| fixed(true), "";
    }
    /// Evaluation during training.
    eval: EvalSection, EvalWritten {
        /// Steps between evaluations; 0 gives ten in the run.
        every_steps: usize = |_| fixed(0), "ten evaluations show the course";
        /// Value that decides which checkpoint is best: `eval_loss`, or a metric of the task that the caller scores.
        metric: String = |_| fixed("eval_loss".to_owned()), "";
        /// Which direction of the metric is better.
        goal: Goal = |_| fixed(Goal::Auto), "";
        /// Stop after this many evaluations without a better metric; 0 never stops early.
        patience: usize = |_| fixed(0), "";
        /// Whether the adapter is taken from the best checkpoint rather than from the last.
        restore_best: bool = |_| fixed(true), "later checkpoints of small sets are often overfitted";
    }
    /// Saved states for resuming.
    checkpoint: CheckpointSection, CheckpointWritten {
        /// Steps between checkpoints; 0 gives ten in the run.
        every_steps: usize = |_| fixed(0), "at least ten per run";
        /// Newest checkpoints that are kept; the best one is kept besides.
        keep: usize = |_| fixed(3), "the one before must survive a torn newest one";
    }
    /// Where results go.
    output: OutputSection, OutputWritten {
        /// Name of the run in reports.
        name: String = |c| derived(c.name.to_owned()), "the name of the run file";
        /// Run folder.
        dir: PathBuf = |c| derived(PathBuf::from("runs").join(c.name)), "`runs/` and the name of the run";
        /// Language of `report.html`.
        lang: Lang = |_| fixed(Lang::En), "";
        /// Write TensorBoard event files.
        tensorboard: bool = |_| fixed(true), "";
    }
}
