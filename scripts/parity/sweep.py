"""The preprocessing sweep: image files of every kind through `blip-serve pixels` and Pillow.

`pixel_values` of every well-formed file must be bit-identical. Files whose name begins with `other-`
are variants that docs/formats.md says are refused by name: they may be refused, but not answered
with other pixels. Files whose name begins with `damaged-` may be refused or answered with any
pixels, as long as the program does not crash.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from oracle.pixels import Refusal, oracle_pixels
from parity.corpus.generate import corpus
from service import ROOT

logger = logging.getLogger("parity")

IMAGE_SIZE = 384
"""The input side of the published checkpoints; the random models are smaller."""


@dataclass
class Sweep:
    """Counts of a sweep, and the files with wrong results."""

    files: int = 0
    identical: int = 0
    refused_by_both: int = 0
    refused_by_name: int = 0
    damaged: int = 0
    wrong: list[str] = field(default_factory=list)
    wrong_kinds: Counter[str] = field(default_factory=Counter)


def processor_of_published() -> BlipImageProcessorPil:
    """Return the processor of the published checkpoints: 384x384, bicubic, BLIP's mean and std."""
    return BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def published_preprocessing(bundle: Path, folder: Path) -> Path:
    """Write a manifest with the published preprocessing, which is all that `pixels` reads."""
    folder.mkdir(parents=True)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    processor = processor_of_published()
    manifest["vision"]["image_size"] = IMAGE_SIZE
    manifest["preprocessor"] |= {
        "height": IMAGE_SIZE,
        "width": IMAGE_SIZE,
        "resample": "bicubic",
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), "utf-8")
    return folder


def sweep(binary: Path, model: Path, seed: int, count: int, work: Path) -> Sweep:
    """Compare `count` new files, two in parallel."""
    folder = work / "sweep"
    folder.mkdir(parents=True)
    processor = processor_of_published()
    result = Sweep()

    def check(entry: tuple[str, bytes]) -> tuple[str, str]:
        name, data = entry
        path = folder / name
        path.write_bytes(data)
        verdict = _check(binary, model, path, processor)
        if not verdict.startswith("wrong"):
            path.unlink()
        return name, verdict

    with ThreadPoolExecutor(2) as pool:
        for name, verdict in pool.map(check, corpus(seed, count)):
            _count(result, name, verdict)
    return result


def _check(binary: Path, model: Path, path: Path, processor: BlipImageProcessorPil) -> str:
    output = path.with_suffix(path.suffix + ".npy")
    command = [
        str(binary),
        "pixels",
        "--model",
        str(model),
        str(path),
        "--output",
        str(output),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()
    reason = said[-1] if said else ""
    if done.returncode not in (0, 1) or "panicked" in done.stderr:
        return f"wrong: exit {done.returncode}: {reason}"
    if path.name.split("_")[1].startswith("damaged-"):
        output.unlink(missing_ok=True)
        return "damaged"
    expected = oracle_pixels(path, processor)
    if done.returncode == 1:
        if isinstance(expected, Refusal):
            return "refused by both"
        if path.name.split("_")[1].startswith("other-"):
            return "refused by name"
        return f"wrong: refused ({reason}), Pillow accepts it"
    pixels = np.load(output)
    output.unlink()
    if isinstance(expected, Refusal):
        return f"wrong: accepted, Pillow refuses it ({expected.reason})"
    if pixels.shape != expected.shape or pixels.dtype != np.float32:
        return f"wrong: {pixels.dtype} {pixels.shape}"
    differing = int((pixels.view(np.uint32) != expected.view(np.uint32)).sum())
    return f"wrong: {differing} of {pixels.size} values differ" if differing else "identical"


def _count(result: Sweep, name: str, verdict: str) -> None:
    result.files += 1
    if verdict == "identical":
        result.identical += 1
    elif verdict == "refused by both":
        result.refused_by_both += 1
    elif verdict == "refused by name":
        result.refused_by_name += 1
    elif verdict == "damaged":
        result.damaged += 1
    else:
        result.wrong.append(f"{name}: {verdict}")
        result.wrong_kinds[name.split("_")[1]] += 1
