"""Services with any flags, asked over REST and gRPC to caption what is at a URL, and what came of it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import requests

from service import Service
from support.clients import PROMPT, SECONDS
from support.ssrf.web import Endpoint, Visits, Web

Flags = tuple[str, ...]

SENTENCE = "img_url: the image could not be fetched from this URL"
"""What a client reads of every URL that gave no image."""


@dataclass(frozen=True)
class Outcome:
    """What a client got over one surface, and the reason in the log."""

    status: int | str
    text: str
    reason: str | None

    @property
    def caption(self) -> str:
        """The caption; an answer without one fails the test."""
        assert self.status in (200, "OK"), self
        return self.text


@dataclass(frozen=True)
class Answer:
    """A URL over both surfaces, one after the other."""

    rest: Outcome
    grpc: Outcome
    reached: list[Endpoint]
    """Where connections were made for them."""

    def is_refused(self, reason: str) -> bool:
        """Whether both clients read what everybody reads, and the log has this reason."""
        return [self.rest, self.grpc] == [
            Outcome(400, SENTENCE, reason),
            Outcome("INVALID_ARGUMENT", SENTENCE, reason),
        ]

    def has_caption(self, text: str) -> bool:
        """Whether both got this caption."""
        return [self.rest, self.grpc] == [Outcome(200, text, None), Outcome("OK", text, None)]


class Town:
    """Web servers and services; a service is started when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.visits = Visits()
        self.webs: list[Web] = []
        self._services: dict[Flags, tuple[Service, Path]] = {}
        self._session = requests.Session()
        # No proxy of the environment: the services have one there that they must not use.
        self._session.trust_env = False
        self._ids = map("ssrf-{}".format, count())

    def ask(self, flags: Flags, url: str) -> Answer:
        """The URL over REST, then over gRPC, from the service with these flags."""
        self.start(flags)
        self.visits.take()
        rest, grpc_ = self.rest(flags, url), self.grpc(flags, url)
        for web in self.webs:
            web.settle()
        return Answer(rest, grpc_, self.visits.take())

    def ask_at_once(self, flags: Flags, url: str, times: int) -> list[Outcome]:
        """The URL over REST, all at the same time."""
        self.start(flags)
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(lambda _: self.rest(flags, url), range(times)))

    def rest(self, flags: Flags, url: str) -> Outcome:
        """The template's request."""
        service, log = self._services[flags]
        texts = {"img_url": url, "text": PROMPT}
        inputs = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
            for name, text in texts.items()
        ]
        request_id = next(self._ids)
        reply = self._session.post(
            f"{service.url}/infer",
            json={"inputs": inputs},
            headers={"x-request-id": request_id},
            timeout=SECONDS,
        )
        body = reply.json()
        if reply.status_code == 200:
            return Outcome(200, body["outputs"][0]["data"][0], _reason(log, request_id))
        assert body.keys() == {"error", "request_id"}
        return Outcome(reply.status_code, body["error"], _reason(log, request_id))

    def grpc(self, flags: Flags, url: str) -> Outcome:
        """The same of blip.v1."""
        service, log = self._services[flags]
        request = service.messages.CaptionRequest(image_url=url, prompt=PROMPT)
        request_id = next(self._ids)
        metadata = [("x-request-id", request_id)]
        try:
            reply = service.stub.Caption(request, timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return Outcome(error.code().name, error.details(), _reason(log, request_id))
        return Outcome("OK", reply.captions[0].text, _reason(log, request_id))

    def seen(self, what: str) -> Any:
        """One of the numbers and lists of the visits."""
        return getattr(self.visits, what)

    def start(self, flags: Flags) -> None:
        """Starts the service with these flags, if it does not run."""
        if flags not in self._services:
            log = self.folder / f"service-{len(self._services)}.log"
            service = Service(log=log, flags=(*flags, "--log-format=json"))
            self._services[flags] = (service.__enter__(), log)

    def close(self) -> None:
        """Ends everything."""
        self.visits.ended.set()
        for service, _ in self._services.values():
            service.__exit__(None, None, None)
        for web in self.webs:
            web.shutdown()
            web.server_close()


def _reason(log: Path, request_id: str) -> str | None:
    """The first word of the causes of a refused request; the log is written before the answer."""
    text = log.read_text("utf-8")
    # Another request may be writing its line.
    for line in text[: text.rfind("\n") + 1].splitlines():
        event = json.loads(line)
        if event.get("span", {}).get("request_id") == request_id and "causes" in event:
            return event["causes"].split(":")[0]
    return None
