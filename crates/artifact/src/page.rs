//! Pieces of a report page: escaping, tables, bars, the style sheet. No script, no font, no address:
//! a page stands alone, in light and dark, on paper too.

use std::fmt::Write;

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Whole numbers with thin groups of three.
pub fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Seconds for people.
pub fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// A table; columns whose head begins with `#` hold numbers and stand right.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let class = |i: usize| if heads.get(i).is_some_and(|h| h.starts_with('#')) { " class=\"n\"" } else { "" };
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (i, head) in heads.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), escape(head.trim_start_matches('#')));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{cell}</td>", class(i));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

/// A figure at the head of the page.
pub fn card(name: &str, value: &str, note: &str) -> String {
    format!("<div class=\"card\"><span>{}</span><b>{}</b><i>{}</i></div>", escape(name), escape(value), escape(note))
}

/// Columns over named bins, as an SVG figure. `bins` are (name, count).
pub fn histogram(title: &str, bins: &[(String, u64)]) -> String {
    let (width, height, base, left) = (420.0, 180.0, 150.0, 8.0);
    let most = bins.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let step = (width - 2.0 * left) / bins.len().max(1) as f64;
    // At most some eight names fit under the columns.
    let every = bins.len().div_ceil(8).max(1);
    let mut out = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {width} {height}\" role=\"img\">",
        escape(title)
    );
    let _ = write!(out, "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{base}\" y2=\"{base}\"/>", width - left);
    for (at, (name, n)) in bins.iter().enumerate() {
        let tall = *n as f64 / most * (base - 24.0);
        let x = left + at as f64 * step;
        let _ = write!(
            out,
            "<rect class=\"dot\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}: {}</title></rect>",
            x + 1.0,
            base - tall,
            (step - 2.0).max(1.0),
            tall,
            escape(name),
            group(*n)
        );
        if at % every == 0 {
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"168\" text-anchor=\"middle\">{}</text>",
                x + step / 2.0,
                escape(name)
            );
        }
        if *n as f64 == most {
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x + step / 2.0,
                base - tall - 5.0,
                group(*n)
            );
        }
    }
    out.push_str("</svg></figure>");
    out
}

/// A line of a figure: its name and its points, x rising.
pub struct Series<'a> {
    /// Name under the figure.
    pub name: &'a str,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
}

/// Lines over a common x axis, as an SVG figure; y from 0 to `y_most`. At most three series.
pub fn lines(title: &str, x_name: &str, y_most: f64, series: &[Series<'_>]) -> String {
    let (left, right, top, base) = (34.0, 408.0, 10.0, 150.0);
    let xs = || series.iter().flat_map(|s| &s.points).map(|p| p.0);
    let (low, high) = (xs().fold(f64::INFINITY, f64::min), xs().fold(f64::NEG_INFINITY, f64::max));
    let span = if high > low { high - low } else { 1.0 };
    let x = |v: f64| left + (v - low) / span * (right - left);
    let y = |v: f64| base - (v / y_most).clamp(0.0, 1.0) * (base - top);
    let mut out =
        format!("<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 420 190\" role=\"img\">", escape(title));
    for share in [0.0, 0.5, 1.0] {
        let (at, value) = (y(share * y_most), share * y_most);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.2}</text>",
            left - 5.0,
            at + 4.0
        );
    }
    if high.is_finite() {
        for (v, anchor) in [(low, "start"), (high, "end")] {
            let _ = write!(out, "<text x=\"{:.1}\" y=\"166\" text-anchor=\"{anchor}\">{v:.0}</text>", x(v));
        }
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"166\" text-anchor=\"middle\">{}</text>",
        (left + right) / 2.0,
        escape(x_name)
    );
    let colours = ["var(--a)", "var(--b)", "var(--good)"];
    for (i, s) in series.iter().enumerate() {
        let colour = colours[i % colours.len()];
        let points: Vec<String> = s.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
        if s.points.len() <= 12 {
            for p in &s.points {
                let _ = write!(
                    out,
                    "<circle r=\"3\" fill=\"{colour}\" cx=\"{:.1}\" cy=\"{:.1}\"><title>{}: {:.0}, {:.4}</title></circle>",
                    x(p.0),
                    y(p.1),
                    escape(s.name),
                    p.0,
                    p.1
                );
            }
        }
        let at = left + i as f64 * 125.0;
        let _ = write!(
            out,
            "<rect x=\"{at:.1}\" y=\"176\" width=\"12\" height=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"182\">{}</text>",
            at + 17.0,
            escape(s.name)
        );
    }
    out.push_str("</svg></figure>");
    out
}

/// A bar inside a cell: `share` of the cell's width, from 0 to 1.
pub fn bar(share: f64) -> String {
    format!("<span class=\"bar\" style=\"width:{:.1}px\"></span>", 160.0 * share.clamp(0.0, 1.0))
}

/// The page around its body.
pub fn page(lang: &str, title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"{lang}\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escape(title)
    )
}

const STYLE: &str = "
:root{--page:#fcfcfb;--card:#fff;--ink:#1a1c1f;--soft:#62676f;--line:#e4e5e7;--a:#2a6fdb;--b:#d9730d;--good:#1a7f4b}
@media(prefers-color-scheme:dark){:root{--page:#141517;--card:#1c1d20;--ink:#e8e9eb;--soft:#9aa0a8;--line:#303236;--a:#7aa8f7;--b:#f0a35e;--good:#5fca92}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI','PingFang SC','Microsoft YaHei','Noto Sans CJK SC',sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1020px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;font-weight:650;letter-spacing:-.01em}
h2{font-size:18px;margin:48px 0 12px;font-weight:600}
p{margin:0 0 12px;max-width:70ch}
.sub,.note{color:var(--soft)}
.note{font-size:13px;margin-top:8px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:12px;margin:24px 0 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.card span,.card i{display:block;font-size:12.5px;color:var(--soft);font-style:normal}
.card b{display:block;font-size:20px;font-weight:600;line-height:1.35}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 12px 4px}
figcaption{font-size:13px;font-weight:600;margin:0 4px 4px;display:flex;justify-content:space-between;gap:8px;flex-wrap:wrap}
.legend{font-weight:400;color:var(--soft)}
.key{margin-left:12px}
.key::before{content:'';display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;vertical-align:middle;background:var(--a)}
.key.b::before{background:var(--b)}
svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line);stroke-width:1}
.line{fill:none;stroke:var(--a);stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round}
.line.b{stroke:var(--b)}.line.faint{opacity:.35;stroke-width:1.25}
.dot{fill:var(--a)}.dot.b{fill:var(--b)}
.heat rect{fill:var(--a)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;padding:6px 12px;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child td{border-bottom:0}
th{font-weight:600;color:var(--soft);font-size:12.5px;white-space:nowrap}
.n{text-align:right;white-space:nowrap}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.bar{display:inline-block;height:8px;border-radius:2px;background:var(--a);vertical-align:middle;min-width:1px}
details{margin-top:12px}summary{cursor:pointer;color:var(--soft);font-size:13.5px;margin-bottom:8px}
@media print{details:not([open])>*{display:block}main{max-width:none;padding:0}figure,.scroll,.card{break-inside:avoid}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
    }

    #[test]
    fn a_histogram_names_the_tallest_and_escapes() {
        let page = histogram("a<b", &[("0".into(), 0), ("1–2".into(), 7), ("&".into(), 3)]);
        assert!(page.contains("a&lt;b") && page.contains(">7</text>") && page.contains("&amp;: 3"), "{page}");
        assert!(histogram("none", &[]).ends_with("</svg></figure>"));
    }

    #[test]
    fn numbers_and_times_for_people() {
        assert_eq!([0, 999, 1000, 1234567].map(group), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.04, 59.6, 119.0, 125.0, 7300.0].map(duration),
            ["0.0 s", "60 s", "119 s", "2 min 05 s", "2 h 01 min"]
        );
    }
}
