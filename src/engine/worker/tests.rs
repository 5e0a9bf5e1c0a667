//! The worker on a scripted backend, driven action by action on the test's own thread.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;
use crate::{
    engine::{
        EngineLimits, Job, JobImage,
        scripted::{self, Call, Client, Failure, START, Script, ScriptedBackend, ScriptedImage, caption},
    },
    error::CaptionError,
};
use generation::GenerationParameters;

/// A worker, what sends jobs to it, and its script.
struct Fixture {
    worker: Worker<ScriptedBackend>,
    sender: mpsc::Sender<Entry<ScriptedImage>>,
    script: Script,
}

impl Fixture {
    fn new(limits: EngineLimits) -> Self {
        let (backend, script) = ScriptedBackend::new();
        let (sender, receiver) = mpsc::channel(64);
        let config = EngineConfig { limits, ..scripted::config() };
        Self { worker: Worker::new(0, backend, config, receiver), sender, script }
    }

    fn send(&self, job: Job<ScriptedImage>) -> Client {
        let (entry, client) = scripted::entry(job);
        assert!(self.sender.try_send(entry).is_ok());
        client
    }

    /// Executes the next action, unless that would block.
    fn advance(&mut self) -> Option<Action> {
        let action = self.worker.next_action();
        if matches!(action, Action::Block | Action::Stop) {
            return None;
        }
        self.worker.execute(action);
        Some(action)
    }

    fn run_until_idle(&mut self) {
        let actions = (0..1000).take_while(|_| self.advance().is_some()).count();
        assert!(actions < 1000, "the worker never becomes idle");
    }
}

fn limits() -> EngineLimits {
    scripted::config().limits
}

fn with_caller(caller: u64, mut job: Job<ScriptedImage>) -> Job<ScriptedImage> {
    job.request.caller = caller;
    job
}

fn max_new_tokens(count: u32) -> GenerationParameters {
    GenerationParameters { max_new_tokens: Some(count), ..GenerationParameters::default() }
}

#[test]
fn a_job_is_encoded_and_decoded_to_its_caption() {
    let mut fixture = Fixture::new(limits());
    let mut client = fixture.send(scripted::pixels_job(3));
    fixture.run_until_idle();
    assert_eq!(client.tokens(1), caption(3));
    let step = Call::Step(vec![3]);
    assert_eq!(fixture.script.calls(), [Call::Encode(vec![3]), step.clone(), step.clone(), step]);
}

#[test]
fn callers_take_turns_at_admission() {
    let mut fixture = Fixture::new(limits());
    let jobs = [(1, 2), (1, 3), (1, 4), (2, 5), (2, 6)];
    let _clients = jobs.map(|(caller, number)| fixture.send(with_caller(caller, scripted::pixels_job(number))));
    fixture.run_until_idle();
    let encoded = |call| if let Call::Encode(numbers) = call { Some(numbers[0]) } else { None };
    let order: Vec<u32> = fixture.script.calls().into_iter().filter_map(encoded).collect();
    assert_eq!(order, [2, 5, 3, 6, 4]);
}

#[test]
fn images_that_wait_are_encoded_in_one_run() {
    let mut fixture = Fixture::new(EngineLimits { max_batch_size: 3, ..limits() });
    let mut clients = [2, 3, 4, 5].map(|number| fixture.send(scripted::pixels_job(number)));
    fixture.run_until_idle();
    assert_eq!(fixture.script.calls()[0], Call::Encode(vec![2, 3, 4]));
    for (number, client) in [2, 3, 4, 5].into_iter().zip(&mut clients) {
        assert_eq!(client.tokens(1), caption(number));
    }
}

#[test]
fn an_idle_worker_waits_for_more_images_until_the_delay_is_over() {
    let max_batch_delay = Duration::from_millis(3);
    let mut fixture = Fixture::new(EngineLimits { max_batch_size: 3, max_batch_delay, ..limits() });
    let start = fixture.script.now();
    let _first = fixture.send(scripted::pixels_job(2));
    assert!(matches!(fixture.advance(), Some(Action::Fill { .. })));
    let _second = fixture.send(scripted::pixels_job(3));
    let fills = (0..100).take_while(|_| matches!(fixture.advance(), Some(Action::Fill { .. }))).count();
    assert!(fills > 1, "{fills}");
    assert_eq!(fixture.script.calls(), [Call::Encode(vec![2, 3])]);
    assert_eq!(fixture.script.now() - start, max_batch_delay);
}

#[test]
fn decoding_images_get_as_much_time_as_an_admission_took() {
    let mut fixture = Fixture::new(limits());
    fixture.script.set_times(Duration::from_millis(50), Duration::from_millis(10));
    let _first = fixture.send(scripted::pixels_job(20));
    assert_eq!(fixture.advance(), Some(Action::Admit { entries: 1, burst: 0 }));
    let _others = [21, 22].map(|number| fixture.send(scripted::pixels_job(number)));
    let mut admissions = Vec::new();
    for index in 0..12 {
        if let Some(Action::Admit { .. }) = fixture.advance() {
            admissions.push(index);
        }
    }
    assert_eq!(admissions, [5, 11]);
}

#[test]
fn an_abandoned_image_is_not_decoded_further_and_frees_its_rows() {
    let mut fixture = Fixture::new(EngineLimits { max_rows: 1, ..limits() });
    let leaves = fixture.send(scripted::job(50));
    let mut next = fixture.send(scripted::job(2));
    for _ in 0..4 {
        fixture.advance();
    }
    assert_eq!(fixture.script.steps_of(50), 3);
    drop(leaves);
    fixture.run_until_idle();
    assert_eq!(next.tokens(1), caption(2));
    assert_eq!(fixture.script.steps_of(50), 3);
}

#[test]
fn a_job_whose_client_disconnected_in_the_queue_is_never_encoded() {
    let mut fixture = Fixture::new(limits());
    drop(fixture.send(scripted::pixels_job(3)));
    fixture.run_until_idle();
    assert_eq!(fixture.script.calls(), []);
}

#[test]
fn a_job_whose_deadline_passes_while_it_is_encoded_runs_no_prompt() {
    let mut fixture = Fixture::new(limits());
    fixture.script.set_times(Duration::from_millis(50), Duration::from_millis(10));
    let Job { image, .. } = scripted::pixels_job(3);
    let mut job = Job { image, ..scripted::prompt_job(3, &max_new_tokens(9)) };
    job.request.deadline = Some(fixture.script.now() + Duration::from_millis(20));
    let mut client = fixture.send(job);
    fixture.run_until_idle();
    assert!(matches!(client.result(), Some(Err(CaptionError::DeadlineExceeded))));
    assert_eq!(fixture.script.calls(), [Call::Encode(vec![3])]);
}

#[test]
fn a_failing_run_of_the_encoder_fails_its_images_only() {
    let mut fixture = Fixture::new(EngineLimits { max_batch_size: 2, ..limits() });
    let mut decodes = fixture.send(scripted::job(4));
    // Its admission and its first step, which ends the burst.
    fixture.advance();
    fixture.advance();
    let mut fail = [5, 6].map(|number| fixture.send(scripted::pixels_job(number)));
    fixture.script.fail(Failure::Encode);
    fixture.run_until_idle();
    assert_eq!(decodes.tokens(1), caption(4));
    assert!(fail.iter_mut().all(Client::has_failed));
    assert_eq!(fixture.worker.recorder.statistics().encoder_runs.count, 0);
}

#[test]
fn the_time_of_a_failed_run_of_the_encoder_is_not_counted_for_the_next() {
    let mut fixture = Fixture::new(limits());
    fixture.script.set_times(Duration::from_millis(50), Duration::ZERO);
    fixture.script.fail(Failure::Encode);
    let _clients = [2, 3].map(|number| fixture.send(scripted::pixels_job(number)));
    fixture.run_until_idle();
    let encoder = fixture.worker.recorder.statistics().encoder_runs;
    assert_eq!((encoder.count, encoder.time), (1, Duration::from_millis(50)));
}

#[test]
fn a_prompt_runs_separately_and_its_image_then_decodes_with_the_others() {
    let mut fixture = Fixture::new(limits());
    let mut clients = [scripted::job(4), scripted::prompt_job(3, &max_new_tokens(9))].map(|job| fixture.send(job));
    fixture.run_until_idle();
    assert_eq!((clients[0].tokens(1), clients[1].tokens(3)), (caption(4), caption(3)));
    let calls = fixture.script.calls();
    assert!(calls.contains(&Call::Prefill(3)));
    assert_eq!(calls.iter().filter(|call| **call == Call::Step(vec![4, 3])).count(), 2, "{calls:?}");
}

#[test]
fn a_prompt_whose_first_token_is_the_last_needs_no_step() {
    let mut fixture = Fixture::new(limits());
    let mut client = fixture.send(scripted::prompt_job(3, &max_new_tokens(1)));
    fixture.run_until_idle();
    assert_eq!(client.tokens(3), caption(3)[..1]);
    assert_eq!(fixture.script.calls(), [Call::Prefill(3)]);
}

#[test]
fn a_failing_prompt_fails_its_image_only() {
    let mut fixture = Fixture::new(limits());
    fixture.script.fail(Failure::Prefill);
    let mut fails = fixture.send(scripted::prompt_job(3, &max_new_tokens(9)));
    let mut stays = fixture.send(scripted::job(4));
    fixture.run_until_idle();
    assert!(fails.has_failed());
    assert_eq!(stays.tokens(1), caption(4));
}

#[test]
fn an_encoded_image_is_kept_for_other_prompts_if_it_has_a_digest() {
    let mut fixture = Fixture::new(limits());
    let mut job = scripted::pixels_job(3);
    job.image = JobImage::Pixels { pixel_values: scripted::pixel_values(3), digest: Some([7; 32]) };
    let _clients = [fixture.send(job), fixture.send(scripted::pixels_job(4))];
    fixture.run_until_idle();
    assert_eq!(fixture.worker.images.get(&[7; 32]), Some(Arc::new(ScriptedImage(3))));
}

/// Reads the statistics at the moment a result arrives.
struct StatisticsAtArrival {
    recorder: Arc<ModelRecorder>,
    steps: std::sync::Mutex<Option<u64>>,
}

impl Wake for StatisticsAtArrival {
    fn wake(self: Arc<Self>) {
        let runs = self.recorder.statistics().decoder_runs;
        *self.steps.lock().unwrap() = Some(runs.values().map(|runs| runs.infer.count).sum());
    }
}

#[test]
fn the_work_for_a_result_is_counted_before_the_result_is_sent() {
    let mut fixture = Fixture::new(limits());
    let mut client = fixture.send(scripted::job(3));
    let arrival =
        Arc::new(StatisticsAtArrival { recorder: fixture.worker.recorder.clone(), steps: std::sync::Mutex::default() });
    let waker = Waker::from(arrival.clone());
    assert!(client.0.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    fixture.run_until_idle();
    assert_eq!(*arrival.steps.lock().unwrap(), Some(3));
}

#[test]
fn a_result_has_the_time_that_the_job_waited_and_the_time_that_it_ran() {
    let mut fixture = Fixture::new(EngineLimits { max_rows: 1, ..limits() });
    fixture.script.set_times(Duration::from_millis(50), Duration::from_millis(10));
    let mut clients = [2, 3].map(|number| fixture.send(scripted::pixels_job(number)));
    fixture.run_until_idle();
    let ms = Duration::from_millis;
    let infer = clients.each_mut().map(|client| client.result().unwrap().unwrap().infer);
    assert_eq!(infer, [ms(70), ms(80)]);
}

#[test]
fn measured_latencies_decide_the_next_burst() {
    let mut fixture = Fixture::new(limits());
    fixture.script.set_times(Duration::from_mins(1), Duration::from_millis(1));
    let _first = fixture.send(scripted::pixels_job(2));
    fixture.run_until_idle();
    let _others = [3; 8].map(|number| fixture.send(scripted::pixels_job(number)));
    // With so slow an encoder there are no bursts.
    assert_eq!(fixture.advance(), Some(Action::Admit { entries: 1, burst: 0 }));
}

#[test]
fn a_worker_whose_senders_are_dropped_finishes_nothing_more_and_stops() {
    let mut fixture = Fixture::new(limits());
    let client = fixture.send(scripted::job(9));
    fixture.advance();
    let Fixture { worker, sender, script } = fixture;
    drop((client, sender));
    worker.run();
    assert_eq!(script.steps_of(9), 0);
}

#[test]
fn progress_of_a_prompt_begins_with_its_first_token() {
    let mut fixture = Fixture::new(limits());
    let (progress, decided) = tokio::sync::watch::channel(Vec::new());
    let mut job = scripted::prompt_job(3, &max_new_tokens(9));
    job.request.progress = Some(progress);
    let _client = fixture.send(job);
    fixture.advance();
    assert_eq!(decided.borrow()[..], [&[START, 7, 7], &caption(3)[..1]].concat());
}
