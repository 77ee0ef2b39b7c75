//! The terminal: where output goes, in which language, and whether colour is welcome.
//!
//! Results go to standard output, progress and remarks to standard error, so that a pipe carries
//! only results. Colour appears on a terminal only and never when `NO_COLOR` is set
//! (<https://no-color.org>).

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Language of prose. Names of fields, tensors and settings stay as they are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Lang {
    /// English
    #[default]
    En,
    /// 中文
    Zh,
}

impl Lang {
    /// The text of this language.
    pub fn pick<'a>(self, en: &'a str, zh: &'a str) -> &'a str {
        match self {
            Self::En => en,
            Self::Zh => zh,
        }
    }

    /// `loar_train`, `loar_eval` and others name languages by code.
    pub fn code(self) -> &'static str {
        self.pick("en", "zh")
    }
}

/// A way to draw text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Headings.
    Bold,
    /// What matters less: reasoning, hints.
    Dim,
    /// Errors.
    Red,
    /// Success.
    Green,
    /// Warnings.
    Yellow,
    /// Names.
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Cyan => "36",
        }
    }
}

/// Everything a command says goes through here.
#[derive(Debug, Clone)]
pub struct Console {
    /// Language of prose.
    pub lang: Lang,
    /// Draw with colour on standard output.
    pub colour: bool,
    /// Draw with colour on standard error.
    pub colour_err: bool,
    /// Standard output is a terminal.
    pub out_is_tty: bool,
    /// Standard error is a terminal.
    pub err_is_tty: bool,
    /// Standard input is a terminal.
    pub in_is_tty: bool,
}

impl Console {
    /// The process's own streams.
    pub fn new(lang: Lang) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let (out_is_tty, err_is_tty) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            lang,
            colour: wanted && out_is_tty,
            colour_err: wanted && err_is_tty,
            out_is_tty,
            err_is_tty,
            in_is_tty: io::stdin().is_terminal(),
        }
    }

    /// The text of the chosen language.
    pub fn pick<'a>(&self, en: &'a str, zh: &'a str) -> &'a str {
        self.lang.pick(en, zh)
    }

    /// `text` drawn for standard output, plain where colour is not welcome.
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        paint(self.colour, style, text)
    }

    /// As [`Console::paint`], for standard error.
    pub fn paint_err(&self, style: Style, text: impl Display) -> String {
        paint(self.colour_err, style, text)
    }

    /// Writes a result as it is and flushes it.
    ///
    /// # Errors
    /// Whatever standard output says; a closed pipe ends the program in silence.
    pub fn write(&self, text: impl Display) -> io::Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()
    }

    /// Writes a line of a result.
    ///
    /// # Errors
    /// As [`Console::write`].
    pub fn line(&self, text: impl Display) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// Says something that is not a result. Nobody reading standard error is no reason to stop.
    pub fn remark(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A warning on standard error.
    pub fn warn(&self, text: impl Display) {
        let word = self.paint_err(Style::Yellow, self.pick("warning", "警告"));
        self.remark(format_args!("{word}: {text}"));
    }

    /// A section heading of a result.
    pub fn heading(&self, text: impl Display) -> String {
        self.paint(Style::Bold, text)
    }
}

fn paint(colour: bool, style: Style, text: impl Display) -> String {
    if colour { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_string() }
}

/// A count with thousands separators: `15,706,484,224`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count in the field's short form: `1.78 B`, `186.2 k`.
pub fn short(n: u64) -> String {
    let n = n as f64;
    for (unit, size) in [("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)] {
        if n >= size {
            return format!("{:.2} {unit}", n / size);
        }
    }
    format!("{n}")
}

/// A size in binary units: `3.3 GiB`.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let size = (1u64 << shift) as f64;
        if n >= size {
            return format!("{:.1} {unit}", n / size);
        }
    }
    format!("{n} B")
}

/// A time in words: `2 h 05 min`, `3 min 09 s`, `4.2 s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "–".into();
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole / 3600 {
        0 => format!("{} min {:02} s", whole / 60, whole % 60),
        hours => format!("{hours} h {:02} min", whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(15_706_484_224), "15,706,484,224");
        assert_eq!(short(1_777_088_000), "1.78 B");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(duration(4.25), "4.2 s");
        assert_eq!(duration(189.0), "3 min 09 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
        assert_eq!(duration(f64::INFINITY), "–");
    }
}
