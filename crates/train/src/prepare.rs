//! From a resolved run to what training needs: the model with its adapter, token rows, the ledger.
//!
//! Reads the base and the data, writes nothing. Every row ends as used or in the ledger with the
//! reason why not.

use std::path::Path;

use loar_artifact::{ContentId, IdHasher, Parent};
use loar_data::{Dataset, EvalSize, Example, Format, OnBadRow, PairStyle, ReadOptions, ThinkTags};
use loar_formats::config::ModelConfig;
use loar_model::{AdapterSpec, LoadOptions, Model, Preset};
use loar_tape::Precision;
use loar_text::{Body, ChatTemplate, Conversation, EmptyThink, EncodeOptions, Encoder, Message, Tokenizer};

use crate::config::{
    BadRow, BaseFacts, Dtype, EmptyThinkPolicy, Method, Pairs, ResolvedRun, RowFormat, RunConfig, Targets, Think,
    TooLong,
};
use crate::error::SHOWN;
use crate::ledger::{Ledger, Side};
use crate::observer::{Event, Observer};
use crate::pack::Row;
use crate::{TrainError, memory};

/// Everything that a training loop takes.
pub struct Inputs {
    /// The base with trainable parameters attached.
    pub model: Model,
    /// Rows to train on.
    pub rows: Vec<Row>,
    /// Rows to evaluate on.
    pub eval_rows: Vec<Row>,
    /// Their account.
    pub ledger: Ledger,
    /// What the result comes from.
    pub parents: Vec<Parent>,
    /// Content of the base.
    pub base_id: ContentId,
    /// Resident memory before the model was loaded: program, tokenizer, rows.
    pub resident_before: Option<u64>,
}

/// Reads a run file, looks at its base, and decides every value.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Config`], [`TrainError::Format`].
pub fn load_run(path: &Path, overrides: &[String]) -> Result<ResolvedRun, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let config = RunConfig::parse(&path.to_string_lossy(), &text, overrides)?;
    let facts = match &config.model.path {
        Some(model) => base_facts(&model.value)?,
        // the resolver will say that the path is missing; these bounds let it find the rest
        None => BaseFacts { max_position_embeddings: usize::MAX, num_hidden_layers: usize::MAX },
    };
    Ok(config.resolve(facts)?)
}

/// What resolution needs of a checkpoint folder.
///
/// # Errors
/// [`TrainError::Format`] when its `config.json` cannot be used.
pub fn base_facts(dir: &Path) -> Result<BaseFacts, TrainError> {
    let (config, _) = ModelConfig::read(dir)?;
    Ok(BaseFacts {
        max_position_embeddings: config.max_position_embeddings,
        num_hidden_layers: config.num_hidden_layers,
    })
}

/// Files of a checkpoint folder that decide what the model computes and reads.
fn is_base_file(name: &str) -> bool {
    name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
        || matches!(
            name,
            "config.json"
                | "generation_config.json"
                | "tokenizer.json"
                | "tokenizer_config.json"
                | "special_tokens_map.json"
                | "chat_template.jinja"
                | "chat_template.json"
        )
}

/// Id over names and bytes of the files that make up a base.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Artifact`].
pub fn base_id(dir: &Path) -> Result<ContentId, TrainError> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(TrainError::io(dir))?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| is_base_file(n))
        .collect();
    names.sort_unstable();
    let mut hasher = IdHasher::new();
    for name in names {
        let id = ContentId::of_file(&dir.join(&name))?;
        hasher.update(format!("{name} {id}\n").as_bytes());
    }
    Ok(hasher.finish())
}

/// Id over token rows: their ids and labels.
pub fn rows_id(sides: [&[Row]; 2]) -> ContentId {
    let mut hasher = IdHasher::new();
    for rows in sides {
        hasher.update(&(rows.len() as u64).to_le_bytes());
        for row in rows {
            hasher.update(&(row.ids.len() as u64).to_le_bytes());
            for (id, train) in row.ids.iter().zip(&row.train) {
                hasher.update(&id.to_le_bytes());
                hasher.update(&[u8::from(*train)]);
            }
        }
    }
    hasher.finish()
}

/// Loads everything.
///
/// # Errors
/// Any fault of base, data, template or ledger, before a single step is computed.
pub fn prepare(run: &ResolvedRun, observer: &mut dyn Observer) -> Result<Inputs, TrainError> {
    observer.on(&Event::Phase { name: "hash" });
    let base_id = base_id(&run.model.path)?;
    observer.on(&Event::Phase { name: "data" });
    let (config, _) = ModelConfig::read(&run.model.path)?;
    let mut parents =
        vec![Parent { role: "base".into(), path: run.model.path.to_string_lossy().into_owned(), id: base_id }];
    let (rows, eval_rows, ledger) = load_rows(run, &config, &mut parents, observer)?;
    observer.on(&Event::Phase { name: "load" });
    let resident_before = memory::resident_bytes();
    let mut model = load_base(run)?;
    for row in rows.iter().chain(&eval_rows) {
        model.check_ids(&row.ids)?;
    }
    attach(&mut model, run)?;
    Ok(Inputs { model, rows, eval_rows, ledger, parents, base_id, resident_before })
}

/// The base of a run, nothing trainable yet.
///
/// # Errors
/// [`TrainError::Model`].
pub fn load_base(run: &ResolvedRun) -> Result<Model, TrainError> {
    let precision = match run.model.dtype {
        Dtype::Bf16 => Precision::Bf16,
        Dtype::F32 => Precision::F32,
    };
    Ok(Model::load(&run.model.path, &LoadOptions { threads: run.model.threads, precision })?)
}

/// Makes parameters trainable as the run says.
///
/// # Errors
/// [`TrainError::Model`], when a named target does not exist for instance.
pub fn attach(model: &mut Model, run: &ResolvedRun) -> Result<(), TrainError> {
    match run.adapter.method {
        Method::Full => model.train_full()?,
        Method::Lora => model.attach(&spec(run), run.train.seed)?,
    }
    Ok(())
}

/// The adapter settings of a run.
pub fn spec(run: &ResolvedRun) -> AdapterSpec {
    let a = &run.adapter;
    let targets = match &a.targets {
        Targets::Modules(names) => loar_model::Targets::Modules(names.clone()),
        Targets::Regex(regex) => loar_model::Targets::Regex(regex.clone()),
        Targets::Preset(name) => loar_model::Targets::Preset(match name.as_str() {
            "attention" => Preset::Attention,
            "mlp" => Preset::Mlp,
            "experts" => Preset::Experts,
            _ => Preset::AllLinear,
        }),
    };
    AdapterSpec {
        rank: a.rank,
        alpha: a.alpha,
        dropout: a.dropout as f32,
        use_rslora: a.use_rslora,
        use_dora: a.use_dora,
        targets,
        exclude: a.exclude.clone(),
        layers: (!a.layers.is_empty()).then(|| a.layers.clone()),
        rank_pattern: a.rank_pattern.clone(),
        alpha_pattern: a.alpha_pattern.clone(),
        ffn_blocks: (a.ffn_blocks > 1).then_some(a.ffn_blocks),
        modules_to_save: a.modules_to_save.clone(),
    }
}

/// The reading options of a run.
pub fn read_options(run: &ResolvedRun) -> ReadOptions {
    let d = &run.data;
    ReadOptions {
        format: match d.format {
            RowFormat::Auto => None,
            RowFormat::Messages => Some(Format::Messages),
            RowFormat::ShareGpt => Some(Format::ShareGpt),
            RowFormat::Alpaca => Some(Format::Alpaca),
            RowFormat::PromptCompletion => Some(Format::PromptCompletion),
            RowFormat::Text => Some(Format::Text),
        },
        fields: d.fields.clone(),
        roles: d.roles.clone(),
        on_bad_row: match d.on_bad_row {
            BadRow::Stop => OnBadRow::Stop,
            BadRow::Drop => OnBadRow::Drop,
        },
        pairs: match d.pairs {
            Pairs::Auto => PairStyle::Auto,
            Pairs::Chat => PairStyle::Chat,
            Pairs::Completion => PairStyle::Completion,
        },
        think: match d.think {
            Think::Split => ThinkTags::Split,
            Think::SplitPrefilled => ThinkTags::SplitPrefilled,
            Think::Keep => ThinkTags::Keep,
        },
        ..ReadOptions::default()
    }
}

/// Tokenizer and template of a run.
///
/// # Errors
/// [`TrainError::Tokenizer`], [`TrainError::Template`].
pub fn encoder(run: &ResolvedRun, config: &ModelConfig) -> Result<Encoder, TrainError> {
    let tokenizer = Tokenizer::from_dir(&run.model.path)?;
    let wrong = |e: loar_text::TemplateError| TrainError::Template(e.to_string());
    let template = if run.data.template == "checkpoint" {
        match ChatTemplate::from_dir(&run.model.path).map_err(wrong)? {
            Some(template) => Some(template),
            // chat data without any template is refused when its first row is rendered
            None => match ChatTemplate::detect(&tokenizer, config.architecture.model_type()) {
                Some(name) => Some(ChatTemplate::builtin(name).map_err(wrong)?),
                None => None,
            },
        }
    } else {
        Some(ChatTemplate::builtin(&run.data.template).map_err(wrong)?)
    };
    let empty_think = match run.data.empty_think {
        EmptyThinkPolicy::Mask => EmptyThink::Mask,
        EmptyThinkPolicy::Train => EmptyThink::Train,
        EmptyThinkPolicy::Refuse => EmptyThink::Refuse,
    };
    let options = EncodeOptions { empty_think, allow_control_tokens: run.data.allow_control_tokens, now_unix: None };
    Ok(Encoder::new(tokenizer, template, options))
}

/// Reads, splits, renders and counts the rows of a run.
///
/// # Errors
/// Every fault of the data at once, and losses beyond what the run allows.
pub fn load_rows(
    run: &ResolvedRun,
    config: &ModelConfig,
    parents: &mut Vec<Parent>,
    observer: &mut dyn Observer,
) -> Result<(Vec<Row>, Vec<Row>, Ledger), TrainError> {
    let d = &run.data;
    let options = read_options(run);
    let train = loar_data::read(&d.train, &options)?;
    parents.extend(data_parents("data", &train));
    let mut ledger = Ledger::default();
    count_reading(&mut ledger.train, &train);
    let (train_examples, eval_examples) = if !d.eval.is_empty() {
        let eval = loar_data::read(&d.eval, &options)?;
        parents.extend(data_parents("evaluation data", &eval));
        count_reading(&mut ledger.eval, &eval);
        (train.examples, eval.examples)
    } else if d.eval_fraction > 0.0 {
        let wanted = train.examples.len() as f64 * d.eval_fraction;
        let size = if wanted > d.eval_max_rows as f64 {
            EvalSize::Rows(d.eval_max_rows)
        } else {
            EvalSize::Fraction(d.eval_fraction)
        };
        let split = loar_data::split(&train, size, run.train.seed)?;
        let held_out = split.eval.len() as u64;
        ledger.train.examples_read -= held_out;
        ledger.eval.examples_read += held_out;
        split.partition(train.examples)
    } else {
        (train.examples, Vec::new())
    };
    let encoder = encoder(run, config)?;
    let rows = render(&encoder, run, &train_examples, &mut ledger.train)?;
    let eval_rows = render(&encoder, run, &eval_examples, &mut ledger.eval)?;
    let faults = ledger.faults();
    if !faults.is_empty() {
        return Err(TrainError::Ledger { faults });
    }
    let table = ledger.to_string();
    observer.on(&Event::Ledger { table: table.clone() });
    let lost = ledger.train.lost_fraction().max(ledger.eval.lost_fraction());
    if lost > d.max_lost_fraction {
        return Err(TrainError::Lost { lost, allowed: d.max_lost_fraction, table });
    }
    if rows.is_empty() {
        return Err(TrainError::NoRows { side: "training", table });
    }
    if eval_rows.is_empty() && !eval_examples.is_empty() {
        return Err(TrainError::NoRows { side: "evaluation", table });
    }
    for message in warnings(&encoder, run, &ledger) {
        observer.on(&Event::Warning { message });
    }
    Ok((rows, eval_rows, ledger))
}

fn data_parents(role: &str, dataset: &Dataset) -> Vec<Parent> {
    let parent = |f: &loar_data::FileReport| Parent {
        role: role.into(),
        path: f.path.to_string_lossy().into_owned(),
        id: f.content_id,
    };
    dataset.files.iter().map(parent).collect()
}

fn count_reading(side: &mut Side, dataset: &Dataset) {
    side.examples_read = dataset.rows_read() as u64;
    for (kind, n) in dataset.dropped_by_kind() {
        *side.examples_dropped.entry(kind.name().to_owned()).or_default() += n as u64;
    }
}

/// Renders examples to rows and enters each token in the ledger.
fn render(encoder: &Encoder, run: &ResolvedRun, examples: &[Example], side: &mut Side) -> Result<Vec<Row>, TrainError> {
    let d = &run.data;
    let stop_ids = encoder.stop_ids();
    let mut rows = Vec::new();
    let (mut faults, mut fault_count) = (Vec::new(), 0);
    let (mut long, mut long_count) = (Vec::new(), 0);
    for example in examples {
        let made = match encoder.rows(&example.body) {
            Ok(made) => made,
            Err(error) => {
                fault_count += 1;
                *side.examples_dropped.entry("cannot be rendered".into()).or_default() += 1;
                if faults.len() < SHOWN {
                    faults.push(error.in_row(&example.id).to_string());
                }
                continue;
            }
        };
        side.examples_used += 1;
        count_turns(side, &example.body);
        let several = made.len() > 1;
        for token_row in made {
            let id = if several { format!("{}#{}", example.id, token_row.turn) } else { example.id.clone() };
            let length = token_row.ids.len();
            side.rows += 1;
            side.tokens += length as u64;
            side.joints_differing += token_row.stats.joint_differs as u64;
            let mut row = Row { id, ids: token_row.ids, train: token_row.train };
            let mut drop = |reason: &str| {
                *side.rows_dropped.entry(reason.into()).or_default() += 1;
                *side.tokens_dropped.entry(reason.into()).or_default() += length as u64;
            };
            let all_labels = row.labels();
            if all_labels == 0 {
                drop("no labelled token");
                continue;
            }
            if length > d.max_seq_len {
                match d.on_too_long {
                    TooLong::Stop => {
                        long_count += 1;
                        if long.len() < SHOWN {
                            long.push(format!("`{}`: {length} tokens", row.id));
                        }
                        drop("too long");
                        continue;
                    }
                    TooLong::Drop => {
                        drop("too long");
                        continue;
                    }
                    TooLong::Cut => {
                        row.ids.truncate(d.max_seq_len);
                        row.train.truncate(d.max_seq_len);
                        if row.labels() == 0 {
                            drop("cut before the first label");
                            continue;
                        }
                        side.rows_cut += 1;
                        side.tokens_cut += (length - d.max_seq_len) as u64;
                        side.labels_cut += (all_labels - row.labels()) as u64;
                    }
                }
            }
            let labels = row.labels();
            let mut masked = (row.ids.len() - labels) as u64;
            side.rows_used += 1;
            side.tokens_labelled += labels as u64;
            for (reason, most) in [
                ("history", token_row.stats.masked_history),
                ("prompt", token_row.stats.masked_prompt),
                ("between answers", usize::MAX),
            ] {
                let n = masked.min(most as u64);
                masked -= n;
                if n > 0 {
                    *side.tokens_masked.entry(reason.into()).or_default() += n;
                }
            }
            let ends = row.train.last() == Some(&true) && row.ids.last().is_some_and(|id| stop_ids.contains(id));
            side.rows_with_end += u64::from(ends);
            rows.push(row);
        }
    }
    if fault_count > 0 && d.on_bad_row == BadRow::Stop {
        return Err(TrainError::Rows { shown: faults, total: fault_count, rows: examples.len() });
    }
    if long_count > 0 {
        return Err(TrainError::TooLong { shown: long, total: long_count, limit: d.max_seq_len });
    }
    Ok(rows)
}

fn count_turns(side: &mut Side, body: &Body) {
    if let Body::Chat(conversation) = body {
        for message in conversation.messages.iter().filter(|m| m.role == "assistant") {
            side.turns += 1;
            side.turns_with_reasoning +=
                u64::from(message.reasoning_content.as_ref().is_some_and(|r| !r.trim().is_empty()));
        }
    }
}

/// Whether generation begins inside the chain of thought with this template.
fn opens_thinking(encoder: &Encoder) -> bool {
    let question = Message {
        role: "user".into(),
        content: "?".into(),
        reasoning_content: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
        name: None,
        train: false,
    };
    let conversation = Conversation { messages: vec![question], tools: None, template_kwargs: serde_json::Map::new() };
    encoder.prompt(&conversation).is_ok_and(|p| p.starts_in_reasoning)
}

/// What the data may do to the model, said before it is done.
fn warnings(encoder: &Encoder, run: &ResolvedRun, ledger: &Ledger) -> Vec<String> {
    let train = &ledger.train;
    let mut out = Vec::new();
    if train.end_rate() < 0.99 {
        out.push(format!(
            "only {:.1} % of the training rows end in a labelled end-of-turn token; the model may not learn to stop",
            100.0 * train.end_rate()
        ));
    }
    if train.turns > 0 && train.think_rate() < 0.05 && opens_thinking(encoder) {
        let policy = match run.data.empty_think {
            EmptyThinkPolicy::Mask => {
                "the empty think block is masked, so thinking is not trained away, but nothing keeps it either"
            }
            EmptyThinkPolicy::Train => "`data.empty_think = \"train\"` teaches the model to stop thinking",
            EmptyThinkPolicy::Refuse => "`data.empty_think = \"refuse\"` will refuse such rows",
        };
        out.push(format!(
            "the template opens `<think>`, but only {:.1} % of the assistant turns carry reasoning: {policy}; mix in rows with reasoning to keep it",
            100.0 * train.think_rate()
        ));
    }
    if train.joints_differing > 0 {
        out.push(format!(
            "{} places where tokenising prompt and answer as one text would give other ids; rows keep the split that serving sees",
            train.joints_differing
        ));
    }
    out
}
