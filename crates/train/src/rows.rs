//! From data files to token rows: read, split, render, count.
//!
//! Every row ends as used, or in the ledger with the reason why not. Renders with the same encoder
//! that serves.

use loar_artifact::{ContentId, IdHasher, Parent};
use loar_data::{Dataset, EvalSize, Example, Format, OnBadRow, PairStyle, ReadOptions, ThinkTags};
use loar_formats::config::ModelConfig;
use loar_text::{Body, ChatTemplate, Conversation, EmptyThink, EncodeOptions, Encoder, Message, TokenRow, Tokenizer};

use crate::TrainError;
use crate::config::{BadRow, EmptyThinkPolicy, Pairs, ResolvedRun, RowFormat, Think, TooLong};
use crate::error::SHOWN;
use crate::ledger::{Ledger, Side};
use crate::observer::{Event, Observer};
use crate::pack::Row;

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

/// Rows of one side while they are made, with the faults met.
struct Renderer<'a> {
    run: &'a ResolvedRun,
    side: &'a mut Side,
    stop_ids: Vec<u32>,
    rows: Vec<Row>,
    faults: Vec<String>,
    fault_count: usize,
    long: Vec<String>,
    long_count: usize,
}

/// Renders examples to rows and enters each token in the ledger.
fn render(encoder: &Encoder, run: &ResolvedRun, examples: &[Example], side: &mut Side) -> Result<Vec<Row>, TrainError> {
    let mut renderer = Renderer {
        run,
        side,
        stop_ids: encoder.stop_ids(),
        rows: Vec::new(),
        faults: Vec::new(),
        fault_count: 0,
        long: Vec::new(),
        long_count: 0,
    };
    for example in examples {
        match encoder.rows(&example.body) {
            Ok(made) => {
                renderer.side.examples_used += 1;
                count_turns(renderer.side, &example.body);
                let several = made.len() > 1;
                for row in made {
                    let id = if several { format!("{}#{}", example.id, row.turn) } else { example.id.clone() };
                    renderer.enter(id, row);
                }
            }
            Err(error) => {
                renderer.fault_count += 1;
                *renderer.side.examples_dropped.entry("cannot be rendered".into()).or_default() += 1;
                if renderer.faults.len() < SHOWN {
                    renderer.faults.push(error.in_row(&example.id).to_string());
                }
            }
        }
    }
    if renderer.fault_count > 0 && run.data.on_bad_row == BadRow::Stop {
        let Renderer { faults: shown, fault_count: total, .. } = renderer;
        return Err(TrainError::Rows { shown, total, rows: examples.len() });
    }
    if renderer.long_count > 0 {
        let Renderer { long: shown, long_count: total, .. } = renderer;
        return Err(TrainError::TooLong { shown, total, limit: run.data.max_seq_len });
    }
    Ok(renderer.rows)
}

impl Renderer<'_> {
    /// Enters one token row: used, cut or dropped.
    fn enter(&mut self, id: String, made: TokenRow) {
        let limit = self.run.data.max_seq_len;
        let length = made.ids.len();
        self.side.rows += 1;
        self.side.tokens += length as u64;
        self.side.joints_differing += made.stats.joint_differs as u64;
        let mut row = Row { id, ids: made.ids, train: made.train };
        let all_labels = row.labels();
        if all_labels == 0 {
            return self.drop("no labelled token", length);
        }
        if length > limit {
            match self.run.data.on_too_long {
                TooLong::Stop => {
                    self.long_count += 1;
                    if self.long.len() < SHOWN {
                        self.long.push(format!("`{}`: {length} tokens", row.id));
                    }
                    return self.drop("too long", length);
                }
                TooLong::Drop => return self.drop("too long", length),
                TooLong::Cut => {
                    row.ids.truncate(limit);
                    row.train.truncate(limit);
                    if row.labels() == 0 {
                        return self.drop("cut before the first label", length);
                    }
                    self.side.rows_cut += 1;
                    self.side.tokens_cut += (length - limit) as u64;
                    self.side.labels_cut += (all_labels - row.labels()) as u64;
                }
            }
        }
        let labels = row.labels();
        let mut masked = (row.ids.len() - labels) as u64;
        self.side.rows_used += 1;
        self.side.tokens_labelled += labels as u64;
        let parts = [
            ("history", made.stats.masked_history),
            ("prompt", made.stats.masked_prompt),
            ("between answers", usize::MAX),
        ];
        for (reason, most) in parts {
            let n = masked.min(most as u64);
            masked -= n;
            if n > 0 {
                *self.side.tokens_masked.entry(reason.into()).or_default() += n;
            }
        }
        let ends = row.train.last() == Some(&true) && row.ids.last().is_some_and(|id| self.stop_ids.contains(id));
        self.side.rows_with_end += u64::from(ends);
        self.rows.push(row);
    }

    fn drop(&mut self, reason: &str, tokens: usize) {
        *self.side.rows_dropped.entry(reason.into()).or_default() += 1;
        *self.side.tokens_dropped.entry(reason.into()).or_default() += tokens as u64;
    }
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
