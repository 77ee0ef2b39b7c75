//! `loar verify-steps`: chains of thought to the index of their first wrong step.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use loar_reason::verify::{self, Faults, PolicyVerifier, RangeVerifier, Report, SchemaVerifier, Verifier};

use crate::console::Console;
use crate::diagnose::{Failure, SHOWN};

/// Find the first wrong step of each chain in a file
///
/// A row is a JSON object a line: "steps" (an array of texts) or "text", and optionally "question", "context", "answer",
/// and "mistake_index" or "label" (index of the first wrong step, null for none), against which the result is counted.
/// Prints the index or null a row; a step that nothing can be checked in is never wrong.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Chains, one JSON object a line
    file: PathBuf,
    /// Verifiers, comma-separated: auto, arithmetic, algebra, modular, parity, range, citation, letters, brackets, sorting, swaps
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "auto")]
    verifier: Vec<String>,
    /// Rules for chains, in TOML; adds the verifier `policy`
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Ranges of quantities, in TOML; adds the verifier `range` with them
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
    /// JSON Schema that each answer must fit; adds the verifier `schema`
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Modulus of the verifier `modular`, when the texts do not name it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..1 << 31))]
    modulus: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let verifiers = verifiers(&args)?;
    let text = fs::read_to_string(&args.file).map_err(|e| Failure::file(&args.file, "read", &e))?;
    let rows = verify::read_rows(&args.file.display().to_string(), &text).map_err(|e| usage(&e))?;
    let report = verify::report(&rows, &verifiers);
    if args.json {
        console.line(serde_json::to_string(&report)?)?;
    } else {
        print(&report, console)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verifiers(args: &Args) -> Result<Vec<Box<dyn Verifier>>, Failure> {
    let mut verifiers: Vec<Box<dyn Verifier>> = Vec::new();
    for name in &args.verifier {
        let verifier = match (name.as_str(), args.modulus) {
            ("modular", Some(_)) => {
                Some(Box::new(verify::ModularVerifier { modulus: args.modulus }) as Box<dyn Verifier>)
            }
            _ => verify::by_name(name),
        };
        verifiers.push(verifier.ok_or_else(|| {
            Failure::usage(format!("there is no verifier `{name}`"))
                .with_help(format!("there are {}", verify::NAMES.join(", ")))
        })?);
    }
    if let Some(path) = &args.rules {
        verifiers.push(Box::new(PolicyVerifier::read(path).map_err(|e| usage(&e))?));
    }
    if let Some(path) = &args.ranges {
        verifiers.push(Box::new(RangeVerifier::with_file(path).map_err(|e| usage(&e))?));
    }
    if let Some(path) = &args.schema {
        verifiers.push(Box::new(SchemaVerifier::read(path).map_err(|e| usage(&e))?));
    }
    Ok(verifiers)
}

/// All faults of a file, the first ones shown.
fn usage(faults: &Faults) -> Failure {
    let lines: Vec<String> =
        faults.0.iter().take(SHOWN).map(|f| format!("{}:{}: {}", f.file, f.line, f.text)).collect();
    let rest = faults.0.len() - lines.len();
    let more = if rest > 0 { format!("\n… and {rest} more") } else { String::new() };
    Failure::usage(format!("{} faults\n{}{more}", faults.0.len(), lines.join("\n")))
}

fn print(report: &Report, console: &mut Console) -> Result<(), Failure> {
    for row in &report.results {
        match (row.first_wrong, &row.evidence) {
            (Some(step), Some(evidence)) => console.line(format_args!("{}\t{step}\t{evidence}", row.line))?,
            _ => console.line(format_args!(
                "{}\tnull\t{}",
                row.line,
                if row.verdict == verify::Verdict::Pass { "pass" } else { "unsure" }
            ))?,
        }
    }
    console.line(format_args!(
        "{} chains: {} with a wrong step, {} pass, {} unsure",
        report.rows, report.failed, report.passed, report.unsure
    ))?;
    if let Some(a) = &report.agreement {
        let share = 100.0 * a.exact as f64 / a.labelled.max(1) as f64;
        console.line(format_args!("exact: {} of {} ({share:.1} %)", a.exact, a.labelled))?;
        console.line(format_args!(
            "wrong chains: {} found, {} of them at the labelled step, {} missed; right chains: {} flagged, {} not",
            a.true_alarms, a.located, a.missed, a.false_alarms, a.true_silences
        ))?;
    }
    Ok(())
}
