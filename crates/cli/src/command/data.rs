//! `loar data`: raw records to a curated set, with a verdict and evidence for every row.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use loar_curate::Action;
use loar_curate::config::CurateConfig;
use loar_curate::dataset::Dataset;
use loar_curate::pipeline::{Control, CurateError, Leak, Progress, RulePreview, preview, run as curate};

use crate::console::{Console, Lang, bytes, duration, grouped};
use crate::diagnose::Failure;
use crate::interrupt::stop_on_ctrl_c;
use crate::local_scorer::LocalModels;
use crate::table::Table;

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Curate raw records into a training set
///
/// Reads JSON, JSONL, Parquet, CSV and text, .gz and .zst too; writes the rows that `loar train` takes, a verdict with
/// evidence for every row, what was dropped, and `dataset.json`. A run that was stopped goes on where it was: start the
/// same command again. The result does not depend on the number of threads.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file that names sources and stages (docs/curate.md)
    config: PathBuf,
    /// Folder of the curated set, instead of the file's `out`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Threads; 0 takes every core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Show what every rule would leave out, with examples, and write nothing
    #[arg(long)]
    preview: bool,
    /// With --preview: rows looked at in each file
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "preview")]
    rows: u64,
    /// With --preview: examples shown for each rule
    #[arg(long, value_name = "N", default_value_t = 2, requires = "preview")]
    examples: usize,
    /// Print one JSON object: the set's `dataset.json`, or the preview
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let text = std::fs::read_to_string(&args.config).map_err(|error| Failure::file(&args.config, "read", &error))?;
    let mut config = CurateConfig::parse(&text, &args.config).map_err(|faults| faulty(CurateError::Config(faults)))?;
    if let Some(out) = args.out {
        config.out = out;
    }
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.threads == 0 { cores() } else { args.threads };
    let said = console.pick(
        "\nstopping after the shards in work; Ctrl-C again stops at once",
        "\n当前分片完成后停止；再按一次 Ctrl-C 立即停止",
    );
    let stop = stop_on_ctrl_c(console, said, 130)?;
    let follow = Follow::new(console);
    let progress = |progress| follow.tell(progress);
    let started = Instant::now();
    let control = Control { threads, stop: &stop, progress: &progress };
    if args.preview {
        let result = preview(&config, &args.config, args.rows, args.examples, &control);
        follow.bar.finish_and_clear();
        let found = result.map_err(faulty)?;
        if args.json {
            console.line(serde_json::to_string(&found).unwrap_or_default())?;
        } else {
            console.write(previewed(&found, console))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let models = LocalModels { threads: args.threads };
    let result = curate(&config, &args.config, &models, &control);
    follow.bar.finish_and_clear();
    let set = result.map_err(faulty)?;
    if args.json {
        console.line(serde_json::to_string(&set).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    console.write(shown(&set, console))?;
    let read: u64 = set.sources.iter().flat_map(|source| &source.files).filter_map(|file| file["bytes"].as_u64()).sum();
    let took = started.elapsed().as_secs_f64();
    let (out, rate) = (config.out.display(), bytes((read as f64 / took.max(1e-9)) as u64));
    console.line(match console.lang {
        Lang::En => format!("\n{out} · {} in {} ({rate}/s, {threads} threads)", bytes(read), duration(took)),
        Lang::Zh => format!("\n{out} · {} 用时 {}（{rate}/秒，{threads} 线程）", bytes(read), duration(took)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn faulty(error: CurateError) -> Failure {
    match error {
        CurateError::Config(faults) => {
            let n = faults.faults.len();
            let lines = faults.to_string().lines().map(str::to_owned).collect();
            Failure::usage(format!("{n} fault{} in {}", if n == 1 { "" } else { "s" }, faults.path.display()))
                .with_faults(lines)
        }
        CurateError::Shard(_) | CurateError::Artifact(_) => Failure::environment(error.to_string()),
        other => Failure::usage(other.to_string()),
    }
}

/// Draws a bar on a terminal, prints a line now and then elsewhere.
struct Follow<'a> {
    console: &'a Console,
    bar: ProgressBar,
    started: Instant,
    said: Mutex<Instant>,
    /// When the model was first asked, and how many rows were done then.
    scoring: OnceLock<(Instant, usize)>,
}

impl<'a> Follow<'a> {
    fn new(console: &'a Console) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Follow { console, bar, started: now, said: Mutex::new(now), scoring: OnceLock::new() }
    }

    fn tell(&self, progress: Progress) {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        let (done, of, text) = match progress {
            Progress::Read { rows, bytes: read, of } => {
                let rate = read as f64 / seconds;
                // Packed files hold more than their size on disk says; then there is no honest time to go.
                let left = if read <= of { duration((of - read) as f64 / rate.max(1.0)) } else { "–".into() };
                let (rows, rate) = (grouped(rows), bytes(rate as u64));
                let text = match self.console.lang {
                    Lang::En => format!("reading: {rows} rows, {} , {rate}/s, ETA {left}", bytes(read)),
                    Lang::Zh => format!("读取：{rows} 行，{}，{rate}/秒，剩余 {left}", bytes(read)),
                };
                (read.min(of), of, text)
            }
            Progress::Compare { done, of } => {
                (done as u64, of as u64, format!("{} {done}/{of}", self.console.pick("comparing keys", "比较键")))
            }
            Progress::Score { done, of } => {
                let (since, before) = *self.scoring.get_or_init(|| (Instant::now(), done));
                let rate = (done - before) as f64 / since.elapsed().as_secs_f64().max(1e-9);
                let left = if done > before { duration((of - done) as f64 / rate) } else { "–".into() };
                let (shown, all) = (grouped(done as u64), grouped(of as u64));
                let text = match self.console.lang {
                    Lang::En => format!("asking the model: {shown} of {all} rows, ETA {left}"),
                    Lang::Zh => format!("模型打分：{shown} / {all} 行，剩余 {left}"),
                };
                (done as u64, of as u64, text)
            }
            Progress::Write { done, of } => {
                (done as u64, of as u64, format!("{} {done}/{of}", self.console.pick("writing shards", "写分片")))
            }
        };
        self.bar.set_length(of);
        self.bar.set_position(done);
        if self.bar.is_hidden() {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.elapsed() >= LINE_EVERY {
                *said = Instant::now();
                self.console.remark(&text);
            }
        }
        self.bar.set_message(text);
    }
}

/// What was read, what each stage did, what came out.
fn shown(set: &Dataset, console: &Console) -> String {
    let mut out = String::new();
    let titles = match console.lang {
        Lang::En => ["stage", "rows in", "dropped", "edited", "noted", "most common"],
        Lang::Zh => ["阶段", "输入行", "丢弃", "修改", "标注", "最常见规则"],
    };
    let mut table = Table::new(&titles);
    for stage in &set.stages {
        let mut rules: Vec<_> = stage.rules.iter().map(|(rule, n)| (n.drop + n.edit + n.note, rule)).collect();
        rules.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
        let rules: Vec<String> = rules.iter().take(3).map(|(n, rule)| format!("{rule} {}", grouped(*n))).collect();
        let number = |n: u64| if n == 0 { "·".to_owned() } else { grouped(n) };
        table.row([
            stage.name.clone(),
            grouped(stage.seen),
            number(stage.dropped),
            number(stage.edited),
            number(stage.noted),
            rules.join(", "),
        ]);
    }
    out.push_str(&table.render(0));
    let share = |n: u64| 100.0 * n as f64 / set.rows.max(1) as f64;
    let parts: Vec<String> =
        set.parts.iter().map(|(part, rows)| format!("{part} {} ({:.1} %)", grouped(*rows), share(*rows))).collect();
    let dropped = format!("{} ({:.1} %)", grouped(set.dropped), share(set.dropped));
    out.push('\n');
    out.push_str(&match console.lang {
        Lang::En => format!("{} rows read: {}; dropped {dropped}", grouped(set.rows), parts.join(", ")),
        Lang::Zh => format!("读取 {} 行：{}；丢弃 {dropped}", grouped(set.rows), parts.join("，")),
    });
    out.push('\n');
    if let Some(leaks) = &set.decontamination {
        let modes: Vec<String> = leaks.modes.iter().map(|(mode, n)| format!("{mode} {}", grouped(*n))).collect();
        let modes = if modes.is_empty() { String::new() } else { format!(" ({})", modes.join(", ")) };
        let [rows, leaked, items] = [leaks.rows, leaks.leaked_items, leaks.eval_items].map(grouped);
        out.push_str(&match console.lang {
            Lang::En => format!("decontamination: {rows} rows leak {leaked} of {items} evaluation items{modes}\n"),
            Lang::Zh => format!("去污染：{rows} 行泄漏 {items} 条评测题中的 {leaked} 条{modes}\n"),
        });
    }
    if let Some(dialogues) = &set.dialogues {
        let [rows, linked, kept] = [dialogues.rows, dialogues.linked_rows, dialogues.kept].map(grouped);
        let (measure, mean) = (&dialogues.measure, dialogues.mean);
        out.push_str(&match console.lang {
            Lang::En => format!("dialogues: {kept} of {linked} rows out of {rows}; mean link {mean:.3} ({measure})\n"),
            Lang::Zh => format!("对话：{rows} 行中的 {linked} 行连成 {kept} 段；平均联系 {mean:.3}（{measure}）\n"),
        });
    }
    let coverage = |key: &str| set.coverage[key].as_u64().unwrap_or(0);
    let (covered, asked, samples) = (coverage("covered"), coverage("asked"), coverage("samples"));
    out.push_str(&match console.lang {
        Lang::En => {
            format!("task types: {covered} of the {asked} asked for have {samples} rows; gaps are in report.html\n")
        }
        Lang::Zh => format!("任务类型：配额 {asked} 类，{covered} 类达到 {samples} 行；缺口见 report.html\n"),
    });
    out
}

/// Rules that speak against some row, the hardest first, with examples.
fn previewed(found: &RulePreview, console: &Console) -> String {
    let titles = match console.lang {
        Lang::En => ["rule", "action", "bound", "rows", "share", "alone"],
        Lang::Zh => ["规则", "动作", "界限", "行数", "占比", "唯一原因"],
    };
    let mut table = Table::new(&titles);
    let mut rules: Vec<_> = found.rules.iter().filter(|rule| rule.rows > 0).collect();
    rules.sort_by(|one, other| other.rows.cmp(&one.rows).then(one.rule.cmp(&other.rule)));
    for rule in &rules {
        let bound = match (rule.min, rule.max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("≥ {min}"),
            (None, Some(max)) => format!("≤ {max}"),
            (None, None) => String::new(),
        };
        let action = match rule.action {
            Action::Drop => console.pick("drop", "丢弃"),
            Action::Edit => console.pick("edit", "修改"),
            Action::Note => console.pick("note", "标注"),
        };
        table.row([
            rule.rule.clone(),
            action.to_owned(),
            bound,
            grouped(rule.rows),
            format!("{:.2} %", 100.0 * rule.share),
            grouped(rule.alone),
        ]);
    }
    let mut out = table.render(0);
    for rule in rules.iter().filter(|rule| !rule.examples.is_empty()) {
        out.push_str(&format!("\n{}\n", rule.rule));
        for example in &rule.examples {
            let file = found.files.get(example.source as usize).map_or("", String::as_str);
            let text = printable(&example.text);
            out.push_str(&format!("  {file}:{} ({:.3})  {text}\n", example.line, example.value));
        }
    }
    let quiet = found.rules.len() - rules.len();
    let share = 100.0 * found.dropped as f64 / found.rows.max(1) as f64;
    let (rows, dropped) = (grouped(found.rows), grouped(found.dropped));
    out.push_str(&match console.lang {
        Lang::En => {
            format!("\n{rows} rows looked at, {dropped} ({share:.1} %) would be dropped; {quiet} rules found nothing\n")
        }
        Lang::Zh => format!("\n检查 {rows} 行，将丢弃 {dropped} 行（{share:.1} %）；{quiet} 条规则无命中\n"),
    });
    out.push_str(&previewed_leaks(found, console));
    out.push_str(&previewed_dialogues(found, console));
    out
}

/// What every mode of decontamination would remove, with both sides of some hits.
fn previewed_leaks(found: &RulePreview, console: &Console) -> String {
    let Some(leaks) = &found.decontamination else { return String::new() };
    let titles = match console.lang {
        Lang::En => ["mode", "rows removed", "evaluation items leaked", "more than half covered"],
        Lang::Zh => ["模式", "剔除行", "泄漏评测题", "过半被覆盖"],
    };
    let mut table = Table::new(&titles);
    for count in &leaks.modes {
        let items = format!("{} / {}", grouped(count.eval_items as u64), grouped(leaks.eval_items as u64));
        let half = count.half_covered.map_or("–".into(), |n| grouped(n as u64));
        table.row([count.mode.name().to_owned(), grouped(count.train_rows as u64), items, half]);
    }
    let mut out = format!("\n{}", table.render(0));
    for Leak { mode, eval, eval_text, train, train_text, value, bound, .. } in &leaks.examples {
        out.push_str(&format!("\n{mode} ({value:.3}, {bound:.3})\n  {eval}  {}\n", printable(eval_text)));
        out.push_str(&format!("  {train}  {}\n", printable(train_text)));
    }
    out
}

fn previewed_dialogues(found: &RulePreview, console: &Console) -> String {
    let Some(dialogues) = &found.dialogues else { return String::new() };
    let report = &dialogues.report;
    let [rows, linked, kept, chains] = [report.rows, report.linked_rows, report.kept, report.chains].map(grouped);
    let (mean, measure) = (report.mean, &report.measure);
    let mut out = match console.lang {
        Lang::En => format!(
            "\n{kept} dialogues of {linked} rows would be linked ({chains} chains, {rows} single rows); mean link {mean:.3} ({measure})\n"
        ),
        Lang::Zh => format!(
            "\n将由 {rows} 行中的 {linked} 行连成 {kept} 段对话（{chains} 条链）；平均联系 {mean:.3}（{measure}）\n"
        ),
    };
    for example in &dialogues.examples {
        let links: Vec<String> = example.links.iter().map(|link| format!("{link:.3}")).collect();
        out.push_str(&format!("\n  {}\n", links.join(", ")));
        example.requests.iter().for_each(|text| out.push_str(&format!("    {}\n", printable(text))));
    }
    out
}

/// Text of the data on one line of the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
