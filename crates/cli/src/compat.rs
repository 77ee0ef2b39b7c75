//! Which consumer applies which part of an adapter.
//!
//! Takes what an adapter adapts and how it scales; gives, for each program that people deploy with,
//! what it would drop, scale wrongly or refuse. Pure: reads no file. The rules say what the versions
//! named here do, from their sources and issue trackers; `docs/cli.md` tells how each was checked.

use loar_formats::config::Architecture;
use serde::Serialize;

pub use crate::adapter_profile::{Part, Profile};
use crate::console::Lang;
use crate::table::Table;

/// How much of the adapter a consumer applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything.
    Full,
    /// It runs, and the answers are not those of the trained model.
    Partial,
    /// It stops with an error.
    Refused,
}

impl Verdict {
    /// One word for a table.
    pub fn word(self, lang: Lang) -> &'static str {
        match self {
            Self::Full => lang.pick("applies all", "全部生效"),
            Self::Partial => lang.pick("DROPS A PART", "部分失效"),
            Self::Refused => lang.pick("refuses", "拒绝加载"),
        }
    }
}

/// One consumer's reading of the adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Program and version.
    pub consumer: &'static str,
    /// The worst of `findings`.
    pub verdict: Verdict,
    /// What happens, one sentence each; empty when everything is applied.
    pub findings: Vec<String>,
}

/// Collects what one consumer does.
struct Reading {
    consumer: &'static str,
    verdict: Verdict,
    findings: Vec<String>,
}

impl Reading {
    fn new(consumer: &'static str) -> Self {
        Self { consumer, verdict: Verdict::Full, findings: Vec::new() }
    }
    fn when(&mut self, condition: bool, verdict: Verdict, text: impl Into<String>) {
        if condition {
            self.verdict = self.verdict.max(verdict);
            self.findings.push(text.into());
        }
    }
    fn done(self) -> Row {
        Row { consumer: self.consumer, verdict: self.verdict, findings: self.findings }
    }
}

/// Every consumer's reading of the adapter, in the language of `lang`.
pub fn rows(p: &Profile, lang: Lang) -> Vec<Row> {
    vec![
        peft(p, lang),
        vllm(p, lang),
        sglang(p, lang),
        llama_cpp_convert(p, lang),
        llama_cpp_run(p, lang),
        ollama(p, lang),
    ]
}

fn peft(p: &Profile, lang: Lang) -> Row {
    let mut r = Reading::new("PEFT 0.21 + transformers 5");
    let remapped =
        p.is(&[Architecture::DeepseekV2, Architecture::DeepseekV3]) && (p.has(Part::Dense) || p.has(Part::Shared));
    r.when(
        remapped,
        Verdict::Partial,
        lang.pick(
            "dense MLP and shared experts are dropped: targets named gate_proj, up_proj or down_proj are taken for fused routed experts",
            "稠密 MLP 与共享专家被丢弃：名为 gate_proj、up_proj、down_proj 的目标会被当作融合的路由专家",
        ),
    );
    r.when(
        p.is(&[Architecture::Deepseek]),
        Verdict::Full,
        lang.pick(
            "the base needs its remote code: transformers has no class of its own for it",
            "基座需要其远程代码：transformers 没有对应的内置类",
        ),
    );
    r.done()
}

fn vllm(p: &Profile, lang: Lang) -> Row {
    let mut r = Reading::new("vLLM");
    r.when(
        p.has(Part::KvB),
        Verdict::Partial,
        lang.pick(
            "kv_b_proj is loaded and never applied in absorbed decoding (vLLM issue 48974)",
            "kv_b_proj 会加载，但在吸收式解码中从不生效（vLLM 问题 48974）",
        ),
    );
    r.when(
        p.patterns,
        Verdict::Partial,
        lang.pick(
            "rank_pattern and alpha_pattern are not read: those modules get the wrong scale",
            "不读取 rank_pattern 与 alpha_pattern：相应模块的缩放有误",
        ),
    );
    r.when(p.use_dora, Verdict::Refused, lang.pick("no DoRA", "不支持 DoRA"));
    r.when(!p.modules_to_save.is_empty(), Verdict::Refused, lang.pick("no modules_to_save", "不支持 modules_to_save"));
    if p.rank > 16 && r.verdict != Verdict::Refused {
        r.findings.push(match lang {
            Lang::En => format!("start it with --max-lora-rank {}", p.rank.next_power_of_two()),
            Lang::Zh => format!("启动时须加 --max-lora-rank {}", p.rank.next_power_of_two()),
        });
    }
    r.done()
}

fn sglang(p: &Profile, lang: Lang) -> Row {
    let mut r = Reading::new("SGLang 0.5.23");
    r.when(
        p.scaling_differs(),
        Verdict::Partial,
        lang.pick(
            "the scale is always alpha / r: use_rslora and patterns are ignored",
            "缩放恒为 alpha / r：忽略 use_rslora 与各类 pattern",
        ),
    );
    r.when(p.use_dora, Verdict::Refused, lang.pick("no DoRA", "不支持 DoRA"));
    r.when(
        !p.modules_to_save.is_empty() || p.has(Part::Embedding),
        Verdict::Refused,
        lang.pick("no modules_to_save and no embedding adapter", "不支持 modules_to_save 与词嵌入适配器"),
    );
    r.when(
        p.q_without_v && !p.is_mla(),
        Verdict::Refused,
        lang.pick("q_proj needs v_proj beside it", "q_proj 须与 v_proj 同时适配"),
    );
    r.done()
}

fn llama_cpp_convert(p: &Profile, lang: Lang) -> Row {
    let mut r = Reading::new("llama.cpp convert_lora_to_gguf");
    r.when(
        p.scaling_differs(),
        Verdict::Partial,
        lang.pick(
            "the scale becomes alpha / rank of each tensor: rsLoRA and patterns come out wrong",
            "缩放变为 alpha / 各张量的秩：rsLoRA 与 pattern 结果有误",
        ),
    );
    r.when(
        p.use_dora || !p.modules_to_save.is_empty() || p.has(Part::Embedding),
        Verdict::Refused,
        lang.pick("no DoRA, modules_to_save or embedding adapter", "不支持 DoRA、modules_to_save 与词嵌入适配器"),
    );
    r.when(p.has(Part::KvB), Verdict::Refused, lang.pick("kv_b_proj is not implemented", "未实现 kv_b_proj"));
    r.when(p.fused_experts, Verdict::Refused, lang.pick("no fused experts", "不支持融合专家布局"));
    r.when(
        p.partial_experts,
        Verdict::Refused,
        lang.pick("every expert of a layer must have an adapter", "同一层的所有专家必须都有适配器"),
    );
    r.done()
}

fn llama_cpp_run(p: &Profile, lang: Lang) -> Row {
    let mut r = Reading::new("llama.cpp (GGUF adapter)");
    let lost: Vec<&str> = [Part::AttentionIn, Part::KvB, Part::Head]
        .into_iter()
        .filter(|part| p.has(*part))
        .map(|part| part.name(lang))
        .collect();
    r.when(
        p.is_mla() && !lost.is_empty(),
        Verdict::Partial,
        match lang {
            Lang::En => format!("silently ignored on this architecture: {}; merge instead", lost.join(", ")),
            Lang::Zh => format!("在该架构上被静默忽略：{}；请改用合并", lost.join("、")),
        },
    );
    r.done()
}

fn ollama(p: &Profile, lang: Lang) -> Row {
    let mut r = Reading::new("Ollama (ADAPTER)");
    r.when(
        !p.is(&[Architecture::Llama]),
        Verdict::Refused,
        lang.pick(
            "safetensors adapters only on llama bases: convert to GGUF first, or merge",
            "safetensors 适配器仅限 llama 基座：请先转为 GGUF，或合并",
        ),
    );
    r.when(p.scaling_differs(), Verdict::Partial, lang.pick("the scale is always alpha / r", "缩放恒为 alpha / r"));
    r.when(
        p.use_dora || !p.modules_to_save.is_empty(),
        Verdict::Refused,
        lang.pick("no DoRA and no modules_to_save", "不支持 DoRA 与 modules_to_save"),
    );
    r.done()
}

fn titles(lang: Lang) -> [&'static str; 3] {
    [lang.pick("consumer", "使用方"), lang.pick("adapter", "适配器"), lang.pick("what happens", "说明")]
}

/// The rows as a table for the terminal, one finding a line.
pub fn table(rows: &[Row], lang: Lang) -> Table {
    let mut table = Table::new(&titles(lang));
    for row in rows {
        let first = row.findings.first().map_or("", String::as_str);
        table.row([row.consumer, row.verdict.word(lang), first]);
        for finding in row.findings.iter().skip(1) {
            table.row(["", "", finding.as_str()]);
        }
    }
    table
}

/// The report that an export writes beside its files.
pub fn markdown(rows: &[Row], merged: bool, lang: Lang) -> String {
    let mut out = format!("# {}\n\n", lang.pick("Who applies what", "谁会应用哪些部分"));
    if merged {
        out.push_str(lang.pick(
            "This folder is a plain checkpoint in release names: every program that reads the base reads it whole. \
             certificate.json says how close it is to base and adapter. The table is about the adapter it was made \
             from, deployed as an adapter.\n\n",
            "本目录是采用发布命名的普通检查点：凡能读取基座的程序都能完整读取它。certificate.json 给出它与“基座+适配器”的差距。\
             下表针对的是以适配器形式部署的情形。\n\n",
        ));
    }
    let mut table = Table::new(&titles(lang));
    for row in rows {
        table.row([row.consumer, row.verdict.word(lang), &row.findings.join("; ")]);
    }
    out.push_str(&table.markdown());
    if rows.iter().any(|r| r.verdict != Verdict::Full) && !merged {
        out.push('\n');
        out.push_str(lang.pick(
            "`loar export MODEL --adapter DIR --out OUT --format merged` gives a checkpoint that all of them apply whole.\n",
            "`loar export MODEL --adapter DIR --out OUT --format merged` 可得到所有程序都完整应用的检查点。\n",
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(model_type: &str, parts: &[Part]) -> Profile {
        Profile {
            model_type: Some(model_type.into()),
            modules: parts.iter().map(|p| (*p, 1)).collect(),
            rank: 8,
            ..Profile::default()
        }
    }

    fn verdict(p: &Profile, consumer: &str) -> Verdict {
        rows(p, Lang::En).into_iter().find(|r| r.consumer.starts_with(consumer)).expect("a known consumer").verdict
    }

    #[test]
    fn a_plain_llama_adapter_is_applied_by_all() {
        let p = profile("llama", &[Part::AttentionIn, Part::AttentionOut, Part::Dense]);
        assert!(rows(&p, Lang::En).iter().all(|r| r.verdict == Verdict::Full), "{:?}", rows(&p, Lang::En));
    }

    #[test]
    fn latent_attention_is_lost_where_the_graphs_ignore_it() {
        let p = profile("deepseek_v2", &[Part::AttentionIn, Part::KvB, Part::Shared]);
        assert_eq!(verdict(&p, "PEFT"), Verdict::Partial);
        assert_eq!(verdict(&p, "vLLM"), Verdict::Partial);
        assert_eq!(verdict(&p, "SGLang"), Verdict::Full);
        assert_eq!(verdict(&p, "llama.cpp convert"), Verdict::Refused);
        assert_eq!(verdict(&p, "llama.cpp (GGUF"), Verdict::Partial);
        assert_eq!(verdict(&p, "Ollama"), Verdict::Refused);
        let o = profile("deepseek_v3", &[Part::AttentionOut, Part::Routed]);
        assert_eq!(verdict(&o, "PEFT"), Verdict::Full);
        assert_eq!(verdict(&o, "llama.cpp (GGUF"), Verdict::Full);
    }

    #[test]
    fn scaling_beyond_alpha_over_r_is_told() {
        let mut p = profile("qwen2", &[Part::AttentionIn]);
        p.use_rslora = true;
        assert_eq!(verdict(&p, "vLLM"), Verdict::Full);
        assert_eq!(verdict(&p, "SGLang"), Verdict::Partial);
        assert_eq!(verdict(&p, "llama.cpp convert"), Verdict::Partial);
        p.patterns = true;
        assert_eq!(verdict(&p, "vLLM"), Verdict::Partial);
        p.use_dora = true;
        assert_eq!(verdict(&p, "vLLM"), Verdict::Refused);
        assert_eq!(verdict(&p, "PEFT"), Verdict::Full);
    }
}
