"""Reads the page that Prometheus reads, with Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(page: str, name: str) -> list[Sample]:
    """All samples of this name."""
    families = text_string_to_metric_families(page)
    return [sample for family in families for sample in family.samples if sample.name == name]


def value(page: str, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    chosen = [s for s in samples(page, name) if labels.items() <= s.labels.items()]
    return sum(sample.value for sample in chosen)
