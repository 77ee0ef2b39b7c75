//! What the demo shows: the opening, one case, the table, the places.
use std::path::Path;

use loar_eval::credit::{CreditCase, Policy};
use loar_eval::{Evaluation, Figures, Task};

use super::{Outcome, Plan, Tuned};
use crate::console::{Console, Lang, Style, bytes, duration, grouped};
use crate::table::Table;

/// What is about to happen.
pub fn opening(console: &Console, policy: &Policy, cases: &[CreditCase], plan: &Plan) -> String {
    let title = console
        .paint_err(Style::Bold, console.pick("From a base model to a credit assessor", "把基座模型变成信贷评估员"));
    let what = match console.lang {
        Lang::En => format!(
            "A small DeepSeek-V3-architecture model (latent attention, experts, embedded in this program) learns the\n\
             policy `{}` v{} from {} applications and is measured on {} others. Everything goes to {}",
            policy.name,
            policy.version,
            grouped(plan.rows as u64),
            cases.len(),
            plan.dir.display()
        ),
        Lang::Zh => format!(
            "内置的 DeepSeek-V3 架构小模型（潜在注意力、混合专家）从 {} 份申请中学习政策“{}”第 {} 版，\n\
             并在另外 {} 份申请上评测。全部文件写入 {}",
            grouped(plan.rows as u64),
            policy.name,
            policy.version,
            cases.len(),
            plan.dir.display()
        ),
    };
    format!("{title}\n{what}")
}

/// One held-out case with both answers.
pub fn example(console: &Console, task: &Task, before: &Evaluation, after: &Evaluation) -> String {
    // A case with reasons says more than one without.
    let at = (0..task.cases.len())
        .find(|&i| after.records[i].hits.iter().all(|hit| *hit) && !after.records[i].gold.contains("\"reasons\":[]"))
        .unwrap_or(0);
    let (Some(case), Some(old), Some(new)) = (task.cases.get(at), before.records.get(at), after.records.get(at)) else {
        return String::new();
    };
    let prompt = case.prompt.messages.last().map_or("", |message| message.content.as_str());
    let shown = |text: &str| indented(&clip(text, 600));
    format!(
        "\n{}\n{}\n{}\n{}\n{}\n{}\n",
        console.heading(console.pick("A held-out case", "一个留出案例")),
        shown(prompt),
        console.paint(Style::Dim, console.pick("before", "微调前")),
        shown(&old.output),
        console.paint(Style::Dim, console.pick("after", "微调后")),
        shown(&new.output),
    )
}

fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn share(figures: &Figures, name: &str) -> String {
    figures.measures.iter().find(|m| m.name == name).map_or("–".into(), |m| m.share.to_string())
}

/// Before, LoRA and full fine-tuning side by side.
pub fn results(console: &Console, outcome: &Outcome) -> String {
    let titles = [
        String::new(),
        format!(">{}", console.pick("base", "基座")),
        format!(">{}", console.pick("LoRA, no steps", "LoRA，不写步骤")),
        format!(">{}", console.pick("LoRA, steps", "LoRA，写步骤")),
        format!(">{}", console.pick("full fine-tuning", "全参数微调")),
    ];
    let mut table = Table::new(&titles);
    let (direct, full) = (outcome.direct.as_ref(), outcome.full.as_ref());
    let mut line = |name: &str, of_figures: &dyn Fn(&Figures) -> String| {
        table.row([
            name.to_owned(),
            of_figures(&outcome.before),
            direct.map_or("–".into(), |tuned| of_figures(&tuned.figures)),
            of_figures(&outcome.lora.figures),
            full.map_or("–".into(), |tuned| of_figures(&tuned.figures)),
        ]);
    };
    line(console.pick("decision, macro-F1", "决定的宏平均 F1"), &|f| {
        f.macro_f1.map_or("–".into(), |estimate| estimate.to_string())
    });
    line(console.pick("JSON schema satisfied", "满足 JSON 格式"), &|f| share(f, "schema"));
    line(console.pick("written policy satisfied", "满足书面政策"), &|f| share(f, "policy"));
    let mut cost = |name: &str, of_run: &dyn Fn(&Tuned) -> String| {
        let (direct, full) = (direct.map_or("–".into(), of_run), full.map_or("–".into(), of_run));
        table.row([name.to_owned(), "–".into(), direct, of_run(&outcome.lora), full]);
    };
    let parameters = outcome.parameters;
    cost(console.pick("trainable parameters", "可训练参数"), &|t| {
        format!("{} ({:.1} %)", grouped(t.trainable as u64), 100.0 * t.trainable as f64 / parameters.max(1) as f64)
    });
    cost(console.pick("training time", "训练时间"), &|t| duration(t.run.seconds));
    cost(console.pick("peak memory", "峰值内存"), &|t| t.run.peak_bytes.map_or("–".into(), bytes));
    cost(console.pick("result on disk", "结果大小"), &|t| bytes(t.result_bytes));
    let majority = outcome.before.majority_f1.unwrap_or(0.0);
    let n = outcome.before.n;
    let policy = outcome.gain.measures.iter().find(|(name, _)| name == "policy").map(|(_, paired)| paired.to_string());
    let gain = policy.unwrap_or_default();
    let notes = match console.lang {
        Lang::En => format!(
            "n = {n} held-out cases; 95 % intervals (Wilson; bootstrap for F1). Always the most frequent decision: F1 {majority:.3}.\n\
             Steps: {:.1} an answer, {} of them right. Without steps the policy asks for decision and reasons only.\n\
             Gain of LoRA over the base, written policy: {gain} (McNemar exact).\n\
             Base: {} parameters. Whole demo: {}.",
            outcome.chain.steps_per_answer,
            outcome.chain.steps_right,
            grouped(parameters as u64),
            duration(outcome.seconds)
        ),
        Lang::Zh => format!(
            "留出案例 n = {n}；95% 区间（比例用 Wilson，F1 用自助法）。始终回答最常见决定的 F1：{majority:.3}。\n\
             每个答案 {:.1} 步，步骤正确率 {}。不写步骤时，政策一栏只看决定与理由。\n\
             LoRA 相对基座在书面政策上的提升：{gain}（McNemar 精确检验）。\n\
             基座参数量：{}。整个演示用时：{}。",
            outcome.chain.steps_per_answer,
            outcome.chain.steps_right,
            grouped(parameters as u64),
            duration(outcome.seconds)
        ),
    };
    format!("\n{}\n{}{notes}\n", console.heading(console.pick("Measured in this run", "本次运行实测")), table.render(0))
}

/// Where everything lies, and what to try next.
pub fn places(console: &Console, dir: &Path, adapter: &Path) -> String {
    let path = |name: &str| dir.join(name).display().to_string();
    let rows = [
        (console.pick("adapter", "适配器"), adapter.display().to_string()),
        (console.pick("report", "报告"), path("lora/report.html")),
        (console.pick("manifest", "清单"), path("lora/manifest.json")),
        (console.pick("scored outputs", "逐例评分"), path("eval/lora/credit.jsonl")),
        (console.pick("figures", "数据"), path("demo.json")),
    ];
    let mut table = Table::new(&[console.pick("what", "内容"), console.pick("where", "位置")]);
    for (what, place) in rows {
        table.row([what.to_owned(), place]);
    }
    format!(
        "\n{}\n{}: loar chat {} --adapter {}\n",
        table.render(0),
        console.pick("try it", "试一试"),
        path("base"),
        adapter.display()
    )
}
