"""Image URLs on a simulated Internet with a server on every address: an image that was not fetched was not requested.

The servers, the names and the services are in a network namespace. With the environment variable
BLIP_TEST_NO_NAMESPACES these tests are skipped; without it they fail where namespaces are forbidden.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from support.clients import PICTURE, caption
from support.ssrf import process
from support.ssrf.cases import HERE, METADATA, MISLEADING_URLS, SPECIAL
from support.ssrf.internet import CLOSED_PORT, ELSEWHERE, PROXY, PUBLIC_V6, SimulatedInternet
from support.ssrf.web import PUBLIC

NO_NAMESPACES = "BLIP_TEST_NO_NAMESPACES"
MAX_ADDRESSES_TRIED = 8

DEFAULT = ()
REDIRECTS = ("--fetch-redirects=3",)
LISTED = ("--fetch-hosts=www.example.org,*.cdn.example,93.184.216.34", "--fetch-redirects=1")
PORTS = ("--fetch-ports=80,8000", "--fetch-redirects=1")
PROXIED = ("--fetch-proxy=http://user:secret@{}:{}".format(*PROXY), "--fetch-redirects=1")

PUBLIC_URLS = [
    (f"http://{PUBLIC}/{PICTURE}", (PUBLIC, 80)),
    (f"http://1572395042/{PICTURE}", (PUBLIC, 80)),
    (f"http://[::ffff:{PUBLIC}]/{PICTURE}", (PUBLIC, 80)),
    (f"http://[{PUBLIC_V6}]/{PICTURE}", (PUBLIC_V6, 80)),
    (f"http://[64:ff9b::{PUBLIC}]/{PICTURE}", ("64:ff9b::5db8:d822", 80)),
    (f"http://www.example.org/{PICTURE}", (PUBLIC, 80)),
    (f"HTTP://WWW.Example.ORG:80/{PICTURE}", (PUBLIC, 80)),
    (f"http://www.example.org./{PICTURE}", (PUBLIC, 80)),
    (f"http://ｗｗｗ.example｡org/{PICTURE}", (PUBLIC, 80)),
    (f"http://www.example.org\\{PICTURE}#@127.0.0.1/", (PUBLIC, 80)),
    (f"http://www.example.org:443/{PICTURE}", None),
    (f"http://six.example.org/{PICTURE}", (PUBLIC_V6, 80)),
    (f"http://last.example/{PICTURE}", (ELSEWHERE, 80)),
    (f"https://www.example.org/{PICTURE}", (PUBLIC, 443)),
    (f"https://{PUBLIC}/{PICTURE}", (PUBLIC, 443)),
]
"""URLs and their endpoints; `None`: a server of another protocol."""

PRIVATE_NAMES = [
    "localhost",
    "localhost.",
    "intranet.example.org",
    "private.example.org",
    "private-six.example.org",
    "metadata.example.org",
    "mapped.example.org",
    "nat64.example.org",
    "mixed.example.org",
    "mixed-six.example.org",
    "last-of-many.example.org",
]

FORBIDDEN_TARGETS = [
    ("http://127.0.0.1/cats.jpg", "private_address"),
    ("//10.0.0.1/cats.jpg", "private_address"),
    ("\\\\10.0.0.1\\cats.jpg", "private_address"),
    ("http://2852039166/latest/meta-data/", "private_address"),
    ("http://[::1]/cats.jpg", "private_address"),
    ("http://[fd00:ec2::254]/cats.jpg", "private_address"),
    ("http://localhost/cats.jpg", "private_address"),
    ("http://private.example.org/cats.jpg", "private_address"),
    ("https://private.example.org/cats.jpg", "private_address"),
    ("http://mixed.example.org/cats.jpg", "private_address"),
    ("file:///etc/hostname", "scheme"),
    ("ftp://www.example.org/cats.jpg", "scheme"),
    ("gopher://127.0.0.1/_x", "scheme"),
    ("data:image/png;base64,aGVsbG8=", "scheme"),
    ("javascript:0", "scheme"),
    ("http://user@www.example.org/cats.jpg", "credentials"),
    ("http://www.example.org@127.0.0.1/cats.jpg", "credentials"),
    ("http://www.example.org:8000/cats.jpg", "port"),
    ("https://www.example.org:80@10.0.0.1/", "credentials"),
    ("http://[", "redirect_location"),
    ("http://exa mple.org/", "redirect_location"),
]

UNLISTED = [
    "example.org",
    "other.example.org",
    "www.example.org.evil.example",
    "evilwww.example.org",
    "www.example.orgevil.example",
    "www.example.org%2eevil.example",
    "www.example.org..",
    "cdn.example",
    "evilcdn.example",
    "a.cdn.example.evil.example",
    "evil.example/www.example.org",
    "evil.example#www.example.org",
    "evil.example?www.example.org",
    "evil.example\\@www.example.org",
    "evil.example:80\\www.example.org",
    "93.184.216.35",
    f"[::ffff:{PUBLIC}]",
    f"[{PUBLIC_V6}]",
]

LISTED_HOSTS = [
    "www.example.org",
    "WWW.EXAMPLE.ORG",
    "www.example.org.",
    "www.example%2eorg",
    "a.cdn.example",
    "a.b.CDN.example.",
    PUBLIC,
    "0x5db8d822",
]


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedInternet]:
    """A process in a network namespace."""
    if os.environ.get(NO_NAMESPACES):
        pytest.skip(f"{NO_NAMESPACES} is set")
    try:
        manager, internet = process.start(tmp_path_factory.mktemp("internet"))
    except OSError as error:
        pytest.fail(f"no network namespace can be made ({error}); {NO_NAMESPACES}=1 skips this")
    yield internet
    internet.close()
    manager.shutdown()


def via(target: str, status: int = 302) -> str:
    """A URL of the public server that redirects to the target."""
    return f"http://www.example.org/to/{status}?{quote(target, safe='')}"


@pytest.mark.parametrize(("url", "endpoint"), PUBLIC_URLS)
def test_public_urls_are_fetched(
    internet: SimulatedInternet, url: str, endpoint: tuple[str, int] | None
) -> None:
    answer = internet.request(DEFAULT, url)
    if endpoint is None:
        assert answer.is_refused("transfer"), answer
    else:
        assert answer.has_caption(caption()), answer
        # The proxies in the environment were not used.
        assert answer.reached == [endpoint]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "[::1]", "169.254.169.254", "intranet.example.org"]
)
def test_private_servers_answer_when_private_networks_are_allowed(
    internet: SimulatedInternet, host: str
) -> None:
    answer = internet.request(("--allow-private-networks",), f"http://{host}/{PICTURE}")
    assert answer.has_caption(caption()), answer
    assert len(answer.reached) == 1


@pytest.mark.parametrize("host", [*HERE, *METADATA, *SPECIAL, *PRIVATE_NAMES])
def test_no_connection_is_made_to_a_private_server(internet: SimulatedInternet, host: str) -> None:
    answer = internet.request(DEFAULT, f"http://{host}/{PICTURE}")
    assert answer.is_refused("private_address"), answer
    assert answer.reached == []


@pytest.mark.parametrize(("url", "reason"), MISLEADING_URLS)
def test_urls_with_misleading_syntax_are_refused(
    internet: SimulatedInternet, url: str, reason: str
) -> None:
    answer = internet.request(DEFAULT, url.replace("{port}", ""))
    assert answer.is_refused(reason), answer
    assert answer.reached == []


def test_a_name_is_looked_up_once_and_that_address_is_used(internet: SimulatedInternet) -> None:
    internet.take_lookups()
    assert internet.request(DEFAULT, f"http://www.example.org/{PICTURE}").has_caption(caption())
    assert internet.take_lookups() == ["www.example.org"] * 2
    assert internet.traffic_value("request_heads")[-1].count("host: www.example.org") == 1


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [("rebound.example.org", (PUBLIC, 80)), ("rebound-six.example.org", (PUBLIC_V6, 80))],
)
def test_a_name_whose_address_becomes_private_between_fetches_is_refused(
    internet: SimulatedInternet, name: str, endpoint: tuple[str, int]
) -> None:
    answer = internet.request(DEFAULT, f"http://{name}/{PICTURE}")
    assert answer.rest.caption == caption()
    assert answer.grpc.reason == "private_address"
    assert answer.reached == [endpoint]


def test_a_name_whose_address_becomes_private_during_a_redirect_is_refused(
    internet: SimulatedInternet,
) -> None:
    # A relative redirect: the address of the name has changed by then.
    url = f"http://rebound-hop.example.org/to/302?/{PICTURE}"
    answer = internet.request(REDIRECTS, url)
    assert answer.is_refused("private_address"), answer
    assert answer.reached == [(PUBLIC, 80)]


def test_at_most_eight_addresses_of_a_name_are_tried(internet: SimulatedInternet) -> None:
    flags = (f"--fetch-ports={CLOSED_PORT}",)
    # After this request the connections of the clients are open.
    internet.request(flags, f"http://one.example.org/{PICTURE}")
    attempts = []
    for name in ("one", "many"):
        before = internet.count_connection_attempts()
        answer = internet.request(flags, f"http://{name}.example.org:{CLOSED_PORT}/{PICTURE}")
        attempts.append(internet.count_connection_attempts() - before)
        assert answer.is_refused("connect"), answer
    # Over two transports.
    assert attempts[1] - attempts[0] == 2 * (MAX_ADDRESSES_TRIED - 1)


@pytest.mark.parametrize(
    ("name", "reason"), [("slow.example.org", "connect_timeout"), ("no-such.invalid", "dns")]
)
def test_a_name_without_an_address_is_refused(
    internet: SimulatedInternet, name: str, reason: str
) -> None:
    answer = internet.request(("--fetch-connect-timeout=1",), f"http://{name}/{PICTURE}")
    assert answer.is_refused(reason), answer
    assert answer.reached == []


def test_a_certificate_of_another_host_is_refused(internet: SimulatedInternet) -> None:
    answer = internet.request(DEFAULT, f"https://{ELSEWHERE}/{PICTURE}")
    assert answer.is_refused("connect"), answer


def test_redirects_are_refused_unless_allowed(internet: SimulatedInternet) -> None:
    for target in (f"/{PICTURE}", "http://10.0.0.1/"):
        answer = internet.request(DEFAULT, via(target))
        assert answer.is_refused("redirect"), answer
        assert answer.reached == [(PUBLIC, 80)]


@pytest.mark.parametrize(("target", "reason"), FORBIDDEN_TARGETS)
def test_redirects_to_forbidden_urls_are_refused(
    internet: SimulatedInternet, target: str, reason: str
) -> None:
    for url in (via(target), via(via(target), 307)):
        answer = internet.request(REDIRECTS, url)
        assert answer.is_refused(reason), answer
        assert answer.reached == [(PUBLIC, 80)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_public_urls_are_followed(internet: SimulatedInternet, status: int) -> None:
    for target, endpoint in [
        (f"/{PICTURE}", (PUBLIC, 80)),
        (f"http://other.example/{PICTURE}", (ELSEWHERE, 80)),
        (f"https://www.example.org/{PICTURE}", (PUBLIC, 443)),
    ]:
        answer = internet.request(REDIRECTS, via(target, status))
        assert answer.has_caption(caption()), answer
        assert answer.reached == sorted({(PUBLIC, 80), endpoint})


def test_the_number_of_redirects_is_limited(internet: SimulatedInternet) -> None:
    three = internet.request(REDIRECTS, "http://www.example.org/hops/3")
    assert three.has_caption(caption()), three
    four = internet.request(REDIRECTS, "http://www.example.org/hops/4")
    assert four.is_refused("too_many_redirects"), four


def test_a_redirect_from_https_to_http_is_refused(internet: SimulatedInternet) -> None:
    url = via(f"http://www.example.org/{PICTURE}").replace("http:", "https:", 1)
    answer = internet.request(REDIRECTS, url)
    assert answer.is_refused("redirect_downgrade"), answer
    assert answer.reached == [(PUBLIC, 443)]


@pytest.mark.parametrize("host", UNLISTED)
def test_hosts_that_are_not_listed_are_refused(internet: SimulatedInternet, host: str) -> None:
    answer = internet.request(LISTED, f"http://{host}/{PICTURE}")
    assert answer.is_refused("host"), answer
    assert answer.reached == []


def test_a_redirect_from_a_listed_host_to_another_is_refused(internet: SimulatedInternet) -> None:
    answer = internet.request(LISTED, via(f"http://evil.example/{PICTURE}"))
    assert answer.is_refused("host"), answer
    assert answer.reached == [(PUBLIC, 80)]


@pytest.mark.parametrize("host", LISTED_HOSTS)
def test_listed_hosts_are_fetched(internet: SimulatedInternet, host: str) -> None:
    answer = internet.request(LISTED, f"http://{host}/{PICTURE}")
    assert answer.has_caption(caption()), answer


@pytest.mark.parametrize(("flags", "port"), [(DEFAULT, 8000), (DEFAULT, 3128), (PORTS, 3128)])
def test_ports_that_are_not_listed_are_refused(
    internet: SimulatedInternet, flags: tuple[str, ...], port: int
) -> None:
    answer = internet.request(flags, f"http://www.example.org:{port}/{PICTURE}")
    assert answer.is_refused("port"), answer
    assert answer.reached == []


def test_listed_ports_are_fetched(internet: SimulatedInternet) -> None:
    listed = f"http://www.example.org:8000/{PICTURE}"
    for url in (listed, via(listed)):
        assert internet.request(PORTS, url).has_caption(caption())
    assert internet.request(PORTS, f"https://www.example.org/{PICTURE}").is_refused("port")


@pytest.mark.parametrize(
    ("url", "beyond"),
    [
        (f"http://www.example.org/{PICTURE}", []),
        (f"http://no-such.invalid/{PICTURE}", []),
        (f"http://{PUBLIC}/{PICTURE}", []),
        (via(f"http://other.example/{PICTURE}"), []),
        (f"https://www.example.org/{PICTURE}", [(PUBLIC, 443)]),
    ],
)
def test_a_proxy_fetches_images_and_resolves_names(
    internet: SimulatedInternet, url: str, beyond: list[tuple[str, int]]
) -> None:
    internet.take_lookups()
    answer = internet.request(PROXIED, url)
    assert answer.has_caption(caption()), answer
    # The endpoints beyond it were reached by the proxy.
    assert answer.reached == [PROXY, *beyond]
    assert internet.take_lookups() == []
    login = b64encode(b"user:secret").decode()
    heads = [head for head in internet.traffic_value("request_heads") if "roxy-" in head]
    assert heads
    for head in heads:
        assert f"Basic {login}" in head and head.startswith(("GET http://", "CONNECT "))


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        *[(host, "private_address") for host in ("127.0.0.1", "0x7f.1", *METADATA)],
        ("localhost", "private_name"),
        ("LOCALHOST.", "private_name"),
        ("intranet", "private_name"),
        ("metadata.google.internal", "private_name"),
        ("printer.local", "private_name"),
    ],
)
def test_private_urls_are_not_sent_to_a_proxy(
    internet: SimulatedInternet, host: str, reason: str
) -> None:
    answer = internet.request(PROXIED, f"http://{host}/{PICTURE}")
    assert answer.is_refused(reason), answer
    assert answer.reached == []
    answer = internet.request(PROXIED, via(f"http://{host}/{PICTURE}"))
    assert answer.is_refused(reason), answer
    assert answer.reached == [PROXY]


def test_nothing_is_fetched_when_fetching_is_disabled(internet: SimulatedInternet) -> None:
    internet.take_lookups()
    for host in (PUBLIC, "www.example.org", "127.0.0.1"):
        answer = internet.request(("--no-fetch",), f"http://{host}/{PICTURE}")
        assert answer.is_refused("disabled"), answer
        assert answer.reached == []
    assert internet.take_lookups() == []


def test_no_request_is_sent_but_those_for_images(internet: SimulatedInternet) -> None:
    # The last test: by then ONNX Runtime would have sent its telemetry, even through the proxy of the environment.
    heads = internet.traffic_value("request_heads")
    assert heads
    for head in heads:
        lines = head.splitlines()
        tunnel = lines[0].startswith("CONNECT www.example.org:443 ")
        assert tunnel or any(line.startswith("user-agent: blip-serve/") for line in lines), head
