//! Progress of a measurement on standard error: a bar on a terminal, a line a repetition elsewhere. Told between
//! repetitions, so that it costs the measured time nothing.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::Console;

pub struct Meter<'a> {
    console: &'a Console,
    bar: Option<ProgressBar>,
    done: u64,
    of: u64,
}

impl<'a> Meter<'a> {
    /// For `of` repetitions.
    pub fn new(console: &'a Console, of: usize) -> Self {
        let bar = console.err_is_tty.then(|| {
            let bar = ProgressBar::with_draw_target(Some(of as u64), ProgressDrawTarget::stderr());
            let template =
                if console.colour_err { "{bar:24.cyan/dim} {pos}/{len}  {msg}" } else { "{bar:24} {pos}/{len}  {msg}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        Self { console, bar, done: 0, of: of as u64 }
    }

    /// One more is done.
    pub fn tick(&mut self, note: impl std::fmt::Display) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.set_message(note.to_string());
            }
            None => self.console.remark(format_args!("{}/{}  {note}", self.done, self.of)),
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
