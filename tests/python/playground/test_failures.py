"""Failures in the playground: invalid input, keys, a busy server, no network."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser

from service import Service
from support.clients import PICTURE, caption
from support.playground import Playground, unconditional

KEY = "alpha-7"


def test_errors_are_shown_at_the_field_they_name(playground: Playground, tmp_path: Path) -> None:
    playground.click("#run")
    assert playground.text("#form-problem") == "Add an image first."
    (tmp_path / "no.jpg").write_text("not an image")
    playground.add(tmp_path / "no.jpg")
    (card,) = playground.caption()
    assert card["state"] == "failed" and card["problem"].startswith(
        "Not an image in a supported format"
    ), card
    # An error that the page detects: no request is sent.
    requests = playground.count_requests("/generate_stream")
    playground.parameter(num_beams=99)
    playground.click("#run")
    assert playground.text("#p-num_beams-problem") == "Enter a number from 1 to 32."
    assert playground.run("document.activeElement.id") == "p-num_beams"
    assert playground.count_requests("/generate_stream") == requests
    # An error that only the server detects.
    playground.parameter(num_beams="", num_return_sequences=2)
    (card,) = playground.caption()
    problem = "must be 1 without beams and without do_sample, got 2"
    assert card["problem"] == f"num_return_sequences: {problem}"
    assert playground.text("#p-num_return_sequences-problem") == problem


def test_names_and_prompts_are_shown_as_text(playground: Playground, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.jpg"
    (tmp_path / name).write_text("not an image")
    playground.add(tmp_path / name)
    prompt = "<script>alert(2)</script>"
    (card,) = playground.caption(prompt)
    assert card["name"] == name
    assert prompt in playground.commands()["curl"]
    assert prompt in playground.text(".commands")
    nodes = "document.querySelectorAll('.card script, .card img').length"
    # The only image is the thumbnail.
    assert playground.run(nodes) == 1
    assert playground.dialogs == []


def test_a_key_is_requested_and_stored_for_the_tab_only(browser: Browser, tmp_path: Path) -> None:
    with Service(log=tmp_path / "log", flags=(f"--api-keys={KEY}",)) as guarded:
        playground = Playground(browser, guarded.url, awaited="waiting")
        assert playground.text("#state-text") == "API key needed"
        playground.add_samples(PICTURE)
        (card,) = playground.caption()
        assert "API key" in card["problem"]
        assert playground.text("#key-problem") == "The server requires a key."
        playground.set("#key", "wrong")
        (card,) = playground.caption()
        assert playground.text("#key-problem") == "The server refuses this key."
        playground.set("#key", KEY)
        playground.wait("document.querySelector('#state').dataset.state === 'ready'")
        (card,) = playground.caption()
        assert card["captions"] == [caption(PICTURE)]
        commands = playground.commands()
        assert len(commands) > 1
        for command in commands.values():
            assert "$API_KEY" in command and KEY not in command
        storage = "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]"
        local, session, cookie = playground.run(storage)
        assert KEY in session and KEY not in local + cookie
        playground.page.reload()
        playground.wait("document.querySelector('#state')?.dataset.state === 'ready'")


class StalledHandler(BaseHTTPRequestHandler):
    """Delays the response for an image until it is released."""

    requested = threading.Event()
    release = threading.Event()

    def do_GET(self) -> None:
        self.requested.set()
        self.release.wait()

    def log_message(self, *_args: object) -> None:
        pass


def test_a_request_to_a_busy_server_succeeds_after_another_was_cancelled(
    browser: Browser, tmp_path: Path
) -> None:
    flags = ("--queue-capacity=1", "--allow-private-networks", "--fetch-timeout=60")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), StalledHandler) as images,
        Service(log=tmp_path / "log", flags=flags) as small,
    ):
        threading.Thread(target=images.serve_forever, daemon=True).start()
        playground = Playground(browser, small.url)
        playground.add_url(f"http://127.0.0.1:{images.server_address[1]}/slow.png")
        playground.click("#run")
        assert StalledHandler.requested.wait(60)
        playground.add_samples(PICTURE)
        playground.click(".card:nth-child(2) [data-do=run]")
        playground.wait("document.querySelectorAll('[data-state=failed]').length === 1")
        slow, busy = playground.cards()
        assert slow["state"] == "running"
        assert "busy" in busy["problem"] and "Try again" in busy["problem"]
        # The focused button is removed; the one beside it gets the focus.
        playground.run("document.querySelector('.card [data-do=cancel]').focus()")
        playground.click(".card [data-do=cancel]")
        assert playground.cards()[0]["state"] == "cancelled"
        assert playground.run("document.activeElement.dataset.do") == "run"
        StalledHandler.release.set()
        # The permit is released as soon as the server detects the disconnect.
        playground.wait(
            """(() => {
                const card = document.querySelector('.card:nth-child(2)');
                if (card.dataset.state === 'failed') card.querySelector('[data-do=retry]').click();
                return card.dataset.state === 'done';
            })()"""
        )
        assert playground.cards()[1]["captions"] == [unconditional(PICTURE)]
        images.shutdown()


def test_a_lost_network_is_reported_and_requests_can_be_retried(playground: Playground) -> None:
    playground.add_samples(PICTURE)
    playground.context.set_offline(True)
    (card,) = playground.caption()
    assert card["problem"].startswith("You are offline."), card
    playground.context.set_offline(False)
    playground.wait("document.querySelector('#state').dataset.state === 'ready'")
    playground.click("[data-do=retry]")
    assert playground.wait_for_cards()[0]["captions"] == [caption(PICTURE)]
