//! Filters and methods that one call could make huge, written anew with a limit or taken out.
//!
//! Takes an environment, gives it Python's string methods, and `replace`, `join` and `indent` as
//! Jinja2 has them. Fuel counts steps; this keeps one step from allocating without bound. Not
//! bounded: a template that doubles a string again and again by `+`, which is an attack rather
//! than a fault.

use crate::python::{self, MAX_TEXT};
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Widest indentation; released templates take 4.
const MAX_INDENT: usize = 256;

pub(crate) fn apply(env: &mut Environment<'static>) {
    // No released chat template uses them, and each allocates what its argument says.
    for name in ["batch", "slice", "format", "pprint"] {
        env.remove_filter(name);
    }
    env.add_filter("replace", |text: &Value, from: &Value, to: &Value, count: Option<usize>| {
        replace(&python::text(text)?, &python::text(from)?, &python::text(to)?, count)
    });
    env.add_filter("join", |items: &Value, joiner: Option<&str>| join(items, joiner.unwrap_or_default()));
    env.add_filter("indent", indent);
    env.set_unknown_method_callback(method);
}

fn fault(text: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

fn limit(length: usize) -> Result<(), Error> {
    if length > MAX_TEXT {
        return Err(fault(format!("text would be longer than {MAX_TEXT} bytes")));
    }
    Ok(())
}

fn replace(text: &str, from: &str, to: &str, count: Option<usize>) -> Result<String, Error> {
    let hits = text.matches(from).count().min(count.unwrap_or(usize::MAX));
    limit(text.len().saturating_add(hits.saturating_mul(to.len())))?;
    Ok(text.replacen(from, to, hits))
}

fn join(items: &Value, joiner: &str) -> Result<String, Error> {
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(joiner);
        }
        out.push_str(&python::text(&item)?);
        limit(out.len())?;
    }
    Ok(out)
}

/// `indent(width=4, first=False, blank=False)`.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let space = match &width {
        None => "    ".to_string(),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) => text.to_string(),
            (None, Some(n)) => " ".repeat(n.min(MAX_INDENT + 1)),
            _ => {
                return Err(fault(format!("indent width `{width}` is neither a number nor text")));
            }
        },
    };
    if space.len() > MAX_INDENT {
        return Err(fault(format!("indent wider than {MAX_INDENT}")));
    }
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let wanted = if i == 0 { first } else { blank || !line.is_empty() };
        if wanted {
            out.push_str(&space);
        }
        out.push_str(line);
        limit(out.len())?;
    }
    Ok(out)
}

/// Python's string, list and mapping methods.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name, args) {
        (Some(_), "format" | "format_map", _) => {
            Err(fault("`format` is not supported in chat templates; join texts with `~`".into()))
        }
        (Some(text), "replace", [from, to]) => match (from.as_str(), to.as_str()) {
            (Some(from), Some(to)) => replace(text, from, to, None).map(Value::from),
            _ => Err(fault("replace takes text".into())),
        },
        (Some(text), "replace", [from, to, count]) => match (from.as_str(), to.as_str()) {
            (Some(from), Some(to)) => replace(text, from, to, count.as_usize()).map(Value::from),
            _ => Err(fault("replace takes text".into())),
        },
        (Some(text), "join", [items]) => join(items, text).map(Value::from),
        _ => unknown_method_callback(state, value, name, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_do_what_jinja2_does() {
        let mut env = Environment::new();
        apply(&mut env);
        let render = |text: &str| env.render_str(text, minijinja::context! {}).map_err(|e| e.to_string());
        // Right-hand sides: Jinja2 3.1.6.
        for (source, want) in [
            ("{{ 'a\n\nb'|indent }}|", "a\n\n    b|"),
            ("{{ 'a\n\nb'|indent(2, true, true) }}|", "  a\n  \n  b|"),
            ("{{ 'a\nb'|indent(width='> ') }}|", "a\n> b|"),
            ("{{ [1, 'x', true]|join(', ') }}", "1, x, True"),
            ("{{ ', '.join(['a', 'b']) }}", "a, b"),
            ("{{ 'aXbXc'|replace('X', '-', 1) }} {{ 'aXbXc'.replace('X', '') }}", "a-bXc abc"),
        ] {
            assert_eq!(render(source).as_deref(), Ok(want), "{source}");
        }
        for source in [
            "{{ 'a'|indent(999999999999) }}",
            "{{ ('x' * 99999)|replace('x', 'x' * 99999) }}",
            "{{ ('x' * 99999).replace('x', 'x' * 99999) }}",
            "{{ ('x' * 99999).join('y' * 99999) }}",
            "{{ 'y' * 99999 | join('x' * 99999) }}",
            "{{ [1]|batch(99999999999, 0) }}",
            "{{ '{:>99999999999}'.format(1) }}",
        ] {
            assert!(render(source).is_err(), "{source}");
        }
    }
}
