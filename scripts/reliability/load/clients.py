"""Clients of both transports. Each request has one outcome; failures do not raise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
import grpc
from google.rpc import error_details_pb2, status_pb2

from reliability.load.outcome import LATE, LOST, OK, WRONG, Outcome, kind_of
from reliability.load.test_requests import SampleRequest
from service import Service, stubs

GIVE_UP = 120
"""Seconds after which a request without a response counts as lost."""
_CAPTION = "/blip.v1.CaptionService/Caption"
_DETAILS = "grpc-status-details-bin"
# Without the environment's proxies and without connections shared with other channels.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Client(Protocol):
    """A client of one transport."""

    async def send(self, request: SampleRequest, timeout: float | None = None) -> Outcome:
        """Send the request with `timeout` in seconds as its deadline."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Clients(Protocol):
    """Several clients that take turns."""

    async def send(
        self, requests: Sequence[SampleRequest], number: int, timeout: float | None = None
    ) -> Outcome:
        """Send the request with this number, over the transport whose turn it is."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class RestClient:
    """Sends `POST /v1/captions` over HTTP/1.1, with a connection for each concurrent request."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"content-type": "application/json"}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            timeout=aiohttp.ClientTimeout(GIVE_UP),
        )

    async def send(self, request: SampleRequest, timeout: float | None = None) -> Outcome:
        """Send the request with `timeout` in seconds as its deadline."""
        headers = {"x-request-timeout-ms": str(round(timeout * 1000))} if timeout else {}
        return await self.post("/v1/captions", request.json, headers, request.expected)

    async def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None, expected: str = ""
    ) -> Outcome:
        """Send any request whose response is JSON; `body` is any type that aiohttp accepts."""
        sent = time.perf_counter()
        try:
            async with self._session.post(self._url + path, data=body, headers=headers) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Outcome(LOST, type(error).__name__, sent, time.perf_counter(), str(error))
        ended = time.perf_counter()
        code, advice = str(reply.status), "retry-after" in reply.headers
        text = caption_of(answer) if reply.status == 200 else str(answer.get("error"))
        kind = check_caption(kind_of(code), text, expected)
        return Outcome(kind, code, sent, ended, text, advice)

    async def get(self, path: str) -> Outcome:
        """Send a GET request."""
        sent = time.perf_counter()
        code, content = await self.read(path)
        kind = kind_of(code) if code.isdigit() else LOST
        return Outcome(kind, code, sent, time.perf_counter(), content[:200])

    async def read(self, path: str, body: bytes | None = None) -> tuple[str, str]:
        """Return status and content of the whole response, or name and text of the error."""
        method = "GET" if body is None else "POST"
        try:
            async with self._session.request(method, self._url + path, data=body) as reply:
                return str(reply.status), await reply.text()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__, str(error)

    async def close(self) -> None:
        await self._session.close()


class GrpcClient:
    """Calls `blip.v1.CaptionService/Caption` on one channel."""

    def __init__(
        self, target: str, key: str = "", options: Sequence[tuple[str, Any]] = _RECONNECT
    ) -> None:
        messages, _ = stubs()
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self.channel = grpc.aio.insecure_channel(target, options=[*_OPTIONS, *options])
        self._caption = self.channel.unary_unary(
            _CAPTION, response_deserializer=messages.CaptionResponse.FromString
        )

    async def send(self, request: SampleRequest, timeout: float | None = None) -> Outcome:
        """Send the request with `timeout` in seconds as its deadline."""
        sent = time.perf_counter()
        limit = timeout or GIVE_UP
        try:
            answer = await self._caption(request.message, timeout=limit, metadata=self._metadata)
        except grpc.RpcError as error:
            return outcome_from_error(error, sent, has_deadline=timeout is not None)
        ended = time.perf_counter()
        if answer is None and timeout is not None and ended - sent >= timeout:
            # grpc returns OK without a message if the deadline passes while it reads the response.
            return Outcome(LATE, "DEADLINE_EXCEEDED", sent, ended)
        text = answer.captions[0].text
        return Outcome(check_caption(OK, text, request.expected), "OK", sent, ended, text)

    async def close(self) -> None:
        await self.channel.close()


def outcome_from_error(error: Any, sent: float, has_deadline: bool = False) -> Outcome:
    """Return the outcome of a failed call; a status set by the grpc library counts as lost."""
    ended = time.perf_counter()
    code = error.code().name
    details = dict(error.trailing_metadata() or ()).get(_DETAILS)
    # Client and server both enforce a deadline, so either may report that it has passed.
    if details is None and not (has_deadline and code == "DEADLINE_EXCEEDED"):
        return Outcome(LOST, code, sent, ended, error.details() or "")
    return Outcome(kind_of(code), code, sent, ended, error.details() or "", _has_advice(details))


def check_caption(kind: str, text: str, expected: str) -> str:
    """Return `kind`, or WRONG for a caption that differs from `expected`."""
    return WRONG if kind == OK and expected and text != expected else kind


def caption_of(answer: dict[str, Any]) -> str:
    """Return the first caption of a response of `/v1/captions`, `infer` or `generate`."""
    if "captions" in answer:
        return answer["captions"][0]["text"]
    if "outputs" in answer:
        return answer["outputs"][0]["data"][0]
    return answer["text_output"]


async def send_until_answered(
    client: Client, request: SampleRequest, within: float = GIVE_UP
) -> Outcome:
    """Repeat the request until it gets a caption, or for `within` seconds; the last outcome."""
    end = time.perf_counter() + within
    while (outcome := await client.send(request)).kind not in (OK, WRONG):
        if time.perf_counter() > end:
            break
        await asyncio.sleep(0.01)
    return outcome


def _has_advice(details: bytes | str | None) -> bool:
    if not isinstance(details, bytes):
        return False
    status = status_pb2.Status.FromString(details)
    advice = error_details_pb2.RetryInfo()
    return any(detail.Unpack(advice) for detail in status.details)


class BothTransports:
    """A REST and a gRPC client that take turns: `async with Both(service) as clients`."""

    def __init__(self, service: Service, key: str = "") -> None:
        self.rest, self.grpc = RestClient(service.url, key), GrpcClient(service.address, key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.rest.close()
        await self.grpc.close()

    async def send(
        self, requests: Sequence[SampleRequest], number: int, timeout: float | None = None
    ) -> Outcome:
        """Send the request with this number, each request over both transports in turn."""
        client = self.grpc if number % 2 else self.rest
        return await client.send(requests[number // 2 % len(requests)], timeout)
