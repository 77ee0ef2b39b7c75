//! The proof as a page.

use loar_artifact::page::{Series, bar, card, duration, escape, group, histogram, lines, page as frame, table};

use crate::leg::Form;
use crate::paths::PathFigures;
use crate::proof::{Proof, TaskProof};

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `report.html`; `lang` is `en` or `zh`.
pub(crate) fn page(proof: &Proof, lang: &str) -> String {
    let say = |en: &'static str, zh: &'static str| if lang == "zh" { zh } else { en };
    let title = say("Does a chain of thought help?", "思维链有用吗？");
    let mut body = format!(
        "<h1>{title}</h1><p>{}</p>",
        escape(say(
            "The same small DeepSeek-V3 model, the same questions, the same number of steps; only what stands between question and answer differs. All questions are fresh, no test question was trained on.",
            "同一个小型 DeepSeek-V3 模型、相同的问题、相同的步数；不同的只是问题与答案之间写了什么。题目全部现生成，测试题从未参与训练。",
        ))
    );
    body.push_str("<div class=\"cards\">");
    for task in &proof.tasks {
        for (form, name) in
            [(Form::Direct, say("answer at once", "直接作答")), (Form::Chain, say("chain first", "先写思维链"))]
        {
            if let Some((low, mean, high)) = task.answer_exact(form) {
                let seeds = task.legs.iter().filter(|l| l.setup.form == form).count();
                let note = format!("{} – {} · {seeds} {}", percent(low), percent(high), say("seeds", "个种子"));
                body.push_str(&card(&format!("{} · {name}", task.name), &percent(mean), &note));
            }
        }
    }
    body.push_str(&card(say("time", "用时"), &duration(proof.seconds), say("training and asking", "训练与提问")));
    body.push_str("</div>");
    for task in &proof.tasks {
        body.push_str(&section(task, &say));
    }
    frame(lang, title, &body)
}

fn section(task: &TaskProof, say: &dyn Fn(&'static str, &'static str) -> &'static str) -> String {
    let mut out = format!(
        "<h2>{}</h2><p>{}: {}</p>",
        escape(&task.about),
        say("a guess is right", "猜对的机会"),
        percent(task.chance)
    );
    let rows: Vec<Vec<String>> = task
        .legs
        .iter()
        .map(|l| {
            let a = &l.assessment;
            vec![
                l.setup.form.name().into(),
                l.setup.seed.to_string(),
                format!("{} {}", bar(a.answer_exact.value()), percent(a.answer_exact.value())),
                percent(a.trace_exact.value()),
                format!("{:.1}", a.tokens_per_answer),
                group(l.parameters as u64),
                group(l.train_tokens),
                duration(l.train_seconds),
            ]
        })
        .collect();
    out.push_str(&table(
        &[
            say("form", "形式"),
            say("#seed", "#种子"),
            say("answer exact", "答案正确"),
            say("#chain exact", "#整链正确"),
            say("#tokens/answer", "#每答词元"),
            say("#parameters", "#参数"),
            say("#tokens trained", "#训练词元"),
            say("#time", "#用时"),
        ],
        &rows,
    ));
    out.push_str("<div class=\"figures\">");
    let first = |form: Form| task.legs.iter().find(|l| l.setup.form == form);
    let losses: Vec<Series<'_>> = [Form::Direct, Form::Chain, Form::Filler]
        .into_iter()
        .filter_map(first)
        .map(|l| Series { name: l.setup.form.name(), points: l.losses.iter().map(|p| (p.0 as f64, p.1)).collect() })
        .collect();
    out.push_str(&lines(say("loss of labelled tokens", "训练损失"), say("step", "步"), 1.0, &losses));
    if let Some(paths) = &task.paths {
        out.push_str(&path_figures(paths, say));
    }
    if let Some(leg) = first(Form::Chain).filter(|l| l.assessment.first_error.iter().any(|n| *n > 0)) {
        let last = leg.assessment.first_error.len() - 1;
        let name = |i: usize| if i == last { say("answer", "答案").to_owned() } else { (i + 1).to_string() };
        let bins: Vec<(String, u64)> =
            leg.assessment.first_error.iter().enumerate().map(|(i, n)| (name(i), *n as u64)).collect();
        out.push_str(&histogram(say("first wrong step of greedy chains", "贪心链的首个错误步骤"), &bins));
    }
    out.push_str("</div>");
    if let Some(paths) = &task.paths {
        out.push_str(&path_table(paths, say));
    }
    out
}

fn path_figures(paths: &PathFigures, say: &dyn Fn(&'static str, &'static str) -> &'static str) -> String {
    let points =
        |of: &dyn Fn(&crate::evidence::Evidence) -> f64| paths.evidence.iter().map(|e| (e.tokens, of(e))).collect();
    let series = [
        Series { name: say("vote", "投票"), points: points(&|e| e.vote.accuracy) },
        Series { name: say("posterior + steps", "后验＋步骤检查"), points: points(&|e| e.checked.accuracy) },
        Series { name: say("some path right", "至少一条正确"), points: points(&|e| e.oracle) },
    ];
    lines(
        say("accuracy of an early model over tokens spent", "早期模型：准确率与词元开销"),
        say("tokens a question", "每题词元"),
        1.0,
        &series,
    )
}

fn path_table(paths: &PathFigures, say: &dyn Fn(&'static str, &'static str) -> &'static str) -> String {
    let e = &paths.early;
    let mut out = format!(
        "<h3>{}</h3><p>{} {} · {} × {} · {} {} · {} {} · {} {} · {} {}</p>",
        say("Many paths of an early model", "早期模型的多条路径"),
        say("step", "第"),
        e.step,
        paths.questions,
        paths.paths,
        say("a path is right", "单条正确率"),
        percent(paths.right.value()),
        say("the step checker rejects of wrong paths", "步骤检查拒绝的错误路径"),
        percent(paths.rejected_wrong.value()),
        say("of right ones", "拒绝的正确路径"),
        percent(paths.rejected_right.value()),
        say("places the first wrong step", "定位首个错误步骤"),
        percent(paths.located.value()),
    );
    let rows: Vec<Vec<String>> = paths
        .evidence
        .iter()
        .map(|e| {
            vec![
                e.paths.to_string(),
                format!("{:.0}", e.tokens),
                percent(e.vote.accuracy),
                percent(e.posterior.accuracy),
                percent(e.checked.accuracy),
                percent(e.oracle),
                format!("{:.3}", e.vote.ece),
                format!("{:.3}", e.posterior.ece),
                format!("{:.3}", e.checked.ece),
            ]
        })
        .collect();
    out.push_str(&table(
        &[
            say("#paths", "#路径"),
            say("#tokens", "#词元"),
            say("#vote", "#投票"),
            say("#posterior", "#后验"),
            say("#posterior + steps", "#后验＋步骤"),
            say("#some right", "#至少一条对"),
            say("#ECE vote", "#ECE 投票"),
            say("#ECE posterior", "#ECE 后验"),
            say("#ECE with steps", "#ECE 含步骤"),
        ],
        &rows,
    ));
    out
}
