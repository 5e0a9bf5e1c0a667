"""A simulated network: web servers, and services that are requested to caption an image URL."""

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
from support.ssrf.traffic import Endpoint, Traffic
from support.ssrf.web import WebServer

Flags = tuple[str, ...]

REFUSAL = "img_url: the image could not be fetched from this URL"
"""The error that a client gets for every URL without an image."""


@dataclass(frozen=True)
class Outcome:
    """The response over one transport, and the reason in the log."""

    status: int | str
    text: str
    reason: str | None

    @property
    def caption(self) -> str:
        """The caption; a response without one fails the test."""
        assert self.status in (200, "OK"), self
        return self.text


@dataclass(frozen=True)
class Answer:
    """The responses for a URL over both transports, one after the other."""

    rest: Outcome
    grpc: Outcome
    reached: list[Endpoint]
    """The endpoints to which connections were made."""

    def is_refused(self, reason: str) -> bool:
        """Whether both responses are the general error, and the log has this reason."""
        return [self.rest, self.grpc] == [
            Outcome(400, REFUSAL, reason),
            Outcome("INVALID_ARGUMENT", REFUSAL, reason),
        ]

    def has_caption(self, text: str) -> bool:
        """Whether both responses have this caption."""
        return [self.rest, self.grpc] == [Outcome(200, text, None), Outcome("OK", text, None)]


class SimulatedNetwork:
    """Web servers and services; a service is started at its first request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.traffic = Traffic()
        self.servers: list[WebServer] = []
        self._services: dict[Flags, tuple[Service, Path]] = {}
        self._session = requests.Session()
        # The environment has a proxy that the services must not use, nor this session.
        self._session.trust_env = False
        self._ids = map("ssrf-{}".format, count())

    def request(self, flags: Flags, url: str) -> Answer:
        """Requests a caption of a URL over REST, then over gRPC, from the service with these flags."""
        self.start(flags)
        self.traffic.take_endpoints()
        rest, grpc_ = self.request_rest(flags, url), self.request_grpc(flags, url)
        for server in self.servers:
            server.record_all_connections()
        return Answer(rest, grpc_, self.traffic.take_endpoints())

    def request_concurrently(self, flags: Flags, url: str, times: int) -> list[Outcome]:
        """Requests captions of a URL over REST, all at the same time."""
        self.start(flags)
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(lambda _: self.request_rest(flags, url), range(times)))

    def request_rest(self, flags: Flags, url: str) -> Outcome:
        """Requests a caption by the Open Inference Protocol."""
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

    def request_grpc(self, flags: Flags, url: str) -> Outcome:
        """Requests a caption by blip.v1."""
        service, log = self._services[flags]
        request = service.messages.CaptionRequest(image_url=url, prompt=PROMPT)
        request_id = next(self._ids)
        metadata = [("x-request-id", request_id)]
        try:
            reply = service.stub.Caption(request, timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return Outcome(error.code().name, error.details(), _reason(log, request_id))
        return Outcome("OK", reply.captions[0].text, _reason(log, request_id))

    def traffic_value(self, name: str) -> Any:
        """Returns an attribute of the traffic, also to another process."""
        return getattr(self.traffic, name)

    def start(self, flags: Flags) -> None:
        """Starts the service with these flags, unless it is running."""
        if flags not in self._services:
            log = self.folder / f"service-{len(self._services)}.log"
            service = Service(log=log, flags=(*flags, "--log-format=json"))
            self._services[flags] = (service.__enter__(), log)

    def close(self) -> None:
        """Stops all services and servers."""
        self.traffic.stopped.set()
        for service, _ in self._services.values():
            service.__exit__(None, None, None)
        for server in self.servers:
            server.shutdown()
            server.server_close()


def _reason(log: Path, request_id: str) -> str | None:
    """Returns the first word of the causes of a refused request; the log is written before the response."""
    text = log.read_text("utf-8")
    # The last line may be incomplete: another request may be writing it.
    for line in text[: text.rfind("\n") + 1].splitlines():
        event = json.loads(line)
        if event.get("span", {}).get("request_id") == request_id and "causes" in event:
            return event["causes"].split(":")[0]
    return None
