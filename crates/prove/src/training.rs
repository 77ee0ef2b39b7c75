//! Trains on rows that are made when they are needed: no row is used twice.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use loar_artifact::{ContentId, IdHasher};
use loar_eval::rng::Draw;
use loar_model::Model;
use loar_tape::{AdamW, AdamWConfig};
use loar_text::{Body, Conversation, Encoder, Message, Prompt, Thinking};
use loar_train::config::ScheduleKind;
use loar_train::{Row, Schedule, StepSettings, clip, gradients, update};
use serde::{Deserialize, Serialize};

use crate::ProveError;
use crate::task::{Sample, Task};

/// What stands between question and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Nothing.
    Direct,
    /// The chain of the question.
    Chain,
    /// As many full stops as the chain has characters.
    Filler,
    /// The chain of another question.
    Shuffled,
}

impl Form {
    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Form::Direct => "direct",
            Form::Chain => "chain",
            Form::Filler => "filler",
            Form::Shuffled => "shuffled",
        }
    }

    /// What the model is given: the question, with thinking open, or closed for a direct answer.
    pub(crate) fn prompt(self, encoder: &Encoder, sample: &Sample) -> Result<Prompt, ProveError> {
        let thinking = if self == Form::Direct { Thinking::Off } else { Thinking::On };
        Ok(encoder.prompt_with(&conversation(sample), thinking)?)
    }

    /// What stands before the answer; `other` is the chain of another question.
    fn reasoning(self, sample: &Sample, other: &Sample) -> Option<String> {
        match self {
            Form::Direct => None,
            Form::Chain => Some(sample.steps.join("\n")),
            Form::Filler => Some(".".repeat(sample.steps.join("\n").len())),
            Form::Shuffled => Some(other.steps.join("\n")),
        }
    }
}

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Optimizer steps.
    pub steps: usize,
    /// Rows a step.
    pub rows: usize,
    /// Peak learning rate; half a cosine to a twentieth of it.
    pub rate: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
}

/// What a training came to.
#[derive(Clone, Debug, Default)]
pub struct Trained {
    /// (step, mean loss of the labelled tokens since the entry before).
    pub losses: Vec<(usize, f64)>,
    /// Tokens fed.
    pub tokens: u64,
    /// SHA-256 of all rows' token ids in order.
    pub rows_id: Option<ContentId>,
}

/// Steps between two entries of the loss curve.
const CURVE_STEPS: usize = 10;

fn conversation(sample: &Sample) -> Conversation {
    Conversation { messages: vec![Message::user(sample.question.clone())], ..Conversation::default() }
}

/// The training row of a sample.
pub(crate) fn row(encoder: &Encoder, sample: &Sample, other: &Sample, form: Form) -> Result<Row, ProveError> {
    let mut turn = Message::assistant(sample.answer.clone());
    turn.reasoning_content = form.reasoning(sample, other);
    let mut conversation = conversation(sample);
    conversation.messages.push(turn);
    let mut rows = encoder.rows(&Body::Chat(conversation))?;
    let row = rows.remove(0);
    Ok(Row { id: sample.question.clone(), ids: row.ids, train: row.train })
}

/// Trains all parameters of `model`. `held_out` holds questions that are passed over. `each` sees the
/// model after every step.
#[allow(clippy::too_many_arguments)]
pub(crate) fn train(
    model: &mut Model,
    encoder: &Encoder,
    task: &dyn Task,
    form: Form,
    recipe: &Recipe,
    seed: u64,
    held_out: &HashSet<String>,
    stop: &AtomicBool,
    each: &mut dyn FnMut(usize, &Model) -> Result<(), ProveError>,
) -> Result<Trained, ProveError> {
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01 };
    let mut adamw = AdamW::new(adamw, &model.params);
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        peak: recipe.rate,
        min_ratio: 0.05,
        warmup: recipe.warmup,
        steps: recipe.steps,
    };
    let settings = StepSettings {
        capacity: usize::MAX,
        max_grad_norm: 1.0,
        lora_plus_ratio: 1.0,
        dropout_seed: None,
        recomputed_layers: 0,
    };
    let mut draw = Draw::new(seed, TRAIN_STREAM);
    let mut next = || loop {
        let sample = task.sample(&mut draw);
        if !held_out.contains(&sample.question) {
            return sample;
        }
    };
    let chosen: Vec<usize> = (0..recipe.rows).collect();
    let (mut trained, mut hasher, mut micro_step, mut since) = (Trained::default(), IdHasher::new(), 0, (0.0, 0usize));
    for step in 0..recipe.steps {
        if stop.load(Ordering::Relaxed) {
            return Err(ProveError::Stopped);
        }
        let samples: Vec<Sample> = (0..recipe.rows).map(|_| next()).collect();
        let rows = samples
            .iter()
            .enumerate()
            // Another question's chain: the neighbour's.
            .map(|(i, s)| row(encoder, s, &samples[(i + 1) % samples.len()], form))
            .collect::<Result<Vec<Row>, _>>()?;
        for id in rows.iter().flat_map(|r| &r.ids) {
            hasher.update(&id.to_le_bytes());
        }
        let (mut grads, report) = gradients(model, &rows, &chosen, &settings, &mut micro_step)
            .map_err(|fault| ProveError::NonFinite { what: fault.what, step })?;
        clip(&mut grads, report.grad_norm, settings.max_grad_norm);
        update(model, &mut adamw, &grads, schedule.rate(step), settings.lora_plus_ratio);
        trained.tokens += report.tokens as u64;
        since = (since.0 + report.loss, since.1 + 1);
        if since.1 == CURVE_STEPS || step + 1 == recipe.steps {
            trained.losses.push((step + 1, since.0 / since.1 as f64));
            since = (0.0, 0);
        }
        each(step + 1, model)?;
    }
    trained.rows_id = Some(hasher.finish());
    Ok(trained)
}

/// Stream of draws for training questions.
const TRAIN_STREAM: u64 = 1;
/// Stream of draws for test questions.
pub(crate) const TEST_STREAM: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::encoder;
    use crate::task::{Equations, Parity};

    #[test]
    fn a_row_begins_with_what_is_asked_and_trains_the_rest() {
        let encoder = encoder().unwrap();
        for task in [&Parity::new(6, 3, 1) as &dyn Task, &Equations::new(7)] {
            let mut draw = Draw::new(3, 9);
            let (sample, other) = (task.sample(&mut draw), task.sample(&mut draw));
            for form in [Form::Direct, Form::Chain, Form::Filler, Form::Shuffled] {
                let prompt = form.prompt(&encoder, &sample).unwrap();
                let row = row(&encoder, &sample, &other, form).unwrap();
                assert_eq!(row.ids[..prompt.ids.len()], prompt.ids, "{form:?}");
                let said = encoder.tokenizer().decode(&row.ids[prompt.ids.len()..], true);
                let parsed = encoder.parser(&prompt).parse_all(&said);
                assert_eq!(parsed.answer, sample.answer, "{form:?}: {said:?}");
                assert_eq!(parsed.reasoning, form.reasoning(&sample, &other));
                assert!(row.train.iter().enumerate().all(|(i, t)| *t == (i >= prompt.ids.len())));
            }
        }
    }
}
