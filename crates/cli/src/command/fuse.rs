//! `loar fuse`: fusion, calibration and early stopping on recorded samples.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use loar_reason::answer;
use loar_reason::fuse::calibrate::{FitOptions, Labelled, calibrate};
use loar_reason::fuse::calibration::{Calibration, Keys};
use loar_reason::fuse::confidence::Curve;
use loar_reason::fuse::{Method, ratio};
use loar_reason::samples::{SampleError, read};
use loar_reason::stop::Rule;
use loar_reason::trial::{Plan, Report, trial};
use loar_reason::verify::{
    ArithmeticVerifier, BracketVerifier, LetterVerifier, SortingVerifier, SwapVerifier, Verifier,
};
use serde_json::json;

use crate::console::Console;
use crate::diagnose::Failure;
use crate::table::Table;

/// Fuse recorded samples into answers with calibrated probabilities
///
/// A row of the file is a question: {"id", "question"?, "gold", "type"?, "paths": [{"text", "answer"?, "logprob"?,
/// "features"?: {name: number}}]}. All figures are held out: questions are split into folds, what is fitted comes
/// from the other folds. docs/reasoning-fusion.md has the formulas.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON lines
    file: PathBuf,
    /// How paths are fused; auto takes posterior or pattern, whichever held-out folds make likelier
    #[arg(long, value_enum, default_value_t)]
    method: MethodName,
    /// Verifiers by name, `all` or `none`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all")]
    verifiers: Vec<String>,
    /// Paths to use, the first N of each question; several make a curve
    #[arg(long, value_name = "N", value_delimiter = ',')]
    paths: Vec<usize>,
    /// Folds, split by question
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    folds: u16,
    /// Seed of folds and orders
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// When a question has enough paths: never, consistency, esc or posterior, with a number after a colon
    #[arg(long, value_name = "RULE[:X]", default_value = "never")]
    stop: String,
    /// Random orders of paths to average over; 1 takes them as recorded
    #[arg(long, value_name = "N", default_value_t = 1)]
    orders: usize,
    /// Risks at which coverage is stated
    #[arg(long, value_name = "R", value_delimiter = ',', default_values_t = [0.05, 0.1, 0.2])]
    risks: Vec<f64>,
    /// Features that count as path confidence, `all` or `none`; `logprob` is one
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all")]
    features: Vec<String>,
    /// Curve that makes confidence a probability
    #[arg(long, value_enum, default_value_t)]
    curve: CurveName,
    /// Keep only this share of paths, the highest by a feature
    #[arg(long, value_name = "FEATURE:SHARE")]
    keep: Option<String>,
    /// Use this calibration instead of folds
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Fit on all questions and write a calibration
    #[arg(long, value_name = "FILE")]
    save_calibration: Option<PathBuf>,
    /// Digest or name of what the samples were made with: model=, adapter=, template=, sampler=
    #[arg(long = "key", value_name = "NAME=DIGEST")]
    keys: Vec<String>,
    /// One row a question with candidates, probabilities and their terms, instead of the table
    #[arg(long, conflicts_with = "json")]
    audit: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum MethodName {
    #[default]
    Auto,
    Vote,
    Weighted,
    Best,
    Independent,
    Posterior,
    Pattern,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum CurveName {
    #[default]
    Isotonic,
    Platt,
}

/// All verifiers that need nothing but the chain.
fn verifiers() -> [&'static dyn Verifier; 5] {
    [&ArithmeticVerifier, &BracketVerifier, &LetterVerifier, &SortingVerifier, &SwapVerifier]
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let chosen = chosen_verifiers(&args.verifiers)?;
    let (plan, keys) = plan(&args, &chosen)?;
    let samples = read(&args.file).map_err(|error| match error {
        SampleError::Read { path, source } => Failure::file(&path, "read", &source),
        SampleError::Rows { ref faults, .. } => Failure::usage(error.to_string()).with_faults(faults.clone()),
    })?;
    let labelled: Vec<Labelled> = samples.iter().map(|sample| sample.label(&chosen)).collect();
    let differs = plan.calibration.as_ref().map(|c| c.keys.differences(&keys)).unwrap_or_default();
    let numbers: Vec<Option<usize>> =
        if args.paths.is_empty() { vec![None] } else { args.paths.iter().map(|&n| Some(n)).collect() };
    let reports: Vec<Report> = numbers.iter().map(|&paths| trial(&labelled, &Plan { paths, ..plan.clone() })).collect();
    if let Some(path) = &args.save_calibration {
        let all: Vec<&Labelled> = labelled.iter().collect();
        calibrate(&all, &plan.fit, keys).save(path).map_err(|e| Failure::environment(e.to_string()))?;
    }
    let calibrated = differs.is_empty() && plan.calibration.as_ref().is_none_or(|c| c.questions > 0);
    let write = |e: std::io::Error| Failure::environment(e.to_string());
    if args.json {
        let out = json!({
            "file": args.file, "questions": labelled.len(), "seed": args.seed, "folds": args.folds,
            "orders": args.orders.max(1), "stop": plan.stop, "calibrated": calibrated, "differs": differs,
            "extractor": answer::VERSION, "runs": reports,
        });
        console.line(out).map_err(write)?;
    } else if args.audit {
        if let Some(report) = reports.last() {
            for (sample, fused) in samples.iter().zip(&report.fused) {
                let answer = fused.top().and_then(|c| sample.paths[c.paths[0]].answer.as_ref()).map(|a| &a.written);
                let row = json!({"id": sample.id, "answer": answer, "p": fused.p(), "calibrated": calibrated, "fused": fused});
                console.line(row).map_err(write)?;
            }
        }
    } else {
        console.write(table(&reports, &args.risks).render(0)).map_err(write)?;
        if let Some(report) = reports.last()
            && !report.calibration.ratios.is_empty()
        {
            let ratios = report.calibration.ratios.iter().map(|(name, ratio)| (name.as_str(), ratio));
            console.line(format!("\n{}", ratio::table(ratios).trim_end())).map_err(write)?;
        }
    }
    if !differs.is_empty() {
        console.warn(format!("not calibrated for these samples: {} differ", differs.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(reports: &[Report], risks: &[f64]) -> Table {
    let mut titles: Vec<String> =
        ["<paths", "<method", ">accuracy", ">any right", ">mean used", ">mean p", ">ECE", ">Brier", ">NLL", ">AURC"]
            .map(str::to_owned)
            .into();
    for risk in risks {
        titles.push(format!(">cover@{risk}"));
        titles.push(format!(">answered (wrong) @{risk}"));
    }
    let mut table = Table::new(&titles);
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    for report in reports {
        let score = &report.score;
        let methods: Vec<String> = report.methods.keys().map(|m| format!("{m:?}").to_lowercase()).collect();
        let mut row =
            vec![report.paths.to_string(), methods.join("/"), percent(score.accuracy), percent(report.oracle)];
        row.push(format!("{:.2}", score.mean_paths));
        row.extend([score.confidence, score.ece, score.brier, score.nll, score.aurc].map(|x| format!("{x:.3}")));
        for (control, (_, coverage)) in report.controlled.iter().zip(&score.coverage) {
            row.push(percent(*coverage));
            row.push(match (control.coverage, control.wrong) {
                (None, _) => "too few questions".to_owned(),
                (Some(coverage), wrong) => {
                    format!("{} ({})", percent(coverage), wrong.map_or("–".to_owned(), percent))
                }
            });
        }
        table.row(row);
    }
    table
}

fn chosen_verifiers(names: &[String]) -> Result<Vec<&'static dyn Verifier>, Failure> {
    let mut chosen: Vec<&'static dyn Verifier> = Vec::new();
    for name in names.iter().map(|n| n.trim()).filter(|n| !n.is_empty() && *n != "none") {
        let matching: Vec<_> = verifiers().into_iter().filter(|v| name == "all" || v.name() == name).collect();
        if matching.is_empty() {
            let known = verifiers().map(|v| v.name().to_owned()).join(", ");
            return Err(Failure::usage(format!("verifier `{name}` does not exist; there are: {known}, all, none")));
        }
        for verifier in matching {
            if chosen.iter().all(|c| c.name() != verifier.name()) {
                chosen.push(verifier);
            }
        }
    }
    Ok(chosen)
}

fn plan(args: &Args, chosen: &[&dyn Verifier]) -> Result<(Plan, Keys), Failure> {
    let mut faults = Vec::new();
    let method = match args.method {
        MethodName::Auto => None,
        MethodName::Vote => Some(Method::Vote),
        MethodName::Weighted => Some(Method::Weighted),
        MethodName::Best => Some(Method::Best),
        MethodName::Independent => Some(Method::Independent),
        MethodName::Posterior => Some(Method::Posterior),
        MethodName::Pattern => Some(Method::Pattern),
    };
    let stop = stop_rule(&args.stop).unwrap_or_else(|wrong| {
        faults.push(format!("--stop: {wrong}"));
        Rule::Never
    });
    let keep = args.keep.as_ref().and_then(|text| {
        let parsed =
            text.rsplit_once(':').and_then(|(name, share)| Some((name.to_owned(), share.parse::<f64>().ok()?)));
        let parsed = parsed.filter(|(_, share)| *share > 0.0 && *share <= 1.0);
        if parsed.is_none() {
            faults.push(format!("--keep: `{text}` is not FEATURE:SHARE with a share above 0 and up to 1"));
        }
        parsed
    });
    for risk in args.risks.iter().filter(|r| !(0.0..=1.0).contains(*r)) {
        faults.push(format!("--risks: {risk} is not between 0 and 1"));
    }
    if args.paths.contains(&0) {
        faults.push("--paths: at least 1".to_owned());
    }
    let mut keys = Keys { extractor: answer::VERSION, ..Keys::default() };
    keys.verifiers = chosen.iter().map(|v| (v.name().to_owned(), v.version())).collect();
    for text in &args.keys {
        match text.split_once('=') {
            Some(("model", digest)) => keys.model = digest.to_owned(),
            Some(("adapter", digest)) => keys.adapter = digest.to_owned(),
            Some(("template", digest)) => keys.template = digest.to_owned(),
            Some(("sampler", digest)) => keys.sampler = digest.to_owned(),
            _ => faults.push(format!("--key: `{text}` is not model=, adapter=, template= or sampler= with a digest")),
        }
    }
    if !faults.is_empty() {
        return Err(Failure::usage("options of `loar fuse` that cannot be used").with_faults(faults));
    }
    let features = match &args.features[..] {
        [all] if all == "all" => None,
        names => Some(names.iter().filter(|n| *n != "none").cloned().collect()),
    };
    let curve = match args.curve {
        CurveName::Isotonic => Curve::Isotonic,
        CurveName::Platt => Curve::Platt,
    };
    let calibration = args.calibration.as_ref().map(|path| Calibration::load(path)).transpose();
    let mut calibration = calibration.map_err(|e| Failure::usage(e.to_string()))?;
    if let (Some(calibration), Some(method)) = (&mut calibration, method) {
        calibration.method = method;
    }
    let fit = FitOptions { method, features, curve, folds: usize::from(args.folds), seed: args.seed };
    let plan = Plan {
        fit,
        paths: None,
        stop,
        keep,
        folds: usize::from(args.folds),
        orders: args.orders.max(1),
        risks: args.risks.clone(),
        calibration,
    };
    Ok((plan, keys))
}

/// `never`, `consistency[:p]`, `esc[:window]`, `posterior[:p[:gain]]`.
fn stop_rule(text: &str) -> Result<Rule, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let numbers: Vec<f64> = parts
        .map(|x| x.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("`{text}` has something that is no number after the colon"))?;
    let at = |i: usize, default: f64| numbers.get(i).copied().unwrap_or(default);
    match (name, numbers.len()) {
        ("never", 0) => Ok(Rule::Never),
        ("consistency", 0..=1) => Ok(Rule::Consistency { threshold: at(0, 0.95) }),
        ("esc", 0..=1) if at(0, 5.0) >= 1.0 => Ok(Rule::Esc { window: at(0, 5.0) as usize }),
        ("posterior", 0..=2) => Ok(Rule::Posterior { target: at(0, 0.95), gain: at(1, 0.0) }),
        _ => Err(format!("`{text}` is not never, consistency:0.95, esc:5 or posterior:0.95[:GAIN]")),
    }
}
