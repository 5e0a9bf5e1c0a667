"""What the client tests share: sample pictures, transformers' captions of them, arrays and curl."""

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
"""How long a call may take."""

PICTURE = "cats.jpg"
PROMPT = "a photography of"
PICTURES = ("cats.jpg", "umbrella-guitar.jpg", "flower.gif")
"""Pictures with a golden caption for PROMPT, of different lengths."""


@cache
def golden() -> dict[str, Any]:
    """Captions as transformers gives them, by `python -m golden`."""
    return json.loads((ROOT / "tests" / "golden" / "captions.json").read_text("utf-8"))


def expected(
    name: str, prompt: str | None = None, parameters: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """transformers' captions of a sample picture: text, token_ids, score, finish_reason."""
    request = [name, prompt, parameters or {}]
    cases = golden()["cases"]
    return next(
        c["captions"] for c in cases if [c["image"], c["prompt"], c["parameters"]] == request
    )


def caption(name: str = PICTURE, prompt: str | None = PROMPT) -> str:
    """transformers' caption of a sample picture, greedy."""
    return expected(name, prompt)[0]["text"]


def picture(name: str = PICTURE) -> bytes:
    """The file of a sample picture."""
    return (IMAGES / name).read_bytes()


def strings(*elements: str | bytes) -> np.ndarray:
    """A BYTES tensor of shape [N]."""
    return np.array([e.encode() if isinstance(e, str) else e for e in elements], dtype=np.object_)


def padded(rows: list[list[int]], fill: int = 0) -> list[list[int]]:
    """Rows of equal length, as generate() returns them."""
    longest = max(map(len, rows))
    return [row + [fill] * (longest - len(row)) for row in rows]


def tensors(client: ModuleType, arrays: dict[str, np.ndarray], **how: bool) -> list[Any]:
    """Inputs for one of tritonclient's modules, `http` or `grpc`."""
    datatypes = {"O": "BYTES", "b": "BOOL", "i": "INT64", "f": "FP32"}
    inputs = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), datatypes[array.dtype.kind])
        inputs.append(tensor.set_data_from_numpy(array, **how))
    return inputs


def texts(array: np.ndarray) -> list[str]:
    """The strings of a BYTES tensor that came as bytes, or as JSON."""
    return [e.decode() if isinstance(e, bytes) else e for e in array.flatten().tolist()]


def curl(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON body of a request by the real curl."""
    command = ["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body)
