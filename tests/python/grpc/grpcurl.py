"""As much of grpcurl as the playground's commands use: it knows a service through reflection alone.

grpcurl [-plaintext] [-H 'name: value']... -d JSON|@ ADDRESS SERVICE/METHOD
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import json_format

from support.reflected import ReflectedClient


class WithHeaders(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends headers with every call, reflection's too."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.headers = headers

    def _intercept(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self.headers), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _intercept


def main() -> None:
    parser = argparse.ArgumentParser("grpcurl")
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", required=True)
    parser.add_argument("address")
    parser.add_argument("method")
    arguments = parser.parse_args()
    headers = [(name.lower(), value) for name, value in (h.split(": ", 1) for h in arguments.H)]
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(arguments.address, options=options) as channel:
        channel = grpc.intercept_channel(channel, WithHeaders(headers))
        client = ReflectedClient(channel, "v1alpha")
        service, name = arguments.method.split("/")
        method = client.pool.FindServiceByName(service).methods_by_name[name]
        request = client.message(method.input_type.full_name)
        json_format.Parse(sys.stdin.read() if arguments.d == "@" else arguments.d, request)
        for answer in client.call(arguments.method, request):
            print(json_format.MessageToJson(answer, indent=None))


if __name__ == "__main__":
    main()
