"""Our copies of other people's protos say what the descriptors of the real clients say."""

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
"""What the clients do not have yet: messages that begin so, and methods that take them."""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pool.DescriptorPool:
    """Our files, in a pool of their own."""
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
    """These messages and those inside them."""
    for message in messages:
        yield message
        yield from nested(list(message.nested_types))


def field(of: FieldDescriptor) -> tuple[object, ...]:
    kind = of.message_type or of.enum_type
    return (of.name, of.number, of.type, of.is_repeated, kind and kind.full_name)


def method(of: MethodDescriptor) -> tuple[object, ...]:
    streams = (of.client_streaming, of.server_streaming)
    return (of.name, of.input_type.full_name, of.output_type.full_name, *streams)


@pytest.mark.parametrize("file", FILES)
def test_a_proto_is_part_of_the_clients_own(
    ours: descriptor_pool.DescriptorPool, file: str
) -> None:
    theirs = descriptor_pool.Default()
    described = ours.FindFileByName(file)
    messages = list(nested(list(described.message_types_by_name.values())))
    for message in messages:
        if not message.full_name.startswith(NEWER):
            other = theirs.FindMessageTypeByName(message.full_name)
            assert set(map(field, message.fields)) <= set(map(field, other.fields)), (
                message.full_name
            )
    for enum in described.enum_types_by_name.values():
        other = theirs.FindEnumTypeByName(enum.full_name)
        assert {(v.name, v.number) for v in enum.values} <= {
            (v.name, v.number) for v in other.values
        }
    for service in described.services_by_name.values():
        methods = {m for m in map(method, service.methods) if not str(m[1]).startswith(NEWER)}
        other = theirs.FindServiceByName(service.full_name)
        assert methods and methods <= set(map(method, other.methods)), service.full_name
    assert messages
