"""Greedy and beam search over the two graphs of a bundle, in numpy.

The plain reading of what `BlipForConditionalGeneration.generate` does: the exporter verifies a
bundle with it, and it shows how the graphs are meant to be driven. It trades speed for clarity.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

# Per decoder layer, two arrays: key and value.
KeyValues = list[tuple[np.ndarray, np.ndarray]]
# Stands for minus infinity in the beam arithmetic of transformers.
_NEVER = np.float32(-1e9)


class Decoder(Protocol):
    """What the search loops ask of a model."""

    def __call__(self, sequences: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        """Logits `[rows, vocab]` that follow `sequences` `[rows, length]`.

        Row r continues row `parents[r]` of the call before; None starts anew.
        """


@dataclass(frozen=True)
class Decision:
    """One step of a search: what it chose, and by how much."""

    state: tuple
    margin: float


@dataclass(frozen=True)
class SearchConfig:
    """Length and beams of one search, and the ids that start and end it."""

    eos_token_id: int
    num_beams: int = 1
    max_new_tokens: int = 20
    length_penalty: float = 1.0
    early_stopping: bool | str = False


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """The service's options that change numbers or speed; 0 threads: as many as cores."""
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
        """Cross-attention keys and values of `[batch, 3, H, W]` float32 pixels."""
        names = [f"present.{layer}.encoder.{kind}" for layer in self._layers() for kind in _KINDS]
        outputs = self.vision.run(names, {"pixel_values": pixel_values})
        return list(zip(outputs[0::2], outputs[1::2], strict=True))

    def empty_cache(self, rows: int, capacity: int) -> KeyValues:
        """A self-attention cache of zeros: masked slots must not hold NaN."""
        text = self.manifest["text"]
        shape = (rows, text["num_attention_heads"], capacity, text["head_dim"])
        return [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in self._layers()]

    def step(
        self, ids: np.ndarray, past_lengths: np.ndarray, cache: KeyValues, cross: KeyValues
    ) -> np.ndarray:
        """Logits after the last of the new `ids` `[rows, query]`; writes the cache in place.

        Every image of `cross` has as many rows.
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
        """As `step`, for images with `beams[i]` rows each."""
        first = np.cumsum([0, *beams[:-1]])
        most = max(beams)
        # An image with fewer beams repeats its first row; nobody reads what comes of it.
        image_rows = np.array(
            [
                [start + (beam if beam < own else 0) for beam in range(most)]
                for start, own in zip(first, beams, strict=True)
            ]
        )
        row_slots = np.concatenate(
            [image * most + np.arange(own) for image, own in enumerate(beams)]
        )
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
        """One run of the decoder; `feeds` holds the ids and past lengths."""
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


def greedy(
    decoder: Decoder, prompt: list[int], config: SearchConfig, trace: list[Decision] | None = None
) -> list[int]:
    """Prompt and continuation by arg max, the end token included."""
    ids = list(prompt)
    parents = None
    for _ in range(config.max_new_tokens):
        logits = decoder(np.array([ids], np.int64), parents)[0]
        parents = np.zeros(1, np.int64)
        token = int(np.argmax(logits))
        if trace is not None:
            second, first = np.partition(logits, -2)[-2:]
            trace.append(Decision((token,), float(first - second)))
        ids.append(token)
        if token == config.eos_token_id:
            break
    return ids


def beam(
    decoder: Decoder, prompt: list[int], config: SearchConfig, trace: list[Decision] | None = None
) -> tuple[list[int], float]:
    """Best sequence and its score by the vectorised beam search of transformers >= 4.50."""
    beams, start = config.num_beams, len(prompt)
    running = np.tile(np.array(prompt, np.int64), (beams, 1))
    scores = np.full(beams, _NEVER, np.float32)
    scores[0] = 0
    finished: list[tuple[np.float32, bool, tuple[int, ...]]] = [(_NEVER, False, ())] * beams
    parents, is_open = None, True
    for length in range(start + 1, start + config.max_new_tokens + 1):
        totals = log_softmax(decoder(running, parents)) + scores[:, None]
        ranked = _ranked(totals.ravel(), 2 * beams + 1)
        gaps = -np.diff(totals.ravel()[ranked])
        ranked = ranked[:-1]
        source, token = np.divmod(ranked, totals.shape[1])
        candidates = np.concatenate([running[source], token[:, None]], axis=1)
        value = totals.ravel()[ranked]
        hit = (token == config.eos_token_id) | (length >= start + config.max_new_tokens)
        kept = _ranked(value + hit.astype(np.float32) * _NEVER, beams)
        finished = _merge(finished, candidates, value, hit, is_open, length - start, config)
        running, parents = candidates[kept], source[kept]
        scores = (value + hit.astype(np.float32) * _NEVER)[kept]
        if trace is not None:
            done = [score for score, is_done, _ in finished if is_done]
            state = (tuple(map(tuple, running)), tuple(ids for _, _, ids in finished))
            trace.append(Decision(state, float(min([*gaps, *-np.diff(done)]))))
        is_open = is_open and _can_improve(scores[0], finished, length - start, config)
        all_done = all(done for _, done, _ in finished)
        if not is_open or (all_done and config.early_stopping is True) or hit.all():
            break
    return list(map(int, finished[0][2])), float(finished[0][0])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log_softmax over the last axis in float32, in the order torch computes it."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _ranked(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest values, descending; ties by index."""
    return np.argsort(-values, kind="stable")[:count]


def _merge(
    finished: list[tuple[np.float32, bool, tuple[int, ...]]],
    candidates: np.ndarray,
    value: np.ndarray,
    hit: np.ndarray,
    is_open: bool,
    generated: int,
    config: SearchConfig,
) -> list[tuple[np.float32, bool, tuple[int, ...]]]:
    """The best finished sequences; only candidates of rank < num_beams may join them."""
    score = value / np.float32(generated**config.length_penalty)
    if config.early_stopping is True and all(done for _, done, _ in finished):
        score = score + _NEVER
    if not is_open:
        score = score + _NEVER
    may_finish = hit & (np.arange(len(hit)) < config.num_beams)
    score = score + np.where(may_finish, np.float32(0), _NEVER)
    joined = finished + [
        (score[rank], bool(may_finish[rank]), tuple(map(int, candidates[rank])))
        for rank in range(len(hit))
    ]
    return sorted(joined, key=lambda entry: -entry[0])[: config.num_beams]


def _can_improve(
    best_running: np.float32,
    finished: list[tuple[np.float32, bool, tuple[int, ...]]],
    generated: int,
    config: SearchConfig,
) -> bool:
    """Whether a running beam may still beat the worst finished sequence."""
    longest = config.early_stopping == "never" and config.length_penalty > 0
    length = config.max_new_tokens if longest else generated
    best = best_running / np.float32(length**config.length_penalty)
    worst = min(score for score, _, _ in finished)
    return any(best > (worst if done else _NEVER) for _, done, _ in finished)
