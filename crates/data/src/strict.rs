//! JSON text → value, with object keys in file order and a key that occurs twice refused: plain
//! `serde_json` would keep the last one and lose the other without a word. Nesting is bounded by
//! serde_json's own limit of 128.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use crate::fault::{FaultKind, RowFault, describe, quote};

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

/// Marks our own error among serde_json's, which offers only text.
const TWICE: &str = "key occurs twice: ";

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{TWICE}{}", quote(&key))));
            }
            let Strict(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Parses one row.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, RowFault> {
    match value(bytes)? {
        Value::Object(map) => Ok(map),
        other => Err(RowFault::new("", FaultKind::NotAnObject, describe(&other))),
    }
}

/// Parses one value; the fault carries the column, counted in bytes from 1.
pub(crate) fn value(bytes: &[u8]) -> Result<Value, RowFault> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or_default();
            let found = format!("the byte 0x{byte:02x} at byte {} of the row", at + 1);
            return Err(RowFault::new("", FaultKind::InvalidUtf8, found));
        }
    };
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(value)) => Ok(value),
        Err(error) => {
            let full = error.to_string();
            if let Some(rest) = full.strip_prefix(TWICE) {
                let key = rest.split(" at line ").next().unwrap_or(rest);
                return Err(RowFault::new("", FaultKind::DuplicateKey, key));
            }
            if error.classify() == Category::Eof {
                let found = format!("{} bytes that end in {}", text.len(), quote(tail(text)));
                return Err(RowFault::new("", FaultKind::TruncatedJson, found));
            }
            let what = full.split(" at line ").next().unwrap_or(&full);
            let place = if error.line() > 1 {
                format!("line {} of the row, column {}", error.line(), error.column())
            } else {
                format!("column {}", error.column())
            };
            Err(RowFault::new("", FaultKind::InvalidJson, format!("at {place}: {what}")))
        }
    }
}

fn tail(text: &str) -> &str {
    let start = text.char_indices().rev().nth(19).map_or(0, |(at, _)| at);
    text.get(start..).unwrap_or(text)
}
