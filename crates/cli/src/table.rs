//! Tables that stay aligned in English and Chinese.
//!
//! Takes rows of cells, gives lines of text. Counts East Asian wide characters as two columns.

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a header line.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<String>,
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Column titles; `<` before a title aligns left, `>` right.
    pub fn new<S: AsRef<str>>(titles: &[S]) -> Self {
        let mut table = Self::default();
        for title in titles.iter().map(AsRef::as_ref) {
            let (align, title) = match title.strip_prefix('>') {
                Some(title) => (Align::Right, title),
                None => (Align::Left, title.strip_prefix('<').unwrap_or(title)),
            };
            table.align.push(align);
            table.header.push(title.to_owned());
        }
        table
    }

    /// Adds a row; missing cells are empty, extra ones are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// The table, each line behind `indent` spaces; ends with a line break unless empty.
    pub fn render(&self, indent: usize) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|c| {
                let cells = self.rows.iter().map(|r| width(&r[c]));
                cells.chain([width(&self.header[c])]).max().unwrap_or(0)
            })
            .collect();
        let rule: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
        let mut out = String::new();
        for row in [&self.header, &rule].into_iter().chain(&self.rows) {
            let mut line = " ".repeat(indent);
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[c].saturating_sub(width(cell)));
                if c > 0 {
                    line.push_str("  ");
                }
                match self.align[c] {
                    Align::Left => line.extend([cell.as_str(), &pad]),
                    Align::Right => line.extend([&pad, cell.as_str()]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// The table in GitHub's Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<&str> = self.align.iter().map(|a| if *a == Align::Right { "---:" } else { "---" }).collect();
        let mut out = line(&self.header);
        out.push_str(&format!("|{}|\n", rule.join("|")));
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }
}

/// Columns a text takes in a terminal: 2 for the wide and full-width blocks of UAX #11, else 1.
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match u32::from(c) {
            0x1100..=0x115F
            | 0x2E80..=0x303E
            | 0x3041..=0xA4CF
            | 0xAC00..=0xD7A3
            | 0xF900..=0xFAFF
            | 0xFE30..=0xFE6F
            | 0xFF00..=0xFF60
            | 0xFFE0..=0xFFE6
            | 0x1F300..=0x1FAFF
            | 0x20000..=0x3FFFD => 2,
            0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_in_both_scripts() {
        let mut t = Table::new(&["<name", ">count"]);
        t.row(["注意力", "1,000"]);
        t.row(["mlp", "7"]);
        assert_eq!(t.render(2), "  name    count\n  ──────  ─────\n  注意力  1,000\n  mlp         7\n");
        assert_eq!(t.markdown().lines().nth(1), Some("|---|---:|"));
    }
}
