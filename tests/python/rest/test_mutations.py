"""A mutation of any field of a valid infer request gives a 4xx that names the field: no 5xx, hang or closed connection."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from reliability.mutations.requests import (
    GENERATION,
    REMOVED,
    Mutant,
    anything,
    is_text,
    is_word,
    one_of,
    optional,
)
from support.clients import MODEL
from support.refusals import BASE64, PICTURE, URL, Answer, Connection, check, error_of

INFER = f"/v2/models/{MODEL}/infer"


def tensor(name: str, datatype: str, *data: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": [*data], **more}


TEMPLATE = {
    "inputs": [
        tensor("img_url", "BYTES", URL),
        tensor("text", "BYTES", "a photography of", optional=True),
    ]
}
GREEDY = {
    "parameters": {"max_new_tokens": 4, "length_penalty": 1.5},
    "inputs": [tensor("img_url", "BYTES", URL)],
    "outputs": [{"name": "token_ids"}, {"name": "score"}, {"name": "finish_reason"}],
}
EVERYTHING = {
    "id": "7",
    "parameters": {
        "max_new_tokens": 4,
        "min_new_tokens": 1,
        "min_length": 1,
        "num_beams": 2,
        "num_return_sequences": 2,
        "length_penalty": 0.8,
        "early_stopping": "never",
        "do_sample": True,
        "temperature": 0.9,
        "top_p": 0.9,
        "seed": 7,
        "binary_data_output": False,
        "priority": 1,
    },
    "inputs": [
        {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [[BASE64]]},
        tensor("prompt", "BYTES", "a"),
        tensor("top_k", "INT32", 5),
        tensor("repetition_penalty", "FP32", 1.1),
        tensor("no_repeat_ngram_size", "UINT8", 2),
        tensor("bad_words", "BYTES", "cat", "dog"),
    ],
    "outputs": [
        {"name": "generated_output", "parameters": {"binary_data": False}},
        {"name": "score"},
    ],
}
REQUESTS = {"template": TEMPLATE, "greedy": GREEDY, "everything": EVERYTHING}
NUMBERED = "|".join([*GENERATION, "bad_words"])
VALID = {
    "id": optional(is_text),
    "parameters": one_of(REMOVED, None, {}),
    r"parameters\.binary_data_output": one_of(REMOVED, None, True),
    r"parameters\.priority": anything,
    **{rf"parameters\.{name}": optional(rule) for name, rule in GENERATION.items()},
    r"inputs\[(text|prompt)\]": one_of(REMOVED),
    r"inputs\[(text|prompt)\]\.optional": anything,
    r"inputs\[(text|prompt)\]\.data\[0\]": is_text,
    rf"inputs\[({NUMBERED})\]": one_of(REMOVED),
    **{rf"inputs\[{name}\]\.data\[0\]": rule for name, rule in GENERATION.items()},
    r"inputs\[bad_words\]\.data\[.\]": is_word,
    r"inputs\[.*\]\.shape": one_of([1, 1]),
    "outputs": one_of(REMOVED, None, []),
    r"outputs\[.*\]": one_of(REMOVED),
    r"outputs\[.*\]\.parameters": one_of(REMOVED, None, {}, {"a": {"b": 1}}),
    r"outputs\[.*\]\.parameters\.binary_data": one_of(REMOVED, None, True),
}
"""The mutations that are valid. Unknown keys are ignored, except parameters."""

BLOBS = [len(each).to_bytes(4, "little") + each for each in (PICTURE, b"a")] + [b"\5\0"]
BINARY = {
    "parameters": {"binary_data_output": True, "max_new_tokens": 4},
    "inputs": [
        {"name": name, "shape": [1], "datatype": datatype}
        | {"parameters": {"binary_data_size": len(blob)}}
        for name, datatype, blob in zip(
            ("image", "text", "top_k"), ("BYTES", "BYTES", "INT16"), BLOBS, strict=True
        )
    ],
}
BINARY_VALID = {
    "parameters": one_of(REMOVED, None, {}),
    r"parameters\.binary_data_output": one_of(REMOVED, None, False),
    r"parameters\.max_new_tokens": one_of(REMOVED, None),
    r"inputs\[.*\]\.shape": one_of([1, 1]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_infer_names_the_invalid_field(connection: Connection, name: str) -> None:
    def send(request: Any) -> Answer:
        return connection.post(INFER, json.dumps(request).encode())

    check(REQUESTS[name], send, VALID, strict=r"parameters\..*")


def send_binary(connection: Connection, request: Any, blobs: bytes, length: str = "") -> Answer:
    head = json.dumps(request).encode()
    headers = {"inference-header-content-length": length or str(len(head))}
    return connection.post(INFER, head + blobs, headers)


def test_infer_names_the_invalid_binary_tensor(connection: Connection) -> None:

    def also(mutant: Mutant) -> set[str]:
        # A wrong size is found in a tensor's data, or at the end of the body.
        is_size = mutant.value is REMOVED or mutant.place.endswith("binary_data_size")
        return {"body", "data"} if is_size else set()

    blobs = b"".join(BLOBS)
    send = partial(send_binary, connection, blobs=blobs)
    check(BINARY, send, BINARY_VALID, strict=r"parameters\..*", also=also)
    for mutated, name in [
        (blobs[:-1], "inputs[2].parameters.binary_data_size"),
        (blobs + b"x", "body"),
        (b"", "inputs[0].parameters.binary_data_size"),
        (b"\xff" * 4 + blobs[4:], "inputs[0].data"),
    ]:
        assert error_of(send(BINARY, blobs=mutated)).startswith(f"{name}: ")
    head = len(json.dumps(BINARY))
    for length in ("x", "-1", "1.5", "99999999", "9" * 30):
        text = error_of(send(BINARY, length=length))
        assert text.startswith("inference-header-content-length: ")
    for length in (str(head - 1), str(head + 1)):
        assert error_of(send(BINARY, length=length)).startswith("body: ")
    assert error_of(send(BINARY, length="0")).startswith("image: ")
