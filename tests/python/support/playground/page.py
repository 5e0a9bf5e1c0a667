"""The playground's page as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.clients import IMAGES, PROMPT, ROOT, expected
from support.playground.browser import Browser, Page

PICTURES_FOLDER = ROOT / "build" / "playground"
"""Where the tests leave pictures of the page, for people."""

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


def unconditional(name: str) -> str:
    """transformers' caption without a prompt, of a picture that has it in the golden file as sampling from one token."""
    return expected(name, None, {"do_sample": True, "top_k": 1})[0]["text"]


class Playground:
    """One tab with the page."""

    def __init__(self, browser: Browser, url: str, awaited: str = "ready", **media: str) -> None:
        self.page: Page = browser.page(f"{url}/", **media)
        self.page.wait(f"document.querySelector('#state').dataset.state === '{awaited}'")

    def set(self, selector: str, value: str) -> None:
        """Fills a field as typing does."""
        arguments = f"{json.dumps(selector)}, {json.dumps(value)}"
        self.page.run(
            f"""((selector, value) => {{
                const field = document.querySelector(selector);
                field.value = value;
                for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {{bubbles: true}}));
            }})({arguments})"""
        )

    def click(self, selector: str) -> None:
        self.page.run(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, selector: str) -> str:
        """What is seen of an element."""
        return self.page.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def parameter(self, **values: Any) -> None:
        for name, value in values.items():
            self.set(f"#p-{name}", str(value))

    def add(self, *files: Path) -> None:
        self.page.choose_files("#files", *files)

    def add_samples(self, *names: str) -> None:
        self.add(*(IMAGES / name for name in names))

    def add_url(self, url: str) -> None:
        self.set("#url", url)
        self.click("#add-url")

    def caption(self, prompt: str | None = PROMPT) -> list[dict[str, Any]]:
        """Presses the button and waits for the end of all cards."""
        self.set("#prompt", prompt or "")
        self.click("#run")
        return self.settled()

    def settled(self) -> list[dict[str, Any]]:
        """The cards when none is busy."""
        self.page.wait(
            "!document.querySelector('.card[data-state=waiting], .card[data-state=running]')"
            " && document.querySelector('.card')"
        )
        return self.cards()

    def cards(self) -> list[dict[str, Any]]:
        return self.page.run(CARD)

    def commands(self) -> dict[str, str]:
        """The commands of the first card, each as its button copies it."""
        self.page.run("document.querySelector('.commands').open = true")
        self.page.wait("document.querySelector('.command')")
        names = self.page.run(
            "[...document.querySelectorAll('.card:first-child h4')].map((e) => e.textContent)"
        )
        return {
            name: self.copied(f".command:nth-child({n}) .copy") for n, name in enumerate(names, 1)
        }

    def copied(self, button: str) -> str:
        """What a button puts into the clipboard."""
        self.click(button)
        self.page.wait(f"document.querySelector({json.dumps(button)}).dataset.copied === 'true'")
        return self.page.run("navigator.clipboard.readText()")

    def asked(self, path: str) -> int:
        """How many requests went to a path."""
        return sum(url.endswith(path) for url in self.page.requests())
