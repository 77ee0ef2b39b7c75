//! Typed access to a JSON object that collects every fault instead of stopping at the first.
//!
//! Getters return a harmless stand-in after a fault, so that reading goes on; the caller must
//! refuse the result when [`Keys::faults`] is not empty.

use serde_json::{Map, Value};

/// Upper bound of any single size in a config. Real ones stay below 2^21 (positions, vocabulary);
/// products of four such sizes still fit in 128 bits and products of two in 64.
pub(crate) const MAX_SIZE: usize = 1 << 28;

pub(crate) struct Keys<'a> {
    map: &'a Map<String, Value>,
    place: String,
    faults: Vec<String>,
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(60).collect::<String>()) }
}

impl<'a> Keys<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, place: String::new(), faults: Vec::new() }
    }

    pub(crate) fn nested(map: &'a Map<String, Value>, name: &str) -> Self {
        Self { map, place: format!("{name}."), faults: Vec::new() }
    }

    pub(crate) fn faults(self) -> Vec<String> {
        self.faults
    }

    pub(crate) fn take_faults(&mut self, other: Keys<'_>) {
        self.faults.extend(other.faults);
    }

    pub(crate) fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    /// The value of a key; a null counts as absent, as in Python's `None`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn wrong(&mut self, key: &str, expected: &str, value: &Value) {
        self.faults.push(format!("`{}{key}` is `{}`; expected {expected}", self.place, shown(value)));
    }

    fn missing(&mut self, key: &str) {
        self.faults.push(format!("`{}{key}` is missing", self.place));
    }

    /// Whole number from 0 to [`MAX_SIZE`].
    pub(crate) fn opt_count(&mut self, key: &str) -> Option<usize> {
        let value = self.get(key)?;
        // files written by Python may carry a whole number as a float (`4096.0`)
        let number =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match number.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MAX_SIZE) {
            Some(n) => Some(n),
            None => {
                self.wrong(key, &format!("a whole number from 0 to {MAX_SIZE}"), value);
                None
            }
        }
    }

    pub(crate) fn count_or(&mut self, key: &str, default: usize) -> usize {
        self.opt_count(key).unwrap_or(default)
    }

    /// Whole number of at least 1, required.
    pub(crate) fn size(&mut self, key: &str) -> usize {
        if !self.has(key) {
            self.missing(key);
            return 1;
        }
        self.size_or(key, 1)
    }

    pub(crate) fn size_or(&mut self, key: &str, default: usize) -> usize {
        match self.opt_count(key) {
            Some(0) => {
                self.faults.push(format!("`{}{key}` is 0; it must be at least 1", self.place));
                1
            }
            Some(n) => n,
            None => default,
        }
    }

    pub(crate) fn opt_size(&mut self, key: &str) -> Option<usize> {
        self.has(key).then(|| self.size(key))
    }

    pub(crate) fn opt_f64(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let number = value.as_f64().filter(|f| f.is_finite());
        if number.is_none() {
            self.wrong(key, "a number", value);
        }
        number
    }

    /// Number above 0, required.
    pub(crate) fn positive(&mut self, key: &str) -> f64 {
        if !self.has(key) {
            self.missing(key);
            return 1.0;
        }
        self.positive_or(key, 1.0)
    }

    pub(crate) fn positive_or(&mut self, key: &str, default: f64) -> f64 {
        match self.opt_f64(key) {
            Some(n) if n > 0.0 => n,
            Some(n) => {
                self.faults.push(format!("`{}{key}` is {n}; it must be above 0", self.place));
                default
            }
            None => default,
        }
    }

    pub(crate) fn bool_or(&mut self, key: &str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(b)) => *b,
            Some(other) => {
                self.wrong(key, "true or false", other);
                default
            }
        }
    }

    pub(crate) fn opt_str(&mut self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::String(s) => Some(s.clone()),
            other => {
                self.wrong(key, "a string", other);
                None
            }
        }
    }

    pub(crate) fn opt_object(&mut self, key: &str) -> Option<&'a Map<String, Value>> {
        match self.get(key)? {
            Value::Object(map) => Some(map),
            other => {
                self.wrong(key, "an object", other);
                None
            }
        }
    }

    /// Token ids: a number or a list of numbers. A negative id (old files write -1) means none.
    pub(crate) fn token_ids(&mut self, key: &str) -> Vec<u32> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let items = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut ids = Vec::new();
        for item in items {
            match (item.as_i64(), item.as_u64().and_then(|n| u32::try_from(n).ok())) {
                (_, Some(id)) => {
                    if !ids.contains(&id) {
                        ids.push(id);
                    }
                }
                (Some(n), None) if n < 0 => {}
                _ => self.wrong(key, "a token id or a list of token ids", item),
            }
        }
        ids
    }
}
