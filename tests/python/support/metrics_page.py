"""Reads the page of metrics with the parser of Prometheus' client."""

from __future__ import annotations

import time
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(page: str, name: str) -> list[Sample]:
    """Returns all samples of a metric."""
    families = text_string_to_metric_families(page)
    return [sample for family in families for sample in family.samples if sample.name == name]


def value(page: str, name: str, **labels: str) -> float:
    """Returns the sum of a metric's samples with these labels."""
    chosen = [s for s in samples(page, name) if labels.items() <= s.labels.items()]
    return sum(sample.value for sample in chosen)


class FailedReload:
    """A reload that must fail: its counter on the page at `url` rises."""

    def __init__(self, url: str, what: str, **request: Any) -> None:
        self._url, self._what, self._request = url, what, request
        self._before = self._count()

    def wait(self, seconds: float) -> None:
        """Waits until the reload has failed."""
        give_up = time.monotonic() + seconds
        while self._count() == self._before:
            assert time.monotonic() < give_up
            time.sleep(0.05)

    def _count(self) -> float:
        page = requests.get(f"{self._url}/metrics", timeout=20, **self._request).text
        return value(page, "blip_reloads_total", what=self._what, outcome="failed")
