"""Headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from support.clients import SECONDS

FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    # In a container its own sandbox and a small /dev/shm stop it.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--force-color-profile=srgb",
)
LISTENING = re.compile(r"DevTools listening on (ws://\S+)")
WIDTH, HEIGHT = 1280, 900


class PageError(AssertionError):
    """A script failed in the page, or a condition never came true."""


class Connection:
    """One WebSocket of the protocol: calls, and the events that come between them."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.ids = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=SECONDS))
            if message.get("id") != number:
                self.events.append(message)
            elif "error" in message:
                raise PageError(f"{method}: {message['error']}")
            else:
                return message["result"]


class Browser:
    """A Chromium of its own, with an empty profile."""

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        # Chromium still writes to it while it ends.
        profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        command = ["chromium", *FLAGS, f"--user-data-dir={self.stack.enter_context(profile)}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.stack.callback(self._stop)
        try:
            self.endpoint = self._endpoint()
            self.connection = self._connect(self.endpoint)
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stack.close()

    def page(self, url: str, **media: str) -> Page:
        """A tab that shares nothing with any other; `media` are features such as prefers_color_scheme."""
        context = self.connection.call("Target.createBrowserContext")["browserContextId"]
        target = self.connection.call(
            "Target.createTarget", url="about:blank", browserContextId=context
        )["targetId"]
        permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self.connection.call(
            "Browser.grantPermissions", permissions=permissions, browserContextId=context
        )
        address = self.endpoint.split("/devtools/")[0]
        page = Page(self._connect(f"{address}/devtools/page/{target}"))
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        page.call("Emulation.setEmulatedMedia", features=features)
        page.open(url)
        return page

    def _connect(self, url: str) -> Connection:
        # No proxy that the environment may name.
        return Connection(self.stack.enter_context(connect(url, max_size=None, proxy=None)))

    def _endpoint(self) -> str:
        assert self.process.stderr
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := LISTENING.search(line):
                # What it says later must not fill the pipe.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return found[1]
        raise PageError(f"chromium does not start: {''.join(said)[-2000:]}")

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Page:
    """One tab."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.call = connection.call
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")
        # Headless tabs have no window that could have the focus.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(WIDTH, HEIGHT)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1)

    def run(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Waits until an expression is true, and returns its value."""
        return self.run(
            f"""new Promise((resolve, reject) => {{
                const end = performance.now() + {SECONDS * 500};
                const look = () => {{
                    const value = ({condition});
                    if (value) resolve(value);
                    else if (performance.now() > end) reject(new Error({json.dumps(f"never: {condition}")}));
                    else setTimeout(look, 10);
                }};
                look();
            }})"""
        )

    def choose_files(self, selector: str, *files: Path) -> None:
        """What a person does in the dialogue of a file input."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")
        paths = [str(file) for file in files]
        self.call("DOM.setFileInputFiles", files=paths, objectId=found["result"]["objectId"])

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        """A key of the keyboard, by its name and its virtual code."""
        stroke = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        # A key without a text presses no button.
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **stroke, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **stroke)

    def screenshot(self, file: Path) -> Path:
        """The whole page as a PNG."""
        self.run("scrollTo(0, 0)")
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def events(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events so far."""
        self.run("0")
        return [e["params"] for e in self.connection.events if e.get("method") == method]

    def requests(self) -> list[str]:
        """URLs that the page asked for."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, and what the policy of the page forbade."""
        said = [event["entry"]["text"] for event in self.events("Log.entryAdded")]
        thrown = self.events("Runtime.exceptionThrown")
        calls = self.events("Runtime.consoleAPICalled")
        return said + [str(event) for event in [*thrown, *calls]]
