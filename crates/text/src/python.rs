//! Values the way Python prints them: `json.dumps`, `str` and `repr`.
//!
//! Takes template values, gives text equal to what Jinja2 under `transformers` writes, within a
//! size limit. Never loses key order and never escapes non-ASCII letters unless asked.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// Deepest nesting printed; JSON input is limited to 128 by its reader.
const MAX_DEPTH: usize = 160;
/// Longest text printed, in bytes; nested shared lists would otherwise grow without bound.
pub(crate) const MAX_TEXT: usize = 64 << 20;

/// Arguments of `json.dumps`.
pub(crate) struct JsonStyle {
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

impl Default for JsonStyle {
    fn default() -> Self {
        JsonStyle {
            indent: None,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            ensure_ascii: false,
            sort_keys: false,
        }
    }
}

fn fault(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

fn check(out: &str, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(fault(format!("value is nested deeper than {MAX_DEPTH}")));
    }
    if out.len() > MAX_TEXT {
        return Err(fault(format!("value prints longer than {MAX_TEXT} bytes")));
    }
    Ok(())
}

/// `json.dumps(value, …)`.
pub(crate) fn json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value, style, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    check(out, depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value, ["NaN", "Infinity", "-Infinity"])),
        ValueKind::String => json_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(out, style, i, depth + 1);
                write_json(out, item, style, depth + 1)?;
            }
            close(out, style, items.is_empty(), depth, ']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                separate(out, style, i, depth + 1);
                match key.kind() {
                    ValueKind::String => json_string(out, key.as_str().unwrap_or_default(), style.ensure_ascii),
                    ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                        out.push('"');
                        write_json(out, key, style, depth + 1)?;
                        out.push('"');
                    }
                    kind => return Err(fault(format!("{kind} cannot be a JSON key"))),
                }
                out.push_str(&style.key_separator);
                write_json(out, &value.get_item(key)?, style, depth + 1)?;
            }
            close(out, style, keys.is_empty(), depth, '}');
        }
        kind => return Err(fault(format!("{kind} cannot be written as JSON"))),
    }
    Ok(())
}

fn separate(out: &mut String, style: &JsonStyle, index: usize, depth: usize) {
    if index > 0 {
        out.push_str(&style.item_separator);
    }
    newline(out, style, depth);
}

fn close(out: &mut String, style: &JsonStyle, empty: bool, depth: usize, end: char) {
    if !empty {
        newline(out, style, depth);
    }
    out.push(end);
}

fn newline(out: &mut String, style: &JsonStyle, depth: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && !c.is_ascii()) || (ensure_ascii && c == '\u{7f}') => {
                // Python leaves U+007F as it is, also with ensure_ascii.
                if c == '\u{7f}' {
                    out.push(c);
                } else {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Numbers as `repr` prints them; `odd` names NaN and the infinities.
fn number(value: &Value, odd: [&str; 3]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => odd[0].into(),
        Ok(x) if x.is_infinite() => odd[if x > 0.0 { 1 } else { 2 }].into(),
        Ok(x) => float(x),
        Err(_) => value.to_string(),
    }
}

/// `repr(float)`: shortest digits that read back, scientific below 1e-4 and from 1e16 on.
pub(crate) fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{x}");
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// `str(value)`, which is what `{{ value }}` writes.
pub(crate) fn text(value: &Value) -> Result<String, Error> {
    if let Some(s) = value.as_str() {
        return Ok(s.to_string());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check(out, depth)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value, ["nan", "inf", "-inf"])),
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_does() {
        // Right-hand sides: CPython 3 `repr`.
        for (x, want) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123456.789, "123456.789"),
        ] {
            assert_eq!(float(x), want);
        }
    }

    #[test]
    fn json_prints_as_python_does() {
        let data: serde_json::Value =
            serde_json::from_str(r#"{"z":"<a>\u007f\u0001\"\n中","a":[1,2.0,true,null,[],{}]}"#).unwrap();
        let value = Value::from_serialize(&data);
        assert_eq!(
            json(&value, &JsonStyle::default()).unwrap(),
            "{\"z\": \"<a>\u{7f}\\u0001\\\"\\n中\", \"a\": [1, 2.0, true, null, [], {}]}"
        );
        let style = JsonStyle {
            indent: Some("  ".into()),
            item_separator: ",".into(),
            ensure_ascii: true,
            sort_keys: true,
            ..JsonStyle::default()
        };
        assert_eq!(
            json(&Value::from_serialize(serde_json::json!({"b": "中😀", "a": [1]})), &style).unwrap(),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": \"\\u4e2d\\ud83d\\ude00\"\n}"
        );
        assert_eq!(text(&value).unwrap(), "{'z': '<a>\\x7f\\x01\"\\n中', 'a': [1, 2.0, True, None, [], {}]}");
    }

    #[test]
    fn shared_nesting_is_bounded() {
        let mut value = Value::from("x".repeat(1024));
        for _ in 0..40 {
            value = Value::from(vec![value.clone(), value.clone()]);
        }
        assert!(json(&value, &JsonStyle::default()).unwrap_err().to_string().contains("longer than"));
        assert!(text(&value).is_err());
    }
}
