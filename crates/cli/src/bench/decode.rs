//! Prompt prefill, decoding of one sequence, and several paths of one prompt, through the generator that
//! `loar generate` uses: what is timed is a request as a user makes it, sampling included.

use std::time::Instant;

use loar_artifact::IdHasher;
use loar_decode::{Completion, Generator, Request, Sampling};
use loar_kernels::machine;
use loar_model::Model;
use loar_text::Tokenizer;

use crate::bench::meter::Meter;
use crate::bench::record::Record;
use crate::bench::{median, random_ids, work};
use crate::console::Console;
use crate::diagnose::Failure;

/// Sizes of the requests.
pub struct Plan {
    pub prompt: usize,
    pub new: usize,
    pub paths: usize,
    pub repetitions: usize,
    pub seed: u64,
}

/// Random weights have no language: every id decodes to nothing.
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": {"a": 0}, "merges": []}}"#;

/// Answers to one prompt, timed.
struct Timed {
    done: Vec<Completion>,
    /// Until the first token of the first path.
    first: f64,
    /// From there to the last token.
    rest: f64,
}

impl Timed {
    fn all(&self) -> f64 {
        self.first + self.rest
    }
}

struct Runner<'a> {
    model: &'a Model,
    tokenizer: Tokenizer,
    plan: Plan,
}

impl<'a> Runner<'a> {
    fn new(model: &'a Model, plan: Plan) -> Result<Self, Failure> {
        Ok(Self { model, tokenizer: Tokenizer::from_bytes(TOKENIZER.as_bytes(), None)?, plan })
    }

    /// `paths` answers of `new` tokens to prompt number `draw`; paths differ by their draws.
    fn ask(&self, draw: u32, paths: usize, new: usize, temperature: f64) -> Result<Timed, Failure> {
        let prompt = random_ids(self.plan.seed, draw, self.plan.prompt, self.model.config.vocab_size);
        let sampling = Sampling { temperature, seed: self.plan.seed, max_new_tokens: new, ..Sampling::default() };
        let requests: Vec<Request> = (0..paths as u32)
            .map(|key| Request { prompt_ids: prompt.clone(), sampling: sampling.clone(), key, ..Request::default() })
            .collect();
        let generator = Generator::new(self.model, &self.tokenizer, []).with_max_batch(paths);
        let (start, mut first) = (Instant::now(), None);
        let done = generator.generate(&requests, |_| {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        })?;
        let all = start.elapsed().as_secs_f64();
        let first = first.unwrap_or(all);
        Ok(Timed { done, first, rest: all - first })
    }
}

fn id(done: &[Completion]) -> String {
    let mut hash = IdHasher::new();
    for c in done {
        c.ids.iter().for_each(|id| hash.update(&id.to_le_bytes()));
        c.logprobs.iter().for_each(|p| hash.update(&p.to_le_bytes()));
    }
    hash.finish().to_string()
}

/// Seconds from a prompt to its first token.
pub fn prefill(model: &Model, plan: Plan, console: &Console) -> Result<Record, Failure> {
    let runner = Runner::new(model, plan)?;
    let plan = &runner.plan;
    let mut meter = Meter::new(console, plan.repetitions + 1);
    let (mut seconds, mut done) = (Vec::new(), Vec::new());
    for i in 0..=plan.repetitions {
        let timed = runner.ask(i as u32, 1, 1, 0.0)?;
        meter.tick(format_args!("{:.1} tokens/s", plan.prompt as f64 / timed.first));
        if i > 0 {
            seconds.push(timed.first);
            done.extend(timed.done);
        }
    }
    drop(meter);
    let peak = loar_train::memory::peak_bytes();
    let peaks = machine::peaks(&model.context.pool);
    let middle = median(&seconds);
    let mut record = Record::new("prefill");
    record.set("tokens_per_s", plan.prompt as f64 / middle);
    record.set("peak_rss_bytes", peak);
    let rate = work::prefill_flop(model, plan.prompt) / middle / 1e9;
    record.set_gflops(rate, model.context.precision, &peaks);
    record.set("median_seconds", middle);
    record.set("seconds", seconds);
    record.set("weight_bytes", loar_train::weight_bytes(model));
    record.set("result", id(&done));
    record.set_machine(&model.context.pool, &peaks);
    Ok(record)
}

/// Pace of one sequence after its prompt.
pub fn decode(model: &Model, plan: Plan, console: &Console) -> Result<Record, Failure> {
    let runner = Runner::new(model, plan)?;
    let plan = &runner.plan;
    let mut meter = Meter::new(console, plan.repetitions + 1);
    let steps = (plan.new - 1) as f64;
    let (mut paces, mut prefills, mut done) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..=plan.repetitions {
        let timed = runner.ask(i as u32, 1, plan.new, 0.0)?;
        meter.tick(format_args!("{:.2} tokens/s", steps / timed.rest));
        if i > 0 {
            paces.push(steps / timed.rest);
            prefills.push(timed.first);
            done.extend(timed.done);
        }
    }
    drop(meter);
    let peak = loar_train::memory::peak_bytes();
    let peaks = machine::peaks(&model.context.pool);
    let pace = median(&paces);
    let bytes = work::decode_bytes(model);
    let mut record = Record::new("decode");
    record.set("tokens_per_s", pace);
    record.set("peak_rss_bytes", peak);
    record.set("weight_bytes_per_token", bytes);
    record.set("weights_read_bytes_per_s", bytes * pace);
    record.set("share_of_bandwidth", bytes * pace / (1e9 * peaks.read_gbs));
    record.set("all_tokens_per_s", paces);
    record.set("prefill_seconds", median(&prefills));
    record.set("result", id(&done));
    record.set_machine(&model.context.pool, &peaks);
    Ok(record)
}

/// Several paths of one prompt against one, alternately; the one must be the first of the several.
pub fn paths(model: &Model, plan: Plan, console: &Console) -> Result<Record, Failure> {
    let runner = Runner::new(model, plan)?;
    let plan = &runner.plan;
    let mut meter = Meter::new(console, 2 * (plan.repetitions + 1));
    let (mut one, mut many, mut done, mut identical) = (Vec::new(), Vec::new(), Vec::new(), true);
    for i in 0..=plan.repetitions {
        let alone = runner.ask(i as u32, 1, plan.new, 1.0)?;
        meter.tick(format_args!("1: {:.2} s", alone.all()));
        let together = runner.ask(i as u32, plan.paths, plan.new, 1.0)?;
        meter.tick(format_args!("{}: {:.2} s", plan.paths, together.all()));
        identical &= alone.done.first() == together.done.first();
        if i > 0 {
            one.push(alone.all());
            many.push(together.all());
            done.extend(together.done);
        }
    }
    drop(meter);
    let peak = loar_train::memory::peak_bytes();
    let peaks = machine::peaks(&model.context.pool);
    let mut record = Record::new("paths");
    record.set("tokens_per_s", (plan.paths * plan.new) as f64 / median(&many));
    record.set("peak_rss_bytes", peak);
    record.set("paths", plan.paths);
    record.set("one_path_seconds", median(&one));
    record.set("all_paths_seconds", median(&many));
    record.set("ratio", median(&many) / median(&one));
    record.set("identical", identical);
    record.set("result", id(&done));
    record.set_machine(&model.context.pool, &peaks);
    Ok(record)
}
