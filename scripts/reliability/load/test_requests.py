"""Questions with the answers that are right: sample pictures, in the bytes of each transport."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from service import ROOT, Service, stubs

IMAGES = ROOT / "examples" / "images"
MODEL = "scenes"
PICTURES = ("cats.jpg", "dog-house.png", "tree-cat.png", "umbrella-guitar.jpg")


class WrongCaptionError(RuntimeError):
    """The service does not answer as it should even when nothing is wrong."""


@dataclass(frozen=True)
class Question:
    """One picture with parameters."""

    name: str
    json: bytes
    """Of `POST /v1/captions`."""
    message: bytes
    """A `blip.v1.CaptionRequest`."""
    expected: str = ""


def question(
    name: str, image: bytes, prompt: str | None = None, parameters: dict[str, Any] | None = None
) -> Question:
    """A file's bytes and how to caption it."""
    parameters = parameters or {}
    body = {"image": base64.b64encode(image).decode(), "parameters": parameters}
    body |= {"prompt": prompt} if prompt is not None else {}
    messages, _ = stubs()
    message = messages.CaptionRequest(image=image, prompt=prompt, parameters=parameters)
    return Question(name, json.dumps(body).encode(), message.SerializeToString())


def learn(
    service: Service,
    prompt: str | None = None,
    parameters: dict[str, Any] | None = None,
    names: Sequence[str] = PICTURES,
) -> list[Question]:
    """Questions about sample pictures, and what the undisturbed service says to each.

    That must be transformers' caption wherever tests/golden has one.
    """
    learned = []
    for name in names:
        image = (IMAGES / name).read_bytes()
        text = service.caption(image, prompt, parameters)[0].text
        wanted = _golden().get(_key(name, prompt, parameters), text)
        if text != wanted:
            raise WrongCaptionError(f"{name}: {text!r} instead of {wanted!r}")
        learned.append(replace(question(name, image, prompt, parameters), expected=text))
    return learned


@cache
def _golden() -> dict[str, str]:
    """transformers' first caption of each case of tests/golden/captions.json."""
    path = ROOT / "tests" / "golden" / "captions.json"
    cases = json.loads(path.read_text("utf-8"))["cases"]
    return {
        _key(case["image"], case["prompt"], case["parameters"]): case["captions"][0]["text"]
        for case in cases
    }


def _key(name: str, prompt: str | None, parameters: dict[str, Any] | None) -> str:
    return json.dumps([name, prompt, parameters or {}])
