//! `loar reason`: a question to an answer with its probability, its chain and a record of why.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use loar_artifact::{ContentId, write_atomic};
use loar_endpoint::{Client, Patience};
use loar_reason::answer::{ExtractOptions, Kind};
use loar_reason::fuse::Method;
use loar_reason::generate::local::Local;
use loar_reason::generate::metered::{Budgets, Metered};
use loar_reason::generate::remote::Remote;
use loar_reason::generate::{Generator, Prompt, Source};
use loar_reason::policy::{Nature, Policies};
use loar_reason::record::{Action, Record};
use loar_reason::replay::replay;
use loar_reason::run::{Task, answer};
use loar_reason::setup::{Example, Examples, Prune, Question, Score, Setup, Strategy};
use loar_reason::stop::Rule;
use loar_reason::verify::{
    ArithmeticVerifier, BracketVerifier, LetterVerifier, SortingVerifier, SwapVerifier, Verifier,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::model_dir::{BaseForm, Dtype, ModelArgs, ModelDir};

/// Answer questions by verified chains of thought
///
/// Several chains run side by side; each is read and checked, they are fused into one answer with a
/// probability, and what is not needed is cut. The question is an argument, or JSON lines in a file or on
/// standard input: {"question": "...", "id"?, "context"?: [{"id", "text"}], "kind"?, "choices"?} or a string.
/// Exit code 1: a question was not answered, or a replay differs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The question
    #[arg(conflicts_with = "file")]
    question: Option<String>,
    /// File of questions, one JSON object or string a line
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Checkpoint folder
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    model: Option<PathBuf>,
    /// PEFT adapter folder to put on the model
    #[arg(long, value_name = "DIR", requires = "model")]
    adapter: Option<PathBuf>,
    /// Precision of matrix products
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// What the linear layers are held in: quantised while loading
    #[arg(long, value_enum, default_value_t)]
    base_dtype: BaseForm,
    /// Threads; 0 takes every core. The result does not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Built-in chat template to use instead of the checkpoint's own
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// OpenAI-compatible endpoint, up to /v1
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Model that the endpoint is asked for
    #[arg(long, value_name = "NAME", requires = "endpoint", default_value = "default")]
    endpoint_model: String,
    /// Environment variable that holds the endpoint's key
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    key_env: Option<String>,
    /// Seconds without a sign of the endpoint after which a path is given up
    #[arg(long, value_name = "S", default_value_t = 120.0)]
    timeout: f64,
    /// direct, zero_shot, few_shot, self_consistency, auto_cot, best_of_n, budget_forcing
    #[arg(long, value_name = "NAME", default_value = "self_consistency")]
    strategy: String,
    /// Paths at most [default: 8 where the strategy takes several, else 1]
    #[arg(short = 'n', long, value_name = "N")]
    paths: Option<usize>,
    /// Paths that run side by side [default: all]
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// vote, weighted, best, posterior [default: posterior; best for best_of_n]
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// What weighs paths: logprob, p_true, verifiers
    #[arg(long, value_name = "NAME", default_value = "logprob")]
    score: String,
    /// Temperature of those weights; 0 takes the best path
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    weight_temperature: f64,
    /// Probability that an answer must reach; paths stop there, and an answer below is not given
    #[arg(long, value_name = "P")]
    target_p: Option<f64>,
    /// Run all paths, also when fewer are enough
    #[arg(long, conflicts_with = "target_p")]
    all_paths: bool,
    /// Tokens written at most for one question
    #[arg(long, value_name = "N")]
    budget_tokens: Option<usize>,
    /// Seconds at most for one question
    #[arg(long, value_name = "S")]
    budget_seconds: Option<f64>,
    /// Verifier of steps; may be repeated: arithmetic, brackets, letters, sorting, swaps, judge
    #[arg(long, value_name = "NAME")]
    verifier: Vec<String>,
    /// Times a wrong step is sampled anew from the step before it
    #[arg(long, value_name = "N", default_value_t = 0)]
    repair: usize,
    /// Cut paths whose token confidence falls below that of the first N
    #[arg(long, value_name = "N")]
    prune_after: Option<usize>,
    /// Share of those first paths that the bar would have kept
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, requires = "prune_after")]
    prune_keep: f64,
    /// With budget_forcing: thinking tokens after which the answer is forced
    #[arg(long, value_name = "N")]
    think_at_most: Option<usize>,
    /// With budget_forcing: ends of thinking that are not let pass
    #[arg(long, value_name = "N", default_value_t = 0)]
    waits: usize,
    /// Examples, JSON lines: {"id", "question", "rationale", "answer"}
    #[arg(long, value_name = "FILE")]
    examples: Option<PathBuf>,
    /// Policies over the built-in ones
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Seed of all draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Divides the logits [default: the policy's]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Tokens of one path at most [default: the policy's]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Folder for records, one file an answer
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Play a record back: the same bytes, or what differs
    #[arg(long, value_name = "RECORD", conflicts_with_all = ["question", "file", "view"])]
    replay: Option<PathBuf>,
    /// Draw a record as a page, written to --out
    #[arg(long, value_name = "RECORD", conflicts_with_all = ["question", "file"], requires = "out")]
    view: Option<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "FILE.html", requires = "view")]
    out: Option<PathBuf>,
    /// Probe whether answers come from their chains, instead of answering
    #[arg(long)]
    probe: bool,
    /// Measure ways of asking on questions with `gold`, and write the best for this model into FILE
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["probe", "question"])]
    measure_policy: Option<PathBuf>,
    /// One JSON object a line for each answer
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    if let (Some(path), Some(out)) = (&args.view, &args.out) {
        let (record, _) = read(path)?;
        let page = loar_reason::view::view(&record, console.lang.code());
        write_atomic(out, page.as_bytes()).map_err(|e| Failure::environment(e.to_string()))?;
        console.line(out.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.replay {
        return play_back(path, &args, console);
    }
    let questions = questions(&args, console)?;
    let policies = Policies::read(args.policy.as_deref()).map_err(|e| Failure::usage(e.to_string()))?;
    let examples = examples(args.examples.as_deref())?;
    with_generator(&args, &mut |generator, nature| {
        let model = generator.source().model.clone();
        let policy = policies.resolve(nature, Some(&model)).map_err(|e| Failure::usage(e.to_string()))?;
        let setup = setup(&args, Setup::of(word("strategy", &args.strategy)?, nature, policy, args.seed))?;
        if args.probe {
            return probe(&questions, &setup, generator, console);
        }
        if let Some(out) = &args.measure_policy {
            return measure(&args, &questions, &setup, &examples, generator, out, console);
        }
        let verifiers = verifiers(&setup.verifiers)?;
        let mut answered = true;
        for (question, _) in &questions {
            let k = if setup.takes_examples() { setup.examples } else { 0 };
            let shown = examples.examples(question, k, setup.sampling.seed).map_err(Failure::usage)?;
            let task = Task { question, setup: &setup, examples: &shown, verifiers: &verifiers };
            let record = answer(&task, &mut Metered::new(generator, setup.budgets));
            answered &= record.decision.action == Action::Answer;
            let file = match &args.record {
                Some(dir) => Some(record.write(dir).map_err(|e| Failure::environment(e.to_string()))?),
                None => None,
            };
            show(&record, file.as_deref(), args.json, console)?;
        }
        Ok(if answered { ExitCode::SUCCESS } else { ExitCode::from(1) })
    })
}

/// Faithfulness of all questions: one JSON object.
fn probe(
    questions: &[(Question, Option<String>)],
    setup: &Setup,
    generator: &mut dyn Generator,
    console: &Console,
) -> Result<ExitCode, Failure> {
    let ask = |(i, (question, _)): (usize, &(Question, Option<String>))| {
        loar_reason::probe::probe(question, setup, generator, i)
    };
    let probed: Vec<_> = questions.iter().enumerate().map(ask).collect();
    console.line(json!({"report": loar_reason::probe::report(&probed), "questions": probed}))?;
    Ok(ExitCode::SUCCESS)
}

/// Ways of asking, measured; the best goes into the policy file under the model's content id.
fn measure(
    args: &Args,
    questions: &[(Question, Option<String>)],
    setup: &Setup,
    examples: &Vec<Example>,
    generator: &mut dyn Generator,
    out: &Path,
    console: &Console,
) -> Result<ExitCode, Failure> {
    let labelled: Vec<(Question, String)> =
        questions.iter().filter_map(|(q, gold)| Some((q.clone(), gold.clone()?))).collect();
    if labelled.len() < questions.len() {
        return Err(Failure::usage("every question needs its `gold` to measure policies"));
    }
    let mut candidates = Vec::new();
    let mut add = |name: String, strategy: Strategy, change: &dyn Fn(&mut Setup)| -> Result<(), Failure> {
        let of = Setup::of(strategy, setup.nature, setup.policy.clone(), args.seed);
        let mut s = self::setup(args, of)?;
        change(&mut s);
        candidates.push((name, s));
        Ok(())
    };
    let counts: &[usize] = if examples.is_empty() { &[0] } else { &[0, 3, 5] };
    for system in ["", setup.policy.system.as_str()] {
        for k in counts {
            add(format!("system {system:?}, {k} examples"), setup.strategy, &|s| {
                s.policy.system = system.to_owned();
                (s.examples, s.policy.examples) = (*k, *k);
            })?;
        }
        if setup.policy.system.is_empty() {
            break;
        }
    }
    let measured = loar_reason::measure::measure(&labelled, &candidates, examples, generator);
    let (all, best) = measured.map_err(Failure::usage)?;
    for m in &all {
        console.line(json!(m))?;
    }
    let policy = &candidates[best].1.policy;
    let mut file: toml::Table = match std::fs::read_to_string(out) {
        Ok(text) => text.parse().map_err(|e| Failure::usage(format!("{}: {e}", out.display())))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => toml::Table::new(),
        Err(e) => return Err(Failure::file(out, "read", &e)),
    };
    let mut section = toml::Table::new();
    section.insert("system".into(), policy.system.clone().into());
    section.insert("examples".into(), toml::Value::Integer(policy.examples as i64));
    file.insert(generator.source().model.clone(), section.into());
    write_atomic(out, file.to_string().as_bytes()).map_err(|e| Failure::environment(e.to_string()))?;
    console.remark(format!("{}: {}", out.display(), all[best].name));
    Ok(ExitCode::SUCCESS)
}

/// Opens the model or the endpoint and hands it over with what its prompt shows of it.
fn with_generator(
    args: &Args,
    f: &mut dyn FnMut(&mut dyn Generator, Nature) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    if let Some(url) = &args.endpoint {
        let key = match &args.key_env {
            Some(name) => Some(
                std::env::var(name)
                    .map_err(|_| Failure::usage(format!("the environment has no `{name}`, which `--key-env` names")))?,
            ),
            None => None,
        };
        let silence = Duration::try_from_secs_f64(args.timeout)
            .map_err(|_| Failure::usage(format!("`--timeout {}` is no time", args.timeout)))?;
        let patience = Patience { silence, ..Patience::default() };
        return f(&mut Remote::new(Client::new(url, &args.endpoint_model, key, patience)), Nature::Plain);
    }
    let Some(model) = &args.model else {
        return Err(Failure::usage("there is neither a model nor an endpoint")
            .with_help("give `--model DIR` or `--endpoint URL`"));
    };
    let dir = ModelDir::open(&ModelArgs {
        model: model.clone(),
        adapter: args.adapter.clone(),
        dtype: args.dtype,
        base_dtype: args.base_dtype,
        threads: args.threads,
        template: args.template.clone(),
    })?;
    let generator = loar_decode::Generator::new(&dir.model, dir.encoder.tokenizer(), dir.end_ids.clone());
    let source = source(args, &dir)?;
    let mut local = Local::new(&generator, &dir.encoder, &dir.end_ids, source);
    let nature = if dir.has_template {
        let probe =
            Prompt::Chat { turns: vec![loar_endpoint::Turn::new("user", "?")], thinking: loar_text::Thinking::Default };
        if local.opens_thought(&probe).map_err(Failure::usage)? { Nature::Reasoning } else { Nature::Plain }
    } else {
        Nature::Text
    };
    f(&mut local, nature)
}

/// What a record says of the model: content ids, not names.
fn source(args: &Args, dir: &ModelDir) -> Result<Source, Failure> {
    let id =
        |path: &Path| ContentId::of_dir(path).map(|id| id.to_string()).map_err(|e| Failure::environment(e.to_string()));
    let template = if dir.has_template {
        let chat = loar_text::Conversation {
            messages: vec![loar_text::Message::user("?")],
            ..loar_text::Conversation::default()
        };
        let shown = dir.encoder.prompt(&chat).map_err(|e| Failure::usage(e.to_string()))?;
        Some(ContentId::of_bytes(shown.text.as_bytes()).to_string())
    } else {
        None
    };
    Ok(Source {
        kind: "local".into(),
        place: dir.path.display().to_string(),
        model: id(&dir.path)?,
        adapter: args.adapter.as_deref().map(id).transpose()?,
        template,
        precision: Some(format!("{:?} {:?}", args.dtype, args.base_dtype).to_lowercase()),
    })
}

/// The options over a strategy's defaults.
fn setup(args: &Args, mut s: Setup) -> Result<Setup, Failure> {
    s.paths = args.paths.unwrap_or(s.paths);
    s.parallel = args.parallel.unwrap_or(s.paths);
    if s.paths > 1 && s.sampling.temperature == 0.0 {
        (s.sampling.temperature, s.sampling.top_p) = (s.policy.temperature, s.policy.top_p);
    }
    s.sampling.temperature = args.temperature.unwrap_or(s.sampling.temperature);
    s.sampling.max_new_tokens = args.max_new_tokens.unwrap_or(s.sampling.max_new_tokens);
    if let Some(method) = &args.method {
        s.method = word::<Method>("method", method)?;
    }
    s.score = word::<Score>("score", &args.score)?;
    s.weight_temperature = args.weight_temperature;
    s.target_p = args.target_p;
    if let Some(target) = args.target_p {
        s.rule = Rule::Posterior { target, gain: 0.0 };
    }
    if args.all_paths {
        s.rule = Rule::Never;
    }
    s.budgets = Budgets { tokens: args.budget_tokens, seconds: args.budget_seconds };
    s.prune = args.prune_after.map(|warm_up| Prune { warm_up, keep: args.prune_keep });
    s.repairs = args.repair;
    s.judge = args.verifier.iter().any(|v| v == "judge");
    s.verifiers = args.verifier.iter().filter(|v| *v != "judge").cloned().collect();
    match &mut s.forcing {
        Some(forcing) => (forcing.at_most, forcing.waits) = (args.think_at_most, args.waits),
        None if args.think_at_most.is_some() || args.waits > 0 => {
            return Err(Failure::usage("`--think-at-most` and `--waits` go with `--strategy budget_forcing`"));
        }
        None => {}
    }
    let mut faults = s.faults();
    if args.endpoint.is_some() && (s.forcing.is_some() || s.score == Score::PTrue) {
        faults.push("budget forcing and P(True) need the model's own tokens; an endpoint gives none".into());
    }
    if s.strategy == Strategy::FewShot && args.examples.is_none() {
        faults.push("few_shot needs `--examples FILE`".into());
    }
    if faults.is_empty() { Ok(s) } else { Err(Failure::usage("this cannot be asked so").with_faults(faults)) }
}

/// A value by its name.
fn word<T: DeserializeOwned>(option: &str, name: &str) -> Result<T, Failure> {
    serde_json::from_value(json!(name)).map_err(|e| Failure::usage(format!("`--{option} {name}`: {e}")))
}

fn verifiers(names: &[String]) -> Result<Vec<Box<dyn Verifier>>, Failure> {
    let one = |name: &String| -> Result<Box<dyn Verifier>, Failure> {
        Ok(match name.as_str() {
            "arithmetic" => Box::new(ArithmeticVerifier),
            "brackets" => Box::new(BracketVerifier),
            "letters" => Box::new(LetterVerifier),
            "sorting" => Box::new(SortingVerifier),
            "swaps" => Box::new(SwapVerifier),
            _ => {
                return Err(Failure::usage(format!("there is no verifier `{name}`"))
                    .with_help("arithmetic, brackets, letters, sorting, swaps or judge"));
            }
        })
    };
    names.iter().map(one).collect()
}

fn read(path: &Path) -> Result<(Record, Vec<u8>), Failure> {
    Record::read(path).map_err(|e| Failure::usage(e.to_string()))
}

fn play_back(path: &Path, args: &Args, console: &Console) -> Result<ExitCode, Failure> {
    let (record, bytes) = read(path)?;
    let verifiers = verifiers(&record.setup.verifiers)?;
    let differs = if args.model.is_some() {
        let mut differs = Vec::new();
        with_generator(args, &mut |generator, _| {
            differs = replay(&record, &bytes, &verifiers, Some(generator));
            Ok(ExitCode::SUCCESS)
        })?;
        differs
    } else if record.source.kind == "local" {
        return Err(Failure::usage("the record was made by a local model; replay generates it again")
            .with_help(format!("give `--model DIR`; it was `{}`", record.source.place)));
    } else {
        replay(&record, &bytes, &verifiers, None)
    };
    if args.json {
        console.line(json!({"record": path, "same": differs.is_empty(), "differences": differs}))?;
    } else if differs.is_empty() {
        console.line(console.pick("the same bytes", "字节完全一致"))?;
    } else {
        for difference in &differs {
            console.line(difference)?;
        }
    }
    Ok(if differs.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn show(record: &Record, file: Option<&Path>, json: bool, console: &Console) -> Result<(), Failure> {
    let d = &record.decision;
    if json {
        console.line(json!({
            "id": record.question.id, "decision": d, "candidates": record.fused.candidates, "p_none": record.fused.p_none,
            "cost": record.cost, "record": file,
        }))?;
        return Ok(());
    }
    let chain = d.path.and_then(|p| record.paths[p].chain.as_ref());
    if let Some(chain) = chain {
        console.remark(console.paint_err(Style::Dim, chain.reply().trim()));
    }
    let style = if d.action == Action::Answer { Style::Green } else { Style::Yellow };
    let none = console.pick("no answer", "无答案");
    console.line(console.paint(style, d.answer.as_deref().unwrap_or(none)))?;
    let mark = if d.calibrated { "" } else { console.pick(", not calibrated", "，未校准") };
    console.remark(format!("{:?}: {}{mark}", d.action, d.why).to_lowercase());
    console.remark(console.paint_err(Style::Dim, record.cost.line()));
    if let Some(file) = file {
        console.remark(console.paint_err(Style::Dim, file.display()));
    }
    Ok(())
}

/// Questions, with their true answers where the file has them.
fn questions(args: &Args, console: &Console) -> Result<Vec<(Question, Option<String>)>, Failure> {
    if let Some(text) = &args.question {
        return Ok(vec![(Question { text: text.clone(), ..Question::default() }, None)]);
    }
    let (name, text) = match &args.file {
        Some(path) => {
            (path.display().to_string(), std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?)
        }
        None if console.in_is_tty => {
            return Err(Failure::usage("there is no question")
                .with_help("give it as an argument, with `--file FILE`, or as JSON lines on standard input"));
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            ("standard input".to_owned(), text)
        }
    };
    lines(&name, &text, |value| {
        let gold = value.get("gold").and_then(|g| g.as_str().map(str::to_owned).or_else(|| Some(g.to_string())));
        Ok((question(&value)?, gold))
    })
}

fn question(value: &Value) -> Result<Question, String> {
    if let Some(text) = value.as_str() {
        return Ok(Question { text: text.to_owned(), ..Question::default() });
    }
    let text = value.get("question").and_then(Value::as_str).ok_or("`question` is missing or no text")?;
    let part = |name: &str| value.get(name).filter(|v| !v.is_null()).cloned();
    let fits = |name: &str, e: serde_json::Error| format!("`{name}`: {e}");
    Ok(Question {
        id: part("id").map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned)),
        text: text.to_owned(),
        context: part("context").map_or(Ok(Vec::new()), serde_json::from_value).map_err(|e| fits("context", e))?,
        answer: ExtractOptions {
            kind: part("kind").map_or(Ok(Kind::Auto), serde_json::from_value).map_err(|e| fits("kind", e))?,
            choices: part("choices").map_or(Ok(Vec::new()), serde_json::from_value).map_err(|e| fits("choices", e))?,
            ..ExtractOptions::default()
        },
    })
}

fn examples(path: Option<&Path>) -> Result<Vec<Example>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?;
    lines(&path.display().to_string(), &text, |value| serde_json::from_value(value).map_err(|e| e.to_string()))
}

/// One value a line; all bad lines are named at once.
fn lines<T>(name: &str, text: &str, read: impl Fn(Value) -> Result<T, String>) -> Result<Vec<T>, Failure> {
    let (mut values, mut faults) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        match serde_json::from_str::<Value>(line).map_err(|e| e.to_string()).and_then(&read) {
            Ok(value) => values.push(value),
            Err(e) => faults.push(format!("{name}:{}: {e}", i + 1)),
        }
    }
    if !faults.is_empty() {
        return Err(Failure::usage(format!("{name} cannot be read")).with_faults(faults));
    }
    if values.is_empty() {
        return Err(Failure::usage(format!("{name} is empty")));
    }
    Ok(values)
}
