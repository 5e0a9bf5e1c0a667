"""Helpers of the client tests: sample images, transformers' captions of them, tensors and curl."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "examples" / "images"
MODEL = "scenes"
SECONDS = 60
"""The longest time that a call may take."""

PICTURE = "cats.jpg"
PROMPT = "a photography of"
PICTURES = ("cats.jpg", "umbrella-guitar.jpg", "flower.gif")
"""Images with a golden caption for PROMPT, of different lengths."""


@cache
def golden() -> dict[str, Any]:
    """Returns the captions that transformers computed for `python -m golden`."""
    return json.loads((ROOT / "tests" / "golden" / "captions.json").read_text("utf-8"))


def expected(
    name: str, prompt: str | None = None, parameters: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Returns transformers' captions of a sample image: text, token_ids, score, finish_reason."""
    request = [name, prompt, parameters or {}]
    cases = golden()["cases"]
    return next(
        c["captions"] for c in cases if [c["image"], c["prompt"], c["parameters"]] == request
    )


def caption(name: str = PICTURE, prompt: str | None = PROMPT) -> str:
    """Returns the text of transformers' greedy caption of a sample image."""
    return expected(name, prompt)[0]["text"]


def picture(name: str = PICTURE) -> bytes:
    """Returns the content of a sample image file."""
    return (IMAGES / name).read_bytes()


def strings(*elements: str | bytes) -> np.ndarray:
    """Returns a BYTES tensor of shape [N]."""
    return np.array([e.encode() if isinstance(e, str) else e for e in elements], dtype=np.object_)


def padded(rows: list[list[int]], fill: int = 0) -> list[list[int]]:
    """Returns rows of equal length, as generate() does."""
    longest = max(map(len, rows))
    return [row + [fill] * (longest - len(row)) for row in rows]


def tensors(client: ModuleType, arrays: dict[str, np.ndarray], **options: bool) -> list[Any]:
    """Returns inputs for one of tritonclient's modules, `http` or `grpc`."""
    datatypes = {"O": "BYTES", "b": "BOOL", "i": "INT64", "f": "FP32"}
    inputs = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), datatypes[array.dtype.kind])
        inputs.append(tensor.set_data_from_numpy(array, **options))
    return inputs


def texts(array: np.ndarray) -> list[str]:
    """Returns the strings of a BYTES tensor that was received as bytes or as JSON."""
    return [e.decode() if isinstance(e, bytes) else e for e in array.flatten().tolist()]


def curl(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Returns status and JSON body of a request that curl sends."""
    command = ["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body)
