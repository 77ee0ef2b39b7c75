//! `loar equal`: whether predicted answers are the gold answers.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_reason::answer::{Answer, EqualOptions, ExtractOptions, Kind, Percent, Units, VERSION, equal, extract};
use serde_json::{Value, json};

use crate::answer_rows::{self, Row};
use crate::console::Console;
use crate::diagnose::Failure;

/// Say of each row whether its prediction equals its gold answer
///
/// A row is {"gold", "pred", "type"?}; both may be bare answers or texts that end in one. With a column
/// "expect" (or "label") the agreement with it is given. Prints true or false a row.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON Lines
    file: PathBuf,
    /// Type of rows that name none: auto, number, math, choice, yes_no, date, json, text
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    r#type: String,
    /// Decimal places compared when a side is written as a decimal; a row's "precision" goes before it
    #[arg(long, value_name = "N", default_value_t = 6)]
    places: u32,
    /// Percent signs: gold (50 % is 1/2, and 50 where the gold answer is bare), fraction, dropped
    #[arg(long, value_name = "POLICY", default_value = "gold")]
    percent: String,
    /// A unit on one side only is a difference
    #[arg(long)]
    strict_units: bool,
    /// An inequality counts for the interval it describes also when the gold answer is the interval
    #[arg(long)]
    relation_for_set: bool,
    /// A comma is the decimal mark
    #[arg(long)]
    decimal_comma: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

struct Compared {
    id: Value,
    golds: Vec<Answer>,
    pred: Option<Answer>,
    equal: bool,
    expect: Option<bool>,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let kind =
        answer_rows::kind(&args.r#type).ok_or_else(|| Failure::usage(format!("type `{}` is unknown", args.r#type)))?;
    let percent: Percent = serde_json::from_value(Value::String(args.percent.clone()))
        .map_err(|_| Failure::usage(format!("percent `{}` is none of gold, fraction, dropped", args.percent)))?;
    let preset = ExtractOptions { kind, decimal_comma: args.decimal_comma, ..ExtractOptions::default() };
    let units = if args.strict_units { Units::Strict } else { Units::Lenient };
    let how = EqualOptions { places: args.places, percent, units, relation_for_set: args.relation_for_set };
    let rows = answer_rows::read(&args.file, |row| compare(row, &preset, &how))?;
    let labelled = rows.iter().filter(|r| r.expect.is_some()).count();
    let agree = rows.iter().filter(|r| r.expect == Some(r.equal)).count();
    let right = rows.iter().filter(|r| r.equal).count();
    if args.json {
        let result = |r: &Compared| json!({"id": r.id, "equal": r.equal, "gold": r.golds.first(), "pred": r.pred, "expect": r.expect});
        console.line(json!({"extractor_version": VERSION, "rows": rows.len(), "equal": right,
            "labelled": labelled, "agreeing": agree,
            "agreement": (labelled > 0).then(|| agree as f64 / labelled as f64),
            "results": rows.iter().map(result).collect::<Vec<_>>()}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for row in &rows {
        console.line(row.equal)?;
    }
    let mut summary = format!("{right} of {} equal", rows.len());
    if labelled > 0 {
        let share = 100.0 * agree as f64 / labelled as f64;
        summary += &format!("; {agree} of {labelled} as expected ({share:.2} %)");
    }
    console.remark(format!("{summary}; extractor version {VERSION}"));
    Ok(ExitCode::SUCCESS)
}

fn compare(row: &Row, preset: &ExtractOptions, how: &EqualOptions) -> Result<Compared, String> {
    let golds = row.golds(&["gold", "target", "reference"]);
    if golds.is_empty() && row.field(&["gold", "target", "reference"]).is_none() {
        return Err("no field `gold`".to_string());
    }
    let pred = row.text(&["pred", "prediction", "answer", "text"])?;
    let expect = match row.field(&["expect", "expected", "label"]) {
        None | Some(Value::Null) => None,
        Some(Value::Bool(b)) => Some(*b),
        Some(Value::Number(n)) if n.as_f64() == Some(0.0) || n.as_f64() == Some(1.0) => Some(n.as_f64() == Some(1.0)),
        Some(other) => return Err(format!("`expect` must be true, false, 0 or 1, found {other}")),
    };
    // without a type both sides are read freely; letters, truth and days only where gold is one
    let mut options = row.options(preset, golds.first().map(String::as_str))?;
    let typed = row.field(&["type", "kind", "answer_type"]).is_some_and(|v| !v.is_null());
    if !typed && preset.kind == Kind::Auto && matches!(options.kind, Kind::Number | Kind::Text | Kind::Json) {
        options.kind = Kind::Auto;
    }
    let mut how = how.clone();
    if let Some(places) = row.field(&["precision", "places"]).and_then(Value::as_u64) {
        how.places = u32::try_from(places).unwrap_or(u32::MAX);
    }
    if let Some(both) = row.field(&["allow_set_relation_comp", "relation_for_set"]).and_then(Value::as_bool) {
        how.relation_for_set = both;
    }
    let pred = pred.and_then(|p| extract(&p, &options));
    let golds: Vec<Answer> = golds.iter().map(|g| answer_rows::gold(g, &options)).collect();
    let equal = pred.as_ref().is_some_and(|p| golds.iter().any(|g| equal(g, p, &how)));
    Ok(Compared { id: row.id(), golds, pred, equal, expect })
}
