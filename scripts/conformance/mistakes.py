"""The rows of docs/conformance.md for requests that a client got wrong."""

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
NO_PICTURE = b"no picture"
LONG_PROMPT = "a " * 200


def without(entry: Json, key: str) -> Json:
    return {name: value for name, value in entry.items() if name != key}


def names(rows: Rows) -> None:
    rows.report.section("Models, routes and methods that do not exist")
    rows.infer("unknown model", asking(CATS), model="none")
    rows.infer("unknown version", asking(CATS), version="7")
    rows.infer("a version that is no number", asking(CATS), version="x")
    unknown = messages.ModelMetadataRequest(name="none")
    rows.both("metadata of an unknown model", "/v2/models/none", "ModelMetadata", unknown)
    unknown = messages.ModelReadyRequest(name="none")
    rows.both("readiness of an unknown model", "/v2/models/none/ready", "ModelReady", unknown)
    health = health_pb2_grpc.HealthStub(rows.service.channel)
    nobody = health_pb2.HealthCheckRequest(service="nobody")
    rows.report.row("health of an unknown service", rpc(health.Check, "Health/Check", nobody))
    rows.report.row(
        "unknown route or method",
        rest(rows.service, "GET", "/nothing"),
        rpc(rows.service.channel.unary_unary("/blip.v1.CaptionService/Nothing"), "Nothing", b""),
    )
    rows.report.row(
        "loading a model, which this server does not do",
        rest(rows.service, "POST", f"/v2/repository/models/{MODEL}/load"),
        rpc(
            rows.service.channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad"),
            "RepositoryModelLoad",
            b"",
        ),
    )
    rows.rest("wrong verb", "GET", INFER)


def form(rows: Rows) -> None:
    rows.report.section("The form of a request")
    call = rows.service.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    rows.report.row(
        "truncated JSON; bytes that are no message",
        rest(rows.service, "POST", INFER, b'{"inputs": ['),
        rpc(call, "ModelInfer", b"\xff"),
    )
    rows.rest("no object", "POST", INFER, [])
    rows.infer("no `inputs`", {})
    rows.infer("`inputs` is empty", asking())
    rows.infer("an input without `datatype`", asking(without(CATS, "datatype")))
    rows.infer("an unknown datatype", asking(CATS | {"datatype": "TEXT"}))
    rows.infer("a shape that is not that of the data", asking(CATS | {"shape": [2]}))
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
        "data in JSON or contents, and as bytes too",
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
    rows.rest("an encoding nobody knows", "POST", INFER, b"", {"content-encoding": "br"})
    rows.rest("a body that is no gzip", "POST", INFER, b"x", {"content-encoding": "gzip"})
    rows.rest("a deadline of 0", "POST", INFER, asking(CATS), {"x-request-timeout-ms": "0"})
    header = {"inference-header-content-length": "x"}
    rows.rest("a length of the JSON that is none", "POST", INFER, asking(CATS), header)


def meaning(rows: Rows) -> None:
    rows.report.section("The meaning of a request")
    rows.infer("no picture", asking(PROMPT))
    rows.infer("an unknown input", asking(CATS, tensor("img_ulr", "x")))
    rows.infer("an input twice", asking(CATS, CATS))
    rows.infer("a picture by URL and one by its bytes", asking(CATS, tensor("image", BASE64)))
    rows.infer("33 pictures", asking(tensor("img_url", *["x"] * 33)))
    rows.infer("two prompts for one picture", asking(CATS, tensor("text", "a", "b")))
    wrong = tensor("text", 1.0, datatype="FP32")
    rows.infer("another datatype than the input's", asking(CATS, wrong))
    long = tensor("text", LONG_PROMPT)
    rows.infer("a prompt longer than the model reads", asking(CATS, long))
    rows.infer("an unknown output", asking(CATS, outputs=[{"name": "bad"}]))
    twice = [{"name": "score"}] * 2
    rows.infer("an output twice", asking(CATS, outputs=twice))
    rows.infer("an unknown parameter", asking(CATS, parameters={"beams": 3}))
    rows.infer("a parameter of another type", asking(CATS, parameters={"num_beams": "3"}))
    rows.infer("a parameter out of bounds", asking(CATS, parameters={"num_beams": 0}))
    beams = tensor("num_beams", 33, datatype="INT32")
    rows.infer("the same as an input", asking(CATS, beams))
    both = {"num_beams": 2}
    rows.infer("as an input and as a parameter", asking(CATS, beams, parameters=both))
    no_picture = b64encode(NO_PICTURE).decode()
    rows.infer("a file that is no picture", asking(tensor("image", no_picture)))
    for what, url in [
        ("a URL that is none", "cats.jpg"),
        ("a URL of another scheme", "file:///etc/passwd"),
        ("a URL of a private address", "http://127.0.0.1:1/cats.jpg"),
    ]:
        rows.infer(what, asking(tensor("img_url", url)))
    rows.infer("one bad picture of two", asking(tensor("img_url", URL, "cats.jpg")))


def short(rows: Rows) -> None:
    rows.report.section("The short requests and blip.v1")
    rows.caption("no picture", {})
    rows.caption("a file that is no picture", {"image": "bm8gcGljdHVyZQ=="}, image=NO_PICTURE)
    rows.caption("a URL that is none", {"image_url": "cats.jpg"}, image_url="cats.jpg")
    rows.caption("unknown model", {"image": BASE64, "model": "none"}, image=b"x", model="none")
    beams = {"num_beams": 33}
    rows.caption(
        "a parameter out of bounds",
        {"image": BASE64, "parameters": beams},
        image=b"x",
        parameters=beams,
    )
    rows.rest("an unknown field", "POST", "/v1/captions", {"image": BASE64, "propmt": "a"})
    form_ = {"content-type": "multipart/form-data; boundary=x"}
    rows.rest("a form that is none", "POST", "/v1/captions", b"y", form_)
    streaming = {"image": BASE64, "stream": True}
    rows.rest("a stream where there is none", "POST", f"/v2/models/{MODEL}/generate", streaming)


def streams(rows: Rows) -> None:
    rows.report.section("Failures of streams")
    stub, service = rows.service.stub, rows.service
    request = service.messages.CaptionRequest(image=NO_PICTURE, id="a1")
    body = {"image": b64encode(NO_PICTURE).decode()}
    rows.report.row(
        "before the first piece",
        rest(service, "POST", f"/v2/models/{MODEL}/generate_stream", body),
        rpc(stub.StreamCaption, "StreamCaption", request),
    )
    (result,) = stub.CaptionMany(iter([request]), metadata=METADATA)
    rows.report.row(
        "of one request of many; the stream goes on",
        f"`CaptionMany` → OK id `{result.id}`, error {result.error.code}: {status_line(result.error)}",
        rpc(
            rows.inference.ModelStreamInfer,
            "ModelStreamInfer",
            iter([message(asking(), model="none")]),
        ),
    )


def write(rows: Rows) -> None:
    """All of them."""
    for part in (names, form, meaning, short, streams):
        part(rows)
