//! The hands of [`crate::run`]: paths of one question while they are made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use loar_artifact::ContentId;

use crate::answer::{Answer, EqualOptions, classes, extract};
use crate::fuse::posterior::{Correlated, correlated};
use crate::fuse::{Ballot, Fused, Method, vote};
use crate::generate::{End, Event, Generated, Generator, Launch, Prompt, Slot, Stage, Start, Token};
use crate::policy::ExtractWhen;
use crate::prompt::{P_TRUE, TRUTHS, VERDICTS, judge, prompt};
use crate::record::{
    Action, Consulted, Cost, Decision, Digests, FORMAT, Happened, PathRecord, Record, Standing, Stopped,
};
use crate::run::Task;
use crate::setup::Score;
use crate::stop::confidence::{Bar, Trace, window};
use crate::stop::repeat::Repeat;
use crate::stop::{Enough, Stop};
use crate::verify::{Claim, StepVerdict, Verdict, Verification, repair, split_ranges};

/// Steps that the judge is asked about at most.
const JUDGED: usize = 64;

/// What is watched of a chain while it runs.
struct Watched {
    repeat: Repeat,
    trace: Trace,
    bar: Option<Bar>,
}

/// One question at work.
pub struct State<'a> {
    task: &'a Task<'a>,
    generator: &'a mut dyn Generator,
    prompt: Arc<Prompt>,
    paths: Vec<PathRecord>,
    watched: BTreeMap<Slot, Watched>,
    live: Vec<Slot>,
    /// Ends that were brought about by a look at tokens.
    ended: VecDeque<Event>,
    /// Paths of the vote that were started.
    started: usize,
    tries: BTreeMap<usize, usize>,
    stop: Stop,
    enough: Option<Enough>,
    stopped: Option<Stopped>,
    fused: Fused,
    happened: Vec<Happened>,
    consulted: Vec<Consulted>,
    standings: Vec<Standing>,
    cancelled: usize,
}

impl<'a> State<'a> {
    /// Nothing has run yet.
    pub fn new(task: &'a Task<'a>, generator: &'a mut dyn Generator) -> Self {
        let options = options(task);
        Self {
            prompt: Arc::new(prompt(task.question, task.setup, task.examples)),
            task,
            generator,
            paths: Vec::new(),
            watched: BTreeMap::new(),
            live: Vec::new(),
            ended: VecDeque::new(),
            started: 0,
            tries: BTreeMap::new(),
            stop: Stop::new(task.setup.rule, Correlated::UNCALIBRATED, options),
            enough: None,
            stopped: None,
            fused: vote::vote(&[]),
            happened: Vec::new(),
            consulted: Vec::new(),
            standings: Vec::new(),
            cancelled: 0,
        }
    }

    /// The next event.
    pub fn next(&mut self) -> Event {
        match self.ended.pop_front() {
            Some(event) => event,
            None => self.generator.next(None),
        }
    }

    /// Notes what happened.
    pub fn happened(&mut self, what: Happened) {
        self.happened.push(what);
    }

    /// Starts paths until as many run as may. While the first ones set the bar of confidence, no others do.
    pub fn launch(&mut self) {
        let setup = self.task.setup;
        while self.stopped.is_none() && self.started < setup.paths && self.live.len() < setup.parallel {
            if setup.prune.is_some_and(|p| self.started >= p.warm_up && self.bar().is_none()) {
                return;
            }
            self.started += 1;
            let path = self.paths.len();
            self.paths.push(PathRecord::new(path, setup.sampling.seed, path as u32, Start::Prompt));
            self.begin(Slot { path, stage: Stage::Chain });
        }
    }

    fn begin(&mut self, slot: Slot) {
        let setup = self.task.setup;
        let path = &self.paths[slot.path];
        let mut sampling = setup.sampling.clone();
        let mut start = path.start.clone();
        if slot.stage == Stage::Answer {
            sampling.temperature = 0.0;
            sampling.max_new_tokens = 64;
            sampling.stop.push("\n\n".into());
            start = Start::Behind { slot: Slot { stage: Stage::Chain, ..slot }, text: self.question_behind(slot.path) };
        }
        let chain = slot.stage == Stage::Chain;
        let confidence = chain && setup.prune.is_some();
        if chain {
            let trace = Trace::new(window(sampling.max_new_tokens));
            let bar = self.bar();
            self.watched.insert(slot, Watched { repeat: Repeat::default(), trace, bar });
        }
        self.live.push(slot);
        let (key, forcing) = (path.key, setup.forcing.clone().filter(|_| chain));
        self.generator.launch(Launch { slot, prompt: self.prompt.clone(), start, sampling, key, forcing, confidence });
    }

    /// The bar that the first paths set, once all of them have ended.
    fn bar(&self) -> Option<Bar> {
        let prune = self.task.setup.prune?;
        let first = self.paths.get(..prune.warm_up.min(self.paths.len()))?;
        let lowest: Option<Vec<f64>> = first
            .iter()
            .map(|p| {
                let chain = p.chain.as_ref()?;
                let mut trace = Trace::new(window(self.task.setup.sampling.max_new_tokens));
                for c in &chain.confidences {
                    trace.push(f64::from(*c));
                }
                Some(trace.summary().map_or(f64::NAN, |s| s.lowest))
            })
            .collect();
        if first.len() < prune.warm_up { None } else { Bar::of(&lowest?, prune.keep) }
    }

    /// Looks at a token: a chain that goes in circles, or falls below the bar, ends here.
    pub fn watch(&mut self, token: &Token) {
        let Some(watched) = self.watched.get_mut(&token.slot) else { return };
        let circle = watched.repeat.push(token.id);
        let level = token.confidence.and_then(|c| watched.trace.push(c));
        let end = match (circle, level, watched.bar) {
            (Some(l), ..) => End::Loop { period: l.period, length: l.length },
            (None, Some(level), Some(bar)) if bar.cuts(level) => End::Unsure { window: level, bar: bar.0 },
            _ => return,
        };
        if let Some(cut) = self.generator.cancel(token.slot) {
            self.ended.push_back(Event::End(token.slot, Generated { end, ..cut }));
        }
    }

    /// Keeps what a generation gave.
    pub fn keep(&mut self, slot: Slot, generated: Generated) {
        self.live.retain(|s| *s != slot);
        self.watched.remove(&slot);
        if generated.end.cut() {
            self.cancelled += generated.tokens;
        }
        let path = &mut self.paths[slot.path];
        match slot.stage {
            Stage::Chain => path.chain = Some(generated),
            Stage::Answer => path.asked = Some(generated),
        }
    }

    /// What is put behind a chain to get its answer.
    fn question_behind(&self, path: usize) -> String {
        let policy = &self.task.setup.policy;
        let open = self.paths[path].chain.as_ref().is_some_and(|c| c.parsed().reasoning_truncated);
        format!("{}{}", if open { policy.close.as_str() } else { "" }, policy.extract)
    }

    /// Asks for the answer of a chain that gives none; false when there is nothing to wait for.
    pub fn asks_for_answer(&mut self, slot: Slot) -> bool {
        let Some(chain) = self.paths[slot.path].chain.as_ref().filter(|_| slot.stage == Stage::Chain) else {
            return false;
        };
        let whole = matches!(chain.end, End::Stop | End::Length | End::StopString);
        let asks = match self.task.setup.policy.extract_when {
            ExtractWhen::Never => false,
            ExtractWhen::Always => true,
            ExtractWhen::Missing => self.answer_of(slot.path).is_none(),
        };
        if !whole || !asks || self.stopped.is_some() || self.task.setup.policy.extract.is_empty() {
            return false;
        }
        self.begin(Slot { stage: Stage::Answer, ..slot });
        true
    }

    fn answer_of(&self, path: usize) -> Option<Answer> {
        let options = &self.task.question.answer;
        let path = &self.paths[path];
        if let Some(asked) = &path.asked
            && !matches!(asked.end, End::Failed { .. })
        {
            let lead = self.task.setup.policy.extract.trim_start();
            return extract(&format!("{lead}{}", asked.text), options);
        }
        let parsed = path.chain.as_ref()?.parsed();
        if parsed.reasoning_truncated { None } else { extract(&parsed.answer, options) }
    }

    /// Reads the answer and what was measured.
    pub fn read(&mut self, path: usize) {
        let answer = self.answer_of(path);
        let record = &mut self.paths[path];
        let end = record.chain.as_ref().map(|c| &c.end);
        record.counts = matches!(end, Some(End::Stop | End::Length | End::StopString | End::Loop { .. }));
        record.answer = answer;
        if let Some(chain) = &record.chain {
            let reply = chain.reply();
            record.steps = split_ranges(&reply).into_iter().map(|r| reply[r].to_owned()).collect();
            record.features.insert("tokens".into(), chain.tokens as f64);
            if let Some(mean) = chain.mean_logprob() {
                record.features.insert(Score::Logprob.name().into(), mean);
            }
        }
        let cut = record.chain.as_ref().is_none_or(|c| c.end.cut());
        if self.task.setup.score == Score::PTrue && record.answer.is_some() && !cut {
            let stage = if record.asked.is_some() { Stage::Answer } else { Stage::Chain };
            let said = self.generator.score(Slot { path, stage }, P_TRUE, &TRUTHS);
            if let Ok(logs) = &said {
                let p = 1.0 / (1.0 + (logs[0] - logs[1]).exp());
                self.paths[path].features.insert(Score::PTrue.name().into(), p);
            }
            self.consult("p_true", path, None, said);
        }
    }

    fn consult(&mut self, what: &str, path: usize, step: Option<usize>, said: Result<Vec<f64>, String>) {
        let (said, error) = said.map_or_else(|e| (None, Some(e)), |s| (Some(s), None));
        self.consulted.push(Consulted { what: what.into(), path, step, said, error });
    }

    /// Has the steps of a path checked.
    pub fn verify(&mut self, path: usize) {
        let record = &self.paths[path];
        if !record.counts {
            return;
        }
        let question = self.task.question;
        let claim = Claim {
            question: &question.text,
            steps: &record.steps,
            answer: record.answer.as_ref(),
            context: &question.context,
        };
        let mut all: Vec<Verification> = self.task.verifiers.iter().map(|v| v.verify(&claim)).collect();
        if self.task.setup.judge {
            all.push(self.judge(path));
        }
        if !all.is_empty() {
            let mark = |v: &Verification| match v.outcome() {
                Verdict::Pass => 1.0,
                Verdict::Unsure => 0.5,
                Verdict::Fail => 0.0,
            };
            let mean = all.iter().map(mark).sum::<f64>() / all.len() as f64;
            self.paths[path].features.insert(Score::Verifiers.name().into(), mean);
        }
        self.paths[path].verifications = all;
    }

    /// The model's word on each step, up to the first that it calls bad.
    fn judge(&mut self, path: usize) -> Verification {
        let (question, nature) = (self.task.question, self.task.setup.nature);
        let steps = self.paths[path].steps.clone();
        let unsure = |step, evidence: &str| StepVerdict { step, verdict: Verdict::Unsure, evidence: evidence.into() };
        let mut verdicts: Vec<StepVerdict> = Vec::new();
        for step in 0..steps.len() {
            if step >= JUDGED {
                verdicts.push(unsure(step, "not asked: too many steps"));
                continue;
            }
            if verdicts.last().is_some_and(|v| v.verdict == Verdict::Fail || v.evidence.starts_with("after")) {
                verdicts.push(unsure(step, "after a wrong step"));
                continue;
            }
            let said = self.generator.choose(&judge(question, &steps, step, nature), &VERDICTS);
            verdicts.push(match &said {
                Ok(p) => {
                    let best = (0..p.len()).max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap_or(2);
                    let verdict = [Verdict::Pass, Verdict::Fail, Verdict::Unsure][best];
                    let evidence = format!("p(ok) {:.3}, p(bad) {:.3}, p(unsure) {:.3}", p[0], p[1], p[2]);
                    StepVerdict { step, verdict, evidence }
                }
                Err(e) => unsure(step, e),
            });
            self.consult("judge", path, Some(step), said);
        }
        Verification { verifier: "judge".into(), version: 1, steps: verdicts }
    }

    /// Samples a path anew from the step before its first wrong one; false when there is no such step or no
    /// try left. The old path stays in the record and leaves the vote when the new one has ended.
    pub fn repairs(&mut self, path: usize) -> bool {
        let first = self.paths[path].repairs.unwrap_or(path);
        let tried = self.tries.get(&first).copied().unwrap_or(0);
        let (Some(wrong), Some(chain)) = (self.paths[path].first_wrong(), self.paths[path].chain.as_ref()) else {
            return false;
        };
        if tried >= self.task.setup.repairs || self.stopped.is_some() {
            return false;
        }
        let reply = chain.reply();
        let Some(plan) = repair(&reply, &split_ranges(&reply), wrong) else { return false };
        let bytes = plan.kept.len();
        self.tries.insert(first, tried + 1);
        let new = self.paths.len();
        let slot = Slot { path, stage: Stage::Chain };
        let mut record = PathRecord::new(new, self.task.setup.sampling.seed, new as u32, Start::Within { slot, bytes });
        // Greedy chains would only repeat themselves: another draw needs another key, and paths have their own.
        record.repairs = Some(first);
        self.paths[path].replaced_by = Some(new);
        self.paths.push(record);
        self.begin(Slot { path: new, stage: Stage::Chain });
        true
    }

    /// Fuses all paths that count.
    pub fn fuse(&mut self, path: usize) {
        // A repair that gave nothing leaves the vote to the path it was made from.
        if let Some(old) = self.paths.iter().position(|p| p.replaced_by == Some(path))
            && !self.paths[path].counts
        {
            self.paths[old].replaced_by = None;
        }
        let counted = self.counted();
        let ballot = self.ballot(&counted);
        self.fused = self.fusion(&ballot);
        let p = self.fused.p();
        if self.paths[path].counts {
            let class = counted.iter().position(|c| *c == path).and_then(|at| ballot.classes[at]);
            self.enough = self.stop.observe(class, || p);
            let answer = self.fused.top().and_then(|c| self.canonical(c.class, &counted, &ballot));
            self.standings.push(Standing { path, counted: counted.len(), answer, p });
        }
    }

    fn counted(&self) -> Vec<usize> {
        let counts = |p: &&PathRecord| p.counts && p.replaced_by.is_none();
        self.paths.iter().filter(counts).map(|p| p.path).collect()
    }

    fn ballot(&self, counted: &[usize]) -> Ballot {
        let answers: Vec<Option<Answer>> = counted.iter().map(|p| self.paths[*p].answer.clone()).collect();
        let groups = classes(&answers, &EqualOptions::default());
        let mut ballot =
            Ballot::of(&answers.iter().zip(groups).map(|(a, g)| a.as_ref().map(|_| g)).collect::<Vec<_>>());
        ballot.options = options(self.task);
        for (at, path) in counted.iter().enumerate() {
            for v in &self.paths[*path].verifications {
                let list = ballot.verdicts.entry(v.verifier.clone()).or_default();
                list.resize(at, Verdict::Unsure);
                list.push(v.outcome());
            }
            for (name, value) in &self.paths[*path].features {
                let list = ballot.features.entry(name.clone()).or_default();
                list.resize(at, None);
                list.push(Some(*value));
            }
        }
        for list in ballot.verdicts.values_mut() {
            list.resize(counted.len(), Verdict::Unsure);
        }
        for list in ballot.features.values_mut() {
            list.resize(counted.len(), None);
        }
        ballot
    }

    fn fusion(&self, ballot: &Ballot) -> Fused {
        let setup = self.task.setup;
        let none = vec![None; ballot.classes.len()];
        let scores = ballot.features.get(setup.score.name()).unwrap_or(&none);
        match setup.method {
            Method::Vote => vote::vote(&ballot.classes),
            Method::Best => vote::weighted(&ballot.classes, scores, 0.0),
            Method::Weighted => vote::weighted(&ballot.classes, scores, setup.weight_temperature),
            _ => correlated(&ballot.classes, &Correlated::UNCALIBRATED, ballot.options),
        }
    }

    fn canonical(&self, class: usize, counted: &[usize], ballot: &Ballot) -> Option<String> {
        let at = ballot.classes.iter().position(|c| *c == Some(class))?;
        self.paths[counted[at]].answer.as_ref().map(Answer::canonical)
    }

    /// Whether the paths so far are enough.
    pub fn enough(&self) -> Option<Enough> {
        self.enough
    }

    /// Starts no more and cuts what runs.
    pub fn stop(&mut self, why: Stopped) {
        self.stopped.get_or_insert(why);
        for slot in std::mem::take(&mut self.live) {
            if let Some(cut) = self.generator.cancel(slot) {
                let end = if matches!(why, Stopped::Budget(_)) { End::Budget } else { End::NotNeeded };
                self.keep(slot, Generated { end, ..cut });
            }
        }
    }

    /// The record of it all.
    pub fn record(mut self) -> Record {
        // A path that was cut for others still shows what it said.
        for path in 0..self.paths.len() {
            if self.paths[path].steps.is_empty() && self.paths[path].chain.is_some() {
                self.read_cut(path);
            }
        }
        let counted = self.counted();
        let ballot = self.ballot(&counted);
        self.fused = self.fusion(&ballot);
        for (at, path) in counted.iter().enumerate() {
            self.paths[*path].class = ballot.classes[at];
            self.paths[*path].weight = self.weight(at, &ballot);
        }
        let decision = self.decision(&counted, &ballot);
        let setup = self.task.setup;
        let source = self.generator.source().clone();
        let sampler = loar_decode::Sampling { seed: 0, ..setup.sampling.clone() };
        let mut tokens = self.generator.usage();
        tokens.cancelled = self.cancelled;
        let ends = |f: fn(&End) -> bool| {
            let chains = self.paths.iter().filter_map(|p| p.chain.as_ref());
            chains.filter(|c| f(&c.end)).count()
        };
        let cost = Cost {
            tokens,
            paths: self.paths.len(),
            cut: ends(End::cut),
            failed: ends(|e| matches!(e, End::Failed { .. })),
            seconds: (self.generator.seconds() * 1e3).round() / 1e3,
            last_path: last_path(&self.standings),
        };
        Record {
            format: FORMAT,
            id: None,
            tool: format!("loar {}", env!("CARGO_PKG_VERSION")),
            answers: crate::answer::VERSION,
            question: self.task.question.clone(),
            setup: setup.clone(),
            digests: Digests {
                model: source.model.clone(),
                adapter: source.adapter.clone(),
                template: source.template.clone(),
                sampler: id_of(&sampler),
                prompt: id_of(&*self.prompt),
            },
            source,
            prompt: (*self.prompt).clone(),
            examples: self.task.examples.to_vec(),
            paths: self.paths,
            happened: self.happened,
            consulted: self.consulted,
            standings: self.standings,
            fused: self.fused,
            decision,
            cost,
        }
    }

    fn read_cut(&mut self, path: usize) {
        let record = &mut self.paths[path];
        let reply = record.chain.as_ref().map(Generated::reply).unwrap_or_default();
        record.steps = split_ranges(&reply).into_iter().map(|r| reply[r].to_owned()).collect();
    }

    /// A path's share of the vote.
    fn weight(&self, at: usize, ballot: &Ballot) -> f64 {
        let alone: Vec<Option<usize>> = (0..ballot.classes.len()).map(Some).collect();
        let setup = self.task.setup;
        let scores = ballot.features.get(setup.score.name());
        match (setup.method, scores) {
            (Method::Best, Some(s)) => vote::weighted(&alone, s, 0.0).p_of(at),
            (Method::Weighted, Some(s)) => vote::weighted(&alone, s, setup.weight_temperature).p_of(at),
            _ => 1.0 / ballot.classes.len().max(1) as f64,
        }
    }

    fn decision(&self, counted: &[usize], ballot: &Ballot) -> Decision {
        let stopped = self.stopped.unwrap_or(Stopped::AllPaths);
        let top = self.fused.top();
        let best = top.and_then(|c| {
            let score = |at: &usize| self.paths[counted[*at]].features.get(self.task.setup.score.name()).copied();
            let of_class = c.paths.iter().copied();
            of_class.reduce(|a, b| if score(&b) > score(&a) { b } else { a }).map(|at| counted[at])
        });
        let first = top.and_then(|c| c.paths.first()).map(|at| &self.paths[counted[*at]]);
        let p = self.fused.p();
        let (action, why) = match (top, self.task.setup.target_p) {
            (None, _) if counted.is_empty() => (Action::Abstain, "no path ended by itself".to_owned()),
            (None, _) => (Action::Abstain, "no path gives an answer".to_owned()),
            (Some(_), Some(target)) if p < target => {
                (Action::Escalate, format!("p {p:.3} is below the target {target}"))
            }
            (Some(_), Some(target)) => (Action::Answer, format!("p {p:.3} reaches the target {target}")),
            (Some(c), None) => {
                (Action::Answer, format!("{} of {} paths, p {p:.3}", c.paths.len(), ballot.classes.len()))
            }
        };
        Decision {
            action,
            answer: first.and_then(|f| f.answer.as_ref()).map(|a| a.written.clone()),
            canonical: first.and_then(|f| f.answer.as_ref()).map(Answer::canonical),
            p,
            p_none: self.fused.p_none,
            calibrated: false,
            path: best,
            stopped,
            why,
        }
    }
}

/// Answers that a question offers.
fn options(task: &Task<'_>) -> Option<usize> {
    Some(task.question.answer.choices.len()).filter(|n| *n > 1)
}

/// What the last path that counted changed.
fn last_path(standings: &[Standing]) -> String {
    match standings {
        [] => "no path counted".into(),
        [only] => format!("the only path gave p {:.3}", only.p),
        [.., before, last] if before.answer == last.answer => {
            format!("the last path kept the answer, p {:.3} to {:.3}", before.p, last.p)
        }
        [.., before, last] => {
            let name = |s: &Standing| s.answer.clone().unwrap_or_else(|| "none".into());
            format!(
                "the last path changed the answer from {} to {}, p {:.3} to {:.3}",
                name(before),
                name(last),
                before.p,
                last.p
            )
        }
    }
}

/// Content id of a value's JSON.
fn id_of<T: serde::Serialize>(value: &T) -> ContentId {
    ContentId::of_bytes(serde_json::to_string(value).unwrap_or_default().as_bytes())
}
