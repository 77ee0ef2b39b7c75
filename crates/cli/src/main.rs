//! `loar`: DeepSeek-family checkpoint and conversations in, LoRA adapter and report out.
//!
//! Takes the command line, hands it to one command, turns its result into an exit code: 0 done,
//! 1 negative finding, 2 usage or configuration, 3 environment. Holds no logic of its own.
#![forbid(unsafe_code)]

mod adapter_inspection;
mod adapter_profile;
mod answer_rows;
mod answer_view;
mod architecture;
mod bench;
mod certificate;
mod command;
mod compat;
mod console;
mod demo;
mod diagnose;
mod inspection;
mod interrupt;
mod local_judge;
mod local_scorer;
mod merge_base;
mod model_dir;
mod modelfile;
mod progress;
mod sample_prompts;
mod sampling_args;
mod table;

use std::process::ExitCode;

use clap::Parser;
use loar_kernels::Isa;

use crate::command::Command;
use crate::console::{Console, Lang};
use crate::diagnose::Failure;

/// Fine-tune DeepSeek-family checkpoints with LoRA, and know what you trained.
#[derive(Debug, Parser)]
#[command(name = "loar", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    /// Language of prose
    #[arg(long, global = true, value_enum, default_value_t)]
    lang: Lang,
    /// Instruction set that kernels use, of those this machine has (`loar selftest` lists them), instead of the fastest
    #[arg(long, global = true, value_name = "NAME")]
    isa: Option<String>,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut console = Console::new(cli.lang);
    let isa = cli.isa.map_or(Ok(()), |name| Isa::force(&name).map(drop).map_err(Failure::usage));
    match isa.and_then(|()| cli.command.run(&mut console)) {
        Ok(code) => code,
        Err(failure) => {
            console.remark(failure.render(console.colour_err, true).trim_end());
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        super::Cli::command().debug_assert();
    }
}
