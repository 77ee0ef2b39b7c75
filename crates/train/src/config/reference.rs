//! `docs/config.md`, written from the same table that reads run files, so that it cannot be wrong
//! about a key, a type or a default.

use super::resolve::{BaseFacts, Defaults, Source};
use super::{FIELDS, Method, SECTIONS};

/// The manual of run files, as Markdown.
pub fn reference() -> String {
    let context = Defaults {
        base: BaseFacts { max_position_embeddings: 4096, num_hidden_layers: 1 },
        name: "NAME",
        method: Method::Lora,
        max_seq_len: 4096,
        eval_files: false,
        steps: false,
        batch_tokens: false,
        warmup_steps: false,
    };
    let mut out = String::from(
        "# Run files\n\n\
         <!-- Generated from crates/train/src/config.rs. `LOAR_BLESS=1 cargo test -p loar-train --test config` writes it anew. -->\n\n\
         One TOML file describes one run: `loar train RUN.toml`. Any value can be set on the command line as well:\n\
         `--set train.learning_rate=1e-4`. An unknown key is an error. Paths are relative to the folder in which `loar`\n\
         is started. The run folder keeps the file as written (`run.toml`) and with every value decided\n\
         (`resolved.toml`); the latter is itself a run file.\n",
    );
    for (section, doc) in SECTIONS {
        out.push_str(&format!("\n## [{section}]\n\n{}\n\n", join(doc)));
        out.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        for field in FIELDS.iter().filter(|f| f.section == *section) {
            let (value, source) = (field.default)(&context);
            let default = match (value, source) {
                (None, _) => "**required**".to_owned(),
                (Some(value), Source::Default) if field.why.is_empty() => format!("`{value}`"),
                (Some(value), Source::Default) => format!("`{value}`: {}", field.why),
                (Some(_), _) => field.why.to_owned(),
            };
            out.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                field.key,
                (field.kind)(),
                default,
                join(field.doc).replace('|', "\\|")
            ));
        }
    }
    out
}

fn join(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
