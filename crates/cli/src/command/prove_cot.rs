//! `loar prove-cot`: whether a chain of thought helps, measured on models trained on the spot.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use loar_prove::leg::Form;
use loar_prove::proof::{Plan, Progress, Proof, TaskPlan, run as prove};

use crate::console::{Console, duration};
use crate::diagnose::Failure;
use crate::interrupt::stop_on_ctrl_c;
use crate::table::Table;

/// A task that can be proved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TaskName {
    /// Parity of 8 hidden bits of 20 (arXiv 2410.05459)
    Parity,
    /// Two linear equations modulo 7 (arXiv 2305.15408, reduced)
    Equations,
}

/// Train small models with and without chains of thought and measure what chains, votes and checks add
///
/// Trains the same DeepSeek-V3 model from nothing on the same fresh questions to answer at once, and to write its chain
/// first; then asks an early checkpoint many times and shows what voting, a step checker and the posterior add. A proof
/// that was stopped goes on where it was: start the same command again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of models, paths and report
    #[arg(long, default_value = "runs/prove-cot", value_name = "DIR")]
    out: PathBuf,
    /// Tasks
    #[arg(long, value_delimiter = ',', default_value = "parity,equations", value_name = "TASK")]
    tasks: Vec<TaskName>,
    /// Random starts of both forms
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100), value_name = "N")]
    seeds: u64,
    /// Leave out the controls: filler instead of a chain, another question's chain
    #[arg(long)]
    no_controls: bool,
    /// Test questions of each model
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    questions: u32,
    /// Questions the early model is asked many times
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..), value_name = "N")]
    path_questions: u32,
    /// Paths of each of them
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    paths: u32,
    /// Optimizer steps of every model, instead of the task's own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    steps: Option<u32>,
    /// Threads; 0 takes every core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let mut tasks: Vec<TaskPlan> = args
        .tasks
        .iter()
        .map(|t| match t {
            TaskName::Parity => TaskPlan::parity(),
            TaskName::Equations => TaskPlan::equations(),
        })
        .collect();
    if let Some(steps) = args.steps {
        for task in &mut tasks {
            task.recipe.steps = steps as usize;
        }
    }
    let plan = Plan {
        out: args.out,
        tasks,
        seeds: args.seeds,
        controls: !args.no_controls,
        questions: args.questions as usize,
        path_questions: args.path_questions as usize,
        paths: args.paths,
        threads: args.threads,
    };
    let said = console.pick(
        "\nstopping after this step, finished models are kept; Ctrl-C again stops at once",
        "\n将在本步之后停止，已完成的模型会保留；再按一次 Ctrl-C 立即停止",
    );
    let stop = stop_on_ctrl_c(console, said, 130)?;
    let bar = if console.err_is_tty { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} · ETA {eta}") {
        bar.set_style(style);
    }
    let (started, told) = (Instant::now(), std::cell::Cell::new(None::<Instant>));
    let quiet = console.clone();
    let tell = |p: Progress| {
        bar.set_length(p.of);
        bar.set_position(p.done);
        bar.set_message(p.leg.clone());
        let due = told.get().is_none_or(|t| t.elapsed() >= Duration::from_secs(15));
        if !quiet.err_is_tty && due {
            told.set(Some(Instant::now()));
            let passed = started.elapsed().as_secs_f64();
            let left = if p.done == 0 { 0.0 } else { passed / p.done as f64 * (p.of - p.done) as f64 };
            quiet.remark(format!("{} · {}/{} · ETA {}", p.leg, p.done, p.of, duration(left)));
        }
    };
    let proof = prove(&plan, console.lang.code(), &stop, &tell).map_err(|error| match error {
        loar_prove::ProveError::Stopped => Failure::environment(error.to_string()),
        loar_prove::ProveError::Shape(_) => Failure::usage(error.to_string()),
        other => Failure::environment(other.to_string()),
    })?;
    bar.finish_and_clear();
    if args.json {
        console.line(serde_json::to_string(&proof).unwrap_or_default())?;
    } else {
        show(&proof, console)?;
        console.line(format_args!("\n{} · {}", plan.out.join("report.html").display(), duration(proof.seconds)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(proof: &Proof, console: &Console) -> Result<(), Failure> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut table = Table::new(&[
        console.pick("task", "任务").to_owned(),
        console.pick("before the answer", "答案之前").to_owned(),
        format!(">{}", console.pick("seeds", "种子")),
        format!(">{}", console.pick("answers exact", "答案正确")),
        format!(">{}", console.pick("lowest", "最低")),
        format!(">{}", console.pick("highest", "最高")),
        format!(">{}", console.pick("chance", "猜中")),
        format!(">{}", console.pick("tokens/answer", "每答词元")),
    ]);
    for task in &proof.tasks {
        for form in [Form::Direct, Form::Chain, Form::Filler, Form::Shuffled] {
            let legs: Vec<_> = task.legs.iter().filter(|l| l.setup.form == form).collect();
            let Some((low, mean, high)) = task.answer_exact(form) else { continue };
            let tokens = legs.iter().map(|l| l.assessment.tokens_per_answer).sum::<f64>() / legs.len() as f64;
            table.row([
                task.about.clone(),
                match form {
                    Form::Direct => console.pick("nothing", "无"),
                    Form::Chain => console.pick("its chain", "思维链"),
                    Form::Filler => console.pick("filler of that length", "等长填充"),
                    Form::Shuffled => console.pick("another question's chain", "他题的链"),
                }
                .to_owned(),
                legs.len().to_string(),
                percent(mean),
                percent(low),
                percent(high),
                percent(task.chance),
                format!("{tokens:.1}"),
            ]);
        }
    }
    console.write(table.render(0))?;
    for task in &proof.tasks {
        let Some(paths) = &task.paths else { continue };
        console.line(format_args!(
            "\n{} · {} {} · {} {} · {} {} / {}",
            task.about,
            console.pick("early model, step", "早期模型，步"),
            paths.early.step,
            console.pick("a path is right", "单条正确"),
            percent(paths.right.value()),
            console.pick("checker rejects wrong / right paths", "检查拒绝错误/正确路径"),
            percent(paths.rejected_wrong.value()),
            percent(paths.rejected_right.value()),
        ))?;
        let mut table = Table::new(&[
            format!(">{}", console.pick("paths", "路径")),
            format!(">{}", console.pick("tokens", "词元")),
            format!(">{}", console.pick("vote", "投票")),
            format!(">{}", console.pick("posterior", "后验")),
            format!(">{}", console.pick("with step checks", "含步骤检查")),
            format!(">{}", console.pick("some path right", "至少一条对")),
            ">ECE vote".to_owned(),
            ">ECE posterior".to_owned(),
            ">ECE checked".to_owned(),
        ]);
        for e in &paths.evidence {
            table.row([
                e.paths.to_string(),
                format!("{:.0}", e.tokens),
                percent(e.vote.accuracy),
                percent(e.posterior.accuracy),
                percent(e.checked.accuracy),
                percent(e.oracle),
                format!("{:.3}", e.vote.ece),
                format!("{:.3}", e.posterior.ece),
                format!("{:.3}", e.checked.ece),
            ]);
        }
        console.write(table.render(0))?;
    }
    Ok(())
}
