//! What the engine's thread does next: a pure function from its state to an action.
//!
//! Images are admitted between two decoder steps, and the time that their encoding took is given to the images that
//! decode before the next one is admitted: neither side starves. When nothing decodes and several images wait, a burst of
//! them is encoded before the first step, so that they share their steps; [`LatencyModel`] says how many, since the first
//! of them must not wait longer than sharing saves.

use std::time::{Duration, Instant};

use crate::engine::{EngineLimits, latency::LatencyModel};

/// Chooses the next action.
pub(super) struct Scheduler;

/// All that the choice depends on.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) limits: EngineLimits,
    pub(super) latency: LatencyModel,
    /// The current time.
    pub(super) now: Instant,
    /// Jobs that wait for admission.
    pub(super) waiting: usize,
    /// Rows of the first `max_batch_size` of them, in the order of their callers' turns.
    pub(super) next_rows: Vec<usize>,
    /// Rows of the images that decode.
    pub(super) live_rows: usize,
    /// Whether no further job can come.
    pub(super) senders_gone: bool,
    /// Time spent on admission that the images that decode have not been given back.
    pub(super) decode_debt: Duration,
    /// Images that may still be admitted before the next step.
    pub(super) burst: usize,
    /// Until when an idle engine fills its first batch; `None` if it is not waiting for more images.
    pub(super) fill_deadline: Option<Instant>,
}

/// What the engine's thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Encode the next `entries` jobs together and let them join the batch; `burst` more may follow before a step.
    Admit { entries: usize, burst: usize },
    /// Run one decoder step for all images that decode.
    Step,
    /// Wait for more images to encode together, until this instant at the latest.
    Fill { until: Instant },
    /// Block until a job comes.
    Block,
    /// End the thread: every job is done and no other can come.
    Stop,
}

impl Scheduler {
    pub(super) fn next(state: &State) -> Action {
        let limits = &state.limits;
        if state.waiting == 0 && state.live_rows == 0 {
            return if state.senders_gone { Action::Stop } else { Action::Block };
        }
        let burst = if state.burst > 0 {
            state.burst
        } else if state.live_rows > 0 {
            if state.decode_debt.is_zero() { limits.max_batch_size } else { 0 }
        } else {
            let until = state.fill_deadline.unwrap_or(state.now + limits.max_batch_delay);
            if state.waiting < limits.max_batch_size && state.now < until {
                return Action::Fill { until };
            }
            state.latency.burst(state.waiting).max(limits.max_batch_size)
        };
        match Self::admissible(state, burst) {
            0 => Action::Step,
            entries => Action::Admit { entries, burst: burst - entries },
        }
    }

    /// Returns how many of the next jobs fit into one run of the encoder and into the rows that are free.
    fn admissible(state: &State, burst: usize) -> usize {
        let mut rows = state.live_rows;
        let fits = |more: &&usize| {
            // An image with more rows than the limit is admitted when nothing else decodes.
            let fits = rows == 0 || rows + **more <= state.limits.max_rows;
            rows += **more;
            fits
        };
        state.next_rows.iter().take(burst.min(state.limits.max_batch_size)).take_while(fits).count()
    }
}

impl State {
    pub(super) fn new(limits: EngineLimits, now: Instant) -> Self {
        Self {
            limits,
            latency: LatencyModel::default(),
            now,
            waiting: 0,
            next_rows: Vec::new(),
            live_rows: 0,
            senders_gone: false,
            decode_debt: Duration::ZERO,
            burst: 0,
            fill_deadline: None,
        }
    }

    /// Records that an action was executed, and how long it took.
    pub(super) fn record(&mut self, action: Action, elapsed: Duration) {
        self.fill_deadline = None;
        match action {
            Action::Admit { burst, .. } => {
                // Nothing is owed to images that have left.
                let debt = if self.live_rows == 0 && self.burst == 0 { Duration::ZERO } else { self.decode_debt };
                self.decode_debt = debt + elapsed;
                self.burst = burst;
            }
            Action::Step => {
                self.decode_debt = self.decode_debt.saturating_sub(elapsed);
                self.burst = 0;
            }
            Action::Fill { until } => self.fill_deadline = Some(until),
            Action::Block => self.burst = 0,
            Action::Stop => {}
        }
    }
}
