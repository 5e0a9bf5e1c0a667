"""Checks that the tests of both tritonclient modules share."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from support.clients import (
    MODEL,
    PICTURES,
    PROMPT,
    expected,
    padded,
    picture,
    strings,
    tensors,
    texts,
)

INVALID_INPUTS = [
    ({"image": strings(b"not an image")}, "image"),
    ({"image": strings(picture()), "img_ulr": strings("x")}, "img_ulr"),
    ({"image": strings(picture()), "text": np.array([1.0], np.float32)}, "text"),
    ({"text": strings(PROMPT)}, "img_url"),
]
"""Inputs of requests that must be refused, each with the field that the error names."""


def check_golden_rows(result: Any, shape: list[int]) -> None:
    """Compares all outputs for the sample images with transformers' captions."""
    rows = [expected(name, PROMPT)[0] for name in PICTURES]
    assert result.as_numpy("generated_output").shape == tuple(shape)
    assert texts(result.as_numpy("generated_output")) == [row["text"] for row in rows]
    assert texts(result.as_numpy("finish_reason")) == [row["finish_reason"] for row in rows]
    ids = result.as_numpy("token_ids")
    assert (ids.dtype, ids.tolist()) == (np.int64, padded([row["token_ids"] for row in rows]))
    scores = result.as_numpy("score")
    assert (scores.dtype, scores.shape) == (np.float32, tuple(shape))
    assert np.allclose(scores.flatten(), [row["score"] for row in rows], atol=1e-3)


def check_parameters_and_tensors(module: ModuleType, client: Any) -> None:
    """Sends generation parameters as parameters, then as tensors."""
    name, parameters = "dog-house.png", {"num_beams": 3, "num_return_sequences": 3}
    captions = [row["text"] for row in expected(name, None, parameters)]
    image = {"image": strings(picture(name))}
    as_parameters = client.infer(MODEL, tensors(module, image), parameters=parameters)
    assert texts(as_parameters.as_numpy("generated_output")) == captions
    arrays = image | {key: np.array([value]) for key, value in parameters.items()}
    as_tensors = client.infer(MODEL, tensors(module, arrays))
    assert texts(as_tensors.as_numpy("generated_output")) == captions
