//! A record as a page: in ten seconds why this answer.
//!
//! Top to bottom: the answer with its probability and what it rests on; the candidates, each a bar of
//! probability with its votes and the terms of its score; how the answer settled path after path; then every
//! path, its steps coloured by the verdicts on them. One file, no script, no address.

use std::fmt::Write;

use loar_artifact::page::{bar, card, escape, page, table};

use crate::generate::End;
use crate::record::{Action, PathRecord, Record, Stopped};
use crate::verify::Verdict;

/// Characters of a step that are shown before it is cut.
const SHOWN: usize = 600;

const STYLE: &str = "<style>
.verdict{display:flex;align-items:baseline;gap:16px;flex-wrap:wrap;margin:16px 0 0}
.verdict b{font-size:40px;line-height:1.1;font-weight:650;overflow-wrap:anywhere}
.verdict span{font-size:20px}
.tag{display:inline-block;border-radius:10px;padding:1px 9px;font-size:12.5px;border:1px solid var(--line);color:var(--soft)}
.tag.good{color:var(--good);border-color:var(--good)}.tag.bad{color:var(--b);border-color:var(--b)}
ol.steps{list-style:none;margin:8px 0 0;padding:0}
ol.steps li{border-left:3px solid var(--line);padding:3px 0 3px 12px;margin:2px 0;white-space:pre-wrap;overflow-wrap:anywhere}
ol.steps li.pass{border-color:var(--good)}ol.steps li.fail{border-color:var(--b);background:color-mix(in srgb,var(--b) 9%,transparent)}
ol.steps li i{display:block;font-size:12.5px;color:var(--soft);font-style:normal}
.path{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:10px 0}
.path.out{opacity:.62}.path summary{margin:0;color:var(--ink)}
.q{white-space:pre-wrap;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px;max-width:none}
</style>";

/// The page, in `en` or `zh`.
pub fn view(record: &Record, lang: &str) -> String {
    let t = |en: &'static str, zh: &'static str| if lang == "zh" { zh } else { en };
    let d = &record.decision;
    let none = t("no answer", "无答案");
    let answer = d.answer.as_deref().unwrap_or(none);
    let (class, action) = match d.action {
        Action::Answer => ("good", t("answered", "作答")),
        Action::Escalate => ("bad", t("escalate: not sure enough", "上报：把握不足")),
        Action::Abstain => ("bad", t("abstained", "弃答")),
    };
    let calibrated = if d.calibrated { t("calibrated", "已校准") } else { t("not calibrated", "未校准") };
    let mut body = format!(
        "{STYLE}<h1>{}</h1><p class=\"q\">{}</p><div class=\"verdict\"><b>{}</b><span>p = {:.3}</span>\
         <span class=\"tag {class}\">{action}</span><span class=\"tag {}\">{calibrated}</span></div>",
        t("Why this answer", "为何如此作答"),
        escape(&record.question.text),
        escape(answer),
        d.p,
        if d.calibrated { "good" } else { "bad" },
    );
    let counted = record.paths.iter().filter(|p| p.counts && p.replaced_by.is_none()).count();
    let votes = record.fused.top().map_or(0, |c| c.paths.len());
    let stopped = match d.stopped {
        Stopped::AllPaths => t("all paths used", "路径用尽"),
        Stopped::Enough(_) => t("enough paths", "路径已足够"),
        Stopped::Budget(_) => t("budget used up", "预算用尽"),
    };
    let cost = &record.cost;
    let _ = write!(
        body,
        "<div class=\"cards\">{}{}{}{}</div><p class=\"note\">{}<br>{}</p>",
        card(t("votes", "票数"), &format!("{votes} / {counted}"), stopped),
        card(t("none of these", "皆非"), &format!("{:.3}", d.p_none), t("probability", "概率")),
        card(
            t("tokens", "词元"),
            &cost.tokens.decode.to_string(),
            &format!("{} {}", cost.tokens.cancelled, t("cut", "被截"))
        ),
        card(t("time", "用时"), &format!("{:.2} s", cost.seconds), &format!("{} {}", cost.paths, t("paths", "条路径"))),
        escape(&d.why),
        escape(&cost.line()),
    );
    let _ = write!(body, "<h2>{}</h2>{}", t("Candidates", "候选答案"), candidates(record, &t));
    let rows: Vec<Vec<String>> = record
        .standings
        .iter()
        .map(|s| {
            let answer = s.answer.as_deref().unwrap_or(none);
            vec![s.path.to_string(), escape(answer), format!("{} {:.3}", bar(s.p), s.p)]
        })
        .collect();
    if rows.len() > 1 {
        let heads = [t("#after path", "#路径"), t("best answer", "最佳答案"), "p"];
        let _ = write!(body, "<h2>{}</h2>{}", t("How it settled", "如何形成"), table(&heads, &rows));
    }
    let _ = write!(body, "<h2>{}</h2>", t("Paths", "路径"));
    for path in &record.paths {
        body.push_str(&one(path, d.path == Some(path.path), &t));
    }
    let digests = serde_json::to_string_pretty(&record.digests).unwrap_or_default();
    let _ = write!(
        body,
        "<details><summary>{}</summary><pre><code>{}</code></pre></details>",
        t("Record", "记录"),
        escape(&format!("{}\n{} · {}\n{digests}", record.tool, record.source.kind, record.source.place))
    );
    page(if lang == "zh" { "zh" } else { "en" }, &record.question.text.chars().take(60).collect::<String>(), &body)
}

/// Candidates as a table of bars, votes and terms.
fn candidates(record: &Record, t: &dyn Fn(&'static str, &'static str) -> &'static str) -> String {
    let terms = |terms: &[crate::fuse::Term]| {
        terms.iter().map(|term| format!("{} {:+.2}", escape(&term.name), term.value)).collect::<Vec<_>>().join(" · ")
    };
    let mut rows: Vec<Vec<String>> = record
        .fused
        .candidates
        .iter()
        .map(|c| {
            let of_class = |p: &&PathRecord| p.class == Some(c.class);
            let paths: Vec<&PathRecord> = record.paths.iter().filter(of_class).collect();
            let answer = paths.first().and_then(|p| p.answer.as_ref()).map_or(String::new(), |a| a.written.clone());
            let numbers: Vec<String> = paths.iter().map(|p| p.path.to_string()).collect();
            vec![
                escape(&answer),
                format!("{} {:.3}", bar(c.p), c.p),
                c.paths.len().to_string(),
                numbers.join(", "),
                terms(&c.terms),
            ]
        })
        .collect();
    rows.push(vec![
        t("none of these", "皆非").to_owned(),
        format!("{} {:.3}", bar(record.fused.p_none), record.fused.p_none),
        record.fused.unanswered.len().to_string(),
        String::new(),
        terms(&record.fused.none_terms),
    ]);
    let heads = [
        t("answer", "答案"),
        t("probability", "概率"),
        t("#votes", "#票数"),
        t("paths", "路径"),
        t("terms of the log score", "对数分的各项"),
    ];
    table(&heads, &rows)
}

/// One path with its steps.
fn one(path: &PathRecord, best: bool, t: &dyn Fn(&'static str, &'static str) -> &'static str) -> String {
    let end = match path.chain.as_ref().map(|c| &c.end) {
        None => t("not run", "未运行").to_owned(),
        Some(End::Stop | End::StopString) => t("ended", "正常结束").to_owned(),
        Some(End::Length) => t("too long", "超长").to_owned(),
        Some(End::Loop { period, length }) => {
            format!("{}: {period} × {}", t("went in circles", "陷入循环"), length / period.max(&1))
        }
        Some(End::Unsure { .. }) => t("cut: low confidence", "截断：置信度低").to_owned(),
        Some(End::NotNeeded) => t("cut: not needed", "截断：已无需要").to_owned(),
        Some(End::Budget) => t("cut: budget", "截断：预算").to_owned(),
        Some(End::Failed { error }) => format!("{}: {error}", t("failed", "失败")),
    };
    let answer = path.answer.as_ref().map_or(t("no answer", "无答案").to_owned(), |a| a.written.clone());
    let mut head = format!("<b>{}</b> · {} · {}", path.path, escape(&answer), escape(&end));
    if let Some(of) = path.repairs {
        let _ = write!(head, " · {} {of}", t("repairs", "修复"));
    }
    if let Some(by) = path.replaced_by {
        let _ = write!(head, " · {} {by}", t("replaced by", "被替换为"));
    }
    for v in &path.verifications {
        let (class, mark) = match v.outcome() {
            Verdict::Pass => ("good", "✓"),
            Verdict::Fail => ("bad", "✗"),
            Verdict::Unsure => ("", "?"),
        };
        let _ = write!(head, " <span class=\"tag {class}\">{mark} {}</span>", escape(&v.verifier));
    }
    let mut steps = String::new();
    for (i, step) in path.steps.iter().enumerate() {
        let said: Vec<(&str, &crate::verify::StepVerdict)> = path
            .verifications
            .iter()
            .filter_map(|v| Some((v.verifier.as_str(), v.steps.get(i)?)))
            .filter(|(_, s)| s.verdict != Verdict::Unsure)
            .collect();
        let class = if said.iter().any(|(_, s)| s.verdict == Verdict::Fail) {
            "fail"
        } else if said.is_empty() {
            ""
        } else {
            "pass"
        };
        let text: String = step.chars().take(SHOWN).collect();
        let more = if text.len() < step.len() { "…" } else { "" };
        let _ = write!(steps, "<li class=\"{class}\">{}{more}", escape(&text));
        for (name, s) in said.iter().filter(|(_, s)| !s.evidence.is_empty()) {
            let mark = if s.verdict == Verdict::Fail { "✗" } else { "✓" };
            let _ = write!(steps, "<i>{mark} {}: {}</i>", escape(name), escape(&s.evidence));
        }
        steps.push_str("</li>");
    }
    let out = if path.counts && path.replaced_by.is_none() { "" } else { " out" };
    let open = if best { " open" } else { "" };
    format!("<details class=\"path{out}\"{open}><summary>{head}</summary><ol class=\"steps\">{steps}</ol></details>")
}
