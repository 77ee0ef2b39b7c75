//! `report.html`: what was trained, on what, how it went, what was planned and what it took.
//!
//! Takes a finished run folder and nothing else, so that a report can be written again from it.
//! The page stands alone: no script, no network, light and dark, English or Chinese.

use std::path::{Path, PathBuf};

use loar_artifact::page::{card, duration, escape, group, table};
use loar_artifact::{Manifest, write_atomic};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Lang, Method, Targets};
use crate::folder::Folder;
use crate::ledger::Ledger;
use crate::memory::human;
use crate::metrics::read_lines;
use crate::plan::Plan;
use crate::run::{End, RunReport};
use crate::{ResolvedRun, TrainError};

mod labels;
mod plot;

use labels::Labels;
use plot::{Series, heat, lines};

/// A row of `coverage.json`.
#[derive(Deserialize)]
struct CoverageRow {
    component: String,
    parameters: u64,
    adapted: u64,
    trainable: u64,
    modules: u64,
    modules_adapted: u64,
    tensors: u64,
    tensors_with_gradient: Option<u64>,
}

#[derive(Deserialize)]
struct Coverage {
    rows: Vec<CoverageRow>,
}

struct Facts {
    run: ResolvedRun,
    summary: RunReport,
    ledger: Ledger,
    plan: Plan,
    coverage: Coverage,
    metrics: Vec<Map<String, Value>>,
    timing: Vec<Map<String, Value>>,
    result: Option<Manifest>,
    /// `section.key`, value, source.
    config: Vec<(String, String, String)>,
    t: Labels,
}

/// Writes the report of the run in `dir`.
///
/// # Errors
/// [`TrainError::Io`] when a file of the run is missing or unreadable.
pub fn write(dir: &Path) -> Result<PathBuf, TrainError> {
    let folder = Folder::new(dir);
    let facts = gather(&folder)?;
    let path = dir.join("report.html");
    write_atomic(&path, render(&facts).as_bytes())?;
    Ok(path)
}

fn gather(folder: &Folder) -> Result<Facts, TrainError> {
    let missing = |name: &str| TrainError::Io {
        path: folder.dir.join(name),
        source: std::io::Error::new(std::io::ErrorKind::NotFound, "missing; the run is not finished"),
    };
    let run = folder.run(&[])?;
    let summary: RunReport = folder.read_json("summary.json")?.ok_or_else(|| missing("summary.json"))?;
    let path = folder.dir.join("resolved.toml");
    let resolved = std::fs::read_to_string(&path).map_err(TrainError::io(path))?;
    Ok(Facts {
        ledger: folder.read_json("ledger.json")?.ok_or_else(|| missing("ledger.json"))?,
        plan: folder.read_json("plan.json")?.ok_or_else(|| missing("plan.json"))?,
        coverage: folder.read_json("coverage.json")?.ok_or_else(|| missing("coverage.json"))?,
        metrics: read_lines(&folder.dir.join("metrics.jsonl"))?,
        timing: read_lines(&folder.dir.join("timing.jsonl"))?,
        result: summary.result.as_ref().and_then(|name| Manifest::read(&folder.dir.join(name)).ok()),
        config: with_sources(&run, &resolved),
        t: Labels::of(run.output.lang),
        run,
        summary,
    })
}

/// Values with the sources that `resolved.toml` keeps as comments.
fn with_sources(run: &ResolvedRun, resolved: &str) -> Vec<(String, String, String)> {
    let mut section = "";
    let mut sources = Vec::new();
    for line in resolved.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
        } else if let (Some((key, _)), Some((_, source))) = (line.split_once(" = "), line.rsplit_once("  # ")) {
            sources.push((format!("{section}.{key}"), source.to_owned()));
        }
    }
    let source_of = |name: &str| sources.iter().find(|(n, _)| n == name).map(|(_, s)| s.clone()).unwrap_or_default();
    run.values().into_iter().map(|(name, value)| (name.to_owned(), value, source_of(name))).collect()
}

fn render(f: &Facts) -> String {
    let t = &f.t;
    let body = [
        head(f),
        section(t.course, &course(f)),
        experts(f),
        section(t.trained, &trained(f)),
        section(t.data, &data(f)),
        section(t.planned, &planned(f)),
        section(t.config, &config(f)),
        section(t.lineage, &lineage(f)),
    ]
    .concat();
    let lang = if f.run.output.lang == Lang::Zh { "zh" } else { "en" };
    loar_artifact::page::page(lang, &format!("{} · {}", f.summary.run, t.title), &body)
}

fn section(title: &str, body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("<section><h2>{}</h2>{body}</section>", escape(title)) }
}

/// (step, value) of a key.
fn points(lines: &[Map<String, Value>], key: &str) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|l| Some((l.get("step")?.as_f64()?, l.get(key)?.as_f64()?))).collect()
}

fn head(f: &Facts) -> String {
    let t = &f.t;
    let s = &f.summary;
    let end = match s.end {
        End::Completed => t.completed,
        End::EarlyStopped => t.early_stopped,
        End::Interrupted => t.interrupted,
    };
    let created = f.result.as_ref().map(|m| m.created.clone()).unwrap_or_default();
    let mut out = format!(
        "<h1>{}</h1><p class=\"sub\">{} · {end} · {} {} · {}</p><div class=\"cards\">",
        escape(&s.run),
        t.title,
        group(s.steps),
        t.steps,
        escape(&created)
    );
    let evals = points(&f.metrics, "eval_loss");
    let losses = points(&f.metrics, "loss");
    if let (Some(before), Some(result)) =
        (evals.first(), evals.iter().find(|e| e.0 == s.result_step as f64).or(evals.last()))
    {
        out.push_str(&card(t.eval_loss, &format!("{:.4}", result.1), &format!("{} {:.4}", t.before, before.1)));
    }
    if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
        out.push_str(&card(t.train_loss, &format!("{:.4}", last.1), &format!("{} 1: {:.4}", t.step, first.1)));
    }
    let share = 100.0 * f.plan.trainable as f64 / f.plan.parameters.max(1) as f64;
    out.push_str(&card(t.trainable, &group(f.plan.trainable), &format!("{share:.3} % {}", t.of_base)));
    out.push_str(&card(t.time, &duration(s.seconds), &format!("{} {}", group(s.tokens), t.tokens)));
    let rate = s.tokens as f64 / s.seconds.max(1e-9);
    out.push_str(&card(t.throughput, &group(rate as u64), &format!("{} {}", group(s.labels), t.labelled)));
    if let Some(peak) = s.peak_bytes {
        out.push_str(&card(t.memory, &human(peak), &format!("{} {}", t.plan, human(s.planned_bytes))));
    }
    out.push_str("</div>");
    out
}

/// Steps beyond which the loss is drawn smoothed over its raw course.
const SMOOTH_FROM: usize = 40;

fn course(f: &Facts) -> String {
    let t = &f.t;
    let raw = points(&f.metrics, "loss");
    let mut losses = Vec::new();
    if raw.len() > SMOOTH_FROM {
        losses.push(Series { name: t.train_loss, class: "a", points: plot::smooth(&raw), dots: false });
        losses.insert(0, Series { name: "", class: "a faint", points: raw, dots: false });
    } else {
        losses.push(Series { name: t.train_loss, class: "a", points: raw, dots: false });
    }
    let eval = points(&f.metrics, "eval_loss");
    if !eval.is_empty() {
        losses.push(Series { name: t.eval_loss, class: "b", points: eval, dots: true });
    }
    let one = |title: &str, lines_of: &[Map<String, Value>], key: &str, scale: f64| {
        let points = points(lines_of, key).into_iter().map(|(x, y)| (x, y * scale)).collect();
        lines(title, t.step, &[Series { name: title, class: "a", points, dots: false }])
    };
    let mut plots = vec![
        lines(t.loss, t.step, &losses),
        one(t.learning_rate, &f.metrics, "learning_rate", 1.0),
        one(t.grad_norm, &f.metrics, "grad_norm", 1.0),
        one(t.tokens_per_s, &f.timing, "tokens_per_s", 1.0),
        one(t.resident, &f.timing, "resident_bytes", 1.0 / 1_048_576.0),
        one(t.imbalance, &f.metrics, "expert_imbalance", 1.0),
    ];
    for key in other_metrics(&f.metrics) {
        let series = Series { name: &key, class: "b", points: points(&f.metrics, &key), dots: true };
        plots.push(lines(&key, t.step, &[series]));
    }
    format!("<div class=\"plots\">{}</div>", plots.concat())
}

/// Metrics of the caller's task.
fn other_metrics(metrics: &[Map<String, Value>]) -> Vec<String> {
    let mut keys: Vec<String> = metrics
        .iter()
        .flat_map(|l| l.keys())
        .filter(|k| k.starts_with("eval_") && *k != "eval_loss")
        .cloned()
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn experts(f: &Facts) -> String {
    let t = &f.t;
    let rows: Vec<(String, Vec<u64>)> = f
        .summary
        .expert_load
        .iter()
        .enumerate()
        .filter(|(_, load)| !load.is_empty())
        .map(|(layer, load)| (format!("{} {layer}", t.layer), load.clone()))
        .collect();
    let Some((_, first)) = rows.first() else { return String::new() };
    let uniform = 100.0 / first.len() as f64;
    section(t.expert_load, &format!("<p class=\"sub\">{} {uniform:.2} %.</p>{}", t.expert_note, heat(&rows)))
}

fn trained(f: &Facts) -> String {
    let t = &f.t;
    let a = &f.run.adapter;
    let method = match a.method {
        Method::Full => "full".to_owned(),
        Method::Lora => {
            let kind = match (a.use_dora, a.use_rslora) {
                (true, _) => "DoRA",
                (_, true) => "rsLoRA",
                _ => "LoRA",
            };
            let targets = match &a.targets {
                Targets::Preset(name) => name.clone(),
                Targets::Modules(names) => names.join(", "),
                Targets::Regex(regex) => regex.clone(),
            };
            let plus = if a.lora_plus_ratio == 1.0 { String::new() } else { format!(", LoRA+ {}", a.lora_plus_ratio) };
            format!("{kind}, rank {}, alpha {}{plus}, {targets}", a.rank, a.alpha)
        }
    };
    let mut rows: Vec<Vec<String>> = f
        .coverage
        .rows
        .iter()
        .map(|r| {
            let gradient = match r.tensors_with_gradient {
                _ if r.tensors == 0 => t.frozen.to_owned(),
                None => "–".into(),
                Some(n) => format!("{n} / {}", r.tensors),
            };
            vec![
                escape(&r.component),
                group(r.parameters),
                format!("{:.1} %", 100.0 * r.adapted as f64 / r.parameters.max(1) as f64),
                group(r.trainable),
                format!("{} / {}", r.modules_adapted, r.modules),
                gradient,
            ]
        })
        .collect();
    let sum = |get: fn(&CoverageRow) -> u64| f.coverage.rows.iter().map(get).sum::<u64>();
    let (parameters, adapted) = (sum(|r| r.parameters), sum(|r| r.adapted));
    rows.push(vec![
        format!("<b>{}</b>", t.all),
        format!("<b>{}</b>", group(parameters)),
        format!("<b>{:.1} %</b>", 100.0 * adapted as f64 / parameters.max(1) as f64),
        format!("<b>{}</b>", group(f.plan.trainable)),
        String::new(),
        String::new(),
    ]);
    let heads =
        [t.component, &num(t.parameters), &num(t.adapted), &num(t.trainable), &num(t.modules), &num(t.gradient)];
    let best = match &f.summary.best {
        Some(best) => format!(
            " · {} {}: {} ({} {})",
            t.best,
            escape(&f.run.eval.metric),
            plot::short(best.value),
            t.step,
            best.step
        ),
        None => String::new(),
    };
    format!(
        "<p>{}: {} · {} {}{best}</p>{}<p class=\"note\">{}</p>",
        t.method,
        escape(&method),
        t.result_of,
        f.summary.result_step,
        table(&heads, &rows),
        t.gradient_note
    )
}

fn num(head: &str) -> String {
    format!("#{head}")
}

fn data(f: &Facts) -> String {
    let t = &f.t;
    let cell = |n: Option<u64>| n.map_or_else(String::new, group);
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (name, side) in [(t.training, &f.ledger.train), (t.evaluation, &f.ledger.eval)] {
        if side.examples_read == 0 {
            continue;
        }
        for line in side.lines() {
            let account = match line.account {
                "in" => t.incoming,
                "labelled" => t.used,
                "masked" => t.masked,
                "cut" => t.cut,
                _ => t.dropped,
            };
            let (examples, token_rows, tokens) = (cell(line.examples), cell(line.rows), cell(line.tokens));
            rows.push(vec![name.to_owned(), account.to_owned(), escape(&line.reason), examples, token_rows, tokens]);
        }
        notes.push(format!(
            "{name}: {} {:.2} % · {} {:.1} % · {} {:.1} %",
            t.lost,
            100.0 * side.lost_fraction(),
            t.ends,
            100.0 * side.end_rate(),
            t.thinks,
            100.0 * side.think_rate()
        ));
    }
    let heads = [t.side, t.account, t.reason, &num(t.examples), &num(t.rows), &num(t.tokens)];
    format!("{}<p class=\"note\">{}<br>{}</p>", table(&heads, &rows), t.ledger_note, notes.join("<br>"))
}

fn planned(f: &Facts) -> String {
    let t = &f.t;
    let (plan, s) = (&f.plan, &f.summary);
    let or_dash = |x: Option<String>| x.unwrap_or_else(|| "–".into());
    let rate = s.tokens as f64 / s.seconds.max(1e-9);
    let rows = vec![
        vec![t.memory.to_owned(), human(plan.peak_bytes()), or_dash(s.peak_bytes.map(human))],
        vec![
            t.time.to_owned(),
            or_dash(plan.probe.map(|p| duration(plan.tokens as f64 / p.rate()))),
            duration(s.seconds),
        ],
        vec![t.throughput.to_owned(), or_dash(plan.probe.map(|p| group(p.rate() as u64))), group(rate as u64)],
        vec![t.steps.to_owned(), group(plan.steps), group(s.steps)],
        vec![t.tokens.to_owned(), group(plan.tokens), group(s.tokens)],
    ];
    let largest = plan.memory.iter().map(|m| m.bytes).max().unwrap_or(1).max(1);
    let parts: Vec<Vec<String>> = plan
        .memory
        .iter()
        .map(|m| {
            let bar =
                format!("<span class=\"bar\" style=\"width:{:.1}px\"></span>", 240.0 * m.bytes as f64 / largest as f64);
            vec![escape(&m.component), human(m.bytes), bar]
        })
        .collect();
    format!(
        "{}<p class=\"note\">{}</p><h2>{}</h2>{}",
        table(&[t.quantity, &num(t.plan), &num(t.actual)], &rows),
        t.seconds_note,
        t.memory_parts,
        table(&[t.component, &num(t.memory), ""], &parts)
    )
}

/// What was chosen for this run stands open; what follows from defaults and the base folds.
fn config(f: &Facts) -> String {
    let t = &f.t;
    let rows = |chosen: bool| -> Vec<Vec<String>> {
        let is_chosen = |source: &str| source.starts_with("run file") || source == "--set";
        f.config
            .iter()
            .filter(|(_, _, source)| is_chosen(source) == chosen)
            .map(|(name, value, source)| {
                vec![
                    format!("<code>{}</code>", escape(name)),
                    format!("<code>{}</code>", escape(value)),
                    escape(source),
                ]
            })
            .collect()
    };
    let heads = [t.key, t.value, t.source];
    let (chosen, rest) = (rows(true), rows(false));
    format!(
        "{}<details><summary>{} ({})</summary>{}</details>",
        table(&heads, &chosen),
        t.defaults,
        rest.len(),
        table(&heads, &rest)
    )
}

fn lineage(f: &Facts) -> String {
    let t = &f.t;
    let Some(manifest) = &f.result else { return String::new() };
    let id = |id: String| format!("<code>{}</code>", escape(&id));
    let mut rows = vec![vec![
        format!("<b>{}</b>", t.result),
        f.summary
            .result
            .as_ref()
            .map_or_else(String::new, |p| format!("<code>{}/</code>", escape(&p.to_string_lossy()))),
        id(manifest.id.to_string()),
    ]];
    rows.extend(
        manifest
            .parents
            .iter()
            .map(|p| vec![escape(&p.role), format!("<code>{}</code>", escape(&p.path)), id(p.id.to_string())]),
    );
    table(&[t.role, t.path, t.content_id], &rows)
}
