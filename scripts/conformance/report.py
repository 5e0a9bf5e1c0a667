"""Sends requests to a running service and formats the answers as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import requests
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status

from service import Service

SECONDS = 30
REQUEST_ID = "conformance"
METADATA = (("x-request-id", REQUEST_ID),)
WIDTH = 100
"""A longer body is shown in a block."""
SHOWN_HEADERS = ("retry-after", "www-authenticate", "accept-encoding", "allow")

session = requests.Session()
session.trust_env = False


class Report:
    """A page of Markdown under construction."""

    def __init__(self, introduction: str) -> None:
        self.text = introduction.strip() + "\n"

    def section(self, title: str) -> None:
        self.text += f"\n## {title}\n"

    def row(self, title: str, *answers: str) -> None:
        """Add a request, with its answers over one transport or both."""
        lines = "\n".join(f"- {answer}" for answer in answers)
        self.text += f"\n**{title}**\n{lines.rstrip()}\n"


def rest(
    service: Service,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> str:
    """Send a REST request and format the answer; `body` is encoded as JSON unless it is bytes."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"x-request-id": REQUEST_ID, "accept-encoding": "identity"} | (headers or {})
    reply = session.request(method, service.url + path, data=data, headers=headers, timeout=SECONDS)
    return f"`{method} {path}` → {_joined(reply.status_code, _shown(reply))}"


def rpc(
    call: Callable[..., Any], name: str, request: Any, metadata: tuple[tuple[str, str], ...] = ()
) -> str:
    """Send a gRPC request, or a stream of them, and format the first answer."""
    try:
        reply = call(request, timeout=SECONDS, metadata=(*METADATA, *metadata))
        if isinstance(reply, grpc.RpcError):
            reply = next(reply)
    except grpc.RpcError as error:
        return f"`{name}` → {error.code().name} {status_line(rpc_status.from_call(error))}"
    return f"`{name}` → {_joined('OK', shown_body(plain(reply)))}"


def body_of(answer: str) -> Any:
    """Return the JSON of a formatted answer that is not an error."""
    _, _, shown = answer.partition(" → ")
    _, _, body = shown.replace("\n", " ").partition(" ")
    return json.loads(body.strip().removeprefix("```json").strip("`"))


def status_line(status: Any) -> str:
    """Format message and details of a google.rpc.Status, and check the details."""
    kinds = [each.type_url.rpartition(".")[2] for each in status.details]
    assert "RequestInfo" in kinds and "ErrorInfo" in kinds, status
    shown = [f"`{status.message}`"]
    for kind, each in zip(kinds, status.details, strict=True):
        detail = getattr(details, kind)()
        each.Unpack(detail)
        if kind == "ErrorInfo":
            assert detail.domain == "blip-serve", detail
            shown.append(f"ErrorInfo {detail.reason}")
        elif kind == "BadRequest":
            fields = [violation.field for violation in detail.field_violations]
            shown.append(f"BadRequest {', '.join(fields)}")
        elif kind == "RetryInfo":
            shown.append(f"RetryInfo {detail.retry_delay.ToTimedelta().total_seconds():g} s")
        elif kind == "RequestInfo":
            assert detail.request_id == REQUEST_ID, detail
        else:
            shown.append(kind)
    return "; ".join(shown)


def plain(message: Message) -> dict[str, Any]:
    """Convert a message to JSON in which 64-bit integers are numbers."""
    values = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            value = {key: _plain_entry(each) for key, each in sorted(value.items())}
            if value:
                values[field.name] = value
            continue
        if field.is_repeated:
            value = [_plain_entry(each) for each in value]
        elif field.has_presence and not message.HasField(field.name):
            continue
        elif field.message_type:
            value = plain(value)
        elif field.enum_type:
            value = field.enum_type.values_by_number[value].name
        elif isinstance(value, bytes):
            value = value.decode()
        values[field.name] = value
    return values


def _plain_entry(value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def shown_body(body: Any) -> str:
    """Format JSON on one line, or as a block under a list item."""
    text = folded(body)
    return f"`{text}`" if "\n" not in text else f"\n  ```json\n  {text}\n  ```"


def folded(value: Any, indent: str = "  ") -> str:
    """Format JSON with a line for each member of values that are longer than WIDTH."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent + line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        members = [f"{json.dumps(key)}: {folded(each, inner)}" for key, each in value.items()]
    else:
        members = [folded(each, inner) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    joined = f",\n{inner}".join(members)
    return f"{opening}\n{inner}{joined}\n{indent}{closing}"


def _joined(status: object, shown: str) -> str:
    return f"{status}{shown}" if shown.startswith("\n") else f"{status} {shown}".rstrip()


def _shown(reply: requests.Response) -> str:
    """Format the headers of SHOWN_HEADERS and the body, and check the request id."""
    shown = [f"{name}: {reply.headers[name]}" for name in SHOWN_HEADERS if name in reply.headers]
    if reply.headers.get("content-type") != "application/json":
        return "; ".join([*shown, str(reply.headers.get("content-type")), f"`{reply.text}`"])
    assert reply.headers["x-request-id"] == REQUEST_ID
    body = reply.json()
    if isinstance(body, dict) and body.keys() == {"error", "request_id"}:
        assert body["request_id"] == REQUEST_ID
        return "; ".join([f"`{body['error']}`", *shown])
    return "; ".join([shown_body(body), *shown])
