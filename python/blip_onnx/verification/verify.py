"""Compares a bundle with transformers in the same process: tokens must be equal.

transformers' captions come from generate, greedy and with beams, with and without a prompt. Logits
are compared along the oracle's ids in every way the decoder is called: step by step, as one
prefill, and with rows of different past length in one step. In fp16 and int8 only the logits are
compared here; `agreement` compares the captions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from blip_onnx import ExportError
from blip_onnx.checkpoint import Checkpoint
from blip_onnx.generate import Bundle, CachedDecoder, KeyValues, SearchConfig
from blip_onnx.manifest import preprocess, prompt_ids
from blip_onnx.verification import reference

PROMPTS = (None, "a picture of")
NEW_TOKENS = 20
_BEAMS = (1, 3)
# Rows that share a step; the service's default of `max_rows`.
_MIXED_ROWS = 16
# A mismatch is accepted if the oracle's margin is below this multiple of the largest logit
# difference.
_MARGIN_FACTOR = 4
# Limit of the logit difference relative to the largest logit; beyond it the graphs are wrong even
# if the tokens are equal.
_MAX_RELATIVE_DIFFERENCE = 1e-2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Mismatch:
    """A caption whose tokens differ from the oracle's."""

    text: str
    # The oracle's margin at the first differing decision.
    margin: float


@dataclass
class _Report:
    """The largest differences over all cases."""

    cases: int = 0
    tokens: int = 0
    difference: float = 0.0
    largest_logit: float = 0.0
    mismatches: list[_Mismatch] = field(default_factory=list)

    def compare(self, logits: np.ndarray, oracle_logits: np.ndarray) -> None:
        """Record the difference of two arrays `[vocab]`."""
        difference = float(np.abs(logits - oracle_logits).max())
        # A comparison with NaN is always false, so NaN counts as infinite.
        self.difference = max(self.difference, difference if np.isfinite(difference) else np.inf)
        self.largest_logit = max(self.largest_logit, float(np.abs(oracle_logits).max()))


@dataclass(frozen=True)
class _Case:
    """The oracle's caption of one image."""

    # [1, 3, height, width]
    pixels: np.ndarray
    # Ids that the caption starts with.
    prompt: list[int]
    config: SearchConfig
    ids: list[int]
    # [new tokens, vocab]
    logits: np.ndarray


def verify(
    bundle: Bundle, checkpoint: Checkpoint, images: list[PIL.Image.Image]
) -> dict[str, int | float]:
    """Return the manifest's verification figures; raises `ExportError` if the bundle is wrong."""
    report = _Report()
    cases = []
    is_exact = bundle.manifest["precision"] == "fp32"
    for image in images:
        pixels = oracle_pixels(bundle.manifest, checkpoint, image)
        cross = bundle.encode(pixels)
        for prompt in PROMPTS:
            for beams in _BEAMS if is_exact else (1,):
                case = _caption(bundle, checkpoint, pixels, prompt, beams)
                report.cases += 1
                report.tokens += len(case.ids) - len(case.prompt)
                if is_exact:
                    _compare_tokens(bundle, checkpoint, cross, case, report)
                if beams == 1:
                    _compare_steps(bundle, cross, case, report)
                    cases.append(case)
    _compare_mixed(bundle, cases[:_MIXED_ROWS], report)
    if not np.isfinite(report.difference):
        raise ExportError("verification failed: logits are not finite")
    if is_exact:
        _check(report)
    return {
        "images": len(images),
        "cases": report.cases,
        "tokens": report.tokens,
        "max_abs_logit_difference": report.difference,
    }


def oracle_pixels(
    manifest: dict[str, Any], checkpoint: Checkpoint, image: PIL.Image.Image
) -> np.ndarray:
    """Return the oracle's pixels, after checking that the manifest describes them exactly."""
    pixels = checkpoint.image_processor(image, return_tensors="np")["pixel_values"]
    pixels = np.ascontiguousarray(pixels, np.float32)
    opaque = image.mode == "RGB" and "transparency" not in image.info
    if opaque and not np.array_equal(pixels, preprocess(image, manifest)):
        raise ExportError("preprocessor: its pixels differ from those the manifest describes")
    return pixels


def _caption(
    bundle: Bundle, checkpoint: Checkpoint, pixels: np.ndarray, prompt: str | None, beams: int
) -> _Case:
    text = bundle.manifest["text"]
    start = prompt_ids(checkpoint.tokenizer, bundle.manifest, prompt)
    new_tokens = min(NEW_TOKENS, text["max_position_embeddings"] - len(start))
    config = SearchConfig(text["eos_token_id"], beams, new_tokens)
    caption = reference.caption(checkpoint, pixels, prompt, config)
    return _Case(pixels, start, config, caption.ids, caption.logits)


def _compare_tokens(
    bundle: Bundle, checkpoint: Checkpoint, cross: KeyValues, case: _Case, report: _Report
) -> None:
    """Caption with the bundle and record a difference with the oracle's margin."""
    prompt, config = case.prompt, case.config
    decoder = CachedDecoder(bundle, cross, len(prompt) + config.max_new_tokens)
    ids = reference.search(decoder, prompt, config)
    if ids != case.ids:
        margin = reference.find_margin(checkpoint, case.pixels, decoder, prompt, config)
        text = f"prompt {prompt}, {config.num_beams} beams: {ids} instead of {case.ids}"
        report.mismatches.append(_Mismatch(text, margin))


def _compare_steps(bundle: Bundle, cross: KeyValues, case: _Case, report: _Report) -> None:
    """Compare teacher-forced logits, step by step through the cache and as one prefill."""
    ids = np.array([case.ids], np.int64)
    decoder = CachedDecoder(bundle, cross, len(case.ids))
    parents = None
    for index, logits in enumerate(case.logits):
        report.compare(decoder(ids[:, : len(case.prompt) + index], parents)[0], logits)
        parents = np.zeros(1, np.int64)
    prefill = CachedDecoder(bundle, cross, len(case.ids))
    report.compare(prefill(ids[:, :-1], None)[0], case.logits[-1])


def _compare_mixed(bundle: Bundle, cases: list[_Case], report: _Report) -> None:
    """Compare one step over rows of several images, each with a different past length."""
    capacity = max(len(case.ids) for case in cases)
    # One image per run, as in the service: in int8 the images of a run share a scale.
    encoded = [bundle.encode(case.pixels) for case in cases]
    cross = [
        tuple(np.concatenate(tensors) for tensors in zip(*layer, strict=True))
        for layer in zip(*encoded, strict=True)
    ]
    cache = bundle.empty_cache(len(cases), capacity)
    past = np.zeros(len(cases), np.int64)
    for row, case in enumerate(cases):
        # The past lengths are spread over the lengths of the captions.
        generated = row * (len(case.logits) - 1) // max(len(cases) - 1, 1)
        past[row] = len(case.prompt) + generated - 1
        if past[row]:
            one = slice(row, row + 1)
            ids = np.array([case.ids[: past[row]]], np.int64)
            # Views, so that the prefill writes into its row of the common cache.
            row_cache = [(key[one], value[one]) for key, value in cache]
            row_cross = [(key[one], value[one]) for key, value in cross]
            bundle.step(ids, np.zeros(1, np.int64), row_cache, row_cross)
    ids = np.array([[case.ids[past[row]]] for row, case in enumerate(cases)], np.int64)
    for row, logits in enumerate(bundle.step(ids, past, cache, cross)):
        report.compare(logits, cases[row].logits[past[row] + 1 - len(cases[row].prompt)])


def _check(report: _Report) -> None:
    """Raise unless the tokens are equal, or the oracle's margin is small where they differ."""
    limit = _MAX_RELATIVE_DIFFERENCE * max(1.0, report.largest_logit)
    if report.difference > limit:
        raise ExportError(
            f"verification failed: logits differ by {report.difference:.3g} (limit {limit:.3g})"
        )
    for mismatch in report.mismatches:
        text, margin = mismatch.text, mismatch.margin
        if margin >= _MARGIN_FACTOR * report.difference:
            raise ExportError(f"verification failed: {text} (oracle's margin {margin:.3g})")
        logger.warning(
            "accepted, the oracle's margin %.3g is near the largest logit difference %.3g: %s",
            margin,
            report.difference,
            text,
        )
