//! Asks a trained model fresh questions and reads what it says.

use std::time::Instant;

use loar_decode::{Generator, Request, Sampling};
use loar_eval::Share;
use loar_model::Model;
use loar_text::{Encoder, Parsed};
use serde::{Deserialize, Serialize};

use crate::ProveError;
use crate::model::EOS_ID;
use crate::task::Sample;
use crate::training::Form;

/// Sequences decoded together.
const BATCH: usize = 128;
/// Longest answer with its chain, in tokens: more than any row that is trained on.
const MAX_NEW_TOKENS: usize = 160;

/// What greedy answers came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// The answer is the true one.
    pub answer_exact: Share,
    /// Chain and answer are the true ones; equals `answer_exact` where no chain is asked for.
    pub trace_exact: Share,
    /// How many chains go wrong first at each step; the last entry: at the answer, or cut off.
    pub first_error: Vec<usize>,
    /// Mean tokens written for an answer.
    pub tokens_per_answer: f64,
    /// Seconds for all of them.
    pub seconds: f64,
}

/// A sampled path, read.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// What stood in the think block.
    pub reasoning: String,
    /// What followed it; none when the chain did not end.
    pub answer: Option<String>,
    /// Log-probability of the whole path.
    pub logprob: f64,
    /// Tokens.
    pub tokens: usize,
}

/// Asks every sample `paths` times, in the order of samples, then of paths. Temperature 0 is greedy.
pub(crate) fn ask(
    model: &Model,
    encoder: &Encoder,
    samples: &[Sample],
    form: Form,
    paths: u32,
    temperature: f64,
    seed: u64,
) -> Result<Vec<Path>, ProveError> {
    let mut requests = Vec::with_capacity(samples.len() * paths as usize);
    let mut prompts = Vec::with_capacity(samples.len());
    for (i, sample) in samples.iter().enumerate() {
        let prompt = form.prompt(encoder, sample)?;
        let sampling = Sampling {
            temperature,
            seed: seed ^ (i as u64) << 32,
            max_new_tokens: MAX_NEW_TOKENS,
            ..Sampling::default()
        };
        for key in 0..paths {
            requests.push(Request {
                prompt_ids: prompt.ids.clone(),
                sampling: sampling.clone(),
                key,
                ..Request::default()
            });
        }
        prompts.push(prompt);
    }
    let generator = Generator::new(model, encoder.tokenizer(), vec![EOS_ID]).with_max_batch(BATCH);
    let completions = generator.generate(&requests, |_| {})?;
    let read = |(i, c): (usize, loar_decode::Completion)| {
        let parsed: Parsed = encoder.parser(&prompts[i / paths as usize]).parse_all(&c.text);
        Path {
            reasoning: parsed.reasoning.unwrap_or_default(),
            answer: (!parsed.reasoning_truncated && c.finish_reason == loar_decode::FinishReason::Stop)
                .then_some(parsed.answer),
            logprob: c.logprobs.iter().map(|l| f64::from(*l)).sum(),
            tokens: c.ids.len(),
        }
    };
    Ok(completions.into_iter().enumerate().map(read).collect())
}

/// Greedy answers to `samples`.
pub(crate) fn assess(
    model: &Model,
    encoder: &Encoder,
    samples: &[Sample],
    form: Form,
) -> Result<Assessment, ProveError> {
    let start = Instant::now();
    let paths = ask(model, encoder, samples, form, 1, 0.0, 0)?;
    let steps = samples.first().map_or(0, |s| s.steps.len());
    let mut first_error = vec![0; steps + 1];
    let (mut answers, mut traces) = (0, 0);
    for (sample, path) in samples.iter().zip(&paths) {
        let right = path.answer.as_deref() == Some(&sample.answer);
        answers += usize::from(right);
        if form != Form::Chain {
            traces += usize::from(right);
            continue;
        }
        let mut said = path.reasoning.lines();
        let wrong = sample.steps.iter().position(|step| said.next() != Some(step));
        match wrong {
            Some(step) => first_error[step] += 1,
            None if !right || said.next().is_some() => first_error[steps] += 1,
            None => traces += 1,
        }
    }
    let tokens: usize = paths.iter().map(|p| p.tokens).sum();
    Ok(Assessment {
        answer_exact: Share::new(answers, samples.len()),
        trace_exact: Share::new(traces, samples.len()),
        first_error,
        tokens_per_answer: tokens as f64 / samples.len().max(1) as f64,
        seconds: start.elapsed().as_secs_f64(),
    })
}
