//! The Jinja environment of `transformers`, bounded.
//!
//! Takes template sources, gives a minijinja environment with the same block trimming, filters,
//! functions and printing. Never reads files or the clock.

use crate::bounds;
use crate::python::{self, JsonStyle};
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Steps a rendering may take: a turn of the longest released template takes below a thousand, so
/// this is ample for conversations of thousands of turns, and about a second at worst.
const FUEL: u64 = 30_000_000;
/// Longest rendering, in bytes.
pub(crate) const MAX_OUTPUT: usize = 64 << 20;
/// Name under which the fixed moment is in the context; not a Jinja identifier by intention.
pub(crate) const NOW: &str = "loar now";

pub(crate) fn build_environment(sources: &BTreeMap<String, String>) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    bounds::apply(&mut env);
    env.set_formatter(|out, _, value| {
        let text = python::text(value)?;
        out.write_str(&text).map_err(|e| Error::new(ErrorKind::WriteFailure, e.to_string()))
    });
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| python::text(value));
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", strftime_now);
    env.remove_global("debug");
    for (name, source) in sources {
        env.add_template_owned(name.clone(), without_generation_tags(source))?;
    }
    Ok(env)
}

/// `transformers` marks assistant text with `{% generation %}`, which renders nothing; minijinja
/// does not know the tag, so it becomes a block that is always taken.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let (whole, after) = tag.split_at(end + 2);
        let inner = whole.trim_start_matches("{%").trim_end_matches("%}");
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => out.push_str(&whole.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&whole.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(whole),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `tojson` of `transformers`: `json.dumps(…, ensure_ascii=False)`, no HTML escapes.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let mut style = JsonStyle::default();
    if let Some(indent) = kwargs.get::<Option<Value>>("indent")?.filter(|v| !v.is_none()) {
        style.item_separator = ",".into();
        style.indent = Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
        });
    }
    if let Some(pair) = kwargs.get::<Option<Value>>("separators")?.filter(|v| !v.is_none()) {
        style.item_separator = python::text(&pair.get_item_by_index(0)?)?;
        style.key_separator = python::text(&pair.get_item_by_index(1)?)?;
    }
    style.ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    python::json(value, &style).map(Value::from)
}

/// `strftime` on the fixed moment of the request.
fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let now = state.lookup(NOW).and_then(|v| u64::try_from(v).ok()).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            "the template asks for today's date; fix one moment for training and serving (`now_unix`), or set the date it looks for in template_kwargs",
        )
    })?;
    strftime(now, format)
}

fn strftime(unix: u64, format: &str) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (unix / 86_400, unix % 86_400);
    let (year, month, day, day_of_year) = civil(days);
    let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or("");
    let day_name = DAYS.get((days % 7) as usize).copied().unwrap_or("");
    let short = |name: &'static str| name.get(..3).unwrap_or(name);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let _ = match chars.next() {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('j') => write!(out, "{day_of_year:03}"),
            Some('B') => write!(out, "{month_name}"),
            Some('b') => write!(out, "{}", short(month_name)),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", short(day_name)),
            Some('H') => write!(out, "{:02}", second / 3600),
            Some('M') => write!(out, "{:02}", second / 60 % 60),
            Some('S') => write!(out, "{:02}", second % 60),
            Some('%') => write!(out, "%"),
            other => {
                let code = other.map_or(String::new(), String::from);
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now does not know `%{code}`; it knows Y y m d j B b A a H M S"),
                ));
            }
        };
    }
    Ok(out)
}

/// Days since 1970-01-01 → (year, month, day, day of the year).
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    // 400 Gregorian years have 146097 days; skipping them whole bounds the loop.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = days + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, want) in [
            (0, "Thu 1970-01-01 001"),
            (951_782_400, "Tue 2000-02-29 060"),
            (1_735_689_599, "Tue 2024-12-31 366"),
            (1_735_689_600, "Wed 2025-01-01 001"),
        ] {
            assert_eq!(strftime(unix, "%a %Y-%m-%d %j").unwrap(), want);
        }
        assert_eq!(
            strftime(1_735_689_599, "%d %b %Y %H:%M:%S %B %A %y%%").unwrap(),
            "31 Dec 2024 23:59:59 December Tuesday 24%"
        );
        assert!(strftime(0, "%Q").is_err());
    }

    #[test]
    fn generation_tags_vanish() {
        assert_eq!(
            without_generation_tags("a{%- generation %}b{% endgeneration -%}c{% if x %}"),
            "a{%- if true %}b{% endif -%}c{% if x %}"
        );
        assert_eq!(without_generation_tags("open {% generation"), "open {% generation");
    }
}
