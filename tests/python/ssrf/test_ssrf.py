"""Image URLs that must not be fetched and responses that must be refused: on loopback, without privileges.

Tests that need the simulated Internet, such as those of names and public servers, are in test_internet.py.
"""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator

import pytest

from service import ROOT, default_binary
from support.clients import PICTURE, PROMPT, SECONDS, caption, picture
from support.ssrf.answers import ENDLESS
from support.ssrf.cases import HERE, MISLEADING_URLS
from support.ssrf.network import Flags, SimulatedNetwork
from support.ssrf.web import WebServer

ANY_PORT: Flags = ("--fetch-ports=*",)
ALLOWED: Flags = ("--allow-private-networks",)
QUICK: Flags = (
    *ALLOWED,
    "--max-image-bytes=1000000",
    "--fetch-timeout=4",
    "--fetch-connect-timeout=1",
    "--fetch-idle-timeout=1",
)
RESPONSES = {
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
MAX_SENT = 32 << 20
"""Upper bound of the bytes of an endless response that are sent: those read, and those in buffers of the kernel."""

PASSWORD = "hunter2"
INVALID = [
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
REFUSED = [
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
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedNetwork]:
    """A network of one web server, on a loopback port."""
    network = SimulatedNetwork(tmp_path_factory.mktemp("network"))
    network.servers.append(WebServer(("127.0.0.1", 0), network.traffic))
    yield network
    network.close()


@pytest.fixture
def port(network: SimulatedNetwork) -> int:
    return network.servers[0].server_address[1]


def test_private_urls_are_fetched_when_private_networks_are_allowed(
    network: SimulatedNetwork, port: int
) -> None:
    answer = network.request(ALLOWED, f"http://127.0.0.1:{port}/{PICTURE}")
    assert answer.has_caption(caption())
    assert answer.reached == [("127.0.0.1", port)]


@pytest.mark.parametrize("host", HERE)
def test_no_notation_of_a_loopback_address_is_fetched(
    network: SimulatedNetwork, port: int, host: str
) -> None:
    answer = network.request(ANY_PORT, f"http://{host}:{port}/{PICTURE}")
    assert answer.is_refused("private_address"), answer
    assert answer.reached == []


@pytest.mark.parametrize(("url", "reason"), MISLEADING_URLS)
def test_urls_with_misleading_syntax_are_refused(
    network: SimulatedNetwork, port: int, url: str, reason: str
) -> None:
    answer = network.request(ANY_PORT, url.replace("{port}", f":{port}"))
    assert answer.is_refused(reason), answer
    assert answer.reached == []


@pytest.mark.parametrize("path", RESPONSES)
def test_invalid_responses_are_refused(network: SimulatedNetwork, port: int, path: str) -> None:
    before = network.traffic.bytes_sent
    answer = network.request(QUICK, f"http://127.0.0.1:{port}/{path}")
    assert answer.is_refused(RESPONSES[path]), answer
    assert answer.reached == [("127.0.0.1", port)]
    # Over two transports.
    assert network.traffic.bytes_sent - before <= 2 * MAX_SENT


def test_every_endless_response_is_tested() -> None:
    assert ENDLESS.keys() <= RESPONSES.keys()


@pytest.mark.parametrize("tail", ["%0d%0aX-Injected:%20yes", "\r\nX-Injected: yes", "\n\nGET /"])
def test_a_url_cannot_add_headers_to_the_request(
    network: SimulatedNetwork, port: int, tail: str
) -> None:
    network.traffic.request_heads.clear()
    answer = network.request(ALLOWED, f"http://127.0.0.1:{port}/missing{tail}")
    assert answer.is_refused("status"), answer
    assert len(network.traffic.request_heads) == 2
    for head in network.traffic.request_heads:
        names = [line.partition(":")[0].lower() for line in head.splitlines()[1:] if line]
        assert sorted(names) == ["accept", "accept-encoding", "host", "user-agent"]


def test_the_number_of_concurrent_fetches_is_limited(network: SimulatedNetwork, port: int) -> None:
    flags = (*ALLOWED, "--fetch-concurrency=2", f"--fetch-timeout={SECONDS}")
    outcomes = network.request_concurrently(flags, f"http://127.0.0.1:{port}/concurrent", 6)
    assert [each.caption for each in outcomes] == [caption()] * 6
    assert network.traffic.most_concurrent == 2


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [default_binary(), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize(("flag", "value"), INVALID)
def test_an_invalid_setting_fails_the_start_and_is_named(flag: str, value: str) -> None:
    variable = "BLIP" + flag.removeprefix("-").replace("-", "_").upper()
    for done in (run("serve", f"{flag}={value}"), run("caption", "x.png", **{variable: value})):
        assert done.returncode != 0
        assert flag in done.stderr and "panicked" not in done.stderr
        assert PASSWORD not in done.stderr + done.stdout


@pytest.mark.parametrize(("flags", "path", "named"), REFUSED)
def test_the_error_of_the_command_names_the_setting_that_refuses(
    network: SimulatedNetwork, port: int, flags: Flags, path: str, named: str
) -> None:
    done = run("caption", *flags, f"http://127.0.0.1:{port}/{path}")
    assert done.returncode != 0 and done.stdout == ""
    assert named in done.stderr, done.stderr


def test_the_command_fetches_like_the_service(network: SimulatedNetwork, port: int) -> None:
    url = f"http://127.0.0.1:{port}/hops/2"
    done = run("caption", *ALLOWED, "--fetch-redirects=2", "--prompt", PROMPT, url)
    assert done.stdout == f"{url}\t{caption()}\n"


def test_a_data_url_needs_no_fetch(network: SimulatedNetwork) -> None:
    url = "data:image/jpeg;base64," + b64encode(picture()).decode()
    answer = network.request(("--no-fetch",), url)
    assert answer.has_caption(caption())
