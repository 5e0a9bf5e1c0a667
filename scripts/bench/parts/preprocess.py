"""A JPEG of 640x480 to pixel values: `cargo bench` against Pillow and transformers, in turn."""

from __future__ import annotations

import io
import json
import subprocess
from statistics import median

import PIL.Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from bench.measure import interleave, measure_seconds, ratios
from bench.settings import Result, Settings
from bench.subjects.peers import pixel_values
from service import ROOT

_PHOTO = ROOT / "benches" / "photo_640x480.jpg"
_CRITERION = ROOT / "target" / "criterion" / "preprocess"
_SIZE = 384
_REPEATS = 50


def measure(settings: Settings) -> Result:
    """Measure the whole path from the file, and resize with normalisation from pixels."""
    result = Result()
    processor = BlipImageProcessorPil(size={"height": _SIZE, "width": _SIZE})
    file = _PHOTO.read_bytes()
    picture = PIL.Image.open(io.BytesIO(file))
    picture.load()
    python = {
        "jpeg_640x480": lambda: pixel_values(processor, file),
        "resize_normalise_640x480": lambda: processor(picture, return_tensors="pt"),
    }

    def rust(_: int) -> dict[str, float]:
        command = ["cargo", "bench", "--locked", "--bench", "hot", "--", "preprocess/"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return {name: _estimate(name) for name in python}

    def peer(_: int) -> dict[str, float]:
        return {
            name: median(measure_seconds(work) for _ in range(_REPEATS))
            for name, work in python.items()
        }

    seen = interleave({"Rust": rust, "Python": peer}, settings.pick(3, quick=1))
    for name in python:
        times = {side: [times[name] for times in rounds] for side, rounds in seen.items()}
        result.add(f"{name} against Pillow + transformers", ratios(times["Python"], times["Rust"]))
        result.add_seconds({f"{name}, {side}": values for side, values in times.items()})
    return result


def _estimate(name: str) -> float:
    """Return Criterion's median in seconds."""
    estimates = json.loads((_CRITERION / name / "new" / "estimates.json").read_text("utf-8"))
    return estimates["median"]["point_estimate"] / 1e9
