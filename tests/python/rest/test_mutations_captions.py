"""A mutation of any field of a valid short request gives a 4xx that names the field.

The requests are /v1/captions as JSON and as a form, generate and generate_stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from urllib3.filepost import encode_multipart_formdata

from reliability.mutations.requests import (
    CONTROL,
    GENERATION,
    LONG,
    PARAMETERS,
    REMOVED,
    RENAMED,
    WORDS,
    Mutant,
    Rule,
    is_text,
    is_word,
    one_of,
)
from support.clients import MODEL
from support.refusals import BASE64, PICTURE, URL, Answer, Connection, check, error_of

CAPTIONS = {"id": "7", "model": MODEL, "image": BASE64, "prompt": "a", "parameters": PARAMETERS}
GENERATE = {"id": "7", "image_url": URL, "text_input": "a", "stream": False, **PARAMETERS}


def nullable(rule: Rule) -> Rule:
    """Accepts what `rule` does, and a removed or null field."""
    return lambda value: value is None or value is REMOVED or rule(value)


def are_words(value: Any) -> bool | None:
    """Whether a value is valid for `bad_words`: a list, or one word."""
    return is_word(value) if isinstance(value, str) else value in ([], ["cat", "dog", "cat"])


VALID = {
    "id": nullable(is_text),
    "model": nullable(one_of("")),
    "prompt|text_input": nullable(is_text),
    "parameters": nullable(one_of({})),
    "stream": nullable(one_of()),
    **{rf"(parameters\.)?{name}": nullable(rule) for name, rule in GENERATION.items()},
    r"(parameters\.)?bad_words": nullable(are_words),
    r"(parameters\.)?bad_words\[.\]": lambda value: value is REMOVED or is_word(value),
}
"""The mutations that are valid. Unknown keys are refused."""


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v1/captions", CAPTIONS),
        (f"/v2/models/{MODEL}/generate", GENERATE),
        (f"/v2/models/{MODEL}/generate_stream", GENERATE),
    ],
    ids=["captions", "generate", "generate_stream"],
)
def test_json_names_the_invalid_field(
    connection: Connection, path: str, request_: dict[str, Any]
) -> None:
    def send(request: Any) -> Answer:
        return connection.post(path, json.dumps(request).encode())

    # generate_stream streams whatever the value of `stream`.
    rules = VALID | {"stream": nullable(one_of(True))} if "_stream" in path else VALID
    # The error of a missing or repeated image may name either field.
    check(request_, send, rules, ".*", also=lambda m: {"image", "img_url"} & {m.place})


Form = list[tuple[str, Any]]
FORM: Form = [
    ("id", "7"),
    ("model", MODEL),
    ("image", ("cats.png", PICTURE, "image/png")),
    ("prompt", "a"),
    ("num_beams", "2"),
    ("length_penalty", "0.8"),
    ("early_stopping", "never"),
    ("bad_words", "cat"),
    ("parameters", '{"do_sample": true, "seed": 7, "max_new_tokens": 4}'),
]
TEXTS = ("", "x", "né 犬", CONTROL, LONG, WORDS, "0", "-1", "0.5", "1e999", "NaN", "null", "true")
TEXTS += ("[]", "{}", '{"a": 1}', b"\xff\xfe")
TWICE = "(twice)"
FORM_VALID = {
    "id|prompt": lambda value: value == REMOVED or (value != TWICE and is_text(value)),
    "model": one_of(REMOVED, ""),
    "num_beams": one_of(REMOVED),
    "length_penalty": one_of(REMOVED, "0", "-1", "0.5"),
    "early_stopping": one_of(REMOVED, "true", "false"),
    "bad_words": lambda value: value in (REMOVED, TWICE) or is_word(value),
    "parameters": one_of(REMOVED, "{}"),
}


def form_mutants(form: Form) -> Iterator[Mutant]:
    for index, (name, value) in enumerate(form):
        before, after = form[:index], form[index + 1 :]
        for mutated in TEXTS:
            yield Mutant(name, mutated, [*before, (name, mutated), *after], {name})
        yield Mutant(name, REMOVED, before + after, {name})
        yield Mutant(name, TWICE, [*form, (name, value)], {name})
        yield Mutant(name, RENAMED, [*before, ("né", value), *after], {name, "né"})


def send_form(connection: Connection, form: Form) -> Answer:
    body, content_type = encode_multipart_formdata(form)
    return connection.post("/v1/captions", body, {"content-type": content_type})


def test_a_form_names_the_invalid_field(connection: Connection) -> None:
    def send(form: Form) -> Answer:
        return send_form(connection, form)

    check(FORM, send, FORM_VALID, ".*", mutants_of=form_mutants)


def test_a_body_that_is_not_a_valid_form_is_refused(connection: Connection) -> None:
    body, content_type = encode_multipart_formdata(FORM)
    for mutated, announced in [
        (body[:-20], content_type),
        (b"", content_type),
        (body, "multipart/form-data"),
        (body, "multipart/form-data; boundary=x"),
        (body, 'multipart/form-data; boundary="'),
        (body, "application/json"),
    ]:
        answer = connection.post("/v1/captions", mutated, {"content-type": announced})
        assert error_of(answer).startswith(("body: ", "image: "))
