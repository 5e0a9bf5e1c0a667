"""The copies of third-party protos in proto/ agree with the descriptors of the real clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import google.rpc.status_pb2
import grpc_health.v1.health_pb2
import grpc_tools
import pytest
import tritonclient.grpc.service_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from support.clients import ROOT

CLIENTS = [google.rpc.status_pb2, grpc_health.v1.health_pb2, tritonclient.grpc.service_pb2]
"""Importing them puts their descriptors into the default pool."""
FILES = [
    "google/rpc/status.proto",
    "grpc/health/v1/health.proto",
    "inference/grpc_service.proto",
    "inference/model_config.proto",
]
NEWER = "grpc.health.v1.HealthList"
"""Prefix of messages that the clients lack, as they lack the methods that take them."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pool.DescriptorPool:
    """The copies, in a separate pool."""
    output = tmp_path_factory.mktemp("protos") / "set.bin"
    includes = [ROOT / "proto", Path(grpc_tools.__file__).parent / "_proto"]
    flags = [f"-I{folder}" for folder in includes]
    flags += ["--include_imports", f"--descriptor_set_out={output}"]
    assert protoc.main(["protoc", *flags, *FILES]) == 0
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(output.read_bytes()).file:
        pool.Add(file)
    return pool


def nested(messages: list[Descriptor]) -> Iterator[Descriptor]:
    """Yields these messages and those nested in them."""
    for message in messages:
        yield message
        yield from nested(list(message.nested_types))


def describe_field(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type or field.enum_type
    return (field.name, field.number, field.type, field.is_repeated, kind and kind.full_name)


def describe_method(method: MethodDescriptor) -> tuple[object, ...]:
    streams = (method.client_streaming, method.server_streaming)
    return (method.name, method.input_type.full_name, method.output_type.full_name, *streams)


@pytest.mark.parametrize("file", FILES)
def test_a_copy_of_a_proto_is_a_subset_of_the_clients_proto(
    copies: descriptor_pool.DescriptorPool, file: str
) -> None:
    client_pool = descriptor_pool.Default()
    described = copies.FindFileByName(file)
    messages = list(nested(list(described.message_types_by_name.values())))
    for message in messages:
        if not message.full_name.startswith(NEWER):
            other = client_pool.FindMessageTypeByName(message.full_name)
            assert set(map(describe_field, message.fields)) <= set(
                map(describe_field, other.fields)
            ), message.full_name
    for enum in described.enum_types_by_name.values():
        other = client_pool.FindEnumTypeByName(enum.full_name)
        assert {(v.name, v.number) for v in enum.values} <= {
            (v.name, v.number) for v in other.values
        }
    for service in described.services_by_name.values():
        methods = {
            m for m in map(describe_method, service.methods) if not str(m[1]).startswith(NEWER)
        }
        other = client_pool.FindServiceByName(service.full_name)
        assert methods and methods <= set(map(describe_method, other.methods)), service.full_name
    assert messages
