//! The commands: one file each, one arm each.

use std::process::ExitCode;

use crate::console::Console;
use crate::diagnose::Failure;

mod annotate;
mod bench;
mod chat;
mod check;
mod config;
mod data;
mod demo;
mod equal;
mod eval;
mod export;
mod extract;
mod fuse;
mod generate;
mod init;
mod inspect;
mod plan;
mod prove_cot;
mod quantize;
mod reason;
mod selftest;
mod tokens;
mod train;
mod verify_steps;

/// What `loar` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Data(data::Args),
    Train(train::Args),
    Plan(plan::Args),
    Inspect(inspect::Args),
    Tokens(tokens::Args),
    Init(init::Args),
    Check(check::Args),
    Generate(generate::Args),
    Chat(chat::Args),
    Export(export::Args),
    Fuse(fuse::Args),
    Quantize(quantize::Args),
    Config(config::Args),
    Eval(eval::Args),
    Reason(Box<reason::Args>),
    Extract(extract::Args),
    Equal(equal::Args),
    Annotate(annotate::Args),
    ProveCot(prove_cot::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Selftest(selftest::Args),
    VerifySteps(verify_steps::Args),
}

impl Command {
    /// Runs the chosen command.
    pub fn run(self, console: &mut Console) -> Result<ExitCode, Failure> {
        match self {
            Self::Data(args) => data::run(args, console),
            Self::Train(args) => train::run(args, console),
            Self::Plan(args) => plan::run(args, console),
            Self::Inspect(args) => inspect::run(args, console),
            Self::Tokens(args) => tokens::run(args, console),
            Self::Init(args) => init::run(args, console),
            Self::Check(args) => check::run(args, console),
            Self::Generate(args) => generate::run(args, console),
            Self::Chat(args) => chat::run(args, console),
            Self::Export(args) => export::run(args, console),
            Self::Fuse(args) => fuse::run(args, console),
            Self::Quantize(args) => quantize::run(args, console),
            Self::Config(args) => config::run(args, console),
            Self::Eval(args) => eval::run(args, console),
            Self::Reason(args) => reason::run(*args, console),
            Self::Extract(args) => extract::run(args, console),
            Self::Equal(args) => equal::run(args, console),
            Self::Annotate(args) => annotate::run(args, console),
            Self::ProveCot(args) => prove_cot::run(args, console),
            Self::Demo(args) => demo::run(args, console),
            Self::Bench(args) => bench::run(args, console),
            Self::Selftest(args) => selftest::run(args, console),
            Self::VerifySteps(args) => verify_steps::run(args, console),
        }
    }
}
