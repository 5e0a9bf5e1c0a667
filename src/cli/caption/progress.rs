//! How far a run is, on standard error: a bar on a terminal, a line now and then in a log, one sentence at the end.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::observability;

/// Between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// When progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// A bar, if standard error is a terminal that captions are not written to
    Auto,
    /// A bar on a terminal, else a line every ten seconds
    Always,
    /// Never
    Never,
}

/// What became of the images so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) captioned: u64,
    pub(super) failed: u64,
    /// Were in the output already.
    pub(super) skipped: u64,
    /// Those of this run, all together.
    pub(super) total: u64,
}

/// A run on its way.
#[derive(Debug)]
pub(super) struct Progress {
    display: Display,
    start: Instant,
}

#[derive(Debug)]
enum Display {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Tally {
    fn finished(&self) -> u64 {
        self.captioned + self.failed
    }

    /// In one sentence; `seconds` that it took.
    fn sentence(&self, seconds: f64) -> String {
        let mut text = format!("{} of {} images captioned", self.captioned, self.total);
        // Writing to a string cannot fail.
        if self.failed > 0 {
            let _ = write!(text, ", {} failed", self.failed);
        }
        if self.skipped > 0 {
            let _ = write!(text, ", {} were there already", self.skipped);
        }
        if self.finished() > 0 && seconds > 0.0 {
            let _ = write!(text, ", {:.1} images/s", self.finished() as f64 / seconds);
        }
        text
    }

    /// Seconds that the rest will take at this rate.
    fn seconds_left(&self, seconds: f64) -> f64 {
        seconds / self.finished().max(1) as f64 * self.total.saturating_sub(self.finished()) as f64
    }
}

impl Progress {
    /// Begins now; `shares_terminal`: results are written to a terminal.
    pub(super) fn begin(when: When, shares_terminal: bool, total: u64) -> Self {
        let start = Instant::now();
        let display = match (when, io::stderr().is_terminal()) {
            (When::Auto, true) if !shares_terminal => bar(total),
            (When::Always, true) => bar(total),
            (When::Always, false) => Display::Lines { last: start },
            _ => Display::Nothing,
        };
        Self { display, start }
    }

    /// One more image is finished.
    pub(super) fn advance(&mut self, tally: &Tally) {
        match &mut self.display {
            Display::Bar(bar) => {
                if tally.failed > 0 {
                    bar.set_message(format!(", {} failed", tally.failed));
                }
                bar.set_position(tally.finished());
            }
            Display::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let seconds = self.start.elapsed().as_secs_f64();
                observability::print_status(&format!(
                    "{}, {:.0} s left",
                    tally.sentence(seconds),
                    tally.seconds_left(seconds)
                ));
            }
            Display::Nothing | Display::Lines { .. } => {}
        }
    }

    /// Writes something to the terminal without writing into the bar.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.display {
            Display::Bar(bar) => bar.suspend(write),
            _ => write(),
        }
    }

    /// Takes the bar away; what is left to say of the run, if progress was shown.
    pub(super) fn end(&self, tally: &Tally) -> (String, bool) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
        (tally.sentence(self.start.elapsed().as_secs_f64()), !matches!(self.display, Display::Nothing))
    }
}

fn bar(total: u64) -> Display {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} images{msg}, {per_sec}, {eta} left");
    // The template is a literal; were it wrong, the library's own would do.
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    Display::Bar(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_what_happened() {
        let mut tally = Tally { captioned: 7, total: 10, ..Tally::default() };
        assert_eq!(tally.sentence(2.0), "7 of 10 images captioned, 3.5 images/s");
        tally = Tally { failed: 1, skipped: 5, ..tally };
        assert_eq!(tally.sentence(4.0), "7 of 10 images captioned, 1 failed, 5 were there already, 2.0 images/s");
        assert_eq!(Tally::default().sentence(0.0), "0 of 0 images captioned");
    }

    #[test]
    fn the_rest_takes_as_long_as_what_is_done_for_each() {
        let tally = Tally { captioned: 3, failed: 1, total: 10, ..Tally::default() };
        assert!((tally.seconds_left(8.0) - 12.0).abs() < 1e-9);
        assert!((Tally::default().seconds_left(1.0)).abs() < 1e-9);
    }
}
