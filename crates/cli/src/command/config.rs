//! `loar config`: the manual of run files, and a run file with every value decided.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_train::config::reference;
use loar_train::load_run;
use serde_json::{Map, Value, json};

use crate::console::Console;
use crate::diagnose::Failure;
use crate::table::Table;

/// Explain run files
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Every section and key with its default, as Markdown
    Reference,
    /// A run file with every value decided, and where each came from
    Show {
        /// Run file
        run: PathBuf,
        /// Override a value; may be repeated
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    match args.what {
        What::Reference => console.write(reference())?,
        What::Show { run, set, json } => {
            let resolved = load_run(&run, &set)?;
            let source = |key: &str| resolved.sources.get(key).map(ToString::to_string).unwrap_or_default();
            if json {
                let values: Map<String, Value> = resolved
                    .values()
                    .into_iter()
                    .map(|(key, toml)| (key.to_owned(), json!({"toml": toml, "source": source(key)})))
                    .collect();
                console.line(Value::Object(values))?;
            } else {
                let mut table = Table::new(&[
                    console.pick("key", "键"),
                    console.pick("value", "值"),
                    console.pick("source", "来源"),
                ]);
                for (key, value) in resolved.values() {
                    table.row([key.to_owned(), value, source(key)]);
                }
                console.write(table.render(0))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
