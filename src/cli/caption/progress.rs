//! The progress of a run on standard error: a bar on a terminal, regular lines in a log, a summary at the end.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::observability;

/// Time between two lines of a log.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// When progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// A bar, if standard error is a terminal and captions are written elsewhere
    Auto,
    /// A bar on a terminal, otherwise a line every ten seconds
    Always,
    /// Never
    Never,
}

/// Numbers of images by their result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResultCounts {
    pub(super) captioned: u64,
    pub(super) failed: u64,
    /// Images that were already in the output.
    pub(super) skipped: u64,
    /// All images of this run.
    pub(super) total: u64,
}

/// The progress of a run.
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

impl ResultCounts {
    fn finished(&self) -> u64 {
        self.captioned + self.failed
    }

    /// A summary after `seconds`.
    fn summary(&self, seconds: f64) -> String {
        let mut text = format!("{} of {} images captioned", self.captioned, self.total);
        // Writing to a string cannot fail.
        if self.failed > 0 {
            let _ = write!(text, ", {} failed", self.failed);
        }
        if self.skipped > 0 {
            let _ = write!(text, ", {} were already done", self.skipped);
        }
        if self.finished() > 0 && seconds > 0.0 {
            let _ = write!(text, ", {:.1} images/s", self.finished() as f64 / seconds);
        }
        text
    }

    /// The seconds that remain at this rate.
    fn seconds_left(&self, seconds: f64) -> f64 {
        seconds / self.finished().max(1) as f64 * self.total.saturating_sub(self.finished()) as f64
    }
}

impl Progress {
    /// Starts the clock. `shares_terminal` means that results are written to a terminal.
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

    /// Shows that one more image is finished.
    pub(super) fn advance(&mut self, tally: &ResultCounts) {
        match &mut self.display {
            Display::Bar(bar) => {
                if tally.failed > 0 {
                    bar.set_message(format!(", {} failed", tally.failed));
                }
                bar.set_position(tally.finished());
            }
            Display::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                let seconds = self.start.elapsed().as_secs_f64();
                observability::print_status(&format!(
                    "{}, {:.0} s left",
                    tally.summary(seconds),
                    tally.seconds_left(seconds)
                ));
            }
            Display::Nothing | Display::Lines { .. } => {}
        }
    }

    /// Hides the bar while `write` writes to the terminal.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.display {
            Display::Bar(bar) => bar.suspend(write),
            _ => write(),
        }
    }

    /// Removes the bar and returns the summary.
    pub(super) fn end(&self, tally: &ResultCounts) -> String {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
        tally.summary(self.start.elapsed().as_secs_f64())
    }

    /// Whether progress is shown.
    pub(super) fn is_shown(&self) -> bool {
        !matches!(self.display, Display::Nothing)
    }
}

fn bar(total: u64) -> Display {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} images{msg}, {per_sec}, {eta} left");
    // The template is a literal; the library's default would do as well.
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
    fn the_summary_counts_the_images_by_result() {
        let mut tally = ResultCounts { captioned: 7, total: 10, ..ResultCounts::default() };
        assert_eq!(tally.summary(2.0), "7 of 10 images captioned, 3.5 images/s");
        tally = ResultCounts { failed: 1, skipped: 5, ..tally };
        assert_eq!(tally.summary(4.0), "7 of 10 images captioned, 1 failed, 5 were already done, 2.0 images/s");
        assert_eq!(ResultCounts::default().summary(0.0), "0 of 0 images captioned");
    }

    #[test]
    fn the_remaining_time_follows_from_the_rate() {
        let tally = ResultCounts { captioned: 3, failed: 1, total: 10, ..ResultCounts::default() };
        assert!((tally.seconds_left(8.0) - 12.0).abs() < 1e-9);
        assert!((ResultCounts::default().seconds_left(1.0)).abs() < 1e-9);
    }
}
