//! A [`Backend`] without a model, for the engine's tests: it has a fixed caption for each image, records every call,
//! fails and blocks on request, and its clock only advances by the configured time of each run.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ndarray::{Array2, Array3, ArrayView2};
use tokio::sync::oneshot;

use crate::{
    engine::{
        AbortHandle, Backend, EngineConfig, EngineLimits, ImageCache, Job, JobImage, Outcome, RequestHandle,
        entry::Entry,
    },
    error::CaptionError,
};
use generation::{GenerationConfig, GenerationLimits, GenerationParameters, Search, TokenId, Vocabulary};
use image_processor::PixelValues;

pub(super) const START: TokenId = 1;
const EOS: TokenId = 2;
const VOCABULARY: Vocabulary = Vocabulary { size: 8, eos_token_id: EOS, pad_token_id: 0 };

/// Bound of every wait for another thread, so that a failing test ends.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// The test's side of a [`ScriptedBackend`].
#[derive(Clone, Debug)]
pub(super) struct Script(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    failures: Vec<Failure>,
    encode_time: Duration,
    step_time: Duration,
    /// How far the clock has advanced.
    elapsed: Duration,
    run_time: Duration,
    is_encoder_held: bool,
    /// Whether the cache holds memory.
    holds_memory: bool,
}

/// A call of the backend; images are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Encode(Vec<u32>),
    Prefill(u32),
    Step(Vec<u32>),
}

/// The call that fails next, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Encode,
    Prefill,
    Join,
    Step,
    /// A reorder of the rows of this image.
    Reorder(u32),
    /// A step panics.
    Panic,
}

#[derive(Debug)]
pub(super) struct ScriptedError(&'static str);

/// An encoded image: its number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScriptedImage(pub(super) u32);

#[derive(Debug)]
pub(super) struct ScriptedBackend {
    script: Script,
    images: Vec<ScriptedSlot>,
}

/// An image in the cache.
#[derive(Debug)]
struct ScriptedSlot {
    number: u32,
    rows: usize,
    /// Tokens that are decided.
    position: usize,
    /// Whether it has had a step since it joined.
    has_stepped: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ScriptedAbort {
    script: Script,
    is_aborted: Arc<Mutex<bool>>,
}

/// Returns token `position` of image `number`: its caption has `number` tokens, the end token included, and no two images
/// of a test have the same one.
fn token(number: u32, position: usize) -> TokenId {
    if position + 1 >= number as usize { EOS } else { 3 + (number + position as u32) % 5 }
}

/// Returns the tokens of an image after its prompt.
pub(super) fn caption(number: u32) -> Vec<TokenId> {
    (0..number as usize).map(|position| token(number, position)).collect()
}

impl Script {
    pub(super) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Returns the number of decoder steps that an image had.
    pub(super) fn steps_of(&self, number: u32) -> usize {
        let is_step = |call: &&Call| matches!(call, Call::Step(numbers) if numbers.contains(&number));
        self.state().calls.iter().filter(is_step).count()
    }

    pub(super) fn fail(&self, failure: Failure) {
        self.state().failures.push(failure);
    }

    /// Sets how long a run takes: of the encoder for each image, and a step of the decoder.
    pub(super) fn set_times(&self, encode: Duration, step: Duration) {
        let mut state = self.state();
        (state.encode_time, state.step_time) = (encode, step);
    }

    pub(super) fn now(&self) -> Instant {
        self.0.started + self.state().elapsed
    }

    pub(super) fn advance_clock(&self, time: Duration) {
        self.state().elapsed += time;
    }

    pub(super) fn holds_memory(&self) -> bool {
        self.state().holds_memory
    }

    /// Blocks runs of the encoder until [`Self::release_encoder`].
    pub(super) fn hold_encoder(&self) {
        self.state().is_encoder_held = true;
    }

    pub(super) fn release_encoder(&self) {
        self.state().is_encoder_held = false;
        self.0.changed.notify_all();
    }

    /// Waits until another thread has made this call.
    pub(super) fn wait_for(&self, call: &Call) {
        let state = self.state();
        let (_state, timeout) =
            self.0.changed.wait_timeout_while(state, WAIT_LIMIT, |state| !state.calls.contains(call)).unwrap();
        assert!(!timeout.timed_out(), "{call:?} was not called");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn record(&self, call: Call, time: Duration) {
        let mut state = self.state();
        state.calls.push(call);
        state.elapsed += time;
        state.run_time += time;
        self.0.changed.notify_all();
    }

    /// Fails if the test has requested it.
    fn check(&self, failure: Failure) -> Result<(), ScriptedError> {
        let mut state = self.state();
        match state.failures.iter().position(|scripted| *scripted == failure) {
            Some(index) => {
                state.failures.remove(index);
                Err(ScriptedError("scripted failure"))
            }
            None => Ok(()),
        }
    }
}

impl ScriptedBackend {
    pub(super) fn new() -> (Self, Script) {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let script = Script(Arc::new(Shared { started: Instant::now(), state, changed }));
        (Self { script: script.clone(), images: Vec::new() }, script)
    }
}

impl Backend for ScriptedBackend {
    type EncodedImage = ScriptedImage;
    type Prefill = Array2<f32>;
    type Logits = Array2<f32>;
    type Abort = ScriptedAbort;
    type Error = ScriptedError;

    fn abort_handle(&self) -> Result<ScriptedAbort, ScriptedError> {
        Ok(ScriptedAbort { script: self.script.clone(), is_aborted: Arc::default() })
    }

    fn encode(
        &mut self,
        images: Vec<PixelValues>,
        abort: &ScriptedAbort,
    ) -> Result<Vec<Arc<ScriptedImage>>, ScriptedError> {
        let numbers: Vec<u32> = images.iter().map(|image| image.view()[[0, 0, 0]] as u32).collect();
        let time = self.script.state().encode_time * numbers.len() as u32;
        self.script.record(Call::Encode(numbers.clone()), time);
        let is_blocked = |state: &mut State| state.is_encoder_held && !*abort.is_aborted.lock().unwrap();
        let (state, timeout) =
            self.script.0.changed.wait_timeout_while(self.script.state(), WAIT_LIMIT, is_blocked).unwrap();
        drop(state);
        assert!(!timeout.timed_out(), "the encoder was neither released nor aborted");
        if *abort.is_aborted.lock().unwrap() {
            return Err(ScriptedError("aborted"));
        }
        self.script.check(Failure::Encode)?;
        Ok(numbers.into_iter().map(|number| Arc::new(ScriptedImage(number))).collect())
    }

    fn prefill(&mut self, image: &ScriptedImage, prompt: &[TokenId]) -> Result<Array2<f32>, ScriptedError> {
        assert!(prompt.len() > 1, "a prompt of only the start token is not run");
        let time = self.script.state().step_time;
        self.script.record(Call::Prefill(image.0), time);
        self.script.check(Failure::Prefill)?;
        Ok(logits([token(image.0, 0)]))
    }

    fn prefill_logits(prefill: &Array2<f32>) -> Result<ArrayView2<'_, f32>, ScriptedError> {
        Ok(prefill.view())
    }

    fn join(&mut self, image: Arc<ScriptedImage>, past: Option<Array2<f32>>, rows: usize) -> Result<(), ScriptedError> {
        self.script.check(Failure::Join)?;
        let position = usize::from(past.is_some());
        self.images.push(ScriptedSlot { number: image.0, rows, position, has_stepped: false });
        self.script.state().holds_memory = true;
        Ok(())
    }

    fn swap_remove(&mut self, index: usize) {
        self.images.swap_remove(index);
    }

    fn reorder(&mut self, index: usize, beam_idx: &[usize]) -> Result<(), ScriptedError> {
        let image = &mut self.images[index];
        assert!(image.has_stepped, "image {} is reordered before its first step", image.number);
        self.script.check(Failure::Reorder(image.number))?;
        image.rows = beam_idx.len();
        Ok(())
    }

    fn step(&mut self, input_ids: &[TokenId]) -> Result<Array2<f32>, ScriptedError> {
        assert!(!input_ids.is_empty(), "a step has rows");
        let time = self.script.state().step_time;
        self.script.record(Call::Step(self.images.iter().map(|image| image.number).collect()), time);
        assert!(self.script.check(Failure::Panic).is_ok(), "scripted panic");
        self.script.check(Failure::Step)?;
        let mut input_ids = input_ids.iter();
        let mut next = Vec::new();
        for image in &mut self.images {
            let fed: Vec<TokenId> = input_ids.by_ref().take(image.rows).copied().collect();
            if let [fed] = fed[..] {
                let expected = image.position.checked_sub(1).map_or(START, |last| token(image.number, last));
                assert_eq!(fed, expected, "the next token of image {}", image.number);
            }
            assert_eq!(fed.len(), image.rows, "the rows of image {}", image.number);
            next.extend(fed.iter().map(|_| token(image.number, image.position)));
            image.position += 1;
            image.has_stepped = true;
        }
        assert_eq!(input_ids.next(), None, "a token for each row");
        Ok(logits(next))
    }

    fn logits(logits: &Array2<f32>) -> Result<ArrayView2<'_, f32>, ScriptedError> {
        Ok(logits.view())
    }

    fn release(&mut self) {
        if self.images.is_empty() {
            self.script.state().holds_memory = false;
        }
    }

    fn clear(&mut self) {
        self.images.clear();
        self.release();
    }

    fn take_run_time(&mut self) -> Duration {
        std::mem::take(&mut self.script.state().run_time)
    }

    fn now(&self) -> Instant {
        self.script.now()
    }

    fn sleep(&self, duration: Duration) {
        self.script.advance_clock(duration);
    }
}

impl AbortHandle for ScriptedAbort {
    fn abort(&self) {
        // With the lock this is before or after the encoder reads the flag, never between that and its wait.
        let _state = self.script.state();
        *self.is_aborted.lock().unwrap() = true;
        self.script.0.changed.notify_all();
    }
}

impl ScriptedAbort {
    pub(super) fn is_aborted(&self) -> bool {
        *self.is_aborted.lock().unwrap()
    }
}

impl fmt::Display for ScriptedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ScriptedError {}

/// Returns a row for each token, in which it has by far the highest logit: `[rows, vocab_size]`.
fn logits(tokens: impl IntoIterator<Item = TokenId>) -> Array2<f32> {
    let tokens: Vec<TokenId> = tokens.into_iter().collect();
    Array2::from_shape_fn(
        (tokens.len(), VOCABULARY.size),
        |(row, id)| {
            if tokens[row] as usize == id { 50.0 } else { 0.0 }
        },
    )
}

pub(super) fn pixel_values(number: u32) -> PixelValues {
    PixelValues::new(Array3::from_elem((3, 1, 1), number as f32))
}

/// Returns a job on an encoded image, with the start token as its prompt and greedy search.
pub(super) fn job(number: u32) -> Job<ScriptedImage> {
    let image = JobImage::Encoded(Arc::new(ScriptedImage(number)));
    let search = search(&GenerationParameters::default(), &[START]);
    Job { image, prompt: vec![START], search, request: RequestHandle::default() }
}

/// Returns a job whose image must be encoded.
pub(super) fn pixels_job(number: u32) -> Job<ScriptedImage> {
    let image = JobImage::Pixels { pixel_values: pixel_values(number), digest: None };
    Job { image, ..job(number) }
}

/// Returns a job that takes this many rows.
pub(super) fn job_with_rows(number: u32, rows: u32) -> Job<ScriptedImage> {
    let parameters = GenerationParameters { num_beams: Some(rows), ..GenerationParameters::default() };
    Job { search: search(&parameters, &[START]), ..job(number) }
}

/// Returns a job with a prompt of several tokens.
pub(super) fn prompt_job(number: u32, parameters: &GenerationParameters) -> Job<ScriptedImage> {
    let prompt = vec![START, 7, 7];
    Job { search: search(parameters, &prompt), prompt, ..job(number) }
}

fn search(parameters: &GenerationParameters, prompt: &[TokenId]) -> Search {
    let config = GenerationConfig::new(parameters, &GenerationLimits::default()).unwrap();
    let max_length = config.max_length(prompt.len(), 64).unwrap();
    Search::new(&config, VOCABULARY, Vec::new(), prompt, max_length)
}

/// A job as the engine's thread gets it, and what its client holds.
pub(super) fn entry(job: Job<ScriptedImage>) -> (Entry<ScriptedImage>, Client) {
    let (entry, receiver) = Entry::new(0, job, Instant::now());
    (entry, Client(receiver))
}

/// Waits for the result of a job.
pub(super) struct Client(pub(super) oneshot::Receiver<Result<Outcome, CaptionError>>);

impl Client {
    /// Returns the result that was sent, if any.
    pub(super) fn result(&mut self) -> Option<Result<Outcome, CaptionError>> {
        self.0.try_recv().ok()
    }

    /// Returns the generated tokens of the only sequence.
    pub(super) fn tokens(&mut self, prompt_len: usize) -> Vec<TokenId> {
        let outcome = self.result().expect("a result").expect("sequences");
        outcome.sequences[0].token_ids[prompt_len..].to_vec()
    }

    pub(super) fn has_failed(&mut self) -> bool {
        matches!(self.result(), Some(Err(CaptionError::Internal(_))))
    }
}

pub(super) fn config() -> EngineConfig<ScriptedImage> {
    EngineConfig {
        limits: EngineLimits { max_rows: 8, max_batch_size: 1, max_batch_delay: Duration::ZERO },
        recorder: Arc::default(),
        images: Arc::new(ImageCache::new(8, 1)),
    }
}
