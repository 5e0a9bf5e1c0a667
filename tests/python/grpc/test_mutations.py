"""A mutation of any field of a valid message gives a status that names the field; the channel stays usable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2

from reliability.mutations.messages import EMPTY, TWICE, mutants
from reliability.mutations.requests import (
    PARAMETERS,
    REMOVED,
    Mutant,
    Rule,
    anything,
    is_text,
    is_valid,
    is_word,
    one_of,
    optional,
)
from service import Service
from support.clients import MODEL
from support.refusals import PICTURE, SECONDS

Send = Callable[[bytes], Any]

INFER = "/inference.GRPCInferenceService/ModelInfer"
CAPTION = "/blip.v1.CaptionService/Caption"
ALIASES = {"model_name": "model", "model_version": "version", "image_url": "img_url"}
"""Names in the error texts that Triton's clients expect, and the name of an image URL in errors."""


def number(*values: float) -> Rule:
    return lambda value: type(value) in (int, float) and value in values


def integer(bits: int) -> Rule:
    return lambda value: type(value) in (int, float) and 0 <= value < 1 << bits


def exponent(value: Any) -> bool | None:
    return None if value in (1e308, -1e308, 2**63 - 1, 2**64 - 1) else number(0, -1)(value)


def is_prompt(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) < 1000 and value.isascii()


GENERATION: dict[str, Rule] = {
    "max_new_tokens": number(),
    "min_new_tokens": integer(32),
    "min_length": integer(32),
    "num_beams": number(),
    "num_return_sequences": number(),
    "length_penalty": exponent,
    "early_stopping": one_of(True, False),
    "repetition_penalty": number(2**63 - 1, 2**64 - 1),
    "no_repeat_ngram_size": integer(32),
    "bad_words": one_of(TWICE),
    "do_sample": one_of(True, False),
    "temperature": number(2**63 - 1, 2**64 - 1),
    "top_k": integer(32),
    "top_p": number(0),
    "seed": integer(64),
}
"""The mutations of a message that are valid values of a generation parameter."""
CAPTION_VALID = {
    "model": one_of(REMOVED, ""),
    "prompt": optional(is_text),
    "parameters": one_of(REMOVED, EMPTY),
    r"parameters\.bad_words\[.\]": optional(is_word),
    **{rf"parameters\.{name}": optional(rule) for name, rule in GENERATION.items()},
    "id": anything,
}
INFER_VALID = {
    "model_name": one_of(REMOVED, ""),
    "model_version": one_of(REMOVED, ""),
    "id": optional(is_text),
    "parameters": one_of(REMOVED),
    r"parameters\.\w+": one_of(REMOVED),
    r"parameters\.priority\..*_param": lambda value: value is not REMOVED,
    **{rf"parameters\.{name}\..*_param": rule for name, rule in GENERATION.items()},
    r"inputs\[text\]": one_of(REMOVED),
    r"inputs\[text\]\.contents\.bytes_contents\[0\]": is_prompt,
    r"inputs\[num_beams\]": one_of(REMOVED),
    r"inputs\[.*\]\.shape": one_of(TWICE),
    "outputs": one_of(REMOVED),
    r"outputs\[.*\]": one_of(REMOVED),
    r"outputs\[.*\]\.parameters.*": anything,
}


def caption_request(service: Service) -> Message:
    return service.messages.CaptionRequest(
        model=MODEL, image=PICTURE, prompt="a", parameters=PARAMETERS, id="7"
    )


def infer_request(is_raw: bool) -> Message:
    request = service_pb2.ModelInferRequest(model_name=MODEL, model_version="1", id="7")
    parameters = {"max_new_tokens": 4, "do_sample": True, "top_p": 0.9, "early_stopping": "never"}
    kinds = {int: "int64_param", bool: "bool_param", float: "double_param", str: "string_param"}
    for name, value in (parameters | {"seed": 7, "temperature": 0.9, "priority": 1}).items():
        setattr(request.parameters[name], kinds[type(value)], value)
    for name, value in (("image", PICTURE), ("text", b"a"), ("num_beams", 2)):
        datatype = "INT32" if name == "num_beams" else "BYTES"
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[1])
        if is_raw:
            raw = value if isinstance(value, bytes) else value.to_bytes(4, "little")
            prefix = len(raw).to_bytes(4, "little") if datatype == "BYTES" else b""
            request.raw_input_contents.append(prefix + raw)
        elif isinstance(value, bytes):
            tensor.contents.bytes_contents.append(value)
        else:
            tensor.contents.int_contents.append(value)
    for name in ("generated_output", "score"):
        request.outputs.add(name=name).parameters["binary_data"].bool_param = True
    return request


def verdict(mutant: Mutant, valid: bool | None, send: Send) -> str | None:
    """Returns what is wrong with the response to a mutant, or None."""
    try:
        send(mutant.request)
    except grpc.RpcError as error:
        code, text = error.code().name, error.details()
        status = rpc_status.from_call(error)
    else:
        return f"{mutant}: accepted" if valid is False else None
    if valid or code not in ("INVALID_ARGUMENT", "NOT_FOUND"):
        return f"{mutant}: {code}: {text}"
    details = error_details_pb2.BadRequest()
    if any(each.Unpack(details) for each in status.details):
        (violation,) = details.field_violations
        if not text.startswith(f"{violation.field}: "):
            return f"{mutant}: the violation is of {violation.field}: {text}"
    elif code == "INVALID_ARGUMENT":
        return f"{mutant}: no violation: {text}"
    return None if mutant.is_named_in(text) else f"{mutant}: not named: {text}"


def check(service: Service, path: str, request: Message, rules: dict[str, Rule]) -> None:
    """Sends all mutants of a valid request and reports every wrong response."""
    # As bytes: a mutant is not always a message.
    call = service.channel.unary_unary(path)

    def send(message: bytes) -> Any:
        return call(message, timeout=SECONDS)

    send(request.SerializeToString())
    wrong = []
    for mutant in mutants(request):
        mutant.accepted.update(ALIASES[name] for name in ALIASES.keys() & mutant.accepted)
        wrong.append(verdict(mutant, is_valid(mutant, rules, strict=r"parameters\..*"), send))
    wrong = [each for each in wrong if each]
    assert not wrong, "\n".join([f"{len(wrong)}:", *wrong])
    send(request.SerializeToString())


def test_caption_names_the_invalid_field(service: Service) -> None:
    check(service, CAPTION, caption_request(service), CAPTION_VALID)


@pytest.mark.parametrize("contents", ["typed", "raw"])
def test_model_infer_names_the_invalid_field(service: Service, contents: str) -> None:
    # The raw contents of a removed input remain.
    removed = {r"inputs\[.*\]": one_of()} if contents == "raw" else {}
    check(service, INFER, infer_request(contents == "raw"), removed | INFER_VALID)
