"""Clients of both transports: one question, one outcome, whatever happens on the way."""

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
from reliability.load.test_requests import Question
from service import Service, stubs

GIVE_UP = 120
"""Seconds after which an answer that has not come counts as lost."""
_CAPTION = "/blip.v1.CaptionService/Caption"
_DETAILS = "grpc-status-details-bin"
# Neither the environment's proxies nor a connection that another test made.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Client(Protocol):
    """One side of a connection."""

    async def ask(self, question: Question, timeout: float | None = None) -> Outcome:
        """The outcome; `timeout` is what the server is told, in seconds."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class Clients(Protocol):
    """Several clients that take turns."""

    async def ask(
        self, questions: Sequence[Question], number: int, timeout: float | None = None
    ) -> Outcome:
        """The outcome of the question whose turn it is."""
        ...

    async def close(self) -> None:
        """Closes all connections."""
        ...


class Rest:
    """`POST /v1/captions` over HTTP/1.1, with as many connections as are needed at once."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"content-type": "application/json"}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            timeout=aiohttp.ClientTimeout(GIVE_UP),
        )

    async def ask(self, question: Question, timeout: float | None = None) -> Outcome:
        """The outcome of a question."""
        headers = {"x-request-timeout-ms": str(round(timeout * 1000))} if timeout else {}
        return await self.post("/v1/captions", question.json, headers, question.expected)

    async def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None, expected: str = ""
    ) -> Outcome:
        """The outcome of any request that is answered with JSON; `body` is whatever aiohttp sends."""
        sent = time.perf_counter()
        try:
            async with self._session.post(self._url + path, data=body, headers=headers) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Outcome(LOST, type(error).__name__, sent, time.perf_counter(), str(error))
        ended = time.perf_counter()
        code, advice = str(reply.status), "retry-after" in reply.headers
        text = caption_of(answer) if reply.status == 200 else str(answer.get("error"))
        return Outcome(judged(kind_of(code), text, expected), code, sent, ended, text, advice)

    async def get(self, path: str) -> Outcome:
        """The outcome of asking for something that is there."""
        sent = time.perf_counter()
        code, content = await self.read(path)
        kind = kind_of(code) if code.isdigit() else LOST
        return Outcome(kind, code, sent, time.perf_counter(), content[:200])

    async def read(self, path: str, body: bytes | None = None) -> tuple[str, str]:
        """Status and content, to the end; what broke, if that did not come."""
        method = "GET" if body is None else "POST"
        try:
            async with self._session.request(method, self._url + path, data=body) as reply:
                return str(reply.status), await reply.text()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__, str(error)

    async def close(self) -> None:
        await self._session.close()


class Grpc:
    """`blip.v1.CaptionService/Caption`, all on one channel."""

    def __init__(
        self, target: str, key: str = "", options: Sequence[tuple[str, Any]] = _RECONNECT
    ) -> None:
        messages, _ = stubs()
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self.channel = grpc.aio.insecure_channel(target, options=[*_OPTIONS, *options])
        self._caption = self.channel.unary_unary(
            _CAPTION, response_deserializer=messages.CaptionResponse.FromString
        )

    async def ask(self, question: Question, timeout: float | None = None) -> Outcome:
        """The outcome of a question."""
        sent = time.perf_counter()
        limit = timeout or GIVE_UP
        try:
            answer = await self._caption(question.message, timeout=limit, metadata=self._metadata)
        except grpc.RpcError as error:
            return of_error(error, sent, was_asked=timeout is not None)
        ended = time.perf_counter()
        if answer is None and timeout is not None and ended - sent >= timeout:
            # The library, if its own deadline passes while the answer comes: good status, no message.
            return Outcome(LATE, "DEADLINE_EXCEEDED", sent, ended)
        text = answer.captions[0].text
        return Outcome(judged(OK, text, question.expected), "OK", sent, ended, text)

    async def close(self) -> None:
        await self.channel.close()


def of_error(error: Any, sent: float, was_asked: bool = False) -> Outcome:
    """The outcome of a call that failed. What the library made up itself is no answer."""
    ended = time.perf_counter()
    code = error.code().name
    details = dict(error.trailing_metadata() or ()).get(_DETAILS)
    # A deadline is kept by the client, too; who sets one may hear of it from either side.
    if details is None and not (was_asked and code == "DEADLINE_EXCEEDED"):
        return Outcome(LOST, code, sent, ended, error.details() or "")
    return Outcome(kind_of(code), code, sent, ended, error.details() or "", _has_advice(details))


def judged(kind: str, text: str, expected: str) -> str:
    """`kind`, unless a caption came that is not the right one."""
    return WRONG if kind == OK and expected and text != expected else kind


def caption_of(answer: dict[str, Any]) -> str:
    """The first caption of an answer of `/v1/captions`, `infer` or `generate`."""
    if "captions" in answer:
        return answer["captions"][0]["text"]
    if "outputs" in answer:
        return answer["outputs"][0]["data"][0]
    return answer["text_output"]


async def until_answered(client: Client, question: Question, within: float = GIVE_UP) -> Outcome:
    """The first outcome that is a caption; the last one, if none comes in time."""
    end = time.perf_counter() + within
    while (outcome := await client.ask(question)).kind not in (OK, WRONG):
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


class Both:
    """REST and gRPC in turn: `async with Both(service) as clients`."""

    def __init__(self, service: Service, key: str = "") -> None:
        self.rest, self.grpc = Rest(service.url, key), Grpc(service.address, key)

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
        """Closes all connections."""
        await self.rest.close()
        await self.grpc.close()

    def of(self, number: int) -> Client:
        """Whose turn it is."""
        return self.grpc if number % 2 else self.rest

    async def ask(
        self, questions: Sequence[Question], number: int, timeout: float | None = None
    ) -> Outcome:
        """The outcome of the question whose turn it is."""
        # Each transport gets each question.
        return await self.of(number).ask(questions[number // 2 % len(questions)], timeout)
