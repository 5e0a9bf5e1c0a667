"""tritonclient over gRPC, unmodified: raw and typed tensors, streams, metadata, statistics."""

from __future__ import annotations

import asyncio
import io
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from service import Service
from support.clients import (
    MODEL,
    PICTURE,
    PICTURES,
    PROMPT,
    SECONDS,
    caption,
    picture,
    strings,
    tensors,
    texts,
)
from support.triton import INVALID_INPUTS, check_golden_rows, check_parameters_and_tensors

OUTPUTS = ["generated_output", "token_ids", "score", "finish_reason"]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.address) as client:
        yield client


@pytest.fixture(scope="module")
def computing(uncached: Service) -> Iterator[triton.InferenceServerClient]:
    """A client of a service without caches: every image is computed."""
    with triton.InferenceServerClient(uncached.address) as client:
        yield client


def inputs(*names: str) -> list[triton.InferInput]:
    """Makes inputs of sample images and the prompt."""
    arrays = {"image": strings(*map(picture, names or [PICTURE])), "text": strings(PROMPT)}
    return tensors(triton, arrays)


def outputs(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def test_the_server_and_the_model_are_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
        client.is_model_ready("none")


def test_metadata_config_and_index_describe_the_model(
    client: triton.InferenceServerClient,
) -> None:
    server = client.get_server_metadata()
    assert server.name == MODEL
    assert {"model_configuration", "statistics"} <= set(server.extensions)
    model = client.get_model_metadata(MODEL)
    assert client.get_model_metadata(MODEL, "1") == model
    assert (model.name, model.versions) == (MODEL, ["1"])
    assert [tensor.name for tensor in model.inputs] == ["img_url", "text", "image"]
    assert [tensor.name for tensor in model.outputs] == OUTPUTS
    config = client.get_model_config(MODEL).config
    # perf_analyzer refuses a decoupled model without streaming.
    assert (config.name, config.model_transaction_policy.decoupled) == (MODEL, False)
    assert [tensor.name for tensor in config.input] == [t.name for t in model.inputs]
    assert [tensor.name for tensor in config.output] == OUTPUTS
    assert client.get_model_config(MODEL, as_json=True)["config"]["name"] == MODEL
    index = client.get_model_repository_index().models
    assert [(m.name, m.version, m.state) for m in index] == [(MODEL, "1", "READY")]


def test_the_rest_and_the_grpc_metadata_agree(
    service: Service, client: triton.InferenceServerClient
) -> None:
    with triton_http.InferenceServerClient(service.address) as rest:
        assert client.get_server_metadata(as_json=True) == rest.get_server_metadata()
        model = client.get_model_metadata(MODEL, as_json=True)
        for tensor in model["inputs"] + model["outputs"]:
            tensor["shape"] = [int(size) for size in tensor["shape"]]
        assert model == rest.get_model_metadata(MODEL)


@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_the_rows_of_a_batch_equal_those_of_transformers(
    client: triton.InferenceServerClient, shape: list[int]
) -> None:
    images = strings(*map(picture, PICTURES)).reshape(shape)
    prompts = strings(*[PROMPT] * 3).reshape(shape)
    result = client.infer(
        MODEL,
        tensors(triton, {"image": images, "text": prompts}),
        outputs=outputs(*OUTPUTS),
        request_id="7",
    )
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", MODEL, "1")
    assert len(response.raw_output_contents) == len(response.outputs)
    assert not any(output.HasField("contents") for output in response.outputs)
    check_golden_rows(result, shape)


def test_requested_outputs_keep_their_order_with_the_caption_first(
    client: triton.InferenceServerClient,
) -> None:
    for requested, named in [
        ([], ["generated_output"]),
        (["score", "token_ids"], ["score", "token_ids"]),
        (["score", "generated_output"], ["generated_output", "score"]),
    ]:
        result = client.infer(MODEL, inputs(), outputs=outputs(*requested) or None)
        assert [output.name for output in result.get_response().outputs] == named


def test_typed_contents_are_accepted(service: Service, images_url: str) -> None:
    stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(service.channel)
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, value in (("img_url", f"{images_url}/{PICTURE}"), ("text", PROMPT)):
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(value.encode())
    beams = request.inputs.add(name="num_beams", datatype="INT32", shape=[1])
    beams.contents.int_contents.append(1)
    result = triton.InferResult(stub.ModelInfer(request, timeout=SECONDS))
    assert texts(result.as_numpy("generated_output")) == [caption()]
    request.raw_input_contents.append(b"")
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(request, timeout=SECONDS)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "contents" in error.value.details()


def test_parameters_are_accepted_as_parameters_or_as_tensors(
    client: triton.InferenceServerClient,
) -> None:
    check_parameters_and_tensors(triton, client)


def test_the_other_arguments_of_infer_are_accepted(client: triton.InferenceServerClient) -> None:
    result = client.infer(
        MODEL,
        inputs(),
        model_version="1",
        priority=1,
        timeout=60_000_000,
        client_timeout=SECONDS,
        headers={"x-request-id": "abc"},
    )
    assert texts(result.as_numpy("generated_output")) == [caption()]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_may_be_compressed(client: triton.InferenceServerClient, algorithm: str) -> None:
    result = client.infer(MODEL, inputs(), compression_algorithm=algorithm)
    assert texts(result.as_numpy("generated_output")) == [caption()]


def test_an_image_larger_than_4_mib_is_accepted(
    service: Service, client: triton.InferenceServerClient
) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture())).convert("RGB").resize((1400, 1400)).save(file, "BMP")
    assert len(file.getvalue()) > 5 << 20
    result = client.infer(MODEL, tensors(triton, {"image": strings(file.getvalue())}))
    wanted = [each.text for each in service.caption(file.getvalue())]
    assert texts(result.as_numpy("generated_output")) == wanted


def test_asynchronous_calls_run_concurrently(client: triton.InferenceServerClient) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for name in PICTURES * 2:
        client.async_infer(MODEL, inputs(name), lambda result, error: done.put((result, error)))
    got = [done.get(timeout=SECONDS) for _ in PICTURES * 2]
    assert [error for _, error in got] == [None] * 6
    captions = sorted(texts(result.as_numpy("generated_output"))[0] for result, _ in got)
    assert captions == sorted(caption(name) for name in PICTURES * 2)


def failure(client: triton.InferenceServerClient, *request: Any, **more: Any) -> tuple[str, str]:
    """Returns status and message of a call that must fail."""
    with pytest.raises(InferenceServerException) as error:
        client.infer(*request, **more)
    return error.value.status().removeprefix("StatusCode."), error.value.message()


def test_an_invalid_request_is_an_exception_that_names_the_field(
    client: triton.InferenceServerClient,
) -> None:
    unknown = "Request for unknown model: 'none' is not found"
    assert failure(client, "none", inputs()) == ("NOT_FOUND", unknown)
    assert failure(client, MODEL, inputs(), model_version="7")[0] == "NOT_FOUND"
    for arrays, field in INVALID_INPUTS:
        status, message = failure(client, MODEL, tensors(triton, arrays))
        assert status == "INVALID_ARGUMENT" and field in message, message
    assert "none" in failure(client, MODEL, inputs(), outputs=outputs("none"))[1]
    # A long caption that no other test requests: a cached one would come in time.
    long = {"min_new_tokens": 119, "max_new_tokens": 119}
    late = failure(client, MODEL, inputs(), parameters=long, client_timeout=1e-6)
    assert late[0] == "DEADLINE_EXCEEDED"
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
            ask("none")


def test_other_methods_of_triton_are_unimplemented_by_name(
    client: triton.InferenceServerClient,
) -> None:
    for method, call in [
        ("SystemSharedMemoryStatus", client.get_system_shared_memory_status),
        ("TraceSetting", client.get_trace_settings),
        ("LogSettings", client.get_log_settings),
    ]:
        with pytest.raises(InferenceServerException, match=method) as error:
            call()
        assert error.value.status() == "StatusCode.UNIMPLEMENTED"


def test_statistics_count_every_image(computing: triton.InferenceServerClient) -> None:
    client = computing

    def statistics() -> service_pb2.ModelStatistics:
        (model,) = client.get_inference_statistics(MODEL, "1").model_stats
        assert (model.name, model.version) == (MODEL, "1")
        return model

    length = {"min_new_tokens": 33, "max_new_tokens": 33}
    before = statistics()
    client.infer(MODEL, inputs(), parameters=length)
    client.infer(MODEL, inputs(*PICTURES), parameters=length)
    after = statistics()
    assert after.inference_count == before.inference_count + 4
    # Without caches one picture and then three are decoded, if only the three images share steps.
    assert 2 * 33 <= after.execution_count - before.execution_count <= 4 * 33
    assert after.inference_stats.cache_miss == before.inference_stats.cache_miss
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        was, now = getattr(before.inference_stats, part), getattr(after.inference_stats, part)
        assert now.count >= was.count + 2 and now.ns >= was.ns, part
    assert [m.name for m in client.get_inference_statistics().model_stats] == [MODEL]


class Stream:
    """A stream of tritonclient and its responses."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self.client = client
        self.responses: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __enter__(self) -> Stream:
        self.client.start_stream(lambda result, error: self.responses.put((result, error)))
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream()

    def send(self, *request: Any, **more: Any) -> None:
        self.client.async_stream_infer(*request, **more)

    def next(self) -> tuple[Any, Any]:
        return self.responses.get(timeout=SECONDS)

    def next_until_final(self) -> list[triton.InferResult]:
        """Returns results up to the final one."""
        results = []
        while not results or not parameters(results[-1])["triton_final_response"]:
            result, error = self.next()
            assert error is None
            results.append(result)
        return results


def parameters(result: triton.InferResult) -> dict[str, Any]:
    """Returns the parameters of a response."""
    pairs = result.get_response().parameters.items()
    return {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in pairs}


def test_a_stream_answers_each_request_once_and_in_order(
    client: triton.InferenceServerClient,
) -> None:
    with Stream(client) as stream:
        for index, name in enumerate(PICTURES):
            stream.send(MODEL, inputs(name), request_id=str(index))
        for index, name in enumerate(PICTURES):
            result, error = stream.next()
            assert error is None and result.get_response().id == str(index)
            assert texts(result.as_numpy("generated_output")) == [caption(name)]
            assert parameters(result)["triton_final_response"] is True
    assert stream.responses.empty()


def test_a_stream_sends_a_caption_in_pieces_on_request(
    client: triton.InferenceServerClient,
) -> None:
    with Stream(client) as stream:
        stream.send(MODEL, inputs(), request_id="7", parameters={"stream": True})
        results = stream.next_until_final()
    assert len(results) > 2
    assert {result.get_response().id for result in results} == {"7"}
    pieces = [texts(result.as_numpy("generated_output")) for result in results]
    assert all(len(piece) == 1 for piece in pieces)
    assert "".join(piece for (piece,) in pieces) == caption()
    last = parameters(results[-1])
    assert (last["caption"], last["finish_reason"]) == (caption(), "eos")


def test_a_stream_may_end_with_an_empty_response(client: triton.InferenceServerClient) -> None:
    for more in ({}, {"parameters": {"stream": True}}):
        with Stream(client) as stream:
            stream.send(MODEL, inputs(), enable_empty_final_response=True, **more)
            *results, last = stream.next_until_final()
        assert not last.get_response().outputs
        joined = "".join(texts(each.as_numpy("generated_output"))[0] for each in results)
        assert joined == caption()


def test_an_error_leaves_the_stream_open(client: triton.InferenceServerClient) -> None:
    with Stream(client) as stream:
        stream.send("none", inputs())
        stream.send(MODEL, tensors(triton, {"image": strings(b"not an image")}))
        stream.send(MODEL, inputs(), parameters={"stream": True, "num_beams": 0})
        stream.send(MODEL, inputs())
        for named in ("unknown model: 'none'", "image", "num_beams"):
            result, error = stream.next()
            assert result is None and named in error.message()
        result, error = stream.next()
        assert error is None
        assert texts(result.as_numpy("generated_output")) == [caption()]


def test_a_stream_can_be_cancelled(client: triton.InferenceServerClient) -> None:
    with Stream(client) as stream:
        stream.send(MODEL, inputs(), parameters={"stream": True})
        stream.next()
        client.stop_stream(cancel_requests=True)
    result = client.infer(MODEL, inputs())
    assert texts(result.as_numpy("generated_output")) == [caption()]


def test_the_asyncio_client_gets_the_same_responses(service: Service) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": MODEL, "inputs": inputs()}
        yield {"model_name": "none", "inputs": inputs()}
        yield {"model_name": MODEL, "inputs": inputs(), "parameters": {"stream": True}}

    async def call_service() -> None:
        async with triton_aio.InferenceServerClient(service.address) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready(MODEL)
            assert (await client.get_server_metadata()).name == MODEL
            assert (await client.get_model_metadata(MODEL)).name == MODEL
            assert (await client.get_model_config(MODEL)).config.name == MODEL
            assert (await client.get_model_repository_index()).models[0].name == MODEL
            assert (await client.get_inference_statistics()).model_stats[0].name == MODEL
            results = await asyncio.gather(
                *[client.infer(MODEL, inputs(name)) for name in PICTURES]
            )
            got = [texts(each.as_numpy("generated_output")) for each in results]
            assert got == [[caption(name)] for name in PICTURES]
            (result, error), (none, unknown), *pieces = [
                answer async for answer in client.stream_infer(requests())
            ]
            assert error is None and none is None
            assert texts(result.as_numpy("generated_output")) == [caption()]
            assert "unknown model: 'none'" in unknown.message()
            joined = [texts(piece.as_numpy("generated_output"))[0] for piece, _ in pieces]
            assert len(pieces) > 2 and "".join(joined) == caption()
            with pytest.raises(InferenceServerException, match="LogSettings"):
                await client.get_log_settings()

    asyncio.run(call_service())
