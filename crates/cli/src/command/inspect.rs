//! `loar inspect`: what a checkpoint or adapter folder holds, and everything suspicious about it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::adapter_inspection::AdapterInspection;
use crate::compat;
use crate::console::{Console, Style, bytes, grouped, short};
use crate::diagnose::Failure;
use crate::inspection::{Inspection, IssueFacts};
use crate::model_dir::require_dir;
use crate::table::Table;

/// Say what a checkpoint or adapter folder holds and what is suspicious about it
///
/// Reads headers and small files only. Exits with 1 when the folder cannot be used as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folder, or PEFT adapter folder
    path: PathBuf,
    /// Checkpoint an adapter was made on, where the adapter does not name its folder
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    require_dir(&args.path)?;
    if let Some(base) = &args.base {
        require_dir(base)?;
    }
    let is_adapter = args.path.join("adapter_config.json").exists() && !args.path.join("config.json").exists();
    let broken = if is_adapter {
        let found = AdapterInspection::of(&args.path, args.base.as_deref(), console.lang);
        if args.json {
            console.line(serde_json::to_string_pretty(&found)?)?;
        } else {
            console.write(adapter_text(&found, console))?;
        }
        found.is_broken()
    } else {
        let found = Inspection::of(&args.path);
        if args.json {
            console.line(serde_json::to_string_pretty(&found)?)?;
        } else {
            console.write(model_text(&found, console))?;
        }
        found.is_broken()
    };
    Ok(ExitCode::from(u8::from(broken)))
}

/// Two aligned columns: what and its value.
struct Facts {
    lines: Vec<(String, String)>,
}

impl Facts {
    fn new() -> Self {
        Self { lines: Vec::new() }
    }
    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.lines.push((name.to_owned(), value.into()));
    }
    fn render(&self) -> String {
        let widest = self.lines.iter().map(|(n, _)| crate::table::width(n)).max().unwrap_or(0);
        self.lines.iter().map(|(n, v)| format!("  {n}{}  {v}\n", " ".repeat(widest - crate::table::width(n)))).collect()
    }
}

fn model_text(m: &Inspection, console: &Console) -> String {
    let mut out = format!("{}\n", console.heading(&m.path));
    let mut facts = Facts::new();
    if let Some(a) = &m.architecture {
        facts.add(
            console.pick("architecture", "架构"),
            format!("{}, {} layers of {}", a.model_type, a.num_hidden_layers, a.hidden_size),
        );
        facts.add(console.pick("attention", "注意力"), a.attention.as_str());
        facts.add(console.pick("feed-forward", "前馈"), a.feed_forward.as_str());
        facts.add(console.pick("rope", "旋转位置"), a.rope.as_str());
        let tied = if a.tie_word_embeddings { ", head tied to the embedding" } else { "" };
        facts.add(
            console.pick("vocabulary", "词表"),
            format!(
                "{} rows{tied}; longest sequence {}",
                grouped(a.vocab_size as u64),
                grouped(a.max_position_embeddings as u64)
            ),
        );
    }
    if m.parameters > 0 {
        let active = if m.active_parameters == m.parameters {
            String::new()
        } else {
            format!(", {} active per token", short(m.active_parameters))
        };
        facts.add(
            console.pick("parameters", "参数"),
            format!("{} ({}){active}", short(m.parameters), grouped(m.parameters)),
        );
        facts.add(
            console.pick("memory", "内存"),
            format!("{} as bf16, {} as f32", bytes(m.memory.bf16_bytes), bytes(m.memory.f32_bytes)),
        );
    }
    if m.memory.files > 0 {
        facts.add(
            console.pick("stored", "存储"),
            format!(
                "{} in {} file{}",
                bytes(m.memory.stored_bytes),
                m.memory.files,
                if m.memory.files == 1 { "" } else { "s" }
            ),
        );
    }
    if let Some(q) = &m.quantization {
        facts.add(
            console.pick("quantised", "量化"),
            format!(
                "{}: {} matrices of {} numbers in {} ({:.2} bits a number, scales included)",
                q.dtype,
                grouped(q.matrices as u64),
                short(q.parameters),
                bytes(q.bytes),
                8.0 * q.bytes as f64 / q.parameters.max(1) as f64
            ),
        );
    }
    text_facts(m, console, &mut facts);
    out.push_str(&facts.render());
    if !m.components.is_empty() {
        let mut table = Table::new(&[
            console.pick("component", "组成").to_owned(),
            format!(">{}", console.pick("tensors", "张量")),
            format!(">{}", console.pick("parameters", "参数")),
            format!(">{}", console.pick("stored", "存储")),
            console.pick("dtype", "类型").to_owned(),
        ]);
        for c in &m.components {
            let dtypes: Vec<String> = match c.dtypes.len() {
                1 => c.dtypes.keys().cloned().collect(),
                _ => c.dtypes.iter().map(|(d, n)| format!("{d} ×{n}")).collect(),
            };
            table.row([
                c.component.clone(),
                grouped(c.tensors as u64),
                grouped(c.parameters),
                bytes(c.bytes),
                dtypes.join(", "),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render(2));
    }
    out.push_str(&issues_text(&m.issues, console));
    out
}

fn text_facts(m: &Inspection, console: &Console, facts: &mut Facts) {
    if let Some(t) = &m.tokenizer {
        let token = |name: &str, token: &Option<(String, u32)>| match token {
            Some((text, id)) => format!("{name} {text} {id}"),
            None => format!("{name} –"),
        };
        facts.add(
            console.pick("tokenizer", "分词器"),
            format!(
                "{} ids; {}, {}, {}{}",
                grouped(t.vocab_size as u64),
                token("bos", &t.bos),
                token("eos", &t.eos),
                token("pad", &t.pad),
                if t.add_bos { "; adds bos" } else { "" }
            ),
        );
        if !t.control.is_empty() {
            let list: Vec<String> = t.control.iter().map(|(s, id)| format!("{s} {id}")).collect();
            facts.add(console.pick("control tokens", "控制词元"), list.join(", "));
        }
    }
    if let Some(t) = &m.template {
        facts.add(
            console.pick("template", "对话模板"),
            format!("{}, {}{}", t.origin, bytes(t.bytes as u64), if t.writes_bos { ", writes bos" } else { "" }),
        );
    }
    if !m.generation.is_empty() {
        let list: Vec<String> = m.generation.iter().map(|(k, v)| format!("{k} {v}")).collect();
        facts.add(console.pick("generation", "生成默认值"), list.join(", "));
    }
    if !m.licences.is_empty() {
        facts.add(console.pick("licence", "许可"), m.licences.join(", "));
    }
}

fn adapter_text(a: &AdapterInspection, console: &Console) -> String {
    let mut out = format!("{}\n", console.heading(&a.path));
    if a.r > 0 {
        let mut facts = Facts::new();
        let kind = match (a.use_dora, a.use_rslora) {
            (true, true) => "DoRA, rsLoRA scaling",
            (true, false) => "DoRA",
            (false, true) => "rsLoRA",
            (false, false) => "LoRA",
        };
        facts.add(
            console.pick("adapter", "适配器"),
            format!("{kind}, rank {}, alpha {}, scaling {:.4}", a.r, a.lora_alpha, a.scaling),
        );
        facts.add(console.pick("base", "基座"), a.base_model_name_or_path.as_deref().unwrap_or("–"));
        facts.add(console.pick("targets", "目标模块"), a.target_modules.as_str());
        facts.add(console.pick("parameters", "参数"), format!("{} in {}", grouped(a.parameters), bytes(a.bytes)));
        facts.add(console.pick("layers", "层"), ranges(&a.layers));
        out.push_str(&facts.render());
    }
    if !a.modules.is_empty() {
        let mut table = Table::new(&[
            console.pick("module", "模块").to_owned(),
            format!(">{}", console.pick("modules", "个数")),
            format!(">{}", console.pick("parameters", "参数")),
            console.pick("dtype", "类型").to_owned(),
        ]);
        for m in &a.modules {
            let dtypes: Vec<String> = m.dtypes.iter().cloned().collect();
            table.row([m.name.clone(), grouped(m.modules as u64), grouped(m.parameters), dtypes.join(", ")]);
        }
        out.push('\n');
        out.push_str(&table.render(2));
    }
    if !a.compatibility.is_empty() {
        out.push('\n');
        out.push_str(&compat::table(&a.compatibility, console.lang).render(2));
    }
    out.push_str(&issues_text(&a.issues, console));
    out
}

/// `0–3, 7`.
fn ranges(sorted: &[usize]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut rest = sorted;
    while let Some(first) = rest.first() {
        let n = rest.iter().zip(*first..).take_while(|(a, b)| **a == *b).count();
        let last = first + n - 1;
        out.push(if n == 1 { first.to_string() } else { format!("{first}–{last}") });
        rest = &rest[n..];
    }
    if out.is_empty() { "–".into() } else { out.join(", ") }
}

fn issues_text(issues: &[IssueFacts], console: &Console) -> String {
    /// Issues of one severity shown before the rest is counted.
    const SHOWN: usize = 20;
    if issues.is_empty() {
        return format!("\n{}\n", console.paint(Style::Green, console.pick("nothing suspicious", "未发现可疑之处")));
    }
    let mut out = String::from("\n");
    for (severity, style, zh) in
        [("error", Style::Red, "错误"), ("warning", Style::Yellow, "警告"), ("note", Style::Cyan, "提示")]
    {
        let of: Vec<&IssueFacts> = issues.iter().filter(|i| i.severity == severity).collect();
        for issue in of.iter().take(SHOWN) {
            out.push_str(&format!("{}: {}\n", console.paint(style, console.pick(severity, zh)), issue.text));
        }
        if of.len() > SHOWN {
            out.push_str(&format!(
                "{}: and {} more; --json lists all\n",
                console.paint(style, console.pick(severity, zh)),
                of.len() - SHOWN
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn layers_are_written_as_ranges() {
        assert_eq!(ranges(&[]), "–");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
    }
}
