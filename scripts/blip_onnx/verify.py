"""Compares a bundle with transformers in the same process: tokens must be equal.

Captions come from generate itself, greedy and with beams, with and without a prompt. Logits are
compared along the oracle's own ids in every way the decoder can be driven: step by step, as one
prefill, and with rows of different past length in one step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
from onnx_generate import Bundle, CachedDecoder, KeyValues, SearchConfig

from blip_onnx import ExportError, oracle
from blip_onnx.checkpoint import Checkpoint
from blip_onnx.manifest import preprocess, prompt_ids

_PROMPTS = (None, "a picture of")
_BEAMS = (1, 3)
_NEW_TOKENS = 20
# A mismatch is excused below this multiple of the largest logit difference.
_MARGIN_FACTOR = 4
# Largest logit difference relative to the largest logit; beyond it the graphs are wrong even if
# the tokens happen to agree.
_MAX_RELATIVE_DIFFERENCE = 1e-2

logger = logging.getLogger(__name__)


@dataclass
class _Report:
    cases: int = 0
    tokens: int = 0
    difference: float = 0.0
    largest_logit: float = 0.0
    # Token mismatches, with the oracle's margin at the first differing decision.
    mismatches: list[tuple[str, float]] = field(default_factory=list)

    def compare(self, ours: np.ndarray, oracle_logits: np.ndarray) -> None:
        """Take in the difference of two logit arrays of one shape."""
        difference = float(np.abs(ours - oracle_logits).max())
        # NaN would lose every comparison.
        self.difference = max(self.difference, difference if np.isfinite(difference) else np.inf)
        self.largest_logit = max(self.largest_logit, float(np.abs(oracle_logits).max()))


@dataclass(frozen=True)
class _Case:
    """The oracle's greedy caption of one image."""

    pixels: np.ndarray
    prompt_length: int
    ids: list[int]
    # [new tokens, vocab]
    logits: np.ndarray


def verify(
    bundle: Bundle, checkpoint: Checkpoint, images: list[PIL.Image.Image]
) -> dict[str, int | float]:
    """The manifest's verification figures, or an `ExportError`."""
    report = _Report()
    cases = []
    for image in images:
        pixels = _pixels(bundle, checkpoint, image)
        cross = bundle.encode(pixels)
        for prompt in _PROMPTS:
            for beams in _BEAMS:
                case = _compare_tokens(bundle, checkpoint, (pixels, cross), (prompt, beams), report)
                if beams == 1:
                    _compare_steps(bundle, cross, case, report)
                    cases.append(case)
    _compare_mixed(bundle, cases, report)
    _judge(report)
    return {
        "images": len(images),
        "cases": report.cases,
        "tokens": report.tokens,
        "max_abs_logit_difference": report.difference,
    }


def _pixels(bundle: Bundle, checkpoint: Checkpoint, image: PIL.Image.Image) -> np.ndarray:
    """The oracle's pixels, after checking that the manifest describes them exactly."""
    pixels = checkpoint.image_processor(image, return_tensors="np")["pixel_values"]
    pixels = np.ascontiguousarray(pixels, np.float32)
    opaque = image.mode == "RGB" and "transparency" not in image.info
    if opaque and not np.array_equal(pixels, preprocess(image, bundle.manifest)):
        raise ExportError("the image processor's pixels are not those the manifest describes")
    return pixels


def _compare_tokens(
    bundle: Bundle,
    checkpoint: Checkpoint,
    encoded: tuple[np.ndarray, KeyValues],
    what: tuple[str | None, int],
    report: _Report,
) -> _Case:
    """Caption once on either side; a difference is recorded with the oracle's margin."""
    (pixels, cross), (prompt, beams) = encoded, what
    text = bundle.manifest["text"]
    prompt_tokens = prompt_ids(checkpoint.tokenizer, bundle.manifest, prompt)
    new_tokens = min(_NEW_TOKENS, text["max_position_embeddings"] - len(prompt_tokens))
    config = SearchConfig(text["eos_token_id"], beams, new_tokens)
    theirs = oracle.caption(checkpoint, pixels, prompt, config)
    decoder = CachedDecoder(bundle, cross, len(prompt_tokens) + config.max_new_tokens)
    ours = oracle.search(decoder, prompt_tokens, config)
    report.cases += 1
    report.tokens += len(theirs.ids) - len(prompt_tokens)
    if ours != theirs.ids:
        margin = oracle.margin(checkpoint, pixels, decoder, prompt_tokens, config)
        label = f"prompt {prompt!r}, {beams} beams: {ours} instead of {theirs.ids}"
        report.mismatches.append((label, margin))
    return _Case(pixels, len(prompt_tokens), theirs.ids, theirs.logits)


def _compare_steps(bundle: Bundle, cross: KeyValues, case: _Case, report: _Report) -> None:
    """Teacher-forced logits: through the cache step by step, and as one prefill."""
    ids = np.array([case.ids], np.int64)
    decoder = CachedDecoder(bundle, cross, len(case.ids))
    parents = None
    for index, logits in enumerate(case.logits):
        report.compare(decoder(ids[:, : case.prompt_length + index], parents)[0], logits)
        parents = np.zeros(1, np.int64)
    prefill = CachedDecoder(bundle, cross, len(case.ids))
    report.compare(prefill(ids[:, :-1], None)[0], case.logits[-1])


def _compare_mixed(bundle: Bundle, cases: list[_Case], report: _Report) -> None:
    """One step over rows of several images, each with a different past length."""
    capacity = max(len(case.ids) for case in cases)
    cross = bundle.encode(np.concatenate([case.pixels for case in cases]))
    cache = bundle.empty_cache(len(cases), capacity)
    past = np.zeros(len(cases), np.int64)
    for row, case in enumerate(cases):
        # Spread the rows over the lengths of their captions.
        generated = row * (len(case.logits) - 1) // max(len(cases) - 1, 1)
        past[row] = case.prompt_length + generated - 1
        if past[row]:
            one = slice(row, row + 1)
            ids = np.array([case.ids[: past[row]]], np.int64)
            # Views, so that the prefill fills its row of the common cache.
            row_cache = [(key[one], value[one]) for key, value in cache]
            row_cross = [(key[one], value[one]) for key, value in cross]
            bundle.step(ids, np.zeros(1, np.int64), row_cache, row_cross)
    ids = np.array([[case.ids[past[row]]] for row, case in enumerate(cases)], np.int64)
    for row, logits in enumerate(bundle.step(ids, past, cache, cross)):
        report.compare(logits, cases[row].logits[past[row] + 1 - cases[row].prompt_length])


def _judge(report: _Report) -> None:
    """Raise unless the tokens are equal, or the oracle was undecided where they part."""
    limit = _MAX_RELATIVE_DIFFERENCE * max(1.0, report.largest_logit)
    if report.difference > limit:
        raise ExportError(
            f"verification failed: logits differ by {report.difference:.3g} (limit {limit:.3g})"
        )
    for text, margin in report.mismatches:
        if margin >= _MARGIN_FACTOR * report.difference:
            raise ExportError(f"verification failed: {text} (oracle's margin {margin:.3g})")
        logger.warning(
            "excused, the oracle was undecided (margin %.3g, largest logit difference %.3g): %s",
            margin,
            report.difference,
            text,
        )
