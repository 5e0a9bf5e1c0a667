"""Image URLs that must not be fetched, and answers that must not be believed: on loopback, without privileges.

What needs an Internet, such as names and redirects to public servers, is in test_internet.py.
"""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator

import pytest

from service import ROOT, default_binary
from support.clients import PICTURE, PROMPT, SECONDS, caption, picture
from support.ssrf.answers import FLOODS
from support.ssrf.cases import HERE, TRICKS
from support.ssrf.town import Flags, Town
from support.ssrf.web import Web

ANY_PORT: Flags = ("--fetch-ports=*",)
ALLOWED: Flags = ("--allow-private-networks",)
QUICK: Flags = (
    *ALLOWED,
    "--max-image-bytes=1000000",
    "--fetch-timeout=4",
    "--fetch-connect-timeout=1",
    "--fetch-idle-timeout=1",
)
ANSWERS = {
    "short": "transfer",
    "long": "not_an_image",
    "announced": "too_large",
    "negative": "transfer",
    "overflow": "transfer",
    "two-lengths": "transfer",
    "no-number": "transfer",
    "bad-chunk": "transfer",
    "cut-chunk": "transfer",
    "gzip": "content_encoding",
    "two-encodings": "content_encoding",
    "huge-header": "transfer",
    "many-headers": "transfer",
    "text": "not_an_image",
    "empty": "not_an_image",
    "no-http": "transfer",
    "nothing": "transfer",
    "partial": "status",
    "no-content": "status",
    "forbidden": "status",
    "failed": "status",
    "missing": "status",
    "nowhere": "redirect",
    "to/302?/cats.jpg": "redirect",
    "silent": "idle_timeout",
    "stalled": "idle_timeout",
    "slow-head": "idle_timeout",
    "interim": "idle_timeout",
    "slow-body": "timeout",
    "endless": "too_large",
    "endless-close": "too_large",
    "endless-head": "transfer",
    "endless-chunk-extension": "transfer",
    "endless-trailer": "transfer",
}
MOST_SENT = 32 << 20
"""Bytes that an endless answer gets rid of: what is read, and what the kernel holds."""

PASSWORD = "hunter2"
WRONG = [
    ("--fetch-hosts", "https://example.org"),
    ("--fetch-hosts", "example.org:80"),
    ("--fetch-hosts", "*"),
    ("--fetch-hosts", "a.org,,b.org"),
    ("--fetch-hosts", ""),
    ("--fetch-ports", "http"),
    ("--fetch-ports", "0"),
    ("--fetch-ports", "65536"),
    ("--fetch-redirects", "11"),
    ("--fetch-redirects", "many"),
    ("--fetch-timeout", "0"),
    ("--fetch-connect-timeout", "-1"),
    ("--fetch-idle-timeout", "5s"),
    ("--fetch-concurrency", "0"),
    ("--fetch-proxy", f"socks5://user:{PASSWORD}@10.0.0.1:1080"),
    ("--fetch-proxy", f"user:{PASSWORD}@10.0.0.1:3128"),
]
EXPLAINED = [
    ((), PICTURE, "--allow-private-networks"),
    ((*ALLOWED, "--no-fetch"), PICTURE, "--no-fetch"),
    ((*ALLOWED, "--fetch-hosts=example.org"), PICTURE, "--fetch-hosts"),
    ((*ALLOWED, "--fetch-ports=1"), PICTURE, "--fetch-ports"),
    (ALLOWED, "hops/1", "--fetch-redirects"),
    ((*ALLOWED, "--fetch-redirects=1"), "hops/2", "--fetch-redirects"),
    ((*ALLOWED, "--max-image-bytes=100"), PICTURE, "--max-image-bytes"),
    ((*ALLOWED, "--fetch-timeout=1"), "slow-body", "--fetch-timeout"),
    (QUICK, "stalled", "--fetch-idle-timeout"),
]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One web server at a port of this machine."""
    town = Town(tmp_path_factory.mktemp("town"))
    town.webs.append(Web(("127.0.0.1", 0), town.visits))
    yield town
    town.close()


@pytest.fixture
def port(town: Town) -> int:
    return town.webs[0].server_address[1]


def test_the_server_answers_whoever_may_ask(town: Town, port: int) -> None:
    answer = town.ask(ALLOWED, f"http://127.0.0.1:{port}/{PICTURE}")
    assert answer.has_caption(caption())
    assert answer.reached == [("127.0.0.1", port)]


@pytest.mark.parametrize("host", HERE)
def test_no_notation_of_this_machine_is_fetched(town: Town, port: int, host: str) -> None:
    answer = town.ask(ANY_PORT, f"http://{host}:{port}/{PICTURE}")
    assert answer.is_refused("private_address"), answer
    assert answer.reached == []


@pytest.mark.parametrize(("url", "reason"), TRICKS)
def test_no_trick_with_the_syntax_is_fetched(town: Town, port: int, url: str, reason: str) -> None:
    answer = town.ask(ANY_PORT, url.replace("{port}", f":{port}"))
    assert answer.is_refused(reason), answer
    assert answer.reached == []


@pytest.mark.parametrize("path", ANSWERS)
def test_no_bad_answer_is_believed(town: Town, port: int, path: str) -> None:
    before = town.visits.sent
    answer = town.ask(QUICK, f"http://127.0.0.1:{port}/{path}")
    assert answer.is_refused(ANSWERS[path]), answer
    assert answer.reached == [("127.0.0.1", port)]
    # Two surfaces.
    assert town.visits.sent - before <= 2 * MOST_SENT


def test_every_flood_is_tried() -> None:
    assert FLOODS.keys() <= ANSWERS.keys()


@pytest.mark.parametrize("tail", ["%0d%0aX-Injected:%20yes", "\r\nX-Injected: yes", "\n\nGET /"])
def test_a_url_adds_nothing_to_the_request(town: Town, port: int, tail: str) -> None:
    town.visits.heads.clear()
    answer = town.ask(ALLOWED, f"http://127.0.0.1:{port}/missing{tail}")
    assert answer.is_refused("status"), answer
    assert len(town.visits.heads) == 2
    for head in town.visits.heads:
        names = [line.partition(":")[0].lower() for line in head.splitlines()[1:] if line]
        assert sorted(names) == ["accept", "accept-encoding", "host", "user-agent"]


def test_fetches_wait_for_a_place(town: Town, port: int) -> None:
    flags = (*ALLOWED, "--fetch-concurrency=2", f"--fetch-timeout={SECONDS}")
    outcomes = town.ask_at_once(flags, f"http://127.0.0.1:{port}/together", 6)
    assert [each.caption for each in outcomes] == [caption()] * 6
    assert town.visits.together == 2


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [default_binary(), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize(("flag", "value"), WRONG)
def test_a_wrong_setting_fails_the_start_and_is_named(flag: str, value: str) -> None:
    variable = "BLIP" + flag.removeprefix("-").replace("-", "_").upper()
    for done in (run("serve", f"{flag}={value}"), run("caption", "x.png", **{variable: value})):
        assert done.returncode != 0
        assert flag in done.stderr and "panicked" not in done.stderr
        assert PASSWORD not in done.stderr + done.stdout


@pytest.mark.parametrize(("flags", "path", "named"), EXPLAINED)
def test_the_command_says_which_setting_refuses(
    town: Town, port: int, flags: Flags, path: str, named: str
) -> None:
    done = run("caption", *flags, f"http://127.0.0.1:{port}/{path}")
    assert done.returncode != 0 and done.stdout == ""
    assert named in done.stderr, done.stderr


def test_the_command_fetches_like_the_service(town: Town, port: int) -> None:
    url = f"http://127.0.0.1:{port}/hops/2"
    done = run("caption", *ALLOWED, "--fetch-redirects=2", "--prompt", PROMPT, url)
    assert done.stdout == f"{url}\t{caption()}\n"


def test_a_picture_in_the_request_needs_no_fetching(town: Town) -> None:
    url = "data:image/jpeg;base64," + b64encode(picture()).decode()
    answer = town.ask(("--no-fetch",), url)
    assert answer.has_caption(caption())
