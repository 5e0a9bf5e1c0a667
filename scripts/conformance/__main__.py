"""Writes docs/conformance.md: what a running service answers to every kind of request, over REST and gRPC.

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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance import mistakes
from conformance.report import SECONDS, Report, rest, rpc
from conformance.rows import CATS, MODEL, Rows, asking, message, messages, successes, tensor
from service import Service, models_toml

INTRODUCTION = """
# Conformance

What the service answers, over REST and gRPC: written by `make conformance` from a running service with the embedded
model, and compared with a running service by the tests. The embedded picture is `examples/images/cats.jpg`.

An error's body is `{"error": text, "request_id": id}`, of which the text is shown, and its content type is
`application/json`; over gRPC every error has a RequestInfo with the request's id. Both are checked for each row.
"""
NOT_SHOWN = """
## Not shown

- Internal errors (500, INTERNAL): nothing that a client sends leads to one; a unit test makes a handler panic.
- Cancelled requests (499, CANCELLED): nobody is left to read the answer.
- 501 over REST: what this server does not do has no route there, and is a 404.
- 405 and 415 over gRPC: there are no verbs, and an unknown `grpc-encoding` is UNIMPLEMENTED.
"""
INFER = f"/v2/models/{MODEL}/infer"


@contextmanager
def slow_images() -> Iterator[tuple[str, threading.Semaphore]]:
    """The URL of a picture that never comes, and how often it was asked for."""
    asked, end = threading.Semaphore(0), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.release()
            end.wait()

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        finally:
            end.set()
            server.shutdown()


@contextmanager
def loading_models() -> Iterator[Path]:
    """A models.toml whose model's manifest is a pipe that nobody writes to: it loads for ever."""
    with TemporaryDirectory() as folder:
        os.mkfifo(Path(folder) / "manifest.json")
        catalogue = Path(folder) / "models.toml"
        catalogue.write_text(models_toml({MODEL: Path(folder)}, MODEL))
        yield catalogue


def no_key(report: Report) -> None:
    with Service(flags=("--api-keys=secret",)) as service:
        rows = Rows(report, service)
        rows.infer("no key (`--api-keys`)", asking(CATS))
        rows.rest("a wrong key", "GET", "/v2", None, {"authorization": "Bearer public"})
        probe = messages.ServerReadyRequest()
        rows.both("probes need none", "/v2/health/ready", "ServerReady", probe)


def used_up(report: Report) -> None:
    headers = {"authorization": "Bearer secret"}
    with Service(flags=("--api-keys=secret", "--rate-limit=0.01")) as service:
        rest(service, "POST", INFER, asking(CATS), headers)
        infer = Rows(report, service).inference.ModelInfer
        report.row(
            "a key that has used up its rate (`--rate-limit`)",
            rest(service, "POST", INFER, asking(CATS), headers),
            rpc(infer, "ModelInfer", message(asking(CATS)), tuple(headers.items())),
        )


class PublicService(Service):
    """Listens beyond this machine."""

    @property
    def address(self) -> str:
        return f"0.0.0.0:{self.port}"


def not_for_everyone(report: Report) -> None:
    with PublicService(flags=()) as service:
        load = messages.RepositoryModelLoadRequest(model_name=MODEL)
        path = f"/v2/repository/models/{MODEL}/load"
        title = "a stranger who loads a model (no key, no `--model-control`)"
        Rows(report, service).both(title, path, "RepositoryModelLoad", load, body={})


def too_large(report: Report) -> None:
    with Service(flags=("--max-body-bytes=1000",)) as service:
        rows = Rows(report, service)
        rows.infer("a body that is too large (`--max-body-bytes`)", asking(CATS))


def too_late(report: Report) -> None:
    flags = ("--allow-private-networks", "--request-timeout=0.3")
    with slow_images() as (url, _), Service(flags=flags) as service:
        rows, slow = Rows(report, service), asking(tensor("img_url", url))
        rows.infer("a deadline of the server (`--request-timeout`)", slow)
        rows.rest("a deadline of the client", "POST", INFER, slow, {"x-request-timeout-ms": "100"})


def full_then_stopped(report: Report) -> None:
    flags = ("--allow-private-networks", "--queue-capacity=2", "--shutdown-grace=0.2")
    with (
        slow_images() as (url, asked),
        Service(flags=flags) as service,
        ThreadPoolExecutor() as pool,
    ):
        rows, slow = Rows(report, service), asking(tensor("img_url", url))
        held = [
            pool.submit(rest, service, "POST", INFER, slow),
            pool.submit(rpc, rows.inference.ModelInfer, "ModelInfer", message(slow)),
        ]
        for _ in held:
            asked.acquire(timeout=SECONDS)
        rows.infer("no place is free (`--queue-capacity`)", asking(CATS))
        service.process.terminate()
        answers = [each.result() for each in held]
        report.row("not finished when the server stops (`--shutdown-grace`)", *answers)
        service.process.wait(SECONDS)


def loading(report: Report) -> None:
    with loading_models() as models, Service(models=models, awaited="/v2/health/live") as service:
        rows = Rows(report, service)
        model = messages.ModelMetadataRequest(name=MODEL)
        ready = messages.ModelReadyRequest(name=MODEL)
        rows.infer("the models are loading", asking(CATS))
        rows.both("metadata", f"/v2/models/{MODEL}", "ModelMetadata", model)
        rows.both("probes", "/v2/health/ready", "ServerReady", messages.ServerReadyRequest())
        rows.both("of the model", f"/v2/models/{MODEL}/ready", "ModelReady", ready)


def write(path: Path) -> None:
    report = Report(INTRODUCTION)
    with Service(flags=()) as service:
        rows = Rows(report, service)
        successes(rows)
        mistakes.write(rows)
    report.section("States of the server")
    for state in (
        no_key,
        used_up,
        not_for_everyone,
        too_large,
        too_late,
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
