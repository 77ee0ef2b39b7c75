//! `loar train`: a run file to an adapter and its report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use loar_train::{End, Observer, RunReport, load_run, resume, run as run_training};

use crate::console::{Console, Lang, Style, bytes, duration, grouped};
use crate::diagnose::Failure;
use crate::interrupt::stop_on_ctrl_c;
use crate::progress::{JsonEvents, Progress};
use crate::table::Table;

/// How events are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Events {
    /// For people, on standard error
    #[default]
    Text,
    /// One JSON object a line, on standard output
    Json,
}

/// Train as a run file says
///
/// Ctrl-C ends the run with a checkpoint after the step at hand, and exits with 1; a second Ctrl-C
/// ends it at once, which loses nothing that the last checkpoint has.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run file; with --resume also the folder of a run
    run: PathBuf,
    /// Override a value; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the newest whole checkpoint; begin if there is none
    #[arg(long)]
    resume: bool,
    /// How events are told
    #[arg(long, value_enum, default_value_t)]
    events: Events,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let job = Job::of(&args)?;
    let said = console.pick(
        "\nstopping with a checkpoint after this step; Ctrl-C again stops at once",
        "\n将在本步之后保存检查点并停止；再按一次 Ctrl-C 立即停止",
    );
    let stop = stop_on_ctrl_c(console, said, 1)?;
    let report = match args.events {
        Events::Json => job.run(&mut JsonEvents(console), &stop)?,
        Events::Text => job.run(&mut Progress::new(console), &stop)?,
    };
    if args.events == Events::Text && report.end != End::Interrupted {
        console.write(summary(&report, job.dir(), console))?;
    }
    Ok(ExitCode::from(u8::from(report.end == End::Interrupted)))
}

/// What is to be done.
enum Job {
    Begin(Box<loar_train::ResolvedRun>),
    Resume { dir: PathBuf, set: Vec<String> },
}

impl Job {
    fn of(args: &Args) -> Result<Self, Failure> {
        if args.run.is_dir() {
            if !args.resume {
                return Err(Failure::usage(format!("`{}` is a folder, not a run file", args.run.display()))
                    .with_help("to go on with the run in it, add `--resume`"));
            }
            return Ok(Self::Resume { dir: args.run.clone(), set: args.set.clone() });
        }
        let run = load_run(&args.run, &args.set)?;
        if args.resume && run.output.dir.join("resolved.toml").exists() {
            return Ok(Self::Resume { dir: run.output.dir, set: args.set.clone() });
        }
        Ok(Self::Begin(Box::new(run)))
    }

    fn dir(&self) -> &Path {
        match self {
            Self::Begin(run) => &run.output.dir,
            Self::Resume { dir, .. } => dir,
        }
    }

    fn run(&self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<RunReport, Failure> {
        Ok(match self {
            Self::Begin(run) => run_training(run, observer, stop)?,
            Self::Resume { dir, set } => resume(dir, set, observer, stop)?,
        })
    }
}

/// What the run came to, and where everything lies.
fn summary(r: &RunReport, dir: &Path, console: &Console) -> String {
    let mut table = Table::new(&[
        String::new(),
        format!(">{}", console.pick("planned", "计划")),
        format!(">{}", console.pick("actual", "实际")),
    ]);
    table.row([
        console.pick("time", "时间").to_owned(),
        r.planned_seconds.map_or("–".into(), duration),
        duration(r.seconds),
    ]);
    table.row([
        console.pick("memory", "内存").to_owned(),
        bytes(r.planned_bytes),
        r.peak_bytes.map_or("–".into(), bytes),
    ]);
    let pace = r.tokens as f64 / r.seconds.max(1e-9);
    let words = match console.lang {
        Lang::En => format!(
            "{} steps, {} tokens ({} with loss), {} tokens/s{}\n",
            grouped(r.steps),
            grouped(r.tokens),
            grouped(r.labels),
            grouped(pace as u64),
            if r.end == End::EarlyStopped { "; stopped early" } else { "" }
        ),
        Lang::Zh => format!(
            "{} 步，{} 个词元（{} 个计入损失），{} 词元/秒{}\n",
            grouped(r.steps),
            grouped(r.tokens),
            grouped(r.labels),
            grouped(pace as u64),
            if r.end == End::EarlyStopped { "；提前停止" } else { "" }
        ),
    };
    let mut out = format!("\n{}\n", console.paint(Style::Green, console.pick("done", "完成")));
    out.push_str(&words);
    if let Some(best) = &r.best {
        let step = console.pick("step", "步");
        out.push_str(&format!(
            "{}: {:.4} ({step} {})\n",
            console.pick("best evaluation", "最佳评估"),
            best.value,
            best.step
        ));
    }
    out.push_str(&table.render(0));
    for (name, path) in [
        (console.pick("result", "结果"), r.result.as_ref().map(|p| dir.join(p))),
        (console.pick("report", "报告"), Some(dir.join("report.html"))),
        (console.pick("manifest", "清单"), Some(dir.join("manifest.json"))),
    ] {
        if let Some(path) = path {
            out.push_str(&format!("{name}: {}\n", path.display()));
        }
    }
    out
}
