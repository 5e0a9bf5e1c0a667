"""A soak run of seconds: every kind of request is sent, and unexpected outcomes are counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from reliability.load.clients import BothTransports, GrpcClient, RestClient
from reliability.load.metrics import metric_in
from reliability.load.outcome import (
    FAILED,
    LATE,
    LOST,
    OK,
    OVERLOADED,
    REFUSED,
    WRONG,
    Outcome,
    kind_of,
)
from reliability.load.report import Report, conclude
from reliability.load.test_requests import SampleRequest, prepare_requests
from reliability.load.traffic import Traffic
from reliability.soak.memory import growth
from reliability.soak.run import ALL, Counts, soak
from service import Service, free_port


def test_every_kind_of_request_has_an_allowed_outcome(service: Service) -> None:
    report = asyncio.run(soak(service, seconds=5, seed=1, bound=False))
    assert report.holds, str(report)
    claims = {check.claim.rsplit(": ", 1)[0] for check in report.checks}
    assert {kind.name for kind in ALL} <= claims


@pytest.fixture(scope="module")
def sample(service: Service) -> SampleRequest:
    return prepare_requests(service)[0]


def test_a_wrong_caption_is_detected(service: Service, sample: SampleRequest) -> None:
    async def outcomes() -> list[str]:
        async with BothTransports(service) as clients:
            wrong = replace(sample, expected="a dog")
            seen = [
                await client.send(each)
                for client in (clients.rest, clients.grpc)
                for each in (sample, wrong)
            ]
            return [outcome.kind for outcome in seen]

    assert asyncio.run(outcomes()) == [OK, WRONG, OK, WRONG]

    async def make_report() -> Report:
        report = Report("wrong")
        async with Traffic(BothTransports(service), [replace(sample, expected="a dog")]) as traffic:
            await traffic.wait_for_answers(2)
        traffic.check(report)
        return report

    assert not asyncio.run(make_report()).holds


def test_a_request_without_an_answer_is_lost(sample: SampleRequest) -> None:
    async def outcomes() -> list[str]:
        port = free_port()
        clients = RestClient(f"http://127.0.0.1:{port}"), GrpcClient(f"127.0.0.1:{port}")
        seen = [await client.send(sample) for client in clients]
        for client in clients:
            await client.close()
        return [outcome.kind for outcome in seen]

    assert asyncio.run(outcomes()) == [LOST, LOST]


def test_an_outcome_that_is_not_allowed_is_counted() -> None:
    seen = Counts()
    seen.add(ALL[0], Outcome(OK, "200", 0, 1))
    assert (seen.total, seen.unexpected) == (1, 0)
    seen.add(ALL[0], Outcome(FAILED, "500", 0, 1, "why"))
    assert (seen.total, seen.unexpected) == (2, 1)
    assert "500: why" in seen.examples[0]


def test_codes_are_classified_by_kind() -> None:
    codes = {"200": OK, "404": REFUSED, "429": OVERLOADED, "500": FAILED, "504": LATE}
    codes |= {"OK": OK, "INVALID_ARGUMENT": REFUSED, "RESOURCE_EXHAUSTED": OVERLOADED}
    assert {code: kind_of(code) for code in codes} == codes


def test_growth_is_measured_after_the_warm_up() -> None:
    warm = [(float(second), 100 + min(second, 10)) for second in range(61)]
    assert growth(warm) == 0
    assert growth([(at, size + round(at)) for at, size in warm]) > 0.3


def test_metrics_are_summed_by_labels() -> None:
    text = '# TYPE a counter\na{x="1",y="2"} 3\na{x="1",y="4"} 5e0\na{x="2"} 1\nab 7\n'
    assert metric_in(text, "a", x="1") == 8
    assert metric_in(text, "a", x="1", y="4") == 5
    assert metric_in(text, "ab") == 7


def test_a_suite_without_checks_fails() -> None:
    good, bad = Report("good"), Report("bad")
    good.check("yes", True)
    assert not bad.holds
    assert (conclude([good], None), conclude([good, bad], None), conclude([], None)) == (0, 1, 1)
    bad.check("no", False, "seen")
    assert "FAIL no (seen)" in str(bad)
