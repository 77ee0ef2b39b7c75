//! `report.html` of a curated set: what was read, what each stage took away and why, with examples,
//! and what is left. Takes `dataset.json` and examples, nothing else; English or Chinese.

mod sections;

use std::collections::BTreeMap;

use loar_artifact::page::{bar, card, escape, group, histogram, page, table};
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, StageCount};
use crate::stats::{Histogram, PartStats};

/// Examples of a rule that are kept.
pub const EXAMPLES: usize = 10;

/// A row as an example of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// `file:line`.
    pub at: String,
    /// The finding's evidence in words.
    pub note: String,
    /// The beginning of the row, or the text around the place.
    pub excerpt: String,
}

/// Examples by `stage/rule`, the first of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Examples(pub BTreeMap<String, Vec<Example>>);

impl Examples {
    /// Keeps an example unless there are enough of its rule.
    pub fn add(&mut self, rule: String, example: impl FnOnce() -> Example) {
        let list = self.0.entry(rule).or_default();
        if list.len() < EXAMPLES {
            list.push(example());
        }
    }

    /// Adds the examples of later rows.
    pub fn extend(&mut self, later: Examples) {
        for (rule, list) in later.0 {
            let have = self.0.entry(rule).or_default();
            let room = EXAMPLES.saturating_sub(have.len());
            have.extend(list.into_iter().take(room));
        }
    }
}

/// Words of the page.
struct Words {
    zh: bool,
}

impl Words {
    fn pick<'a>(&self, en: &'a str, zh: &'a str) -> &'a str {
        if self.zh { zh } else { en }
    }
}

/// The page, in English or Chinese.
pub fn report(set: &Dataset, examples: &Examples, zh: bool) -> String {
    let w = Words { zh };
    let mut body = String::new();
    let title = w.pick("Curated set", "数据治理报告");
    body.push_str(&format!("<h1>{title}</h1><p class=\"sub\"><code>{}</code></p>", set.id));
    body.push_str("<div class=\"cards\">");
    let share = |n: u64| format!("{:.1} %", 100.0 * n as f64 / set.rows.max(1) as f64);
    body.push_str(&card(w.pick("rows read", "读取行数"), &group(set.rows), ""));
    for (part, rows) in &set.parts {
        body.push_str(&card(part, &group(*rows), &share(*rows)));
    }
    body.push_str(&card(w.pick("dropped", "丢弃"), &group(set.dropped), &share(set.dropped)));
    let repeated = set.duplicates.exact + set.duplicates.near;
    body.push_str(&card(w.pick("repeated rows", "重复行"), &group(repeated), &share(repeated)));
    body.push_str(&card(w.pick("contradictions", "答案矛盾"), &group(set.duplicates.conflicts), ""));
    if let Some(leaks) = &set.decontamination {
        let of = w.pick("evaluation items leaked", "条评测题泄漏");
        let note = format!("{} / {} {of}", group(leaks.leaked_items), group(leaks.eval_items));
        body.push_str(&card(w.pick("rows that leak", "泄漏行"), &group(leaks.rows), &note));
    }
    let (covered, asked) = (set.coverage["covered"].as_u64(), set.coverage["asked"].as_u64());
    if let (Some(covered), Some(asked)) = (covered, asked) {
        body.push_str(&card(w.pick("task types covered", "已覆盖任务类型"), &format!("{covered} / {asked}"), ""));
    }
    body.push_str("</div>");

    body.push_str(&format!("<h2>{}</h2>", w.pick("Stages", "各阶段")));
    body.push_str(&funnel(set, &w));
    body.push_str(&format!("<h2>{}</h2>", w.pick("Rules, with examples", "规则与示例")));
    set.stages.iter().for_each(|stage| body.push_str(&rules(stage, examples, &w)));

    body.push_str(&format!("<h2>{}</h2><div class=\"plots\">", w.pick("What is left to train on", "训练集概况")));
    if let Some(train) = set.stats.0.get(&crate::split::Part::Train) {
        body.push_str(&plots(train, &w));
    }
    let names = ["2", "3", "4", "5–9", "10–99", "100+"];
    let sizes: Vec<(String, u64)> = names.iter().map(|n| (*n).to_owned()).zip(set.duplicates.sizes).collect();
    if set.duplicates.clusters > 0 {
        body.push_str(&histogram(w.pick("clusters of repeated rows, by size", "重复簇大小"), &sizes));
    }
    body.push_str("</div>");

    for section in sections::ALL {
        body.push_str(&section(set, &w));
    }
    body.push_str(&format!("<h2>{}</h2>", w.pick("Sources", "来源")));
    body.push_str(&sources(set, &w));
    let made = w.pick("made from", "来自");
    body.push_str(&format!(
        "<p class=\"note\">{made} <code>{}</code> · loar {}</p>",
        set.made_from,
        escape(&set.program)
    ));
    page(if zh { "zh" } else { "en" }, title, &body)
}

fn funnel(set: &Dataset, w: &Words) -> String {
    let heads = [
        w.pick("stage", "阶段"),
        w.pick("#rows in", "#输入行"),
        w.pick("#dropped", "#丢弃"),
        w.pick("#edited", "#修改"),
        w.pick("#noted", "#标注"),
        w.pick("left", "剩余"),
    ];
    let rows: Vec<Vec<String>> = set
        .stages
        .iter()
        .map(|stage| {
            let left = (stage.seen - stage.dropped) as f64 / set.rows.max(1) as f64;
            let name = format!("{} <span class=\"sub\">v{}</span>", escape(&stage.name), stage.version);
            let number = |n: u64| if n == 0 { "·".to_owned() } else { group(n) };
            vec![
                name,
                group(stage.seen),
                number(stage.dropped),
                number(stage.edited),
                number(stage.noted),
                format!("{} {:.1} %", bar(left), 100.0 * left),
            ]
        })
        .collect();
    table(&heads, &rows)
}

fn rules(stage: &StageCount, examples: &Examples, w: &Words) -> String {
    let mut out = String::new();
    let mut rules: Vec<_> = stage.rules.iter().collect();
    rules.sort_by_key(|(rule, count)| (std::cmp::Reverse(count.drop + count.edit + count.note), *rule));
    for (rule, count) in rules {
        let said = [
            (count.drop, w.pick("dropped", "丢弃")),
            (count.edit, w.pick("edited", "修改")),
            (count.note, w.pick("noted", "标注")),
        ];
        let said: Vec<String> =
            said.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", group(*n))).collect();
        let key = format!("{}/{rule}", stage.name);
        out.push_str(&format!("<details><summary><code>{}</code> · {}</summary>", escape(&key), said.join(", ")));
        let shown = examples.0.get(&key).map(Vec::as_slice).unwrap_or_default();
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|example| {
                vec![format!("<code>{}</code>", escape(&example.at)), escape(&example.note), escape(&example.excerpt)]
            })
            .collect();
        if !rows.is_empty() {
            let heads = [w.pick("row", "行"), w.pick("evidence", "证据"), w.pick("text", "文本")];
            out.push_str(&table(&heads, &rows));
        }
        out.push_str("</details>");
    }
    out
}

fn plots(part: &PartStats, w: &Words) -> String {
    let mut out = String::new();
    let lengths = [
        (&part.request_chars, w.pick("requests, characters", "请求长度（字符）")),
        (&part.response_chars, w.pick("responses, characters", "回答长度（字符）")),
        (&part.reasoning_chars, w.pick("chains of thought, characters", "思维链长度（字符）")),
        (&part.turns, w.pick("turns", "轮数")),
    ];
    for (counts, title) in lengths {
        if counts.0.iter().any(|n| *n > 0) {
            out.push_str(&histogram(title, &bins(counts)));
        }
    }
    let named = |counts: Vec<(String, u64)>| {
        let mut counts = counts;
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        counts.truncate(16);
        counts
    };
    let languages = part.languages.iter().map(|(name, n)| (name.clone(), *n)).collect();
    let languages = named(languages);
    if !languages.is_empty() {
        out.push_str(&histogram(w.pick("languages", "语言"), &languages));
    }
    out
}

/// Bins from the first to the last that holds something, named by their range.
fn bins(counts: &Histogram) -> Vec<(String, u64)> {
    let first = counts.0.iter().position(|n| *n > 0).unwrap_or(0);
    let last = counts.0.iter().rposition(|n| *n > 0).unwrap_or(0);
    let name = |bin: usize| match bin {
        0 | 1 => bin.to_string(),
        _ => {
            let low = 1_u64 << (bin - 1);
            let end = 2 * low - 1;
            let short = |n: u64| if n >= 1024 { format!("{}k", n / 1024) } else { n.to_string() };
            if low < 1024 { format!("{low}–{end}") } else { format!("{}+", short(low)) }
        }
    };
    (first..=last).map(|bin| (name(bin), counts.0[bin])).collect()
}

fn sources(set: &Dataset, w: &Words) -> String {
    let heads = [
        w.pick("source", "来源"),
        w.pick("licence", "许可"),
        w.pick("#weight", "#权重"),
        w.pick("#rows read", "#读取行"),
        w.pick("#written to train", "#写入训练集"),
        w.pick("files", "文件"),
    ];
    let rows: Vec<Vec<String>> = set
        .sources
        .iter()
        .map(|source| {
            let files: Vec<String> = source
                .files
                .iter()
                .map(|file| {
                    let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
                    let id = text("content_id");
                    let short = id.get(..19).unwrap_or(&id).to_owned();
                    format!("<code>{}</code> <span class=\"sub\">{}</span>", escape(&text("path")), escape(&short))
                })
                .collect();
            vec![
                escape(&source.name),
                escape(source.licence.as_deref().unwrap_or(w.pick("not given", "未注明"))),
                source.weight.to_string(),
                group(source.rows),
                group(source.written.get("train").copied().unwrap_or(0)),
                files.join("<br>"),
            ]
        })
        .collect();
    table(&heads, &rows)
}
