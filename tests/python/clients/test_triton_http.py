"""tritonclient over HTTP, unmodified: binary tensors, JSON, compression, metadata, statistics."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
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
from support.work import difference, runs_by_rows

OUTPUTS = ["generated_output", "token_ids", "score", "finish_reason"]
ENCODE = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.address, concurrency=4) as client:
        yield client


@pytest.fixture(scope="module")
def computing(uncached: Service) -> Iterator[triton.InferenceServerClient]:
    """A client of a service without caches: every image is computed."""
    with triton.InferenceServerClient(uncached.address, concurrency=4) as client:
        yield client


def inputs(*names: str) -> list[triton.InferInput]:
    """Makes inputs of sample images and the prompt, binary."""
    arrays = {"image": strings(*map(picture, names or [PICTURE])), "text": strings(PROMPT)}
    return tensors(triton, arrays)


def outputs(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_the_server_and_the_model_are_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready(query_params={"a": "b"})
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("none") and not client.is_model_ready(MODEL, "7")


def test_metadata_config_and_index_describe_the_model(
    client: triton.InferenceServerClient,
) -> None:
    server = client.get_server_metadata()
    assert server["name"] == MODEL
    extensions = {"binary_tensor_data", "model_configuration", "statistics"}
    assert extensions <= set(server["extensions"])
    model = client.get_model_metadata(MODEL)
    assert client.get_model_metadata(MODEL, "1") == model
    assert (model["name"], model["versions"]) == (MODEL, ["1"])
    assert [tensor["name"] for tensor in model["inputs"]] == ["img_url", "text", "image"]
    assert [tensor["name"] for tensor in model["outputs"]] == OUTPUTS
    assert [t["datatype"] for t in model["outputs"]] == ["BYTES", "INT64", "FP32", "BYTES"]
    config = client.get_model_config(MODEL, "1")
    for side in ("input", "output"):
        named = [tensor["name"] for tensor in model[f"{side}s"]]
        assert [tensor["name"] for tensor in config[side]] == named
    # An image is required; perf_analyzer, which generates the required inputs, sends it by URL.
    assert [t["name"] for t in config["input"] if not t["optional"]] == ["img_url"]
    index = client.get_model_repository_index()
    assert [(m["name"], m["version"], m["state"]) for m in index] == [(MODEL, "1", "READY")]


def test_binary_tensors_are_the_default(client: triton.InferenceServerClient) -> None:
    result = client.infer(MODEL, inputs(), request_id="7")
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", MODEL, "1")
    assert all("data" not in output for output in response["outputs"])
    assert response["outputs"][0]["name"] == "generated_output"
    assert result.as_numpy("generated_output").tolist() == [caption().encode()]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True, None])
def test_json_and_binary_tensors_can_be_mixed(
    client: triton.InferenceServerClient,
    images_url: str,
    binary_in: bool,
    binary_out: bool | None,
) -> None:
    url = tensors(triton, {"img_url": strings(f"{images_url}/{PICTURE}")}, binary_data=binary_in)
    text = tensors(triton, {"text": strings(PROMPT)}, binary_data=not binary_in)
    wanted = None if binary_out is None else outputs("generated_output", binary=binary_out)
    result = client.infer(MODEL, url + text, outputs=wanted)
    assert texts(result.as_numpy("generated_output")) == [caption()]
    assert ("data" in result.get_output("generated_output")) == (binary_out is False)


def test_one_output_is_binary_and_another_is_json(client: triton.InferenceServerClient) -> None:
    wanted = outputs("token_ids") + outputs("finish_reason", binary=False)
    wanted += outputs("generated_output")
    result = client.infer(MODEL, inputs(), outputs=wanted)
    named = [output["name"] for output in result.get_response()["outputs"]]
    # The template's clients read outputs[0], which must be the caption.
    assert named == ["generated_output", "token_ids", "finish_reason"]
    assert result.get_output("finish_reason")["data"] == ["eos"]
    assert texts(result.as_numpy("generated_output")) == [caption()]


@pytest.mark.parametrize("shape", [[3], [3, 1]])
@pytest.mark.parametrize("binary", [False, True])
def test_the_rows_of_a_batch_equal_those_of_transformers(
    client: triton.InferenceServerClient, shape: list[int], binary: bool
) -> None:
    images = strings(*map(picture, PICTURES)).reshape(shape)
    prompts = strings(*[PROMPT] * 3).reshape(shape)
    request = tensors(triton, {"image": images, "text": prompts})
    result = client.infer(MODEL, request, outputs=outputs(*OUTPUTS, binary=binary))
    check_golden_rows(result, shape)


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
        query_params={"a": "b"},
        headers={"x-request-id": "abc"},
    )
    assert texts(result.as_numpy("generated_output")) == [caption()]


@pytest.mark.parametrize("request_encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_encoding", [None, "gzip", "deflate"])
def test_requests_and_responses_can_be_compressed(
    client: triton.InferenceServerClient,
    request_encoding: str | None,
    response_encoding: str | None,
) -> None:
    compression = {
        "request_compression_algorithm": request_encoding,
        "response_compression_algorithm": response_encoding,
    }
    result = client.infer(MODEL, inputs(), **compression)
    assert texts(result.as_numpy("generated_output")) == [caption()]
    wanted = outputs("generated_output", binary=False)
    result = client.infer(MODEL, inputs(), outputs=wanted, **compression)
    assert texts(result.as_numpy("generated_output")) == [caption()]
    with pytest.raises(InferenceServerException, match="unexpected inference output 'none'"):
        client.infer(MODEL, inputs(), outputs=outputs("none"), **compression)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_response_has_the_encoding_of_its_header(service: Service, encoding: str) -> None:
    body, header_length = triton.InferenceServerClient.generate_request_body(inputs())
    headers = {
        "Inference-Header-Content-Length": str(header_length),
        "Content-Encoding": encoding,
        "Accept-Encoding": encoding,
    }
    reply, content = post_raw(service, ENCODE[encoding](body), headers)
    assert reply.headers["content-encoding"] == encoding
    result = triton.InferenceServerClient.parse_response_body(
        content,
        header_length=int(reply.headers["inference-header-content-length"]),
        content_encoding=encoding,
    )
    assert texts(result.as_numpy("generated_output")) == [caption()]


def test_a_body_can_be_one_image(service: Service) -> None:
    headers = {"Inference-Header-Content-Length": "0", "Accept-Encoding": "identity"}
    reply, content = post_raw(service, picture("tree-cat.png"), headers)
    assert reply.status_code == 200, content
    result = triton.InferenceServerClient.parse_response_body(
        content, header_length=int(reply.headers["inference-header-content-length"])
    )
    assert texts(result.as_numpy("generated_output")) == [caption("tree-cat.png", None)]


def post_raw(
    service: Service, body: bytes, headers: dict[str, str]
) -> tuple[requests.Response, bytes]:
    """Returns the response to an infer request and its body before decompression."""
    url = f"{service.url}/v2/models/{MODEL}/infer"
    reply = requests.post(url, data=body, headers=headers, stream=True, timeout=SECONDS)
    return reply, reply.raw.read(decode_content=False)


def test_asynchronous_requests_run_concurrently(client: triton.InferenceServerClient) -> None:
    names = PICTURES * 2
    pending = [client.async_infer(MODEL, inputs(name)) for name in names]
    got = [texts(each.get_result().as_numpy("generated_output")) for each in pending]
    assert got == [[caption(name)] for name in names]


def failure(client: triton.InferenceServerClient, *request: Any, **more: Any) -> tuple[str, str]:
    """Returns status and message of a request that must fail."""
    with pytest.raises(InferenceServerException) as error:
        client.infer(*request, **more)
    return error.value.status(), error.value.message()


def test_an_invalid_request_is_an_exception_that_names_the_field(
    client: triton.InferenceServerClient,
) -> None:
    unknown = "Request for unknown model: 'none' is not found"
    assert failure(client, "none", inputs()) == ("404", unknown)
    assert failure(client, MODEL, inputs(), model_version="7")[0] == "404"
    for arrays, field in INVALID_INPUTS:
        status, message = failure(client, MODEL, tensors(triton, arrays))
        assert status == "400" and field in message, message
    status, message = failure(client, MODEL, inputs(), outputs=outputs("none"))
    assert status == "400" and "none" in message
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
            ask("none")
    with pytest.raises(InferenceServerException):
        client.get_trace_settings()


def test_statistics_count_every_image(computing: triton.InferenceServerClient) -> None:
    client = computing

    def statistics() -> dict[str, Any]:
        (model,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
        assert (model["name"], model["version"]) == (MODEL, "1")
        return model

    client.infer(MODEL, inputs())
    length = {"min_new_tokens": 31, "max_new_tokens": 31}
    before = statistics()
    client.infer(MODEL, inputs(), parameters=length)
    client.infer(MODEL, inputs(*PICTURES), parameters=length)
    after = statistics()
    assert after["inference_count"] == before["inference_count"] + 4
    # Without caches one picture and then three are decoded, if only the three images share steps.
    steps = after["execution_count"] - before["execution_count"]
    assert 2 * 31 <= steps <= 4 * 31
    for part in ("cache_hit", "cache_miss"):
        assert after["inference_stats"][part] == before["inference_stats"][part], part
    assert after["last_inference"] >= before["last_inference"] > 0
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        was, now = before["inference_stats"][part], after["inference_stats"][part]
        assert now["count"] >= was["count"] + 2 and now["ns"] >= was["ns"], part
    assert "fail" in after["inference_stats"]
    assert [m["name"] for m in client.get_inference_statistics()["model_stats"]] == [MODEL]
    with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
        client.get_inference_statistics("none")


def test_the_images_of_a_request_share_decoder_steps(
    computing: triton.InferenceServerClient, uncached: Service
) -> None:
    before, tokens = runs_by_rows(uncached), 60
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
    computing.infer(MODEL, inputs(*PICTURES), parameters=length)
    new = difference(before, runs_by_rows(uncached))
    assert sum(rows * count for rows, count in new.items()) == len(PICTURES) * tokens
    assert sum(new.values()) < len(PICTURES) * tokens * 2 / 3


def test_the_asyncio_client_gets_the_same_responses(service: Service) -> None:
    async def call_service() -> None:
        async with triton_aio.InferenceServerClient(service.address) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready(MODEL)
            assert not await client.is_model_ready("none")
            assert (await client.get_server_metadata())["name"] == MODEL
            assert (await client.get_model_metadata(MODEL))["name"] == MODEL
            assert (await client.get_model_config(MODEL))["name"] == MODEL
            assert (await client.get_model_repository_index())[0]["name"] == MODEL
            assert (await client.get_inference_statistics())["model_stats"][0]["name"] == MODEL
            results = await asyncio.gather(
                *[client.infer(MODEL, inputs(name)) for name in PICTURES],
                client.infer(MODEL, inputs(), outputs=outputs(*OUTPUTS, binary=False)),
                *[
                    client.infer(
                        MODEL,
                        inputs(),
                        request_compression_algorithm=encoding,
                        response_compression_algorithm=encoding,
                    )
                    for encoding in ENCODE
                ],
            )
            got = [texts(each.as_numpy("generated_output")) for each in results]
            assert got == [[caption(name)] for name in (*PICTURES, *[PICTURE] * 3)]
            # This client accepts gzip, but does not decompress errors.
            with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
                await client.infer("none", inputs())
            with pytest.raises(InferenceServerException):
                await client.get_trace_settings()

    asyncio.run(call_service())
