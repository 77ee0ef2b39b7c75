//! Sections of the report that stand only where their stage was on: leaks of evaluation data with
//! both sides, task types with the gaps, selection, made rows and dialogues, the curriculum, and
//! the agreement of the people who checked rows. Each takes `dataset.json` and nothing else.

use loar_artifact::page::{bar, escape, group, histogram, table};
use serde_json::Value;

use super::Words;
use crate::dataset::Dataset;
use crate::taxonomy::Taxonomy;

/// Gaps and types that are shown.
const SHOWN: usize = 20;

type Section = fn(&Dataset, &Words) -> String;

/// In the order of the page. A section is empty where there is nothing to tell.
pub(super) const ALL: [Section; 6] = [types, leaks, selection, made, curriculum, agreement];

fn heading(title: &str) -> String {
    format!("<h2>{}</h2>", escape(title))
}

/// Task types of the training part, the commonest, and what the quota lacks.
fn types(set: &Dataset, w: &Words) -> String {
    let report = &set.coverage;
    let rows = report["rows"].as_u64().unwrap_or(0);
    if rows == 0 {
        return String::new();
    }
    let taxonomy = Taxonomy::builtin();
    let name = |number: u16| taxonomy.get(number).map_or("?", |kind| if w.zh { &kind.zh } else { &kind.en }).to_owned();
    let counts = report["counts"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let mut counts: Vec<(u16, u64)> = (1..).zip(counts).filter(|(_, rows)| *rows > 0).collect();
    counts.sort_by_key(|(number, rows)| (std::cmp::Reverse(*rows), *number));
    let of = |part: u64| part as f64 / rows as f64;
    let shown = counts.iter().take(SHOWN).map(|(number, n)| {
        let share = format!("{} {:.1} %", bar(of(*n)), 100.0 * of(*n));
        vec![number.to_string(), escape(&name(*number)), group(*n), share]
    });
    let mut shown: Vec<Vec<String>> = shown.collect();
    let unknown = report["unknown"].as_u64().unwrap_or(0);
    if unknown > 0 {
        let share = format!("{} {:.1} %", bar(of(unknown)), 100.0 * of(unknown));
        shown.push(vec!["0".into(), w.pick("unknown", "未知").into(), group(unknown), share]);
    }
    let mut out = heading(w.pick("Task types", "任务类型"));
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let (covered, asked, samples) = (number("covered"), number("asked"), number("samples"));
    let effective = report["effective_types"].as_f64().unwrap_or(0.0);
    let told = if w.zh {
        format!("{asked} 类的配额中有 {covered} 类达到 {samples} 行；相当于 {effective:.1} 个等量类型。")
    } else {
        format!(
            "{covered} of the {asked} types asked for have {samples} rows; as diverse as {effective:.1} equally frequent ones."
        )
    };
    out.push_str(&format!("<p>{}</p>", escape(&told)));
    out.push_str(&table(&["#", w.pick("type", "类型"), w.pick("#rows", "#行数"), w.pick("share", "占比")], &shown));
    let gaps: Vec<&Value> = report["gaps"].as_array().into_iter().flatten().collect();
    if !gaps.is_empty() {
        let summary = if w.zh {
            format!("{} 类不足，按最接近配额排列", gaps.len())
        } else {
            format!("{} types lack rows, the fullest first", gaps.len())
        };
        let rows: Vec<Vec<String>> = gaps
            .iter()
            .map(|gap| {
                let name = gap[if w.zh { "zh" } else { "en" }].as_str().unwrap_or_default();
                vec![
                    gap["number"].to_string(),
                    escape(name),
                    group(gap["rows"].as_u64().unwrap_or(0)),
                    group(gap["missing"].as_u64().unwrap_or(0)),
                ]
            })
            .collect();
        let heads = ["#", w.pick("type", "类型"), w.pick("#rows", "#行数"), w.pick("#missing", "#缺少")];
        out.push_str(&format!("<details><summary>{}</summary>{}</details>", escape(&summary), table(&heads, &rows)));
    }
    out
}

/// Both sides of every leak that is shown.
fn leaks(set: &Dataset, w: &Words) -> String {
    let Some(leaks) = &set.decontamination else { return String::new() };
    let mut out = heading(w.pick("Decontamination", "评测去污染"));
    let told = if w.zh {
        format!(
            "与 {} 条评测题比较：{} 行泄漏 {} 条，已全部剔除。",
            group(leaks.eval_items),
            group(leaks.rows),
            group(leaks.leaked_items)
        )
    } else {
        format!(
            "Compared with {} evaluation items: {} rows leak {} of them and were dropped.",
            group(leaks.eval_items),
            group(leaks.rows),
            group(leaks.leaked_items)
        )
    };
    out.push_str(&format!("<p>{}</p>", escape(&told)));
    if leaks.shown.is_empty() {
        return out;
    }
    let heads = [
        w.pick("mode", "模式"),
        w.pick("evaluation item", "评测题"),
        w.pick("training row", "训练行"),
        w.pick("#measured", "#测量值"),
    ];
    let side = |at: &str, text: &str, shared: &str| format!("<code>{}</code><br>{}", escape(at), marked(text, shared));
    let rows: Vec<Vec<String>> = leaks
        .shown
        .iter()
        .map(|leak| {
            vec![
                escape(&leak.mode),
                side(&leak.eval, &leak.eval_text, &leak.shared),
                side(&leak.train, &leak.train_text, &leak.shared),
                format!("{} ≥ {}", short(leak.value), short(leak.bound)),
            ]
        })
        .collect();
    out.push_str(&table(&heads, &rows));
    let all: u64 = leaks.modes.values().sum();
    let (shown, all) = (group(leaks.shown.len() as u64), group(all));
    let told = if w.zh {
        format!("显示 {all} 条中的 {shown} 条，全部见")
    } else {
        format!("{shown} of {all} findings; all are in")
    };
    out.push_str(&format!("<p class=\"note\">{told} <code>decontamination/</code></p>"));
    out
}

/// A text with what is shared marked, where it stands in it letter for letter.
fn marked(text: &str, shared: &str) -> String {
    let shared = shared.trim_end_matches('…');
    match text.split_once(shared).filter(|_| !shared.is_empty()) {
        Some((before, after)) => format!("{}<mark>{}</mark>{}", escape(before), escape(shared), escape(after)),
        None => escape(text),
    }
}

/// A number without needless places.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn selection(set: &Dataset, w: &Words) -> String {
    let Some(report) = &set.selection else { return String::new() };
    let cells = |key: &str| report[key].as_u64().map_or_else(String::new, group);
    let text = |key: &str| escape(report[key].as_str().unwrap_or_default());
    let ratio = |key: &str| report[key].as_f64().map_or_else(|| "–".into(), |value| format!("{value:.3}"));
    let heads = [
        w.pick("#budget", "#预算"),
        w.pick("#taken", "#选中"),
        w.pick("#for floors", "#保底"),
        w.pick("#too near", "#过近"),
        w.pick("#type full", "#类型已满"),
        w.pick("#radius", "#半径"),
        w.pick("score", "评分"),
        w.pick("vectors", "向量"),
    ];
    let row = vec![
        cells("budget"),
        cells("taken"),
        cells("for_floors"),
        cells("too_near"),
        cells("type_full"),
        ratio("radius"),
        text("score"),
        text("vectors"),
    ];
    heading(w.pick("Selection", "多样性选择")) + &table(&heads, &[row])
}

/// Rows made from rows, and how strongly dialogues are linked.
fn made(set: &Dataset, w: &Words) -> String {
    if set.augmented.is_empty() {
        return String::new();
    }
    let heads = [
        w.pick("transform", "变换"),
        w.pick("#tried", "#尝试"),
        w.pick("#fitted", "#适用"),
        w.pick("#made", "#生成"),
        w.pick("accepted", "通过率"),
    ];
    let rows: Vec<Vec<String>> = set
        .augmented
        .iter()
        .map(|(name, [tried, fitted, accepted])| {
            let share = *accepted as f64 / (*fitted).max(1) as f64;
            let share = if *fitted == 0 { "–".into() } else { format!("{} {:.1} %", bar(share), 100.0 * share) };
            vec![format!("<code>{}</code>", escape(name)), group(*tried), group(*fitted), group(*accepted), share]
        })
        .collect();
    let mut out = heading(w.pick("Made rows", "增强生成")) + &table(&heads, &rows);
    if let Some(dialogues) = &set.dialogues {
        let told = if w.zh {
            format!(
                "{} 行连成 {} 段对话；联系强度（{}）均值 {:.3}。",
                group(dialogues.linked_rows),
                group(dialogues.kept),
                dialogues.measure,
                dialogues.mean
            )
        } else {
            format!(
                "{} rows stand in {} dialogues; mean strength of a link ({}) {:.3}.",
                group(dialogues.linked_rows),
                group(dialogues.kept),
                dialogues.measure,
                dialogues.mean
            )
        };
        let bins: Vec<(String, u64)> = (0..)
            .zip(dialogues.strengths)
            .map(|(bin, n)| (format!("0.{bin}{}", if bin == 9 { "+" } else { "" }), n))
            .collect();
        let plot = histogram(w.pick("links of dialogues, by strength", "对话联系强度"), &bins);
        out.push_str(&format!("<p class=\"note\">{}</p><div class=\"plots\">{plot}</div>", escape(&told)));
    }
    out
}

fn curriculum(set: &Dataset, w: &Words) -> String {
    let Some(report) = &set.curriculum else { return String::new() };
    let heads = [
        w.pick("#stage", "#阶段"),
        w.pick("#rows", "#行数"),
        w.pick("#replayed", "#重放"),
        w.pick("#tokens, estimated", "#词元（估计）"),
        w.pick("difficulty", "难度"),
        w.pick("#type coverage", "#类型覆盖"),
    ];
    let stages = report["stages"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = stages
        .map(|stage| {
            let n = |key: &str| group(stage[key].as_u64().unwrap_or(0));
            let difficulty = stage["difficulty"].as_f64().unwrap_or(0.0);
            let coverage = 100.0 * stage["coverage"].as_f64().unwrap_or(0.0);
            vec![
                n("stage"),
                n("rows"),
                n("replayed"),
                n("tokens"),
                format!("{} {difficulty:.2}", bar(difficulty)),
                format!("{coverage:.0} %"),
            ]
        })
        .collect();
    let words =
        |key: &str| -> Vec<&str> { report[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let measures = format!("{}: {}", w.pick("difficulty is made of", "难度来自"), words("measures").join(", "));
    let mut out = heading(w.pick("Curriculum", "课程")) + &table(&heads, &rows);
    out.push_str(&format!("<p class=\"note\">{}</p>", escape(&measures)));
    for failed in words("failed") {
        out.push_str(&format!("<p><strong>{}</strong></p>", escape(failed)));
    }
    out
}

/// Krippendorff's cut-offs: reliable from .8, tentative from .667.
const CUTOFFS: [f64; 2] = [0.667, 0.8];

/// Alpha of every rubric on a line from 0 to 1, with its interval and the cut-offs.
fn agreement(set: &Dataset, w: &Words) -> String {
    if set.agreement.is_empty() {
        return String::new();
    }
    let heads = [
        w.pick("task", "任务"),
        w.pick("rubric", "评分项"),
        w.pick("#rows", "#条数"),
        "Krippendorff α",
        w.pick("0 – 1, cut-offs .667 and .8", "0 – 1，界限 .667 与 .8"),
        "#Fleiss κ",
        "#AC1",
    ];
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.3}"));
    let rows: Vec<Vec<String>> = set
        .agreement
        .iter()
        .map(|rubric| {
            let interval = rubric.interval.map_or_else(String::new, |i| format!(" ({:.3} – {:.3})", i.low, i.high));
            vec![
                escape(&rubric.task),
                escape(&rubric.name),
                group(rubric.units),
                format!("{}{interval}", number(rubric.alpha)),
                line(rubric.alpha, rubric.interval.map(|i| (i.low, i.high))),
                number(rubric.fleiss),
                number(rubric.gwet_ac1),
            ]
        })
        .collect();
    heading(w.pick("Agreement of annotators", "标注一致性")) + &table(&heads, &rows)
}

fn line(alpha: Option<f64>, interval: Option<(f64, f64)>) -> String {
    let (width, middle) = (200.0, 10.0);
    let x = |value: f64| width * value.clamp(0.0, 1.0);
    let mut out = format!("<svg viewBox=\"0 0 {width} 20\" style=\"width:{width}px\" role=\"img\">");
    out.push_str(&format!("<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{middle}\" y2=\"{middle}\"/>"));
    for cut in CUTOFFS.map(x) {
        out.push_str(&format!("<line class=\"grid\" x1=\"{cut:.1}\" x2=\"{cut:.1}\" y1=\"2\" y2=\"18\"/>"));
    }
    if let Some((low, high)) = interval {
        let (low, wide) = (x(low), x(high) - x(low));
        out.push_str(&format!(
            "<rect class=\"dot\" x=\"{low:.1}\" y=\"8\" width=\"{wide:.1}\" height=\"4\" opacity=\"0.4\"/>"
        ));
    }
    if let Some(alpha) = alpha {
        out.push_str(&format!("<circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle}\" r=\"4\"/>", x(alpha)));
    }
    out + "</svg>"
}
