//! The answer as JSON against a JSON Schema.
//!
//! The keywords understood: `type`, `enum`, `const`, `properties`, `required`, `additionalProperties` (true,
//! false or a schema), `items` (one schema), `minItems`, `maxItems`, `uniqueItems`, `minLength`, `maxLength`,
//! `pattern` (the `regex` crate's syntax), `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`,
//! `anyOf`, `allOf`, `oneOf`, `not`; `title`, `description`, `$schema`, `$id`, `$comment`, `default` and
//! `examples` are passed over. A schema with any other keyword is refused: a check that is left out silently
//! is worse than none. The verdict is the last step's.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use super::fault::{Fault, Faults};
use super::{Claim, Findings, Verification, Verifier};

const UNDERSTOOD: [&str; 20] = [
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "anyOf",
    "allOf",
    "oneOf",
];
const PASSED_OVER: [&str; 8] = ["title", "description", "$schema", "$id", "$comment", "default", "examples", "not"];
const MAX_DEPTH: usize = 64;

/// Checks an answer's schema; see the module.
#[derive(Debug, Clone)]
pub struct SchemaVerifier {
    schema: Value,
}

impl SchemaVerifier {
    /// Reads a schema from a file.
    ///
    /// # Errors
    /// When it is no JSON, and for every keyword that is not understood.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let file = path.display().to_string();
        let fault = |line: usize, text: String| Fault { file: file.clone(), line, text };
        let text = std::fs::read_to_string(path).map_err(|e| Faults(vec![fault(1, format!("cannot be read: {e}"))]))?;
        let schema = serde_json::from_str(&text).map_err(|e| Faults(vec![fault(e.line().max(1), e.to_string())]))?;
        Self::new(schema).map_err(|all| Faults(all.into_iter().map(|text| fault(1, text)).collect()))
    }

    /// Takes a schema.
    ///
    /// # Errors
    /// Every keyword that is not understood, with its place.
    pub fn new(schema: Value) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        understand(&schema, "#", 0, &mut faults);
        if faults.is_empty() { Ok(Self { schema }) } else { Err(faults) }
    }

    /// Where a value breaks the schema; empty when it does not.
    pub fn breaches(&self, value: &Value) -> Vec<String> {
        let mut breaches = Vec::new();
        check(&self.schema, value, "answer", &mut breaches);
        breaches
    }
}

impl Verifier for SchemaVerifier {
    fn name(&self) -> &str {
        "schema"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if let (Some(last), Some(answer)) = (claim.steps.len().checked_sub(1), claim.answer) {
            match serde_json::from_str(&answer.written) {
                Ok(value) => {
                    let breaches = self.breaches(&value);
                    let text =
                        if breaches.is_empty() { "the answer fits the schema".to_owned() } else { breaches.join("; ") };
                    findings.add(last, breaches.is_empty(), text);
                }
                Err(e) => findings.add(last, false, format!("the answer is no JSON: {e}")),
            }
        }
        findings.verification(self)
    }
}

/// Finds what is not understood in a schema.
fn understand(schema: &Value, place: &str, depth: usize, faults: &mut Vec<String>) {
    let object = match schema {
        Value::Bool(_) => return,
        Value::Object(object) if depth < MAX_DEPTH => object,
        Value::Object(_) => {
            return faults.push(format!("{place}: schemas lie more than {MAX_DEPTH} deep in each other"));
        }
        _ => return faults.push(format!("{place}: a schema is an object, true or false")),
    };
    for (key, value) in object {
        let at = format!("{place}/{key}");
        match (key.as_str(), value) {
            ("properties", Value::Object(inner)) => {
                inner.iter().for_each(|(k, v)| understand(v, &format!("{at}/{k}"), depth + 1, faults))
            }
            ("anyOf" | "allOf" | "oneOf", Value::Array(all)) if !all.is_empty() => {
                all.iter().enumerate().for_each(|(n, v)| understand(v, &format!("{at}/{n}"), depth + 1, faults));
            }
            ("additionalProperties" | "items" | "not", v) => understand(v, &at, depth + 1, faults),
            ("pattern", Value::String(p)) => drop(Regex::new(p).map_err(|e| faults.push(format!("{at}: {e}")))),
            ("type", v) if types(v).is_none() => faults.push(format!("{at}: no JSON type")),
            ("enum" | "required", Value::Array(_)) | ("uniqueItems", Value::Bool(_)) | ("type" | "const", _) => (),
            ("minItems" | "maxItems" | "minLength" | "maxLength", v) if v.is_u64() => (),
            ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", v) if v.is_number() => (),
            (known, _) if UNDERSTOOD.contains(&known) => faults.push(format!("{at}: has a value of the wrong kind")),
            (known, _) if PASSED_OVER.contains(&known) => (),
            _ => faults.push(format!("{at}: keyword not understood; understood are {}", UNDERSTOOD.join(", "))),
        }
    }
}

fn types(value: &Value) -> Option<Vec<&str>> {
    const KNOWN: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];
    let names: Vec<&str> = match value {
        Value::String(name) => vec![name.as_str()],
        Value::Array(all) => all.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    names.iter().all(|n| KNOWN.contains(n)).then_some(names)
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        _ => value.is_number(),
    }
}

/// Equality of JSON: numbers by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

fn fits(schema: &Value, value: &Value) -> bool {
    let mut breaches = Vec::new();
    check(schema, value, "", &mut breaches);
    breaches.is_empty()
}

fn check(schema: &Value, value: &Value, place: &str, breaches: &mut Vec<String>) {
    let object: &Map<String, Value> = match schema {
        Value::Bool(false) => return breaches.push(format!("{place}: nothing is allowed here")),
        Value::Object(object) => object,
        _ => return,
    };
    let none = Map::new();
    let fields = value.as_object();
    let properties = object.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (key, rule) in object {
        let list = || rule.as_array().map(Vec::as_slice).unwrap_or_default();
        let count = || rule.as_u64().unwrap_or(0) as usize;
        let bound = rule.as_f64().unwrap_or(0.0);
        let length = value.as_str().map(|s| s.chars().count());
        let (items, number) = (value.as_array(), value.as_f64());
        let broken = match key.as_str() {
            "type" => !types(rule).unwrap_or_default().iter().any(|name| is_type(value, name)),
            "enum" => !list().iter().any(|one| same(one, value)),
            "const" => !same(rule, value),
            "minItems" => items.is_some_and(|i| i.len() < count()),
            "maxItems" => items.is_some_and(|i| i.len() > count()),
            "uniqueItems" => {
                rule == &Value::Bool(true)
                    && items.is_some_and(|i| (1..i.len()).any(|n| i[..n].iter().any(|x| same(x, &i[n]))))
            }
            "minLength" => length.is_some_and(|n| n < count()),
            "maxLength" => length.is_some_and(|n| n > count()),
            "pattern" => value
                .as_str()
                .is_some_and(|s| rule.as_str().and_then(|p| Regex::new(p).ok()).is_some_and(|p| !p.is_match(s))),
            "minimum" => number.is_some_and(|n| n < bound),
            "maximum" => number.is_some_and(|n| n > bound),
            "exclusiveMinimum" => number.is_some_and(|n| n <= bound),
            "exclusiveMaximum" => number.is_some_and(|n| n >= bound),
            "anyOf" => !list().iter().any(|one| fits(one, value)),
            "oneOf" => list().iter().filter(|one| fits(one, value)).count() != 1,
            "not" => fits(rule, value),
            "allOf" => {
                list().iter().for_each(|one| check(one, value, place, breaches));
                false
            }
            "required" => {
                let missing =
                    list().iter().filter_map(Value::as_str).filter(|k| fields.is_some_and(|f| !f.contains_key(*k)));
                breaches.extend(missing.map(|k| format!("{place}: `{k}` is missing")));
                false
            }
            "properties" => {
                for (name, inner) in properties {
                    if let Some(v) = fields.and_then(|f| f.get(name)) {
                        check(inner, v, &format!("{place}.{name}"), breaches);
                    }
                }
                false
            }
            "additionalProperties" => {
                for (name, v) in fields.into_iter().flatten().filter(|(name, _)| !properties.contains_key(*name)) {
                    check(rule, v, &format!("{place}.{name}"), breaches);
                }
                false
            }
            "items" => {
                for (n, v) in items.into_iter().flatten().enumerate() {
                    check(rule, v, &format!("{place}[{n}]"), breaches);
                }
                false
            }
            _ => false,
        };
        if broken {
            breaches.push(format!("{place}: `{key}` {rule} does not hold"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_holds_or_says_where_not() {
        let schema = json!({
            "type": "object", "required": ["risk", "score"], "additionalProperties": false,
            "properties": {
                "risk": {"enum": ["low", "high"]}, "score": {"type": "number", "minimum": 0, "maximum": 1},
                "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}, "uniqueItems": true}
            }
        });
        let schema = SchemaVerifier::new(schema).unwrap();
        assert!(schema.breaches(&json!({"risk": "low", "score": 0.5, "tags": ["a", "b"]})).is_empty());
        let all = schema.breaches(&json!({"risk": "mid", "tags": ["a", "a", "B"], "x": 1}));
        assert_eq!(all.len(), 5, "{all:?}");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let faults = SchemaVerifier::new(json!({"if": {}, "properties": {"a": {"format": "date"}}})).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
