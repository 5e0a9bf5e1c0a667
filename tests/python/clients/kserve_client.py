"""The responses that KServe's clients get, as JSON; a separate program, run by test_kserve.py.

kserve and tritonclient each register the messages of package `inference`, and one process accepts
them only once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    InferResponse,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput

from support.clients import MODEL, PICTURES, PROMPT, picture, strings


def tensor(name: str, array: np.ndarray, binary: bool) -> InferInput:
    infer_input = InferInput(name, list(array.shape), "BYTES")
    infer_input.set_data_from_numpy(array, binary_data=binary)
    return infer_input


def request_with_urls(images_url: str, binary: bool, **more: Any) -> InferRequest:
    """Makes a request with the URLs of the sample images, and the prompt."""
    urls = strings(*[f"{images_url}/{name}" for name in PICTURES])
    inputs = [tensor("img_url", urls, binary), tensor("text", strings(PROMPT), binary)]
    return InferRequest(more.pop("model_name", MODEL), inputs, request_id="7", **more)


def request_with_files(**more: Any) -> InferRequest:
    """Makes a request with the content of the sample images, and the prompt."""
    files = strings(*map(picture, PICTURES))
    inputs = [tensor("image", files, True), tensor("text", strings(PROMPT), True)]
    return InferRequest(MODEL, inputs, request_id="7", **more)


def describe(response: InferResponse) -> dict[str, Any]:
    """Returns id, model and outputs of a response."""
    outputs = {}
    for output in response.outputs:
        values = output.as_numpy().flatten().tolist()
        outputs[output.name] = [v.decode() if isinstance(v, bytes) else v for v in values]
    return {"id": response.id, "model": response.model_name, "outputs": outputs}


async def rest(url: str, images_url: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        wanted = [RequestedOutput("score"), RequestedOutput("generated_output")]
        binary = {"binary_data_output": True}
        failure = None
        try:
            request = request_with_urls(images_url, False, model_name="none")
            await client.infer(url, request, model_name="none")
        except httpx.HTTPStatusError as error:
            failure = [error.response.status_code, str(error)]
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, MODEL),
            "unknown_ready": await client.is_model_ready(url, "none"),
            "failure": failure,
            "answers": [
                describe(await client.infer(url, request, model_name=MODEL))
                for request in (
                    request_with_urls(images_url, False),
                    request_with_urls(images_url, True, parameters=binary),
                    request_with_files(request_outputs=wanted),
                )
            ],
        }


async def rpc(address: str, images_url: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address) as client:
        wanted = [RequestedOutput("score"), RequestedOutput("generated_output")]
        failure = None
        try:
            await client.infer(request_with_urls(images_url, True, model_name="none"))
        except grpc.RpcError as error:
            failure = [error.code().name, error.details()]
        try:
            unknown_ready = await client.is_model_ready("none")
        except grpc.RpcError as error:
            unknown_ready = error.code().name
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
            "unknown_ready": unknown_ready,
            "failure": failure,
            "answers": [
                describe(await client.infer(request))
                for request in (
                    request_with_urls(images_url, False),
                    request_with_urls(images_url, True, parameters={"num_beams": 1}),
                    request_with_files(request_outputs=wanted),
                )
            ],
        }


async def main() -> None:
    address, images_url = sys.argv[1:]
    answers = {
        "rest": await rest(f"http://{address}", images_url),
        "grpc": await rpc(address, images_url),
    }
    json.dump(answers, sys.stdout)


asyncio.run(main())
