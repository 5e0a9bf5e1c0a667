"""Writes docs/conformance.md: the answers of a running service to every kind of request.

python -m conformance --output docs/conformance.md
"""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance import errors
from conformance.report import SECONDS, Report, rest, rpc
from conformance.rows import CATS, MODEL, Rows, asking, message, messages, successes, tensor
from service import Service, models_toml

INTRODUCTION = """
# Conformance

This page lists the answers of the service over REST and gRPC. `make conformance` writes it from a running service with
the embedded model, and the tests compare it with a running service. The image in the requests is
`examples/images/cats.jpg`.

The body of an error is `{"error": text, "request_id": id}`, of which only the text is shown, with the content type
`application/json`. Over gRPC every error has a RequestInfo with the id of the request. Both are checked in each row.
"""
NOT_SHOWN = """
## Not shown

- Internal errors (500, INTERNAL): no request causes one; a unit test makes a handler panic.
- Cancelled requests (499, CANCELLED): the client has disconnected.
- 501 over REST: functions that this server does not implement have no route and are answered with 404.
- 405 and 415 over gRPC: gRPC has no HTTP methods, and an unknown `grpc-encoding` is UNIMPLEMENTED.
"""
INFER = f"/v2/models/{MODEL}/infer"


@dataclass(frozen=True)
class StalledImage:
    """The URL of an image whose response never comes."""

    url: str
    # Released for each request.
    requests: threading.Semaphore


@contextmanager
def stalled_image() -> Iterator[StalledImage]:
    """Serve an image that is not sent before the end of the block."""
    requests, end = threading.Semaphore(0), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.release()
            end.wait()

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield StalledImage(f"http://127.0.0.1:{server.server_address[1]}/", requests)
        finally:
            end.set()
            server.shutdown()


@contextmanager
def loading_models() -> Iterator[Path]:
    """Yield a models.toml whose model never finishes loading: its manifest is an empty pipe."""
    with TemporaryDirectory() as folder:
        os.mkfifo(Path(folder) / "manifest.json")
        catalogue = Path(folder) / "models.toml"
        catalogue.write_text(models_toml({MODEL: Path(folder)}, MODEL))
        yield catalogue


def missing_key(report: Report) -> None:
    with Service(flags=("--api-keys=secret",)) as service:
        rows = Rows(report, service)
        rows.infer("no key (`--api-keys`)", asking(CATS))
        rows.rest("an unknown key", "GET", "/v2", None, {"authorization": "Bearer public"})
        probe = messages.ServerReadyRequest()
        rows.both("a probe, which needs no key", "/v2/health/ready", "ServerReady", probe)


def rate_limited(report: Report) -> None:
    headers = {"authorization": "Bearer secret"}
    with Service(flags=("--api-keys=secret", "--rate-limit=0.01")) as service:
        rest(service, "POST", INFER, asking(CATS), headers)
        infer = Rows(report, service).inference.ModelInfer
        report.row(
            "a key that exceeds its rate (`--rate-limit`)",
            rest(service, "POST", INFER, asking(CATS), headers),
            rpc(infer, "ModelInfer", message(asking(CATS)), tuple(headers.items())),
        )


class PublicService(Service):
    """A service that listens on all addresses."""

    @property
    def address(self) -> str:
        return f"0.0.0.0:{self.port}"


def not_permitted(report: Report) -> None:
    with PublicService(flags=()) as service:
        load = messages.RepositoryModelLoadRequest(model_name=MODEL)
        path = f"/v2/repository/models/{MODEL}/load"
        title = "loading a model without permission (no key, no `--model-control`)"
        Rows(report, service).both(title, path, "RepositoryModelLoad", load, body={})


def too_large(report: Report) -> None:
    with Service(flags=("--max-body-bytes=1000",)) as service:
        rows = Rows(report, service)
        rows.infer("a body that is too large (`--max-body-bytes`)", asking(CATS))


def deadline_exceeded(report: Report) -> None:
    flags = ("--allow-private-networks", "--request-timeout=0.3")
    with stalled_image() as image, Service(flags=flags) as service:
        rows, slow = Rows(report, service), asking(tensor("img_url", image.url))
        rows.infer("a deadline of the server (`--request-timeout`)", slow)
        rows.rest("a deadline of the client", "POST", INFER, slow, {"x-request-timeout-ms": "100"})


def full_then_stopped(report: Report) -> None:
    flags = ("--allow-private-networks", "--queue-capacity=2", "--shutdown-grace=0.2")
    with (
        stalled_image() as image,
        Service(flags=flags) as service,
        ThreadPoolExecutor() as pool,
    ):
        rows, slow = Rows(report, service), asking(tensor("img_url", image.url))
        calls = [
            pool.submit(rest, service, "POST", INFER, slow),
            pool.submit(rpc, rows.inference.ModelInfer, "ModelInfer", message(slow)),
        ]
        for _ in calls:
            image.requests.acquire(timeout=SECONDS)
        rows.infer("the queue is full (`--queue-capacity`)", asking(CATS))
        service.process.terminate()
        answers = [call.result() for call in calls]
        report.row("unfinished when the server stops (`--shutdown-grace`)", *answers)
        service.process.wait(SECONDS)


def loading(report: Report) -> None:
    with loading_models() as models, Service(models=models, awaited="/v2/health/live") as service:
        rows = Rows(report, service)
        model = messages.ModelMetadataRequest(name=MODEL)
        ready = messages.ModelReadyRequest(name=MODEL)
        rows.infer("a request while the models load", asking(CATS))
        rows.both("metadata while the model loads", f"/v2/models/{MODEL}", "ModelMetadata", model)
        title = "readiness of the server while the models load"
        rows.both(title, "/v2/health/ready", "ServerReady", messages.ServerReadyRequest())
        title = "readiness of the model while it loads"
        rows.both(title, f"/v2/models/{MODEL}/ready", "ModelReady", ready)


def write(path: Path) -> None:
    report = Report(INTRODUCTION)
    with Service(flags=()) as service:
        rows = Rows(report, service)
        successes(rows)
        errors.write(rows)
    report.section("States of the server")
    for state in (
        missing_key,
        rate_limited,
        not_permitted,
        too_large,
        deadline_exceeded,
        full_then_stopped,
        loading,
    ):
        state(report)
    report.text += NOT_SHOWN
    path.parent.mkdir(exist_ok=True)
    path.write_text(re.sub(r'"version": "\d+\.\d+\.\d+"', '"version": "<version>"', report.text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    write(parser.parse_args().output)


if __name__ == "__main__":
    main()
