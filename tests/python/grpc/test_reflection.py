"""Calls of every service by reflection alone, as grpcurl and Postman make them."""

from __future__ import annotations

import pytest

from service import Service
from support.clients import MODEL, PICTURE, PROMPT, caption, picture
from support.reflected import ReflectedClient

METHODS = {
    "blip.v1.CaptionService": {"Caption", "StreamCaption", "CaptionMany"},
    "inference.GRPCInferenceService": {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "ModelInfer",
        "ModelStreamInfer",
    },
    "grpc.health.v1.Health": {"Check", "List", "Watch"},
}


@pytest.fixture(scope="module", params=["v1", "v1alpha"])
def client(request: pytest.FixtureRequest, service: Service) -> ReflectedClient:
    return ReflectedClient(service.channel, request.param)


def test_every_service_is_described_with_its_methods(client: ReflectedClient) -> None:
    reflection = {f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha")}
    assert METHODS.keys() < client.services <= METHODS.keys() | reflection
    for service, methods in METHODS.items():
        described = client.pool.FindServiceByName(service)
        assert {method.name for method in described.methods} == methods


def test_caption_can_be_called(client: ReflectedClient) -> None:
    request = client.message("blip.v1.CaptionRequest", image=picture(), prompt=PROMPT, id="7")
    (reply,) = client.call("blip.v1.CaptionService/Caption", request)
    assert (reply.id, reply.model) == ("7", MODEL)
    assert [each.text for each in reply.captions] == [caption()]


def test_streams_can_be_called(client: ReflectedClient) -> None:
    request = client.message("blip.v1.CaptionRequest", image=picture(), prompt=PROMPT, id="7")
    *pieces, last = client.call("blip.v1.CaptionService/StreamCaption", request)
    assert "".join(event.piece for event in pieces) == caption()
    assert last.response.captions[0].text == caption()
    results = client.call("blip.v1.CaptionService/CaptionMany", request, request)
    assert [result.response.captions[0].text for result in results] == [caption()] * 2


def test_model_infer_can_be_called(client: ReflectedClient, images_url: str) -> None:
    request = client.message("inference.ModelInferRequest", model_name=MODEL)
    for name, value in (("img_url", f"{images_url}/{PICTURE}"), ("text", PROMPT)):
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(value.encode())
    (reply,) = client.call("inference.GRPCInferenceService/ModelInfer", request)
    assert reply.outputs[0].name == "generated_output"
    text = caption().encode()
    assert reply.raw_output_contents[0] == len(text).to_bytes(4, "little") + text
