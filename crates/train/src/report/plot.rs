//! Line plots and heat maps as inline SVG. Colours are classes, so that light and dark follow the
//! page. Takes numbers, gives markup; knows nothing of runs.

use std::fmt::Write;

/// Points beyond this many are averaged in buckets: a screen shows no more.
const MAX_POINTS: usize = 480;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// One line of a plot.
pub(super) struct Series<'a> {
    /// Name in the legend.
    pub name: &'a str,
    /// CSS class: `a` or `b`.
    pub class: &'a str,
    /// (x, y), x rising.
    pub points: Vec<(f64, f64)>,
    /// Draw the points themselves, for few of them.
    pub dots: bool,
}

/// Averages neighbours until at most `most` points are left.
pub(super) fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(most.max(1)).max(1);
    points
        .chunks(size)
        .map(|c| {
            let n = c.len() as f64;
            (c.iter().map(|p| p.0).sum::<f64>() / n, c.iter().map(|p| p.1).sum::<f64>() / n)
        })
        .collect()
}

/// Exponential mean over about a twentieth of the points, without the bias of its start.
pub(super) fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 20.0).max(2.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(x, y)| {
            mean = keep * mean + (1.0 - keep) * y;
            weight = keep * weight + (1.0 - keep);
            (*x, mean / weight)
        })
        .collect()
}

/// A round distance that divides `span` into about four.
fn tick(span: f64) -> f64 {
    let raw = span / 4.0;
    let scale = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|f| raw <= f * scale * 1.0001).unwrap_or(10.0);
    factor * scale
}

/// A number of an axis, short.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if size >= 1e6 {
        format!("{:.3}M", value / 1e6).replace(".000M", "M")
    } else if !(1e-3..1e6).contains(&size) {
        let text = format!("{value:.2e}");
        text.replace(".00e", "e").replace("0e", "e")
    } else {
        let digits = (3.0 - size.log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    }
}

fn escape(text: &str) -> String {
    loar_artifact::page::escape(text)
}

/// A line plot; nothing when no series has two points or one dot.
pub(super) fn lines(title: &str, x_name: &str, series: &[Series<'_>]) -> String {
    let all: Vec<(f64, f64)> = series
        .iter()
        .flat_map(|s| thin(&s.points, MAX_POINTS))
        .filter(|p| p.0.is_finite() && p.1.is_finite())
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let fold = |f: fn(f64, f64) -> f64, start: f64, get: fn(&(f64, f64)) -> f64| all.iter().map(get).fold(start, f);
    let (x0, mut x1) = (fold(f64::min, f64::INFINITY, |p| p.0), fold(f64::max, f64::NEG_INFINITY, |p| p.0));
    let (mut y0, mut y1) = (fold(f64::min, f64::INFINITY, |p| p.1), fold(f64::max, f64::NEG_INFINITY, |p| p.1));
    if x1 <= x0 {
        x1 = x0 + 1.0;
    }
    if y1 - y0 <= 1e-12 * y1.abs().max(1e-300) {
        let pad = if y1 == 0.0 { 1.0 } else { y1.abs() * 0.1 };
        (y0, y1) = (y0 - pad, y1 + pad);
    }
    // an axis from zero where the data comes near it anyway
    if y0 > 0.0 && y0 < 0.35 * y1 {
        y0 = 0.0;
    }
    let step = tick(y1 - y0);
    let (low, high) = ((y0 / step).floor() * step, (y1 / step).ceil() * step);
    let x = |v: f64| LEFT + (v - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - (v - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut out = String::new();
    let _ = write!(
        out,
        "<figure><figcaption>{}{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        legend(series),
        escape(title)
    );
    let mut value = low;
    while value <= high + step * 0.5 {
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            y(value),
            y(value),
            LEFT - 6.0,
            y(value) + 4.0,
            short(if value.abs() < step * 1e-6 { 0.0 } else { value })
        );
        value += step;
    }
    let x_step = tick(x1 - x0).max(1.0);
    let mut at = (x0 / x_step).ceil() * x_step;
    while at <= x1 + 1e-9 {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(at),
            HEIGHT - 10.0,
            short(at)
        );
        at += x_step;
    }
    let _ = write!(
        out,
        "<text class=\"unit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - BOTTOM - 5.0,
        escape(x_name)
    );
    for s in series {
        let points: Vec<(f64, f64)> =
            thin(&s.points, MAX_POINTS).into_iter().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(out, "<polyline class=\"line {}\" points=\"{}\"/>", s.class, path.join(" "));
        if s.dots || points.len() == 1 {
            for p in &points {
                let _ = write!(
                    out,
                    "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{} {}: {}</title></circle>",
                    s.class,
                    x(p.0),
                    y(p.1),
                    escape(x_name),
                    short(p.0),
                    short(p.1)
                );
            }
        }
    }
    out.push_str("</svg></figure>");
    out
}

fn legend(series: &[Series<'_>]) -> String {
    let named = series.iter().filter(|s| !s.name.is_empty());
    if series.len() < 2 {
        return String::new();
    }
    let entry = |s: &Series<'_>| format!("<span class=\"key {}\">{}</span>", s.class, escape(s.name));
    format!("<span class=\"legend\">{}</span>", named.map(entry).collect::<String>())
}

/// A heat map: one row of cells a layer. `rows` are (label, values); the darkest cell is the
/// largest share of its row's sum, at least twice the uniform one.
pub(super) fn heat(rows: &[(String, Vec<u64>)]) -> String {
    let widest = rows.iter().map(|r| r.1.len()).max().unwrap_or(0);
    if widest == 0 {
        return String::new();
    }
    let cell = ((960.0 - LEFT) / widest as f64).clamp(2.0, 22.0);
    let height = 14.0;
    let share = |row: &[u64], n: u64| n as f64 / row.iter().sum::<u64>().max(1) as f64;
    let darkest =
        rows.iter().flat_map(|(_, r)| r.iter().map(move |n| share(r, *n))).fold(2.0 / widest as f64, f64::max);
    let (w, h) = (LEFT + cell * widest as f64, height * rows.len() as f64);
    let mut out =
        format!("<svg class=\"heat\" viewBox=\"0 0 {w:.0} {h:.0}\" style=\"max-width:{w:.0}px\" role=\"img\">");
    for (i, (label, row)) in rows.iter().enumerate() {
        let top = i as f64 * height;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            top + height - 3.5,
            escape(label)
        );
        for (j, n) in row.iter().enumerate() {
            let s = share(row, *n);
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" style=\"fill-opacity:{:.3}\"><title>{j}: {:.2} %</title></rect>",
                LEFT + j as f64 * cell,
                (cell - 1.0).max(1.0),
                height - 1.0,
                (s / darkest).clamp(0.03, 1.0),
                100.0 * s
            );
        }
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        for (span, expected) in [(4.0, 1.0), (1.0, 0.25), (9.0, 2.5), (0.0021, 0.001), (100.0, 25.0), (7.0, 2.0)] {
            assert!((tick(span) - expected).abs() < 1e-12 * expected.max(1.0), "{span}: {}", tick(span));
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (2.5, "2.5"),
            (1234.0, "1234"),
            (0.00012, "1.2e-4"),
            (1e-4, "1e-4"),
            (2e6, "2M"),
            (0.125, "0.125"),
            (10.0, "10"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn plots_hold_for_any_numbers() {
        let series = |points: Vec<(f64, f64)>| [Series { name: "<a>", class: "a", points, dots: true }];
        assert_eq!(lines("t", "x", &series(vec![])), "");
        assert_eq!(lines("t", "x", &series(vec![(1.0, f64::NAN)])), "");
        for points in [
            vec![(1.0, 2.0)],
            vec![(0.0, 0.0), (1.0, 0.0)],
            vec![(1.0, -1e-9), (2.0, 1e12)],
            (0..5000).map(|i| (i as f64, (i as f64).sin())).collect(),
        ] {
            let svg = lines("<t>", "x", &series(points));
            assert!(svg.contains("&lt;t&gt;") && !svg.contains("NaN") && !svg.contains("inf"));
            assert!(svg.len() < 60_000);
        }
    }

    #[test]
    fn smoothing_starts_at_the_first_value_and_follows() {
        let constant: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), 3.0)).collect();
        assert!(smooth(&constant).iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
        let step: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), if i < 100 { 0.0 } else { 1.0 })).collect();
        let smoothed = smooth(&step);
        assert!(smoothed[99].1 == 0.0 && smoothed[105].1 < 0.6 && smoothed[199].1 > 0.99);
    }

    #[test]
    fn thinning_keeps_the_mean() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 10))).collect();
        let thinned = thin(&points, 100);
        assert_eq!(thinned.len(), 100);
        assert!(thinned.iter().all(|p| p.1 == 4.5));
    }
}
