//! What the engine's thread does next: a pure function from its state to an action.
//!
//! Images are admitted between two decoder steps, and the time that their encoding took is given to the images that
//! decode before the next one is admitted: neither side starves. When nothing decodes and several images wait, a burst of
//! them is encoded before the first step, so that they share their steps; [`LatencyModel`] decides how many, since the
//! first of them must not wait longer than sharing saves.

use std::time::{Duration, Instant};

use crate::engine::latency::LatencyModel;

/// How much an instance does at once.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Rows of a decoder step; an image with more rows decodes alone.
    pub max_rows: usize,
    /// Images of one run of the encoder.
    pub max_batch_size: usize,
    /// How long an idle instance waits for more images before such a run.
    pub max_batch_delay: Duration,
}

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
    /// Time spent on admission for which the decoding images have not had steps yet.
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
                // Without images that decode there is no debt.
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

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_ROWS: usize = 8;

    fn idle() -> State {
        let limits = EngineLimits { max_rows: MAX_ROWS, max_batch_size: 1, max_batch_delay: Duration::ZERO };
        State::new(limits, Instant::now())
    }

    /// A state in which jobs with these rows wait.
    fn waiting(rows: &[usize]) -> State {
        State { waiting: rows.len(), next_rows: rows.to_vec(), ..idle() }
    }

    /// A state with this `max_batch_size`.
    fn batching(max_batch_size: usize, mut state: State) -> State {
        state.limits.max_batch_size = max_batch_size;
        state
    }

    fn admit(entries: usize, burst: usize) -> Action {
        Action::Admit { entries, burst }
    }

    #[test]
    fn an_engine_without_work_blocks_until_its_senders_are_gone_and_stops_then() {
        let stopping = State { senders_gone: true, ..idle() };
        let cases = [
            ("nothing to do", idle(), Action::Block),
            ("no senders", stopping.clone(), Action::Stop),
            ("images decode", State { live_rows: 1, ..stopping.clone() }, Action::Step),
            ("a job waits", State { senders_gone: true, ..waiting(&[1]) }, admit(1, 0)),
            ("the rest of a burst that failed", State { burst: 2, ..idle() }, Action::Block),
        ];
        for (name, state, action) in cases {
            assert_eq!(Scheduler::next(&state), action, "{name}");
        }
    }

    #[test]
    fn a_job_is_admitted_before_the_next_step_if_there_is_no_debt() {
        let debt = Duration::from_micros(1);
        let cases = [
            ("no debt", State { live_rows: 3, ..waiting(&[1]) }, admit(1, 0)),
            ("debt", State { live_rows: 3, decode_debt: debt, ..waiting(&[1]) }, Action::Step),
            ("debt without images that decode", State { decode_debt: debt, ..waiting(&[1]) }, admit(1, 0)),
            ("no job waits", State { live_rows: 3, ..idle() }, Action::Step),
        ];
        for (name, state, action) in cases {
            assert_eq!(Scheduler::next(&state), action, "{name}");
        }
    }

    #[test]
    fn rows_are_limited_except_for_a_single_image() {
        let cases = [
            ("the last free row", State { live_rows: MAX_ROWS - 1, ..waiting(&[1]) }, admit(1, 0)),
            ("no free row", State { live_rows: MAX_ROWS, ..waiting(&[1]) }, Action::Step),
            ("too many rows, nothing else decodes", waiting(&[MAX_ROWS + 1]), admit(1, 0)),
            ("too many rows, another decodes", State { live_rows: 1, ..waiting(&[MAX_ROWS + 1]) }, Action::Step),
            ("beside one with more", State { live_rows: MAX_ROWS + 1, ..waiting(&[1]) }, Action::Step),
            ("together", batching(4, waiting(&[3, 5, 1])), admit(2, 2)),
            ("no job overtakes", batching(4, State { live_rows: 3, ..waiting(&[6, 1]) }), Action::Step),
            ("after one that fits", batching(4, State { live_rows: 3, ..waiting(&[1, 6, 1]) }), admit(1, 3)),
            ("after one with more rows than the limit", batching(2, waiting(&[MAX_ROWS + 1, 1])), admit(1, 1)),
        ];
        for (name, state, action) in cases {
            assert_eq!(Scheduler::next(&state), action, "{name}");
        }
    }

    #[test]
    fn a_run_of_the_encoder_takes_at_most_max_batch_size_images() {
        assert_eq!(Scheduler::next(&batching(4, waiting(&[1; 8]))), admit(4, 0));
        assert_eq!(Scheduler::next(&batching(2, waiting(&[1; 8]))), admit(2, 2));
        assert_eq!(Scheduler::next(&batching(2, State { live_rows: 1, ..waiting(&[1; 8]) })), admit(2, 0));
    }

    #[test]
    fn a_burst_is_admitted_before_the_first_step_whatever_its_encoding_takes() {
        let mut state = waiting(&[1; 8]);
        let mut actions = Vec::new();
        for _ in 0..5 {
            let action = Scheduler::next(&state);
            state.record(action, Duration::from_secs(1));
            if action != Action::Step {
                state.live_rows += 1;
            }
            actions.push(action);
        }
        assert_eq!(actions, [admit(1, 3), admit(1, 2), admit(1, 1), admit(1, 0), Action::Step]);
    }

    #[test]
    fn a_burst_is_as_large_as_the_latency_model_allows() {
        let mut state = waiting(&[1; 8]);
        state.latency.record_encode(Duration::from_mins(1));
        state.latency.record_step(1, Duration::from_millis(1));
        state.latency.record_image(10);
        assert_eq!(Scheduler::next(&state), admit(1, 0));
        // One run of the encoder takes them all, so none of them waits for the others.
        assert_eq!(Scheduler::next(&batching(4, state)), admit(4, 0));
    }

    #[test]
    fn a_burst_ends_with_the_first_step() {
        let mut state = State { burst: 3, live_rows: 1, decode_debt: Duration::from_secs(9), ..idle() };
        assert_eq!(Scheduler::next(&state), Action::Step);
        state.record(Action::Step, Duration::from_secs(1));
        (state.waiting, state.next_rows) = (1, vec![1]);
        assert_eq!(Scheduler::next(&state), Action::Step);
    }

    #[test]
    fn what_an_admission_took_is_given_to_those_that_decode_before_the_next() {
        let ms = Duration::from_millis;
        let mut state = State { live_rows: 1, ..waiting(&[1; 4]) };
        state.record(admit(1, 0), ms(50));
        let mut steps = 0;
        while Scheduler::next(&state) == Action::Step && steps < 10 {
            state.record(Action::Step, ms(20));
            steps += 1;
        }
        // 20 + 20 + 20 ms cover 50 ms, and the excess is not saved.
        assert_eq!((steps, state.decode_debt), (3, Duration::ZERO));
    }

    #[test]
    fn there_is_no_debt_to_removed_images() {
        let mut state = State { decode_debt: Duration::from_secs(9), ..waiting(&[1]) };
        let action = Scheduler::next(&state);
        state.record(action, Duration::from_secs(1));
        assert_eq!((action, state.decode_debt), (admit(1, 0), Duration::from_secs(1)));
    }

    #[test]
    fn an_idle_engine_fills_its_first_batch_until_it_is_full_or_the_delay_is_over() {
        let mut state = batching(3, waiting(&[1, 1]));
        state.limits.max_batch_delay = Duration::from_millis(10);
        let until = state.now + state.limits.max_batch_delay;
        let filling = Action::Fill { until };
        assert_eq!(Scheduler::next(&state), filling);
        state.record(filling, Duration::from_millis(6));
        state.now += Duration::from_millis(6);
        // The delay counts from the first job on.
        assert_eq!(Scheduler::next(&state), filling);
        assert_eq!(Scheduler::next(&State { waiting: 3, next_rows: vec![1; 3], ..state.clone() }), admit(3, 0));
        state.now = until;
        let action = Scheduler::next(&state);
        assert_eq!(action, admit(2, 1));
        state.record(action, Duration::ZERO);
        assert_eq!(state.fill_deadline, None);
    }

    #[test]
    fn an_engine_that_decodes_does_not_wait_for_more_images() {
        let mut state = batching(3, State { live_rows: 1, ..waiting(&[1]) });
        state.limits.max_batch_delay = Duration::from_millis(10);
        assert_eq!(Scheduler::next(&state), admit(1, 2));
    }
}
