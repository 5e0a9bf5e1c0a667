"""The playground's page in Debian's Chromium, used as a person does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from support.clients import IMAGES, PROMPT, ROOT, SECONDS, expected

SCREENSHOTS = ROOT / "build" / "playground"
"""The folder of screenshots that the tests write for people to look at."""

FLAGS = (
    # Chromium's sandbox does not work in a container.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
SIZE = {"width": 1280, "height": 900}

CARD = """[...document.querySelectorAll('.card')].map((card) => {
    const text = (selector) => [...card.querySelectorAll(selector)].map((node) => node.textContent);
    const problem = card.querySelector('.problem');
    return {
        state: card.dataset.state,
        name: text('h3')[0],
        facts: text('.card-title .facts')[0],
        captions: text('.caption'),
        timings: Object.fromEntries(text('.timings dt').map((name, at) => [name, text('.timings dd')[at]])),
        problem: problem.hidden ? null : problem.querySelector('p').textContent,
        shown: !card.querySelector('img').hidden,
    };
})"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser. While it runs, its thread cannot use `asyncio.run`."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        yield playwright.chromium.launch(executable_path=program, args=list(FLAGS))


def unconditional(name: str) -> str:
    """Returns transformers' caption without a prompt, stored in the golden file as sampling from one token."""
    return expected(name, None, {"do_sample": True, "top_k": 1})[0]["text"]


class Playground:
    """One tab with the page, in a separate context; `options` are those of Playwright's `new_context`."""

    def __init__(self, browser: Browser, url: str, awaited: str = "ready", **options: Any) -> None:
        permissions = ["clipboard-read", "clipboard-write"]
        self.context = browser.new_context(permissions=permissions, **{"viewport": SIZE} | options)
        self.page = self.context.new_page()
        self.devtools = self.context.new_cdp_session(self.page)
        self.dialogs: list[str] = []
        self._requests: list[str] = []
        self._problems: list[str] = []
        self._listen()
        self.page.goto(f"{url}/")
        self.wait(f"document.querySelector('#state').dataset.state === '{awaited}'")

    def _listen(self) -> None:
        self.page.on("console", lambda message: self._problems.append(message.text))
        self.page.on("pageerror", lambda error: self._problems.append(str(error)))
        self.page.on("dialog", self._dismiss)
        # Playwright's event for requests leaves out data URLs and the icon.
        self.devtools.send("Network.enable")
        self.devtools.on(
            "Network.requestWillBeSent",
            lambda event: self._requests.append(event["request"]["url"]),
        )

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def run(self, expression: str) -> Any:
        """Returns the value of an expression; a promise is awaited."""
        return self.page.evaluate(expression)

    def wait(self, condition: str) -> None:
        """Waits until an expression is true.

        `Page.wait_for_function` evaluates its text repeatedly, which the page's policy forbids.
        """
        self.run(
            f"""new Promise((resolve, reject) => {{
                const end = performance.now() + {SECONDS * 500};
                const look = () => {{
                    if ({condition}) resolve();
                    else if (performance.now() > end) reject(new Error({json.dumps(f"timeout: {condition}")}));
                    else setTimeout(look, 10);
                }};
                look();
            }})"""
        )

    def set(self, selector: str, value: str) -> None:
        """Fills a field as typing does."""
        arguments = f"{json.dumps(selector)}, {json.dumps(value)}"
        self.run(
            f"""((selector, value) => {{
                const field = document.querySelector(selector);
                field.value = value;
                for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {{bubbles: true}}));
            }})({arguments})"""
        )

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, selector: str) -> str:
        """Returns the visible text of an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def parameter(self, **values: Any) -> None:
        for name, value in values.items():
            self.set(f"#p-{name}", str(value))

    def add(self, *files: Path) -> None:
        self.page.set_input_files("#files", files)

    def add_samples(self, *names: str) -> None:
        self.add(*(IMAGES / name for name in names))

    def add_url(self, url: str) -> None:
        self.set("#url", url)
        self.click("#add-url")

    def caption(self, prompt: str | None = PROMPT) -> list[dict[str, Any]]:
        """Presses the button and waits until no card is busy."""
        self.set("#prompt", prompt or "")
        self.click("#run")
        return self.wait_for_cards()

    def wait_for_cards(self) -> list[dict[str, Any]]:
        """Waits until no card is busy, and returns the cards."""
        self.wait(
            "!document.querySelector('.card[data-state=waiting], .card[data-state=running]')"
            " && document.querySelector('.card')"
        )
        return self.cards()

    def cards(self) -> list[dict[str, Any]]:
        return self.run(CARD)

    def commands(self) -> dict[str, str]:
        """Returns the commands of the first card, each as its button copies it."""
        self.run("document.querySelector('.commands').open = true")
        self.wait("document.querySelector('.command')")
        names = self.run(
            "[...document.querySelectorAll('.card:first-child h4')].map((e) => e.textContent)"
        )
        return {
            name: self.copy(f".command:nth-child({n}) .copy") for n, name in enumerate(names, 1)
        }

    def copy(self, button: str) -> str:
        """Clicks a button for copying, and returns the text in the clipboard."""
        self.click(button)
        self.wait(f"document.querySelector({json.dumps(button)}).dataset.copied === 'true'")
        return self.run("navigator.clipboard.readText()")

    def screenshot(self, file: Path) -> Path:
        """Saves the whole page as a PNG."""
        self.page.screenshot(path=file, full_page=True)
        return file

    def requests(self) -> list[str]:
        """Returns the URLs that the page has requested."""
        # Events arrive with the response to a call.
        self.run("0")
        return self._requests

    def problems(self) -> list[str]:
        """Returns messages of the console, exceptions, and violations of the page's security policy."""
        self.run("0")
        return self._problems

    def count_requests(self, path: str) -> int:
        """Returns the number of requests to a path."""
        return sum(url.endswith(path) for url in self.requests())
