//! LaTeX environments in prose: `$…$`, `\(…\)` on one line; `$$…$$`, `\[…\]` over several.

use std::ops::Range;

use super::unit;

/// Longest text between two environments that belong together, in bytes.
const JOIN: usize = 12;

/// The last environment, with those in front that only "and", "or" or a comma parts from it, and a percent
/// sign or unit behind it: (where it ends, formula).
pub fn last(text: &str) -> Option<(usize, String)> {
    let found = all(text);
    let mut first = found.len().checked_sub(1)?;
    while first > 0 && joins(&text[found[first - 1].1.end..found[first].1.start]) {
        first -= 1;
    }
    let parts: Vec<&str> = found[first..].iter().map(|(inner, _)| text[inner.clone()].trim()).collect();
    let mut end = found.last()?.1.end;
    let mut formula = parts.join(", ");
    let behind = &text[end..];
    if percent_behind(behind) {
        formula.push_str("\\%");
    } else if parts.len() == 1
        && let Some(word) = behind.strip_prefix(' ').and_then(|b| b.split([' ', '.', ',', '\n']).next())
        && word.len() > 1
        && unit::known(word)
    {
        formula = format!("{formula} \\text{{{word}}}");
        end += 1 + word.len();
    }
    (!formula.trim().is_empty()).then_some((end, formula))
}

/// Whether a text has environments and words around them that are no part of a formula.
pub fn in_prose(text: &str) -> bool {
    let found = all(text);
    let mut outside = String::new();
    let mut at = 0;
    for (_, whole) in &found {
        outside.push_str(&text[at..whole.start]);
        outside.push(' ');
        at = whole.end;
    }
    outside.push_str(&text[at..]);
    let words = outside.split(|c: char| !c.is_alphabetic()).filter(|w| w.len() > 1);
    !found.is_empty()
        && words.into_iter().any(|w| !["and", "or", "和", "或", "percent", "pct"].contains(&w) && !unit::known(w))
}

/// Whether a percent sign, or the word, comes next.
pub fn percent_behind(text: &str) -> bool {
    let rest = text.trim_start_matches([' ', '$', '\\']);
    rest.starts_with('%') || ["percent", "pct", "per cent"].iter().any(|w| rest.starts_with(w))
}

/// The content of a block environment that starts a text.
pub fn block_at_start(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let (body, close) =
        text.strip_prefix("\\[").map(|b| (b, "\\]")).or_else(|| text.strip_prefix("$$").map(|b| (b, "$$")))?;
    let end = body.find(close)?;
    Some(body[..end].trim()).filter(|inner| !inner.is_empty())
}

fn joins(between: &str) -> bool {
    let words = between.trim_matches(|c: char| c.is_whitespace() || ",;".contains(c));
    between.len() <= JOIN && ["", "and", "or", "和", "或"].contains(&words)
}

/// Every environment in order: (content, all of it). One pass; an environment that does not close is none.
fn all(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 0;
    while let Some(next) = text[at..].find(['$', '\\']).map(|n| at + n) {
        let rest = &text[next..];
        let (open, close, block) = if rest.starts_with("$$") {
            ("$$", "$$", true)
        } else if rest.starts_with('$') {
            ("$", "$", false)
        } else if rest.starts_with("\\[") {
            ("\\[", "\\]", true)
        } else if rest.starts_with("\\(") {
            ("\\(", "\\)", false)
        } else {
            // an escaped character is none of these
            at = next + 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
            continue;
        };
        let body = next + open.len();
        // looked up once a line, not once an environment
        if line < body {
            line = text[body..].find('\n').map_or(text.len(), |n| body + n);
        }
        let limit = if block { text.len() } else { line };
        match closing(&text[body..limit], close) {
            Some(end) => {
                found.push((body..body + end, next..body + end + close.len()));
                at = body + end + close.len();
            }
            // nothing closes up to here: no later opening of this sort in the range can close either
            None if block => at = body,
            None => at = limit,
        }
        if block && found.last().is_none_or(|(inner, _)| inner.start != body) {
            // an unclosed block ends the search: what follows it is not prose
            break;
        }
    }
    found
}

/// Where the closing sign stands, escaped dollars left out.
fn closing(body: &str, close: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = body[at..].find(close) {
        let end = at + found;
        let escaped = close.starts_with('$') && body[..end].ends_with('\\');
        if !escaped {
            return Some(end);
        }
        at = end + close.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula(text: &str) -> Option<String> {
        last(text).map(|(_, f)| f)
    }

    #[test]
    fn the_last_environment_counts() {
        assert_eq!(formula("Since $a=1$ we get $b=2$ here.").as_deref(), Some("b=2"));
        assert_eq!(formula("$1$ and $2$ and $3$").as_deref(), Some("1, 2, 3"));
        assert_eq!(formula("$28$ %").as_deref(), Some("28\\%"));
        assert_eq!(formula("$125$ miles").as_deref(), Some("125 \\text{miles}"));
        assert_eq!(formula("so \\[ \n 9 \n \\]").as_deref(), Some("9"));
        assert_eq!(formula("so $$ \n 9 \n $$").as_deref(), Some("9"));
    }

    #[test]
    fn inline_environments_end_with_their_line() {
        assert_eq!(formula("so $ \n 9 \n $"), None);
        assert_eq!(formula("so \\( \n 9 \n \\)"), None);
        assert_eq!(formula("it costs \\$5"), None);
    }
}
