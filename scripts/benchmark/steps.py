"""Decoder steps of many rows against steps of one, in raw sessions: only the runs are timed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from onnx_generate import Bundle, CachedDecoder, KeyValues

from benchmark.measure import interleave, ratios
from benchmark.peers import random_pixels
from benchmark.settings import NEW_TOKENS, Result, Settings

_BEAMS = 3


class TimedSession:
    """A session that adds up the time of its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds = 0.0

    def run(self, *arguments: Any) -> Any:
        """The session's own."""
        start = time.perf_counter()
        outputs = self._session.run(*arguments)
        self.seconds += time.perf_counter() - start
        return outputs


def measure(settings: Settings) -> Result:
    """One row, three beams of one image, and a row of each of many images."""
    result = Result()
    for precision, path in settings.model.bundles.items():
        seen = _measure(Bundle(path), settings)
        one, beams, many = seen.values()
        alone = [settings.requests * seconds for seconds in one]
        result.add(f"16-row step / 16 one-row steps, {precision}", ratios(many, alone))
        result.add(f"raw 3-beam step / greedy step, {precision}", ratios(beams, one))
        result.add_seconds({f"{precision}, {name}": times for name, times in seen.items()})
    return result


def _measure(bundle: Bundle, settings: Settings) -> dict[str, list[float]]:
    """Mean seconds of a step by who takes part in it."""
    bundle.text = session = TimedSession(bundle.text)
    size = bundle.manifest["vision"]["image_size"]
    alone = bundle.encode(random_pixels([1, 3, size, size]))
    rows = settings.requests
    # The time does not depend on the values, so one image stands for all.
    together = [tuple(np.repeat(part, rows, axis=0) for part in pair) for pair in alone]

    def step(rows: int, cross: KeyValues) -> float:
        session.seconds = 0.0
        decode(bundle, rows, cross)
        return session.seconds / NEW_TOKENS

    subjects = {
        "1 row": lambda _: step(1, alone),
        f"{_BEAMS} beams": lambda _: step(_BEAMS, alone),
        f"{rows} rows": lambda _: step(rows, together),
    }
    return interleave(subjects, settings.rounds)


def decode(bundle: Bundle, rows: int, cross: KeyValues) -> None:
    """20 steps of so many rows."""
    start = bundle.manifest["text"]["bos_token_id"]
    decoder = CachedDecoder(bundle, cross, 1 + NEW_TOKENS)
    sequences = np.full((rows, 1), start, np.int64)
    parents = None
    for _ in range(NEW_TOKENS):
        tokens = decoder(sequences, parents).argmax(axis=-1)
        sequences = np.concatenate([sequences, tokens[:, None]], axis=1)
        parents = np.arange(rows)
