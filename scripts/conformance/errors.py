"""The rows of docs/conformance.md for client errors."""

from __future__ import annotations

from base64 import b64encode

from grpc_health.v1 import health_pb2, health_pb2_grpc

from conformance.report import METADATA, rest, rpc, status_line
from conformance.rows import (
    BASE64,
    CATS,
    MODEL,
    PROMPT,
    URL,
    Json,
    Rows,
    asking,
    message,
    messages,
    tensor,
)

INFER = f"/v2/models/{MODEL}/infer"
NOT_AN_IMAGE = b"not an image"
LONG_PROMPT = "a " * 200


def without(entry: Json, key: str) -> Json:
    return {name: value for name, value in entry.items() if name != key}


def names(rows: Rows) -> None:
    rows.report.section("Models, routes and methods that do not exist")
    rows.infer("unknown model", asking(CATS), model="none")
    rows.infer("unknown version", asking(CATS), version="7")
    rows.infer("a version that is not a number", asking(CATS), version="x")
    unknown = messages.ModelMetadataRequest(name="none")
    rows.both("metadata of an unknown model", "/v2/models/none", "ModelMetadata", unknown)
    unknown = messages.ModelReadyRequest(name="none")
    rows.both("readiness of an unknown model", "/v2/models/none/ready", "ModelReady", unknown)
    health = health_pb2_grpc.HealthStub(rows.service.channel)
    unknown = health_pb2.HealthCheckRequest(service="unknown")
    rows.report.row("health of an unknown service", rpc(health.Check, "Health/Check", unknown))
    rows.report.row(
        "unknown route or method",
        rest(rows.service, "GET", "/nothing"),
        rpc(rows.service.channel.unary_unary("/blip.v1.CaptionService/Nothing"), "Nothing", b""),
    )
    rows.report.row(
        "loading a model with an empty request",
        rest(rows.service, "POST", f"/v2/repository/models/{MODEL}/load"),
        rpc(
            rows.service.channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad"),
            "RepositoryModelLoad",
            b"",
        ),
    )
    rows.rest("method not allowed", "GET", INFER)


def syntax(rows: Rows) -> None:
    rows.report.section("Syntax errors")
    call = rows.service.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    rows.report.row(
        "truncated JSON; bytes that are not a message",
        rest(rows.service, "POST", INFER, b'{"inputs": ['),
        rpc(call, "ModelInfer", b"\xff"),
    )
    rows.rest("a body that is not an object", "POST", INFER, [])
    rows.infer("no `inputs`", {})
    rows.infer("`inputs` is empty", asking())
    rows.infer("an input without `datatype`", asking(without(CATS, "datatype")))
    rows.infer("an unknown datatype", asking(CATS | {"datatype": "TEXT"}))
    rows.infer("a shape that does not match the data", asking(CATS | {"shape": [2]}))
    rows.infer("a shape of -1", asking(CATS | {"shape": [-1]}))
    rows.infer("a shape of rank 3", asking(CATS | {"shape": [1, 1, 1]}))
    rows.rest("a shape that is text", "POST", INFER, asking(CATS | {"shape": "[1]"}))
    rows.rest("data of another type", "POST", INFER, asking(CATS | {"data": [5]}))
    raw = message(asking(without(CATS, "data")))
    rows.report.row(
        "no data",
        rest(rows.service, "POST", INFER, asking(without(CATS, "data"))),
        rpc(rows.inference.ModelInfer, "ModelInfer", raw),
    )
    sized = CATS | {"parameters": {"binary_data_size": 4}}
    twofold = message(asking(CATS))
    twofold.raw_input_contents.append(b"")
    rows.report.row(
        "data both in JSON (or contents) and as bytes",
        rest(rows.service, "POST", INFER, asking(sized)),
        rpc(rows.inference.ModelInfer, "ModelInfer", twofold),
    )
    raw.raw_input_contents.append(b"\xff\0\0\0")
    rows.report.row(
        "fewer bytes than announced",
        rest(rows.service, "POST", INFER, asking(without(sized, "data"))),
        rpc(rows.inference.ModelInfer, "ModelInfer", raw),
    )
    raw.raw_input_contents.append(b"")
    rows.rpc("raw contents for two inputs, and one input", "ModelInfer", raw)
    shared = without(CATS, "data") | {"parameters": {"shared_memory_region": "r"}}
    rows.rest("shared memory", "POST", INFER, asking(shared))
    rows.infer("an id that is too long", asking(CATS, id="x" * 1025))
    rows.rest("an unsupported encoding", "POST", INFER, b"", {"content-encoding": "br"})
    rows.rest("a body that is not valid gzip", "POST", INFER, b"x", {"content-encoding": "gzip"})
    rows.rest("a deadline of 0", "POST", INFER, asking(CATS), {"x-request-timeout-ms": "0"})
    header = {"inference-header-content-length": "x"}
    rows.rest("a length of the JSON that is not a number", "POST", INFER, asking(CATS), header)


def values(rows: Rows) -> None:
    rows.report.section("Values that are not valid")
    rows.infer("no image", asking(PROMPT))
    rows.infer("an unknown input", asking(CATS, tensor("img_ulr", "x")))
    rows.infer("an input twice", asking(CATS, CATS))
    rows.infer("an image by URL and one by its bytes", asking(CATS, tensor("image", BASE64)))
    rows.infer("33 images", asking(tensor("img_url", *["x"] * 33)))
    rows.infer("two prompts for one image", asking(CATS, tensor("text", "a", "b")))
    wrong = tensor("text", 1.0, datatype="FP32")
    rows.infer("a datatype that does not match the input", asking(CATS, wrong))
    long = tensor("text", LONG_PROMPT)
    rows.infer("a prompt longer than the model's positions", asking(CATS, long))
    rows.infer("an unknown output", asking(CATS, outputs=[{"name": "bad"}]))
    twice = [{"name": "score"}] * 2
    rows.infer("an output twice", asking(CATS, outputs=twice))
    rows.infer("an unknown parameter", asking(CATS, parameters={"beams": 3}))
    rows.infer("a parameter of the wrong type", asking(CATS, parameters={"num_beams": "3"}))
    rows.infer("a parameter out of range", asking(CATS, parameters={"num_beams": 0}))
    beams = tensor("num_beams", 33, datatype="INT32")
    rows.infer("a parameter out of range, as an input", asking(CATS, beams))
    both = {"num_beams": 2}
    title = "a parameter both as an input and as a parameter"
    rows.infer(title, asking(CATS, beams, parameters=both))
    not_an_image = b64encode(NOT_AN_IMAGE).decode()
    rows.infer("a file that is not an image", asking(tensor("image", not_an_image)))
    for title, url in {
        "a URL that is not valid": "cats.jpg",
        "a URL with an unsupported scheme": "file:///etc/passwd",
        "a URL of a private address": "http://127.0.0.1:1/cats.jpg",
    }.items():
        rows.infer(title, asking(tensor("img_url", url)))
    rows.infer("one of two images is not valid", asking(tensor("img_url", URL, "cats.jpg")))


def captions(rows: Rows) -> None:
    rows.report.section("/v1/captions and blip.v1")
    not_an_image = b64encode(NOT_AN_IMAGE).decode()
    rows.caption("no image", {})
    rows.caption("a file that is not an image", {"image": not_an_image}, image=NOT_AN_IMAGE)
    rows.caption("a URL that is not valid", {"image_url": "cats.jpg"}, image_url="cats.jpg")
    rows.caption("unknown model", {"image": BASE64, "model": "none"}, image=b"x", model="none")
    beams = {"num_beams": 33}
    rows.caption(
        "a parameter out of range",
        {"image": BASE64, "parameters": beams},
        image=b"x",
        parameters=beams,
    )
    rows.rest("an unknown field", "POST", "/v1/captions", {"image": BASE64, "propmt": "a"})
    form = {"content-type": "multipart/form-data; boundary=x"}
    rows.rest("a form that is not valid", "POST", "/v1/captions", b"y", form)
    streaming = {"image": BASE64, "stream": True}
    title = "a stream on a route without streams"
    rows.rest(title, "POST", f"/v2/models/{MODEL}/generate", streaming)


def streams(rows: Rows) -> None:
    rows.report.section("Errors of streams")
    stub, service = rows.service.stub, rows.service
    request = service.messages.CaptionRequest(image=NOT_AN_IMAGE, id="a1")
    body = {"image": b64encode(NOT_AN_IMAGE).decode()}
    rows.report.row(
        "before the first piece",
        rest(service, "POST", f"/v2/models/{MODEL}/generate_stream", body),
        rpc(stub.StreamCaption, "StreamCaption", request),
    )
    (result,) = stub.CaptionMany(iter([request]), metadata=METADATA)
    rows.report.row(
        "of one request of several; the stream continues",
        f"`CaptionMany` → OK id `{result.id}`, error {result.error.code}: {status_line(result.error)}",
        rpc(
            rows.inference.ModelStreamInfer,
            "ModelStreamInfer",
            iter([message(asking(), model="none")]),
        ),
    )


def write(rows: Rows) -> None:
    """Write the rows of all sections."""
    for part in (names, syntax, values, captions, streams):
        part(rows)
