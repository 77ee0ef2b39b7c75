//! What a measurement found: one JSON object, or two columns for people.

use loar_kernels::machine::Peaks;
use loar_kernels::{Pool, Precision};
use serde_json::{Map, Value, json};

use crate::bench::machine;
use crate::console::{Console, Style, bytes};
use crate::table::Table;

/// Fields in the order in which they are shown.
#[derive(Debug, Default)]
pub struct Record {
    fields: Map<String, Value>,
    /// A table under the fields, for measurements of many cases.
    pub table: Option<Table>,
}

impl Record {
    pub fn new(what: &str) -> Self {
        let mut record = Self::default();
        record.set("bench", what);
        record
    }

    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.into(), value.into());
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// `rate` GFLOP/s and its share of the peak of the precision.
    pub fn set_gflops(&mut self, rate: f64, precision: Precision, peaks: &Peaks) {
        self.set("gflops", rate);
        self.set("share_of_peak", rate / machine::gflops(peaks, precision));
    }

    /// Where and with which program.
    pub fn set_machine(&mut self, pool: &Pool, peaks: &Peaks) {
        self.set("machine", machine::describe(pool, peaks));
        self.set("version", env!("CARGO_PKG_VERSION"));
        self.set("commit", env!("LOAR_COMMIT"));
    }

    /// Writes it as one line of JSON, or as text.
    pub fn write(self, json: bool, console: &Console) -> std::io::Result<()> {
        if json {
            return console.line(Value::Object(self.fields));
        }
        let mut table = Table::new(&["<", "<"]);
        let tabled = |value: &Value| {
            self.table.is_some() && value.as_array().is_some_and(|all| all.iter().all(Value::is_object))
        };
        for (name, value) in self.fields.iter().filter(|(_, value)| !tabled(value)) {
            table.row([name.as_str(), &shown(name, value)]);
        }
        // the two titles are empty: the lines of the table alone
        for line in table.render(0).lines().skip(2) {
            console.line(line)?;
        }
        if let Some(table) = &self.table {
            console.line("")?;
            console.write(table.render(0))?;
        }
        if self.get("identical") == Some(&json!(false)) {
            let text = console
                .pick("one path alone gives other bytes than among several", "单独一条路径与多条同算的结果不一致");
            console.line(console.paint(Style::Red, text))?;
        }
        Ok(())
    }
}

/// A value for people, by the unit that ends its name.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if name.ends_with("_bytes") || name.contains("_bytes_per_token") => {
            bytes(n.as_f64().unwrap_or(0.0) as u64)
        }
        Value::Number(n) if name.ends_with("_bytes_per_s") => {
            format!("{:.1} GB/s", n.as_f64().unwrap_or(0.0) / 1e9)
        }
        Value::Number(n) if name.contains("share_of") => format!("{:.1} %", 100.0 * n.as_f64().unwrap_or(0.0)),
        Value::Number(n) if n.is_f64() => {
            let n = n.as_f64().unwrap_or(0.0);
            if n.abs() >= 100.0 { format!("{n:.0}") } else { format!("{n:.3}") }
        }
        Value::Array(all) => all.iter().map(|v| shown(name, v)).collect::<Vec<_>>().join(" "),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k} {}", shown(k, v))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_for_people() {
        assert_eq!(shown("share_of_peak", &json!(0.856)), "85.6 %");
        assert_eq!(shown("peak_rss_bytes", &json!(3u64 << 29)), "1.5 GiB");
        assert_eq!(shown("read_bytes_per_s", &json!(25.2e9)), "25.2 GB/s");
        assert_eq!(shown("seconds", &json!([1.0, 2.5])), "1.000 2.500");
        assert_eq!(shown("peaks", &json!({"gflops": 440.0, "name": "x"})), "gflops 440, name x");
    }
}
