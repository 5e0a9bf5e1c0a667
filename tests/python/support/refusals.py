"""Sends mutants of a request over one connection and checks the responses."""

from __future__ import annotations

import http.client
import io
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from reliability.mutations.requests import Mutant, Rule, is_valid, mutants
from service import Service

SECONDS = 5
"""Timeout of a response: nothing is fetched, and few tokens are generated."""


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


PICTURE = png()
BASE64 = b64encode(PICTURE).decode()
URL = f"data:image/png;base64,{BASE64}"


Answer = tuple[int, Any, bytes]
"""Status, headers and body."""


class Connection:
    """One connection that the server must keep open."""

    def __init__(self, service: Service) -> None:
        self.http = http.client.HTTPConnection(service.address, timeout=SECONDS)
        self.http.connect()
        self.http.auto_open = 0

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        """Returns the response; http.client.NotConnected if the server has closed the connection."""
        self.http.request("POST", path, body, headers or {})
        reply = self.http.getresponse()
        content = reply.read()
        assert not reply.will_close
        return reply.status, reply.headers, content


def error_of(answer: Answer) -> str:
    """Returns the text of a response that must be a well-formed error."""
    status, headers, content = answer
    body = json.loads(content)
    assert status in (400, 404), body
    assert headers["content-type"] == "application/json"
    assert body.keys() == {"error", "request_id"}
    assert body["request_id"] == headers["x-request-id"]
    return body["error"]


def verdict(mutant: Mutant, valid: bool | None, answer: Answer) -> str | None:
    """Returns what is wrong with a response, or None."""
    status, _, content = answer
    if status == 200:
        # JSON writes NaN and infinity as null; an error can occur in the middle of a stream.
        is_flawed = re.search(rb'[\[:,]null|"error"', content)
        return f"{mutant}: accepted: {content[:200]!r}" if is_flawed or valid is False else None
    text = error_of(answer)
    if valid:
        return f"{mutant}: refused: {text}"
    return None if mutant.is_named_in(text) else f"{mutant}: not named: {text}"


def check(
    request: Any,
    send: Callable[[Any], Answer],
    rules: dict[str, Rule],
    strict: str,
    also: Callable[[Mutant], set[str]] = lambda _: set(),
    mutants_of: Callable[[Any], Iterator[Mutant]] = mutants,
) -> None:
    """Sends all mutants of a valid request and reports every wrong response; an error may also name fields of `also`."""
    assert send(request)[0] == 200
    wrong = []
    for mutant in mutants_of(request):
        mutant.accepted |= also(mutant)
        wrong.append(verdict(mutant, is_valid(mutant, rules, strict), send(mutant.request)))
    wrong = [each for each in wrong if each]
    assert not wrong, "\n".join([f"{len(wrong)}:", *wrong])
    assert send(request)[0] == 200
