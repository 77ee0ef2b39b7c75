//! `loar tokens`: what training sees of a data file, token by token.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_text::visualize;
use serde_json::json;

use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::model_dir::{open_encoder, require_dir};

/// Show rows as they are trained: rendered, tokenized, masked
///
/// Trained tokens are green (between ⟦ and ⟧ without colour), masked ones dim.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folder whose tokenizer and template render
    model: PathBuf,
    /// Data files or folders
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    rows: usize,
    /// Show the row with this id, `file:line`
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Built-in chat template to use instead of the checkpoint's own
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// One JSON object a line with ids and mask
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    require_dir(&args.model)?;
    let (encoder, _) = open_encoder(&args.model, args.template.as_deref())?;
    let dataset = loar_data::read(&args.data, &loar_data::ReadOptions::default())?;
    let mut faults = Vec::new();
    let mut shown = 0;
    for example in &dataset.examples {
        if shown == args.rows {
            break;
        }
        if args.id.as_ref().is_some_and(|id| *id != example.id) {
            continue;
        }
        let rows = match encoder.rows(&example.body) {
            Ok(rows) => rows,
            Err(e) => {
                faults.push(e.in_row(&example.id).to_string());
                continue;
            }
        };
        shown += 1;
        for (n, row) in rows.iter().enumerate() {
            if args.json {
                console.line(json!({"id": example.id, "row": n, "ids": row.ids, "train": row.train,
                    "prompt_len": row.prompt_len, "turn": row.turn}))?;
                continue;
            }
            let part = if rows.len() > 1 { format!(" ({} / {})", n + 1, rows.len()) } else { String::new() };
            console.line(console.paint(Style::Cyan, format_args!("── {}{part}", example.id)))?;
            console.line(visualize(encoder.tokenizer(), row, console.colour))?;
        }
    }
    if let (Some(id), 0, true) = (&args.id, shown, faults.is_empty()) {
        return Err(Failure::usage(format!("no row has the id `{id}`"))
            .with_help("ids are `file:line`, as `loar tokens` prints them"));
    }
    if faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    console.remark(
        Failure::usage("some rows cannot be rendered").with_faults(faults).render(console.colour_err, true).trim_end(),
    );
    Ok(ExitCode::from(1))
}
