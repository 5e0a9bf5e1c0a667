"""Requests for the sample images with their expected captions, encoded for each transport."""

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
    """The service gives a wrong caption without load or faults."""


@dataclass(frozen=True)
class SampleRequest:
    """A request for the caption of one image."""

    name: str
    json: bytes
    """The body of `POST /v1/captions`."""
    message: bytes
    """A serialised `blip.v1.CaptionRequest`."""
    expected: str = ""


def make_request(
    name: str, image: bytes, prompt: str | None = None, parameters: dict[str, Any] | None = None
) -> SampleRequest:
    """Encode a request for the caption of an image file."""
    parameters = parameters or {}
    body = {"image": base64.b64encode(image).decode(), "parameters": parameters}
    body |= {"prompt": prompt} if prompt is not None else {}
    messages, _ = stubs()
    message = messages.CaptionRequest(image=image, prompt=prompt, parameters=parameters)
    return SampleRequest(name, json.dumps(body).encode(), message.SerializeToString())


def prepare_requests(
    service: Service,
    prompt: str | None = None,
    parameters: dict[str, Any] | None = None,
    names: Sequence[str] = PICTURES,
) -> list[SampleRequest]:
    """Return requests for sample images with the captions of the service without load.

    Raises `WrongCaptionError` if a caption differs from transformers' in tests/golden.
    """
    learned = []
    for name in names:
        image = (IMAGES / name).read_bytes()
        text = service.caption(image, prompt, parameters)[0].text
        expected = _golden().get(_key(name, prompt, parameters), text)
        if text != expected:
            raise WrongCaptionError(f"{name}: {text!r} instead of {expected!r}")
        learned.append(replace(make_request(name, image, prompt, parameters), expected=text))
    return learned


@cache
def _golden() -> dict[str, str]:
    """Return transformers' first caption of each case of tests/golden/captions.json."""
    path = ROOT / "tests" / "golden" / "captions.json"
    cases = json.loads(path.read_text("utf-8"))["cases"]
    return {
        _key(case["image"], case["prompt"], case["parameters"]): case["captions"][0]["text"]
        for case in cases
    }


def _key(name: str, prompt: str | None, parameters: dict[str, Any] | None) -> str:
    return json.dumps([name, prompt, parameters or {}])
