//! A run as a person or a program follows it.
//!
//! Takes the events of a run; draws a bar with loss, pace, time to go and memory on a terminal,
//! prints a line now and then on a pipe, or one JSON object for each event. Never changes the run,
//! and goes on when nobody reads any more.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use loar_train::{Event, Observer, Plan, StepEvent};

use crate::console::{Console, Lang, Style, bytes, duration, grouped, short};
use crate::table::Table;

/// Lines printed over a run where there is no terminal.
const LINES: u64 = 20;

/// Follows a run in words.
pub struct Progress<'a> {
    console: &'a Console,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    /// Draws on standard error.
    pub fn new(console: &'a Console) -> Self {
        Self { console, bar: None }
    }

    /// Prints above the bar.
    fn say(&self, text: impl std::fmt::Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.remark(&text)),
            None => self.console.remark(text),
        }
    }

    fn heading(&self, en: &str, zh: &str) -> String {
        format!("\n{}", self.console.paint_err(Style::Bold, self.console.pick(en, zh)))
    }

    fn step(&mut self, s: &StepEvent) {
        let pace = s.tokens as f64 / s.seconds.max(1e-9);
        let memory = s.resident_bytes.map_or("–".to_owned(), bytes);
        let numbers = match self.console.lang {
            Lang::En => format!(
                "loss {:.4}  grad {:.2}  lr {:.2e}  {} tok/s  ETA {}  memory {memory}",
                s.loss,
                s.grad_norm,
                s.learning_rate,
                grouped(pace as u64),
                duration(s.eta_seconds)
            ),
            Lang::Zh => format!(
                "损失 {:.4}  梯度 {:.2}  学习率 {:.2e}  {} 词元/秒  剩余 {}  内存 {memory}",
                s.loss,
                s.grad_norm,
                s.learning_rate,
                grouped(pace as u64),
                duration(s.eta_seconds)
            ),
        };
        if self.console.err_is_tty {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(Some(s.steps), ProgressDrawTarget::stderr());
                let template = if self.console.colour_err {
                    "{bar:24.cyan/dim} {pos}/{len}  {msg}"
                } else {
                    "{bar:24} {pos}/{len}  {msg}"
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("━╸─"));
                }
                bar
            });
            bar.set_position(s.step);
            bar.set_message(numbers);
        } else if s.step == 1 || s.step == s.steps || s.step.is_multiple_of((s.steps / LINES).max(1)) {
            let word = self.console.pick("step", "步");
            self.console.remark(format_args!("{word} {}/{}  {numbers}", s.step, s.steps));
        }
    }

    fn eval(&self, step: u64, metrics: &std::collections::BTreeMap<String, f64>, best: bool) {
        let list: Vec<String> = metrics.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
        let mark = if best { self.console.pick("  best so far", "  目前最佳") } else { "" };
        let word = self.console.pick("evaluation at step", "评估于步");
        self.say(format_args!("{word} {step}: {}{mark}", list.join("  ")));
    }
}

impl Observer for Progress<'_> {
    fn on(&mut self, event: &Event) {
        let pick = |en, zh| self.console.pick(en, zh);
        match event {
            Event::Started { run, dir, resumed_from } => match resumed_from {
                Some(step) => self.say(format_args!(
                    "{} {run}, {} {step}: {}",
                    pick("run", "运行"),
                    pick("going on from step", "从该步继续"),
                    dir.display()
                )),
                None => self.say(format_args!("{} {run}: {}", pick("run", "运行"), dir.display())),
            },
            Event::Phase { name } => {
                let word = match *name {
                    "hash" => pick("hashing the base", "计算基座哈希"),
                    "load" => pick("loading the base", "加载基座"),
                    "data" => pick("reading and rendering the data", "读取并渲染数据"),
                    "probe" => pick("measuring the pace", "测量速度"),
                    "export" => pick("writing the result", "写出结果"),
                    "report" => pick("writing the report", "写出报告"),
                    other => other,
                };
                self.say(self.console.paint_err(Style::Dim, format_args!("{word} …")));
            }
            Event::Ledger { table } => {
                self.say(format_args!("{}\n{}", self.heading("token ledger", "词元账本"), table.trim_end()))
            }
            Event::Coverage { table } => {
                self.say(format_args!("{}\n{}", self.heading("coverage", "覆盖范围"), table.trim_end()))
            }
            Event::Plan(plan) => {
                self.say(format_args!("{}\n{}", self.heading("plan", "计划"), plan_text(plan, self.console).trim_end()))
            }
            Event::Step(s) => self.step(s),
            Event::EvalBegin { .. } | Event::CheckpointBegin { .. } => {}
            Event::Eval { step, metrics, best } => self.eval(*step, metrics, *best),
            Event::CheckpointEnd { path, bytes: size, .. } => {
                self.say(self.console.paint_err(
                    Style::Dim,
                    format_args!("{} {} ({})", pick("checkpoint", "检查点"), path.display(), bytes(*size)),
                ));
            }
            Event::Warning { message } => {
                let word = self.console.paint_err(Style::Yellow, pick("warning", "警告"));
                self.say(format_args!("{word}: {message}"));
            }
            Event::Interrupted { step, resume } => {
                if let Some(bar) = &self.bar {
                    bar.abandon();
                }
                self.say(format_args!(
                    "{} {step}; {}\n  {resume}",
                    pick("stopped at step", "已停止于步"),
                    pick("go on with", "继续运行：")
                ));
            }
            Event::Finished { .. } => {
                if let Some(bar) = &self.bar {
                    bar.finish();
                }
            }
        }
    }
}

/// One JSON object a line on standard output for each event.
pub struct JsonEvents<'a>(pub &'a Console);

impl Observer for JsonEvents<'_> {
    fn on(&mut self, event: &Event) {
        if let Ok(text) = serde_json::to_string(event) {
            // A reader that has gone is no reason to stop a run.
            let _ = self.0.line(text);
        }
    }
}

/// A plan in words and a table.
pub fn plan_text(plan: &Plan, console: &Console) -> String {
    let mut table =
        Table::new(&[console.pick("memory", "内存").to_owned(), format!(">{}", console.pick("bytes", "字节"))]);
    for item in &plan.memory {
        table.row([item.component.clone(), bytes(item.bytes)]);
    }
    table.row([console.pick("peak", "峰值").to_owned(), bytes(plan.peak_bytes())]);
    let share = 100.0 * plan.trainable as f64 / plan.parameters.max(1) as f64;
    let time = plan.seconds().map_or("–".to_owned(), duration);
    let rate = plan.probe.map_or("–".to_owned(), |p| grouped(p.rate() as u64));
    let words = match console.lang {
        Lang::En => format!(
            "{} rows, {} tokens ({} labelled) an epoch; {} steps, {:.2} epochs, {} tokens\n\
             {} of {} parameters train ({share:.3} %)\n\
             about {time} at {rate} tokens/s\n",
            grouped(plan.rows),
            grouped(plan.epoch_tokens),
            grouped(plan.epoch_labels),
            grouped(plan.steps),
            plan.epochs,
            grouped(plan.tokens),
            short(plan.trainable),
            short(plan.parameters)
        ),
        Lang::Zh => format!(
            "{} 行，每轮 {} 个词元（其中 {} 个带标签）；{} 步，{:.2} 轮，共 {} 个词元\n\
             {} / {} 参数参与训练（{share:.3} %）\n\
             预计约 {time}，{rate} 词元/秒\n",
            grouped(plan.rows),
            grouped(plan.epoch_tokens),
            grouped(plan.epoch_labels),
            grouped(plan.steps),
            plan.epochs,
            grouped(plan.tokens),
            short(plan.trainable),
            short(plan.parameters)
        ),
    };
    table.render(0) + &words
}
