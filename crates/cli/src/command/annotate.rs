//! `loar annotate`: experts label and check rows in a local page; report, export, verification.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use loar_annotate::judge::{self, Endpoint, Judge};
use loar_annotate::report::{Report, RubricReport};
use loar_annotate::task::{self, Task, TaskReadError};
use loar_annotate::workflow::Stage;
use loar_annotate::{AnnotateError, Store, export, log, server};
use loar_artifact::{ContentId, write_atomic};

use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::local_judge::LocalJudge;
use crate::table::Table;

/// Let experts label and check rows in a local page
///
/// Serves the page of a task file, prints an address for each person, and stores every confirmed answer as an event.
/// Three blind checks a row, a fourth person where they differ, gates on Krippendorff's alpha. Ctrl-C ends it; nothing
/// confirmed is lost.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// Task file; `loar annotate init` writes an example
    #[arg(required = true)]
    task: Option<PathBuf>,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 7878)]
    port: u16,
    /// Address to listen on; anything but loopback lets others on the network in, with their tokens
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write an example task with guideline, rows and gold rows
    Init {
        /// New folder
        dir: PathBuf,
    },
    /// Agreement, annotators, gates, audit and the judge's reliability
    Report {
        /// Task file
        task: PathBuf,
        /// Print the whole report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write accepted rows for `loar train`, the report and the event log
    Export {
        /// Task file
        task: PathBuf,
        /// Folder to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Check the event log: hashes, order, every transition, every stored row
    Verify {
        /// Task file
        task: PathBuf,
        /// Hash of a head that an earlier report or export shows: the log must still hold it
        #[arg(long, value_name = "SHA256")]
        head: Option<String>,
    },
    /// Ask a model about every row that has no verdict yet: the task's [judge], or a local checkpoint
    Judge {
        /// Task file
        task: PathBuf,
        /// Checkpoint folder to ask instead of the task's [judge]
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
        /// PEFT adapter folder to put on it
        #[arg(long, value_name = "DIR", requires = "model")]
        adapter: Option<PathBuf>,
        /// Rows at most
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    match (args.command, args.task) {
        (Some(Command::Init { dir }), _) => init(&dir, console),
        (Some(Command::Report { task, json }), _) => report(&task, json, console),
        (Some(Command::Export { task, out }), _) => {
            let rows = export::export(&existing(&task)?, &out).map_err(failure)?;
            let words = console.pick("rows", "条");
            console.line(format_args!("{} ({rows} {words})", out.join(export::TRAIN).display()))?;
            console.line(out.join(export::AGREEMENT).display())?;
            console.line(out.join(export::EVENTS).display())?;
            Ok(ExitCode::SUCCESS)
        }
        (Some(Command::Verify { task, head }), _) => verify(&task, head.as_deref(), console),
        (Some(Command::Judge { task, model, adapter, limit }), _) => {
            let mut store = existing(&task)?;
            let mut judge: Box<dyn Judge> = match (model, &store.task().judge) {
                (Some(model), _) => Box::new(LocalJudge::open(&model, adapter)?),
                (None, Some(config)) => Box::new(Endpoint::new(config).map_err(|e| failure(e.into()))?),
                (None, None) => {
                    return Err(Failure::usage("the task file has no [judge]")
                        .with_help("add one, or name a checkpoint folder with `--model`"));
                }
            };
            ask_judge(&mut store, judge.as_mut(), limit, console)
        }
        (None, Some(task)) => serve(&task, args.host, args.port, console),
        (None, None) => Err(Failure::usage("no task file is given").with_help("`loar annotate init DIR` writes one")),
    }
}

/// Draws the faults of a task file where they stand.
fn failure(error: AnnotateError) -> Failure {
    let AnnotateError::Task(TaskReadError::Faults(faults)) = error else { return error.into() };
    let n = faults.faults.len();
    let placed = faults.faults.iter().filter_map(|f| Some((f.span.clone()?, f.message.clone())));
    let missing = faults.faults.iter().filter(|f| f.span.is_none()).map(|f| f.message.clone()).collect();
    Failure::usage(format!("{n} fault{} in the task file", if n == 1 { "" } else { "s" }))
        .with_faults(missing)
        .with_snippet(&faults.path.display().to_string(), &faults.text, placed)
}

fn read(path: &Path) -> Result<Arc<Task>, Failure> {
    Task::read(path).map(Arc::new).map_err(|e| failure(e.into()))
}

/// The store of a task that has one already; reading it makes none.
fn existing(path: &Path) -> Result<Store, Failure> {
    let task = read(path)?;
    if !task.store.exists() {
        return Err(Failure::usage(format!("`{}` does not exist: nothing was annotated yet", task.store.display()))
            .with_help(format!("`loar annotate {}` begins", path.display())));
    }
    Store::open(task).map_err(failure)
}

fn init(dir: &Path, console: &Console) -> Result<ExitCode, Failure> {
    let task = dir.join("task.toml");
    if task.exists() {
        return Err(Failure::usage(format!("`{}` is there already", task.display())).with_help("name a new folder"));
    }
    for (name, text) in [
        ("guideline.md", task::EXAMPLE_GUIDELINE),
        ("rows.jsonl", task::EXAMPLE_ROWS),
        ("gold.jsonl", task::EXAMPLE_GOLD),
        ("task.toml", task::EXAMPLE),
    ] {
        write_atomic(&dir.join(name), text.as_bytes())?;
    }
    console.line(task.display())?;
    Ok(ExitCode::SUCCESS)
}

fn serve(path: &Path, host: IpAddr, port: u16, console: &Console) -> Result<ExitCode, Failure> {
    let task = read(path)?;
    let mut store = Store::open(task.clone()).map_err(failure)?;
    let imported = store.import().map_err(failure)?;
    console.remark(match console.lang.code() {
        "zh" => format!(
            "新增 {} 条（规则拒绝 {}），金标 {} 条，已有 {} 条",
            imported.new, imported.refused, imported.gold, imported.known
        ),
        _ => format!(
            "{} new rows ({} refused by rules), {} new gold rows, {} known",
            imported.new, imported.refused, imported.gold, imported.known
        ),
    });
    let busy = |e| {
        Failure::environment(format!("cannot listen on {host}:{port}: {e}")).with_help("`--port 0` takes a free port")
    };
    let listener = TcpListener::bind((host, port)).map_err(busy)?;
    let address = listener.local_addr().map_err(busy)?;
    if !host.is_loopback() {
        console.warn(console.pick(
            "the page is open to the network without encryption; put a TLS proxy before it",
            "页面对网络开放且未加密；请在前面放置 TLS 代理",
        ));
    }
    let tokens = store.tokens().map_err(failure)?;
    let mut table = Table::new(&["<", "<", "<"]);
    for person in &task.people {
        let token = tokens.get(&person.name).map_or("", String::as_str);
        let role = format!("{:?}", person.role).to_lowercase();
        table.row([person.name.clone(), role, format!("http://{address}/#token={token}")]);
    }
    for line in table.render(0).lines().skip(2) {
        console.line(line)?;
    }
    server::serve(listener, store).map_err(failure)?;
    Ok(ExitCode::SUCCESS)
}

fn number(x: Option<f64>) -> String {
    x.map_or("–".into(), |x| format!("{x:.3}"))
}

/// A table whose titles are in the console's language.
fn titled(console: &Console, en: &[&str], zh: &[&str]) -> Table {
    Table::new(if console.lang.code() == "zh" { zh } else { en })
}

fn range((low, high): (f64, f64)) -> String {
    format!("{low:.3} – {high:.3}")
}

fn report(path: &Path, json: bool, console: &Console) -> Result<ExitCode, Failure> {
    let report = Report::of(&existing(path)?);
    if json {
        console.line(serde_json::to_string_pretty(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_report(&report, console)
}

fn print_report(report: &Report, console: &Console) -> Result<ExitCode, Failure> {
    let stages: Vec<String> = report.stages.iter().map(|(stage, n)| format!("{stage} {n}")).collect();
    console.line(format_args!("{}: {}", console.heading(&report.task), stages.join(", ")))?;
    for rubric in &report.rubrics {
        rubric_lines(rubric, console)?;
    }
    let mut people = titled(
        console,
        &["<annotator", ">checks", ">gold right", ">95 % interval", ">median s"],
        &["<标注员", ">标注数", ">金标正确", ">95 % 区间", ">用时中位数（秒）"],
    );
    for a in &report.annotators {
        let gold = if a.gold == 0 {
            ["–".into(), "–".into()]
        } else {
            [format!("{} / {}", a.gold_right, a.gold), range(a.gold_interval)]
        };
        let [right, interval] = gold;
        let seconds = a.median_seconds.map_or("–".into(), |s| s.to_string());
        people.row([a.name.clone(), a.checks.to_string(), right, interval, seconds]);
    }
    console.write(format_args!("\n{}", people.render(0)))?;
    if !report.batches.is_empty() {
        let mut batches = titled(
            console,
            &[">batch", ">round", ">rows", "<alpha", "<outcome"],
            &[">批次", ">轮次", ">条数", "<alpha", "<结果"],
        );
        for b in &report.batches {
            let alpha: Vec<String> = b.alpha.iter().map(|(name, a)| format!("{name} {}", number(*a))).collect();
            let outcomes: Vec<String> = b.outcomes.iter().map(|(name, n)| format!("{name} {n}")).collect();
            let cells = [(b.batch + 1).to_string(), b.round.to_string(), b.items.to_string()];
            batches.row(cells.into_iter().chain([alpha.join(", "), outcomes.join(", ")]));
        }
        console.write(format_args!("\n{}", batches.render(0)))?;
    }
    let audit = &report.audit;
    let (done, wrong, allowed, waiting) = (audit.done, audit.wrong, audit.allowed, audit.waiting);
    let quality = audit.quality;
    console.line(match console.lang.code() {
        "zh" => format!("\n复查：已复查 {done}，不一致 {wrong}，在 {quality} 下允许 {allowed}（等待 {waiting}）"),
        _ => format!("\naudit: {done} looked at, {wrong} differ, {allowed} allowed at {quality} ({waiting} waiting)"),
    })?;
    if let Some(judge) = &report.judge {
        let (rows, read, written) = (judge.rows, judge.prompt_tokens, judge.completion_tokens);
        let (order, wording, unreadable) = (judge.order_flip_rate, judge.wording_flip_rate, judge.unreadable);
        let (model, cost) = (&judge.model, judge.cost);
        console.line(match console.lang.code() {
            "zh" => format!(
                "评审模型 {model}：{rows} 条，随顺序改变 {order:.3}，随措辞改变 {wording:.3}，无法解读 {unreadable:.3}，\
                 词元 {read} + {written}，费用 {cost:.4}"
            ),
            _ => format!(
                "judge {model}: {rows} rows, order flips {order:.3}, wording flips {wording:.3}, unreadable {unreadable:.3}, \
                 {read} + {written} tokens, cost {cost:.4}"
            ),
        })?;
        let mut table = titled(
            console,
            &["<rubric", ">decided", ">abstained", ">right", ">95 % interval", ">kappa", ">95 % interval"],
            &["<评分项", ">已裁定", ">弃权", ">正确", ">95 % 区间", ">kappa", ">95 % 区间"],
        );
        for r in &judge.rubrics {
            let kappa = r.kappa_interval.map_or("–".into(), |i| range((i.low, i.high)));
            let counts = [r.decided, r.abstained, r.right].map(|n| n.to_string());
            table.row([r.name.clone()].into_iter().chain(counts).chain([range(r.interval), number(r.kappa), kappa]));
        }
        console.write(table.render(0))?;
    }
    let head = console.pick("head", "日志末端");
    console.line(format_args!("{head}: {} {}", report.head.seq, report.head.hash))?;
    Ok(ExitCode::SUCCESS)
}

fn rubric_lines(rubric: &RubricReport, console: &Console) -> Result<(), Failure> {
    let (style, zh) = match rubric.verdict {
        "reliable" => (Style::Green, "可靠"),
        "tentative" => (Style::Yellow, "勉强"),
        "unreliable" => (Style::Red, "不可靠"),
        _ => (Style::Dim, "无定义"),
    };
    let verdict = console.pick(rubric.verdict, zh);
    let interval = rubric.interval.map_or(String::new(), |i| format!(" ({})", range((i.low, i.high))));
    console.line(format_args!(
        "\n{}: alpha {}{interval} {}, {} {}; Fleiss {}, AC1 {}",
        console.heading(&rubric.name),
        number(rubric.alpha),
        console.paint(style, verdict),
        rubric.units,
        console.pick("rows", "条"),
        number(rubric.fleiss),
        number(rubric.gwet_ac1)
    ))?;
    let mut table = titled(
        console,
        &["<annotator", ">alpha without", ">accuracy (Dawid–Skene)", ">rows"],
        &["<标注员", ">去掉后的 alpha", ">准确率（Dawid–Skene）", ">条数"],
    );
    let (coin, weighted) = (console.pick(" (one coin)", "（单参数）"), console.pick("weighted", "加权"));
    for (name, alpha) in &rubric.alpha_without {
        let rater = rubric.dawid_skene.as_ref().and_then(|t| t.raters.get(name));
        let accuracy =
            rater.map_or("–".into(), |r| format!("{:.3}{}", r.accuracy, if r.one_coin { coin } else { "" }));
        table.row([name.clone(), number(*alpha), accuracy, rater.map_or("0".into(), |r| r.items.to_string())]);
    }
    console.write(table.render(0))?;
    let pairs: Vec<String> = rubric
        .pairs
        .iter()
        .map(|p| {
            let also = p.weighted.map_or(String::new(), |w| format!(" ({weighted} {w:.3})"));
            format!("{}–{} {}{also}", p.a, p.b, number(p.kappa))
        })
        .collect();
    if !pairs.is_empty() {
        console.line(format_args!("Cohen's kappa: {}", pairs.join(", ")))?;
    }
    Ok(())
}

fn verify(path: &Path, head: Option<&str>, console: &Console) -> Result<ExitCode, Failure> {
    let task = read(path)?;
    let parse = |text: &str| {
        ContentId::parse(text).ok_or_else(|| {
            Failure::usage(format!("`{text}` is no hash"))
                .with_help("reports show heads as `sha256:` and 64 hex digits")
        })
    };
    let found = log::verify(&task, head.map(parse).transpose()?).map_err(failure)?;
    for fault in &found.faults {
        console.line(fault)?;
    }
    if found.faults.is_empty() {
        let whole = console.paint(Style::Green, console.pick("whole", "完整"));
        console
            .line(format_args!("{whole}: {} events, {} rows, head {}", found.head.seq, found.items, found.head.hash))?;
        return Ok(ExitCode::SUCCESS);
    }
    console
        .line(console.paint(Style::Red, format_args!("{} {}", found.faults.len(), console.pick("faults", "处错误"))))?;
    Ok(ExitCode::from(1))
}

fn ask_judge(store: &mut Store, judge: &mut dyn Judge, limit: usize, console: &Console) -> Result<ExitCode, Failure> {
    let task = store.task().clone();
    let waiting = store.ids(|item| item.verdict().is_none() && !matches!(item.stage(), Stage::Draft | Stage::Refused));
    let mut asked = 0;
    for id in waiting.into_iter().take(limit) {
        let verdict = judge::consider(judge, &task, &store.body(id).map_err(failure)?);
        store.judge(id, verdict.map_err(|e| failure(e.into()))?).map_err(failure)?;
        asked += 1;
    }
    console.remark(format_args!("{asked} {}", console.pick("rows judged", "条已评审")));
    print_report(&Report::of(store), console)
}
