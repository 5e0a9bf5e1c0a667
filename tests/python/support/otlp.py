"""An OTLP collector for the tests: receives spans over HTTP and stores them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECONDS = 60
"""Seconds until a test that waits for spans fails."""


def values(attributes: list[KeyValue]) -> dict[str, Any]:
    """Returns attributes by name."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in attributes
    }


@dataclass(frozen=True)
class Trace:
    """The span of a request and its child spans."""

    root: Span
    stages: list[Span]

    @property
    def attributes(self) -> dict[str, Any]:
        return values(self.root.attributes)

    @property
    def names(self) -> Counter[str]:
        """The number of stages of each name."""
        return Counter(stage.name for stage in self.stages)

    def stage(self, name: str) -> Span:
        """Returns the only stage of this name."""
        (only,) = (stage for stage in self.stages if stage.name == name)
        return only


@dataclass
class Collector:
    """Listens on a free loopback port."""

    bodies: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector.receive(self.path, self.headers["content-type"], body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def receive(self, path: str, content_type: str, body: bytes) -> int:
        """Stores a batch and returns the status of the response."""
        if (path, content_type) != ("/v1/traces", "application/x-protobuf"):
            return 404
        with self.arrived:
            self.bodies.append(body)
            if self.status == 200:
                for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resource = values(resource_spans.resource.attributes)
                    for scope in resource_spans.scope_spans:
                        self.spans.extend(scope.spans)
            self.arrived.notify_all()
        return self.status

    def trace(self, request_id: str) -> Trace:
        """Waits for the trace of a request; its root span ends last, and so is the last to arrive."""
        with self.arrived:
            found = self.arrived.wait_for(lambda: self._root(request_id), SECONDS)
            assert found, [span.name for span in self.spans]
            root = self._root(request_id)
            stages = [span for span in self.spans if span.parent_span_id == root.span_id]
        return Trace(root, stages)

    def _root(self, request_id: str) -> Span | None:
        roots = [s for s in self.spans if values(s.attributes).get("request_id") == request_id]
        assert len(roots) <= 1
        return roots[0] if roots else None
