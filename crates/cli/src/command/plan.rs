//! `loar plan`: what a run will need, before it is begun.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_train::{Event, load_run, plan_run};
use serde_json::json;

use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::progress::plan_text;

/// Say what a run will need: memory, tokens, steps, time
///
/// Loads the base, reads and renders the data, and measures a few passes. Writes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run file
    run: PathBuf,
    /// Override a value; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let run = load_run(&args.run, &args.set)?;
    let mut tables = Vec::new();
    let preview = plan_run(&run, &mut |event: &Event| match event {
        Event::Ledger { table } => tables.push((console.pick("token ledger", "词元账本"), table.clone())),
        Event::Coverage { table } => tables.push((console.pick("coverage", "覆盖范围"), table.clone())),
        Event::Warning { message } => console.warn(message),
        _ => {}
    })?;
    if args.json {
        console.line(json!({"plan": preview, "peak_bytes": preview.peak_bytes(), "seconds": preview.seconds()}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, table) in &tables {
        console.line(console.paint(Style::Bold, name))?;
        console.line(format_args!("{}\n", table.trim_end()))?;
    }
    console.line(console.paint(Style::Bold, console.pick("plan", "计划")))?;
    console.write(plan_text(&preview, console))?;
    Ok(ExitCode::SUCCESS)
}
