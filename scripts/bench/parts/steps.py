"""Decoder steps of many rows against steps of one row, in sessions whose runs alone are measure_seconds.

Input and output of a cache are bound to the same memory, as in the service; otherwise the session
copies the whole cache in each step.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from bench.measure import interleave, measure_seconds, ratios
from bench.settings import NEW_TOKENS, Result, Settings
from bench.subjects.peers import random_pixels
from blip_onnx.generate import Bundle, KeyValues

_BEAMS = 3


def measure(settings: Settings) -> Result:
    """Measure one row, three beams of one image, and one row of each of many images."""
    result = Result()
    for precision, path in settings.model.bundles.items():
        seen = _measure(Bundle(path), settings)
        one, beams, many = seen.values()
        separate = [settings.requests * seconds for seconds in one]
        result.add(f"16-row step / 16 one-row steps, {precision}", ratios(many, separate))
        result.add(f"bare 3-beam step / greedy step, {precision}", ratios(beams, one))
        result.add_seconds({f"{precision}, {name}": times for name, times in seen.items()})
    return result


def _measure(bundle: Bundle, settings: Settings) -> dict[str, list[float]]:
    """Return the mean seconds of a step by its rows, round by round."""
    size = bundle.manifest["vision"]["image_size"]
    single = bundle.encode(random_pixels([1, 3, size, size]))
    rows = settings.requests
    # The time does not depend on the values, so one image is repeated.
    stacked = [tuple(np.repeat(part, rows, axis=0) for part in pair) for pair in single]
    subjects = {
        "1 row": lambda _: step_seconds(bundle, 1, single),
        f"{_BEAMS} beams": lambda _: step_seconds(bundle, _BEAMS, single),
        f"{rows} rows": lambda _: step_seconds(bundle, rows, stacked),
    }
    return interleave(subjects, settings.rounds)


def step_seconds(bundle: Bundle, rows: int, cross: KeyValues) -> float:
    """Return the mean seconds of 20 steps with `rows` rows."""
    # The binding refers to the memory of these arrays, so they must outlive it.
    caches = bundle.empty_cache(rows, 1 + NEW_TOKENS)
    lengths, slots = np.zeros(rows, np.int64), np.arange(rows)
    image_rows = slots.reshape(len(cross[0][0]), -1)
    input_ids = np.full((rows, 1), bundle.manifest["text"]["bos_token_id"])
    binding = bundle.text.io_binding()
    for layer, (own, image) in enumerate(zip(caches, cross, strict=True)):
        for kind, cache, encoded in zip(("key", "value"), own, image, strict=True):
            past = f"past_key_values.{layer}"
            value = onnxruntime.OrtValue.ortvalue_from_numpy(cache)
            binding.bind_ortvalue_input(f"{past}.decoder.{kind}", value)
            binding.bind_ortvalue_output(f"present.{layer}.decoder.{kind}", value)
            binding.bind_cpu_input(f"{past}.encoder.{kind}", encoded)
    binding.bind_cpu_input("image_rows", image_rows)
    binding.bind_cpu_input("row_slots", slots)
    binding.bind_cpu_input("input_ids", input_ids)
    binding.bind_cpu_input("past_lengths", lengths)
    binding.bind_output("logits")
    seconds = 0.0
    for _ in range(NEW_TOKENS):
        seconds += measure_seconds(lambda: bundle.text.run_with_iobinding(binding))
        lengths += 1
    return seconds / NEW_TOKENS
