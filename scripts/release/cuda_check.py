"""Compares a model on an NVIDIA GPU with the CPU: captions, placement of nodes, speed.

Usage: `make cuda-check`, or with `BUNDLE=<folder>` for another model than the embedded one. Both
services use the library of the onnxruntime-gpu wheel and run in sequence; the images are samples
with noise, so that all are distinct. Prints one JSON line per figure. The exit status is 1 if the
share of equal captions is below `--min-agreement`, or if no node ran on the GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from service import ROOT, Service, default_binary

SAMPLES = ROOT / "examples" / "images"
PLACED = re.compile(r"odes? placed on \[(\w+)\]\. Number of nodes: (\d+)")
PARAMETERS: tuple[tuple[str | None, dict[str, Any]], ...] = (
    (None, {}),
    ("a picture of", {}),
    (None, {"num_beams": 3}),
    (None, {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.6}),
)

logger = logging.getLogger("cuda_check")


@dataclass(frozen=True)
class Side:
    """Captions and times of one execution provider."""

    captions: list[list[list[int]]]
    # Number of nodes by execution provider.
    nodes: dict[str, int]
    # Seconds for all images in sequence, and concurrently.
    sequential: float
    concurrent: float


def pictures(count: int) -> list[bytes]:
    """Return sample images, each with different noise."""
    files = sorted(SAMPLES.iterdir())
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        with PIL.Image.open(files[index % len(files)]) as image:
            pixels = np.asarray(image.convert("RGB")).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-20, 21, pixels.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def measure(provider: str, arguments: argparse.Namespace, work: Path) -> Side:
    """Start a service on `provider` and measure its captions."""
    models = work / f"{provider}.toml"
    entry = {"name": "model", "path": str(arguments.bundle.resolve())}
    lines = [
        'default = "model"',
        "[[models]]",
        *(f"{k} = {json.dumps(v)}" for k, v in entry.items()),
    ]
    lines += [f'execution_providers = ["{provider}"]', "caption_cache_bytes = 0"]
    lines += ["image_cache_bytes = 0", "single_flight = false"]
    lines += [f"max_batch_size = {arguments.max_batch_size if provider == 'cuda' else 1}"]
    models.write_text("\n".join(lines) + "\n")
    flags = ["--ort-library", str(arguments.ort_library)]
    if provider == "cuda" and arguments.cuda_libraries:
        flags += ["--cuda-libraries", str(arguments.cuda_libraries)]
    files = pictures(arguments.images)
    with Service(models, arguments.binary, work / f"{provider}.log", tuple(flags)) as service:
        captions = []
        for prompt, parameters in PARAMETERS:
            for file in files:
                rows = service.caption(file, prompt, parameters)
                captions.append([list(row.token_ids) for row in rows])
        start = time.perf_counter()
        for file in files:
            service.caption(file)
        sequential = time.perf_counter() - start
        with ThreadPoolExecutor(16) as pool:
            start = time.perf_counter()
            list(pool.map(service.caption, files))
            concurrent = time.perf_counter() - start
    return Side(captions, placements(arguments.binary, models, flags), sequential, concurrent)


def placements(binary: Path, models: Path, flags: list[str]) -> dict[str, int]:
    """Count the nodes of both graphs by execution provider, from ONNX Runtime's log."""
    command = [str(binary), "check", "--models", str(models), *flags, "--log", "ort=trace"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    nodes: Counter[str] = Counter()
    for provider, count in PLACED.findall(done.stderr + done.stdout):
        nodes[provider] += int(count)
    return dict(nodes)


def report(cpu: Side, other: Side) -> dict[str, Any]:
    """Return the figures of the comparison."""
    equal = sum(a == b for a, b in zip(cpu.captions, other.captions, strict=True))
    return {
        "captions": len(cpu.captions),
        "equal": equal,
        "agreement": round(equal / len(cpu.captions), 4),
        "nodes": other.nodes,
        "speedup_sequential": round(cpu.sequential / other.sequential, 2),
        "speedup_concurrent": round(cpu.concurrent / other.concurrent, 2),
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=default_binary())
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "scenes")
    gpu = ROOT / ".onnxruntime-gpu" / "lib" / "libonnxruntime.so"
    parser.add_argument("--ort-library", type=Path, default=gpu)
    wheels = next((ROOT / ".venv").glob("lib/python3*/site-packages/nvidia"), None)
    parser.add_argument("--cuda-libraries", type=Path, default=wheels)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--max-batch-size", type=int, default=8)
    parser.add_argument("--min-agreement", type=float, default=0.95)
    parser.add_argument("--provider", default="cuda", help="compared with the CPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as work:
        sides = [measure(provider, options, Path(work)) for provider in ("cpu", options.provider)]
    figures = report(*sides)
    for name, value in figures.items():
        logger.info("%s", json.dumps({name: value}))
    ran = figures["nodes"].get("CUDAExecutionProvider", 0) > 0 or options.provider == "cpu"
    return 0 if ran and figures["agreement"] >= options.min_agreement else 1


if __name__ == "__main__":
    sys.exit(main())
