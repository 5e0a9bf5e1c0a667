"""The rows of docs/conformance.md for successful requests, and the helpers of all rows."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from conformance.report import Report, body_of, rest, rpc
from service import ROOT, Service, stubs

# These protos and those of tritonclient have the same package, so one process cannot import both.
messages, services = stubs("inference/grpc_service")
MODEL = "scenes"
PICTURE = (ROOT / "examples" / "images" / "cats.jpg").read_bytes()
BASE64 = b64encode(PICTURE).decode()
URL = f"data:image/jpeg;base64,{BASE64}"
FIELDS = {"INT32": "int_contents", "FP32": "fp32_contents"}

Json = dict[str, Any]


def tensor(name: str, *data: Any, datatype: str = "BYTES", **more: Any) -> Json:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": [*data], **more}


def asking(*inputs: Json, **more: Any) -> Json:
    """Return the JSON of an infer request."""
    return {"inputs": [*inputs], **more}


CATS = tensor("img_url", URL)
PROMPT = tensor("text", "a photography of")


def message(body: Json, model: str = MODEL, version: str = "") -> Any:
    """Convert an infer request to a message, without the parts that gRPC does not have."""
    id_ = body.get("id", "")
    request = messages.ModelInferRequest(model_name=model, model_version=version, id=id_)
    for entry in body.get("inputs", []):
        datatype = entry.get("datatype", "")
        known = {key: entry[key] for key in ("name", "datatype", "shape") if key in entry}
        contents = request.inputs.add(**known).contents
        for value in entry.get("data", []):
            value = b64decode(value) if entry["name"] == "image" else value
            value = value.encode() if isinstance(value, str) else value
            field = "bytes_contents" if isinstance(value, bytes) else FIELDS[datatype]
            getattr(contents, field).append(value)
    for entry in body.get("outputs", []):
        request.outputs.add(name=entry["name"])
    for name, value in body.get("parameters", {}).items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(request.parameters[name], kind, value)
    return request


class Rows:
    """Writes rows with the answers of one service."""

    def __init__(self, report: Report, service: Service) -> None:
        self.report, self.service = report, service
        self.inference = services.GRPCInferenceServiceStub(service.channel)

    def rest(self, title: str, method: str, path: str, *more: Any, **others: Any) -> None:
        self.report.row(title, rest(self.service, method, path, *more, **others))

    def rpc(self, title: str, name: str, request: Any) -> None:
        self.report.row(title, rpc(getattr(self.inference, name), name, request))

    def infer(self, title: str, body: Json, model: str = MODEL, version: str = "") -> None:
        """Add an infer request over both transports."""
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        self.report.row(
            title,
            rest(self.service, "POST", f"{path}/infer", body),
            rpc(self.inference.ModelInfer, "ModelInfer", message(body, model, version)),
        )

    def both(self, title: str, path: str, name: str, request: Any, body: Any = None) -> None:
        """Add a GET, or a POST with a body, and the equivalent gRPC call."""
        over_rest = rest(self.service, "GET" if body is None else "POST", path, body)
        over_grpc = rpc(getattr(self.inference, name), name, request)
        if "→ 200" in over_rest and "→ OK" in over_grpc:
            over_grpc = shorten(over_grpc, body_of(over_rest))
        self.report.row(title, over_rest, over_grpc)

    def caption(self, title: str, body: Json, **fields: Any) -> None:
        """Add a request to /v1/captions and to blip.v1."""
        request = self.service.messages.CaptionRequest(**fields)
        self.report.row(
            title,
            rest(self.service, "POST", "/v1/captions", body),
            rpc(self.service.stub.Caption, "Caption", request),
        )


def shorten(over_grpc: str, body: Any) -> str:
    """Replace an answer over gRPC that equals the one over REST by a remark."""
    head, _, _ = over_grpc.partition(" → ")
    message = body_of(over_grpc)
    if message == body:
        return f"{head} → OK, the same"
    if list(message.values()) == [body]:
        return f"{head} → OK, the same in `{next(iter(message))}`"
    return over_grpc


def successes(rows: Rows) -> None:
    rows.report.section("Answers")
    both, model = rows.both, f"/v2/models/{MODEL}"
    both("the server is live", "/v2/health/live", "ServerLive", messages.ServerLiveRequest())
    both("the server is ready", "/v2/health/ready", "ServerReady", messages.ServerReadyRequest())
    ready = messages.ModelReadyRequest(name=MODEL)
    both("the model is ready", f"{model}/ready", "ModelReady", ready)
    both("metadata of the server", "/v2", "ServerMetadata", messages.ServerMetadataRequest())
    metadata = messages.ModelMetadataRequest(name=MODEL)
    both("metadata of the model", model, "ModelMetadata", metadata)
    config = messages.ModelConfigRequest(name=MODEL)
    both("configuration of the model", f"{model}/config", "ModelConfig", config)
    index = messages.RepositoryIndexRequest()
    both("index of the models", "/v2/repository/index", "RepositoryIndex", index, body={})
    load = messages.RepositoryModelLoadRequest(model_name=MODEL)
    path = f"/v2/repository/models/{MODEL}/load"
    both("reloading the model", path, "RepositoryModelLoad", load, body={})
    rows.infer("a caption; the id is returned", asking(CATS, id="a1"))
    rows.infer("the template's request", asking(CATS, PROMPT | {"optional": True}))
    outputs = [{"name": "finish_reason"}, {"name": "generated_output"}]
    rows.infer("selected outputs; the caption is first", asking(CATS, outputs=outputs))
