"""Starts and stops `blip-serve serve`, and calls it over gRPC with stubs generated from proto/.

The service listens on a free loopback port. Leaving the `with` block sends SIGTERM and raises
`ServiceError` if the exit status is not 0.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import grpc
import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120
STOP_SECONDS = 30
CALL_SECONDS = 300

direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Opens a URL without the proxies of the environment."""


class ServiceError(RuntimeError):
    """The service did not start, or did not stop cleanly."""


def default_binary() -> Path:
    """Return the path in BLIP_SERVE_BIN, or that of the release build."""
    return Path(os.environ.get("BLIP_SERVE_BIN", ROOT / "target" / "release" / "blip-serve"))


def stubs(proto: str = "blip/v1/caption") -> tuple[ModuleType, ModuleType]:
    """Return the message and service modules of a proto, generated in a temporary folder."""
    name = proto.replace("/", ".")
    if f"{name}_pb2" not in sys.modules:
        folder = tempfile.mkdtemp(prefix="blip-stubs-")
        protos = ROOT / "proto"
        files = [str(file) for file in (protos / proto).parent.glob("*.proto")]
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{protos}", f"-I{well_known}", f"--python_out={folder}"]
        if protoc.main([*arguments, f"--grpc_python_out={folder}", *files]) != 0:
            raise ServiceError(f"protoc failed for {proto}")
        sys.path.insert(0, folder)
    return importlib.import_module(f"{name}_pb2"), importlib.import_module(f"{name}_pb2_grpc")


def models_toml(bundles: dict[str, Path], default: str) -> str:
    """Return a models.toml that serves these bundles by name."""
    lines = [f"default = {json.dumps(default)}"]
    for name, path in bundles.items():
        lines += ["", "[[models]]", f"name = {json.dumps(name)}", f"path = {json.dumps(str(path))}"]
    return "\n".join(lines) + "\n"


def free_port() -> int:
    """Return a loopback port that is free at the time of the call."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Service:
    """A service that runs in a `with` block; `models` defaults to the repository's models.toml."""

    models: Path | None = None
    binary: Path = field(default_factory=default_binary)
    log: Path | None = None
    flags: tuple[str, ...] = ("--allow-private-networks",)
    port: int = field(default_factory=free_port)
    awaited: str = "/v2/health/ready"
    """The path that must answer 200 before the block is entered."""
    prefix: tuple[str, ...] = ()
    """A command that runs the service with exec, such as taskset."""
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        models = ["--models", str(self.models)] if self.models else []
        command = [*self.prefix, str(self.binary), "serve", *models]
        command += ["--listen", self.address, *self.flags]
        self._output = self.log.open("wb") if self.log else subprocess.DEVNULL
        # No load balancer has to notice the shutdown, so the service need not delay it.
        environment = {"BLIP_DRAIN_DELAY": "0", **os.environ, **self.environment}
        self._is_killed = False
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])
        self.messages, service = stubs()
        self.stub = service.CaptionServiceStub(self.channel)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.log:
            self._output.close()
        if code != 0 and kind is None and not self._is_killed:
            raise ServiceError(f"the service ended with {code} after SIGTERM; log: {self.log}")

    def kill(self) -> None:
        """Send SIGKILL; the exit status is then not checked."""
        self._is_killed = True
        self.process.kill()
        self.process.wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def caption(
        self,
        image: bytes,
        prompt: str | None = None,
        parameters: dict[str, Any] | None = None,
        model: str = "",
    ) -> list[Any]:
        """Return the captions of one image as blip.v1.Caption messages; raises grpc.RpcError."""
        request = self.messages.CaptionRequest(model=model, image=image)
        if prompt is not None:
            request.prompt = prompt
        for name, value in (parameters or {}).items():
            if name == "early_stopping":
                value = str(value).lower()
            if name == "bad_words":
                request.parameters.bad_words.extend(value)
            else:
                setattr(request.parameters, name, value)
        return list(self.stub.Caption(request, timeout=CALL_SECONDS).captions)

    def finish_reason(self, caption: Any) -> str:
        """Return `eos` or `length`."""
        name = self.messages.FinishReason.Name(caption.finish_reason)
        return name.removeprefix("FINISH_REASON_").lower()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send JSON and return the JSON response; raises urllib.error.HTTPError."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with direct(request, timeout=CALL_SECONDS) as reply:
            return json.load(reply)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with direct(self.url + self.awaited, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-2000:] if self.log else "(no log kept)"
        raise ServiceError(f"{self.binary} does not answer on {self.address}:\n{tail}")
