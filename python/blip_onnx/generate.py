"""Greedy and beam search over the two graphs of a bundle, in numpy.

The searches follow `BlipForConditionalGeneration.generate` and are written for clarity, not for
speed. The exporter verifies a bundle with them, and they document how the graphs are called.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

# The key and the value of each decoder layer.
KeyValues = list[tuple[np.ndarray, np.ndarray]]
# transformers uses this score in place of minus infinity.
_LOWEST_SCORE = np.float32(-1e9)


class Decoder(Protocol):
    """The model as the searches call it."""

    def __call__(self, sequences: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        """Return the logits `[rows, vocab]` that follow `sequences` `[rows, length]`.

        Row r continues row `parents[r]` of the previous call; None starts new sequences.
        """


@dataclass(frozen=True)
class Decision:
    """One step of a search: the state it chose, and the gap to the best other choice."""

    state: tuple
    # In units of logits.
    margin: float


@dataclass(frozen=True)
class Hypothesis:
    """A sequence that a beam search has finished, or a placeholder for one."""

    score: np.float32 = _LOWEST_SCORE
    is_finished: bool = False
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class SearchConfig:
    """Length and beams of one search, and the id that ends it."""

    eos_token_id: int
    num_beams: int = 1
    max_new_tokens: int = 20
    length_penalty: float = 1.0
    early_stopping: bool | str = False


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Return the service's options that change numbers or speed; 0 threads: one per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI the fastest 8-bit kernels add in 16 bits, which can overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


class Bundle:
    """The sessions and the manifest of an exported folder."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        options = session_options(threads)
        providers = ["CPUExecutionProvider"]
        self.vision = onnxruntime.InferenceSession(
            folder / "vision_encoder.onnx", options, providers
        )
        self.text = onnxruntime.InferenceSession(folder / "text_decoder.onnx", options, providers)

    def encode(self, pixel_values: np.ndarray) -> KeyValues:
        """Return cross-attention keys and values of float32 `[batch, 3, height, width]` pixels."""
        names = [f"present.{layer}.encoder.{kind}" for layer in self._layers() for kind in _KINDS]
        outputs = self.vision.run(names, {"pixel_values": pixel_values})
        return list(zip(outputs[0::2], outputs[1::2], strict=True))

    def empty_cache(self, rows: int, capacity: int) -> KeyValues:
        """Return a self-attention cache of zeros, because masked slots must not hold NaN."""
        text = self.manifest["text"]
        # [rows, heads, cap, head_dim]
        shape = (rows, text["num_attention_heads"], capacity, text["head_dim"])
        return [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in self._layers()]

    def step(
        self, ids: np.ndarray, past_lengths: np.ndarray, cache: KeyValues, cross: KeyValues
    ) -> np.ndarray:
        """Return logits `[rows, vocab]` after the new `ids` `[rows, query]`; updates `cache`.

        Every image of `cross` has the same number of rows.
        """
        images = len(cross[0][0])
        rows = np.arange(len(ids))
        feeds = {"input_ids": ids, "past_lengths": past_lengths}
        return self.run_step(feeds, rows.reshape(images, -1), rows, cache, cross)

    def step_mixed(
        self,
        ids: np.ndarray,
        past_lengths: np.ndarray,
        beams: list[int],
        cache: KeyValues,
        cross: KeyValues,
    ) -> np.ndarray:
        """Run a step as `step` does, for images with `beams[i]` rows each."""
        first = np.cumsum([0, *beams[:-1]])
        most = max(beams)
        # An image with fewer beams repeats its first row; the result of a repetition is not read.
        image_rows = np.array(
            [
                [start + (beam if beam < count else 0) for beam in range(most)]
                for start, count in zip(first, beams, strict=True)
            ]
        )  # [images, beams]
        row_slots = np.concatenate(
            [image * most + np.arange(count) for image, count in enumerate(beams)]
        )  # [rows]
        feeds = {"input_ids": ids, "past_lengths": past_lengths}
        return self.run_step(feeds, image_rows, row_slots, cache, cross)

    def run_step(
        self,
        feeds: dict[str, np.ndarray],
        image_rows: np.ndarray,
        row_slots: np.ndarray,
        cache: KeyValues,
        cross: KeyValues,
    ) -> np.ndarray:
        """Run the decoder once; `feeds` holds the ids and past lengths."""
        feeds |= {"image_rows": image_rows, "row_slots": row_slots}
        names = ["logits"]
        for layer in self._layers():
            for side, tensors in (("decoder", cache[layer]), ("encoder", cross[layer])):
                for kind, tensor in zip(_KINDS, tensors, strict=True):
                    feeds[f"past_key_values.{layer}.{side}.{kind}"] = tensor
            names += [f"present.{layer}.decoder.{kind}" for kind in _KINDS]
        logits, *present = self.text.run(names, feeds)
        for index, new in enumerate(present):
            cache[index // 2][index % 2][:] = new
        return logits

    def _layers(self) -> range:
        return range(self.manifest["text"]["num_hidden_layers"])


_KINDS = ("key", "value")


@dataclass
class CachedDecoder:
    """A `Decoder` over a bundle and one encoded image, with a self-attention cache."""

    bundle: Bundle
    cross: KeyValues
    capacity: int
    _cache: KeyValues = field(default_factory=list)
    _length: int = 0

    def __call__(self, sequences: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        rows, length = sequences.shape
        if parents is None:
            self._cache, self._length = self.bundle.empty_cache(rows, self.capacity), 0
        else:
            self._cache = [(key[parents], value[parents]) for key, value in self._cache]
        past = np.full(rows, self._length, np.int64)
        ids = np.ascontiguousarray(sequences[:, self._length :])
        self._length = length
        return self.bundle.step(ids, past, self._cache, self.cross)


def greedy_search(
    decoder: Decoder, prompt: list[int], config: SearchConfig, trace: list[Decision] | None = None
) -> list[int]:
    """Return the prompt and its continuation by arg max, the end token included."""
    ids = list(prompt)
    parents = None
    for _ in range(config.max_new_tokens):
        logits = decoder(np.array([ids], np.int64), parents)[0]  # [vocab]
        parents = np.zeros(1, np.int64)
        token = int(np.argmax(logits))
        if trace is not None:
            second, first = np.partition(logits, -2)[-2:]
            trace.append(Decision((token,), float(first - second)))
        ids.append(token)
        if token == config.eos_token_id:
            break
    return ids


def beam_search(
    decoder: Decoder, prompt: list[int], config: SearchConfig, trace: list[Decision] | None = None
) -> tuple[list[int], float]:
    """Return the best sequence and its score, as transformers >= 4.50 with one image does."""
    beams, start = config.num_beams, len(prompt)
    running = np.tile(np.array(prompt, np.int64), (beams, 1))  # [beams, length]
    scores = np.full(beams, _LOWEST_SCORE, np.float32)  # [beams]
    scores[0] = 0
    finished = [Hypothesis()] * beams
    parents, is_open = None, True
    for length in range(start + 1, start + config.max_new_tokens + 1):
        totals = log_softmax(decoder(running, parents)) + scores[:, None]  # [beams, vocab]
        top = _argtop(totals.ravel(), 2 * beams + 1)
        gaps = -np.diff(totals.ravel()[top])
        top = top[:-1]  # [2 * beams]
        source, token = np.divmod(top, totals.shape[1])
        candidates = np.concatenate([running[source], token[:, None]], axis=1)
        value = totals.ravel()[top]
        ends = (token == config.eos_token_id) | (length >= start + config.max_new_tokens)
        running_value = value + ends.astype(np.float32) * _LOWEST_SCORE
        kept = _argtop(running_value, beams)  # [beams]
        finished = _merge(finished, candidates, value, ends, is_open, length - start, config)
        running, parents, scores = candidates[kept], source[kept], running_value[kept]
        if trace is not None:
            done = [hypothesis.score for hypothesis in finished if hypothesis.is_finished]
            state = (tuple(map(tuple, running)), tuple(each.token_ids for each in finished))
            trace.append(Decision(state, float(min([*gaps, *-np.diff(done)]))))
        is_open = is_open and _can_improve(scores[0], finished, length - start, config)
        is_full = all(hypothesis.is_finished for hypothesis in finished)
        if not is_open or (is_full and config.early_stopping is True) or ends.all():
            break
    return list(finished[0].token_ids), float(finished[0].score)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Compute log_softmax over the last axis in float32, in the order of torch."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _argtop(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` largest values, descending; ties by index."""
    return np.argsort(-values, kind="stable")[:count]


def _merge(
    finished: list[Hypothesis],
    candidates: np.ndarray,
    value: np.ndarray,
    ends: np.ndarray,
    is_open: bool,
    generated: int,
    config: SearchConfig,
) -> list[Hypothesis]:
    """Return the best finished sequences; only candidates of rank < num_beams may join them."""
    score = value / np.float32(generated**config.length_penalty)
    if config.early_stopping is True and all(each.is_finished for each in finished):
        score = score + _LOWEST_SCORE
    if not is_open:
        score = score + _LOWEST_SCORE
    may_finish = ends & (np.arange(len(ends)) < config.num_beams)
    score = score + np.where(may_finish, np.float32(0), _LOWEST_SCORE)
    merged = finished + [
        Hypothesis(score[rank], bool(may_finish[rank]), tuple(map(int, candidates[rank])))
        for rank in range(len(ends))
    ]
    return sorted(merged, key=lambda hypothesis: -hypothesis.score)[: config.num_beams]


def _can_improve(
    best_running: np.float32, finished: list[Hypothesis], generated: int, config: SearchConfig
) -> bool:
    """Whether a running beam may still exceed the worst finished sequence."""
    longest = config.early_stopping == "never" and config.length_penalty > 0
    length = config.max_new_tokens if longest else generated
    best = best_running / np.float32(length**config.length_penalty)
    worst = min(hypothesis.score for hypothesis in finished)
    return any(best > (worst if each.is_finished else _LOWEST_SCORE) for each in finished)
