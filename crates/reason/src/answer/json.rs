//! JSON values as answers: objects without order, numbers by value, texts as written.

use num_rational::BigRational;
use serde_json::Value;

use super::number;

/// A whole answer that is JSON, perhaps in a Markdown fence. Scalars count only where JSON is asked
/// for: 5 is a number first.
pub fn read(text: &str, known: bool) -> Option<Value> {
    let text = text.trim();
    let inner = text.strip_prefix("```json").or_else(|| text.strip_prefix("```")).unwrap_or(text);
    let inner = inner.strip_suffix("```").unwrap_or(inner).trim();
    let structured = inner.starts_with(['{', '[']) && inner.contains('"');
    if !known && !structured {
        return None;
    }
    // serde_json bounds the depth at 128
    serde_json::from_str(inner).ok()
}

/// The last outermost object or array in a text.
pub fn last(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let (mut at, mut best, mut starts) = (0, None, 0);
    while at < bytes.len() {
        // each start reads at most what it accepts; a failed start costs a bounded look
        if (bytes[at] == b'{' || bytes[at] == b'[') && starts < 4096 {
            starts += 1;
            let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
            if let Some(Ok(_)) = stream.next() {
                let end = at + stream.byte_offset();
                best = Some(&text[at..end]);
                at = end;
                continue;
            }
        }
        at += 1;
    }
    best
}

/// Equality of values.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => match (exact(a), exact(b)) {
            (Some(x), Some(y)) => x == y,
            _ => a == b,
        },
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, a)| y.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn exact(value: &Value) -> Option<BigRational> {
    let text = value.to_string();
    number::scan(&text, number::Style::default()).filter(|(_, used)| *used == text.len()).map(|(n, _)| n.value)
}

/// Keys in order of the alphabet, no spaces, numbers as exact fractions would be no JSON: as written.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let inner: Vec<_> =
                entries.iter().map(|(key, v)| format!("{}:{}", Value::String((*key).clone()), canonical(v))).collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_no_order_and_numbers_a_value() {
        let value = |text: &str| read(text, true).unwrap();
        assert!(same(&value(r#"{"a":1,"b":[2.0]}"#), &value("```json\n{\"b\":[2],\"a\":1.0}\n```")));
        assert!(!same(&value("[1,2]"), &value("[2,1]")));
        assert_eq!(canonical(&value(r#"{"b": 1, "a": [true, null]}"#)), r#"{"a":[true,null],"b":1}"#);
        assert_eq!(last(r#"first {"a":1} then {"b":{"c":2}} end"#), Some(r#"{"b":{"c":2}}"#));
        assert_eq!(last("{ no json"), None);
    }
}
