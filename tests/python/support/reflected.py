"""A gRPC client without protos: it learns all messages and methods by the server's reflection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from support.clients import SECONDS


class _ReflectionV1Interceptor(grpc.StreamStreamClientInterceptor):
    """Calls grpc.reflection.v1, whose messages are those of v1alpha under another name."""

    def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],
        details: Any,
        requests: Iterable[Any],
    ) -> Any:
        method = details.method.replace("v1alpha", "v1")
        return continuation(details._replace(method=method), requests)


class _MetadataInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends metadata with every call."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.metadata = metadata

    def _intercept(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self.metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _intercept


class ReflectedClient:
    """Calls any method that the server describes; the metadata is sent with reflection's calls too."""

    def __init__(
        self, channel: grpc.Channel, version: str, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        if metadata:
            channel = grpc.intercept_channel(channel, _MetadataInterceptor(metadata))
        self.channel = channel
        if version == "v1":
            channel = grpc.intercept_channel(channel, _ReflectionV1Interceptor())
        database = ProtoReflectionDescriptorDatabase(channel)
        self.services = set(database.get_services())
        self.pool = DescriptorPool(database)

    def message(self, name: str, **fields: Any) -> Message:
        """Makes a message by its full name."""
        return GetMessageClass(self.pool.FindMessageTypeByName(name))(**fields)

    def call(self, path: str, *requests: Message) -> list[Any]:
        """Returns the responses to these requests; `path` is service/Method."""
        service, name = path.split("/")
        method = self.pool.FindServiceByName(service).methods_by_name[name]
        sides = (method.client_streaming, method.server_streaming)
        kind = "_".join("stream" if streams else "unary" for streams in sides)
        call = getattr(self.channel, kind)(
            f"/{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        argument = iter(requests) if method.client_streaming else requests[0]
        answer = call(argument, timeout=SECONDS)
        return list(answer) if method.server_streaming else [answer]
