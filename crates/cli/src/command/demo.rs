//! `loar demo`: the whole path on the embedded model.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::console::Console;
use crate::demo::{self, Plan};
use crate::diagnose::Failure;
use crate::interrupt::stop_on_ctrl_c;
use crate::progress::Progress;

/// Fine-tune the embedded model on a credit policy, measured before and after
///
/// Needs no other file and no network. Held-out cases are scored before and after; full fine-tuning of the same model
/// on the same rows stands beside LoRA. With --lang zh applications and output are Chinese.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for everything the demo makes; a number is added when it exists
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
    /// Held-out cases
    #[arg(long, default_value_t = 200, value_parser = positive)]
    cases: usize,
    /// Training rows
    #[arg(long, default_value_t = 5500, value_parser = positive)]
    rows: usize,
    /// Leave out full fine-tuning
    #[arg(long)]
    no_full: bool,
    /// Leave out the adapter that answers without steps
    #[arg(long)]
    no_direct: bool,
    /// Make the embedded base anew in DIR instead: corpus, tokenizer, training from random weights
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cases", "rows", "no_full", "no_direct", "out", "policy"])]
    make_base: Option<PathBuf>,
    /// Print the written policy as a table
    #[arg(long)]
    policy: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a whole number from 1".into()),
        Ok(n) => Ok(n),
    }
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    if args.policy {
        let language = match console.lang {
            crate::console::Lang::En => loar_eval::credit::Language::En,
            crate::console::Lang::Zh => loar_eval::credit::Language::Zh,
        };
        console.write(demo::policy()?.to_markdown(language))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(dir) = args.make_base else {
        let plan = Plan {
            dir: demo::free_dir(&args.out),
            cases: args.cases,
            rows: args.rows,
            full: !args.no_full,
            direct: !args.no_direct,
        };
        demo::run(&plan, console)?;
        return Ok(ExitCode::SUCCESS);
    };
    let said = console.pick(
        "\nstopping with a checkpoint after this step; Ctrl-C again stops at once",
        "\n将在本步之后保存检查点并停止；再按一次 Ctrl-C 立即停止",
    );
    let stop = stop_on_ctrl_c(console, said, 1)?;
    let policy = demo::policy()?;
    let made = demo::base::make(demo::RECIPE, &policy, &dir, console, &mut Progress::new(console), &stop)?;
    match made {
        Some(base) => {
            console.line(base.display())?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            console.remark(format!("loar demo --make-base {}", dir.display()));
            Ok(ExitCode::from(1))
        }
    }
}
