//! Which tokenizers are read at all.
//!
//! Takes `tokenizer.json`, gives a helpful refusal for anything but byte-level BPE, before the
//! library reads it.

use crate::tokenizer::TokenizerError;
use serde_json::Value;

/// Refuses files of another kind before the library reads them, with a sentence that helps.
pub(crate) fn check_kind(json: &[u8]) -> Result<(), TokenizerError> {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(default)]
        model: Option<Model>,
        #[serde(default)]
        decoder: Option<Value>,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        #[serde(rename = "type", default)]
        kind: Option<String>,
        #[serde(default)]
        merges: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(json)
        .map_err(|e| TokenizerError::Parse { file: "tokenizer.json".into(), reason: e.to_string() })?;
    // Old files leave the type out; merges then tell BPE.
    let model = match kind.model {
        Some(Model { kind: Some(kind), .. }) => kind,
        Some(Model { merges: Some(_), .. }) => "BPE".into(),
        _ => "none".into(),
    };
    if model != "BPE" {
        return Err(TokenizerError::NotByteLevel { part: "model", found: model });
    }
    let decoder = kind.decoder.unwrap_or(Value::Null);
    if !names_byte_level(&decoder) {
        let found = decoder.get("type").and_then(Value::as_str).unwrap_or("none").to_string();
        return Err(TokenizerError::NotByteLevel { part: "decoder", found });
    }
    Ok(())
}

fn names_byte_level(decoder: &Value) -> bool {
    match decoder.get("type").and_then(Value::as_str) {
        Some("ByteLevel") => true,
        Some("Sequence") => {
            decoder.get("decoders").and_then(Value::as_array).is_some_and(|list| list.iter().any(names_byte_level))
        }
        _ => false,
    }
}
