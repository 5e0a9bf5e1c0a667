"""Writes the Grafana dashboard, files/dashboard.json of the chart, from the panels below: `make manifests`.

`$selector` in an expression limits its series to the namespaces and pods selected in the dashboard.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "blip-serve" / "files"
SELECTOR = 'namespace=~"$namespace", pod=~"$pod"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8


@dataclass(frozen=True)
class Series:
    """An expression in PromQL, and the legend of its series."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel over time; `unit` is the name of a unit in Grafana."""

    title: str
    unit: str
    series: list[Series]


def rate(metric: str, by: str, more: str = "") -> str:
    """Return the rate per second, summed by labels."""
    chosen = f"$selector, {more}" if more else "$selector"
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


def rate_by(metric: str, by: str, more: str = "") -> Series:
    """Return the rate per second by labels, which are its legend."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Series(rate(metric, by, more), legend)


def quantiles(metric: str, by: str = "", more: str = "") -> list[Series]:
    """Return the median, 95th and 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    buckets = rate(f"{metric}_bucket", labels, more)
    return [
        Series(f"histogram_quantile(0.{percent}, {buckets})", f"p{percent}{legend}")
        for percent in (50, 95, 99)
    ]


def mean(metric: str, by: str) -> list[Series]:
    """Return the mean of a histogram, its sum divided by its count."""
    expression = f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"
    return [Series(expression, f"{{{{{by}}}}}")]


def gauge(metric: str, by: str) -> Series:
    """Return a gauge, summed by a label."""
    return Series(f"sum by ({by}) ({metric}{{$selector}})", f"{{{{{by}}}}}")


def hit_ratio(cache: str) -> Series:
    """Return the share of look-ups that are hits."""
    hits = rate("blip_cache_lookups_total", "model", f'cache="{cache}", result="hit"')
    lookups = rate("blip_cache_lookups_total", "model", f'cache="{cache}"')
    return Series(f"{hits} / {lookups}", f"{cache} {{{{model}}}}")


def utilisation(part: str, whole: str, legend: str) -> Series:
    """Return the highest utilisation of all pods."""
    return Series(f"max({part}{{$selector}} / {whole}{{$selector}})", legend)


ROWS: dict[str, list[Panel]] = {
    "Requests": [
        Panel("Requests by outcome", "reqps", [rate_by("blip_requests_total", "outcome")]),
        Panel("Duration", "s", quantiles("blip_request_duration_seconds")),
        Panel(
            "Requests that did not succeed",
            "reqps",
            [rate_by("blip_requests_total", "outcome, reason", 'outcome!="ok"')],
        ),
        Panel(
            "Requests by surface and model",
            "reqps",
            [rate_by("blip_requests_total", "surface, model")],
        ),
        Panel("Requests by key", "reqps", [rate_by("blip_requests_total", "key")]),
        Panel("Image URLs refused", "ops", [rate_by("blip_image_url_refusals_total", "reason")]),
    ],
    "Saturation": [
        Panel(
            "Utilisation of limits, highest of all pods",
            "percentunit",
            [
                utilisation("blip_requests_in_flight", "blip_queue_capacity", "requests"),
                utilisation(
                    "blip_in_flight_bytes", "blip_in_flight_bytes_limit", "bytes of bodies"
                ),
                utilisation("process_open_fds", "process_max_fds", "open files"),
            ],
        ),
        Panel("Requests in flight", "none", [gauge("blip_requests_in_flight", "pod")]),
        Panel("Engine queue", "none", [gauge("blip_queue_depth", "model")]),
        Panel(
            "Connections",
            "none",
            [
                gauge("blip_connections", "pod"),
                Series(rate("blip_connections_total", "pod"), "new per second {{pod}}"),
            ],
        ),
        Panel("Bytes of bodies in flight", "bytes", [gauge("blip_in_flight_bytes", "pod")]),
        Panel("Ready", "none", [gauge("blip_ready", "pod")]),
    ],
    "Models": [
        Panel("Captions", "ops", [rate_by("blip_captions_total", "model")]),
        Panel("Tokens", "ops", [rate_by("blip_generated_tokens_total", "model")]),
        Panel("Tokens per caption", "none", mean("blip_caption_tokens", "model")),
        Panel(
            "Stages, 95th percentile", "s", quantiles("blip_stage_duration_seconds", "stage")[1:2]
        ),
        Panel("Stages, mean", "s", mean("blip_stage_duration_seconds", "stage")),
        Panel(
            "Time in each stage, per second",
            "s",
            [rate_by("blip_stage_duration_seconds_sum", "stage")],
        ),
        Panel("Rows per decoder step", "none", mean("blip_decoder_step_rows", "model")),
        Panel("Rows in the decoder", "none", [gauge("blip_decoder_rows", "model")]),
        Panel("Cache hit ratio", "percentunit", [hit_ratio("caption"), hit_ratio("image")]),
    ],
    "Process": [
        Panel("CPU", "none", [rate_by("process_cpu_seconds_total", "pod")]),
        Panel("Memory", "bytes", [gauge("process_resident_memory_bytes", "pod")]),
        Panel(
            "Reloads",
            "none",
            [
                Series(
                    "sum by (what, outcome) (increase(blip_reloads_total{$selector}[$__interval]))",
                    "{{what}} {{outcome}}",
                )
            ],
        ),
    ],
}
TABLES = {
    "Models": "blip_model_info{$selector}",
    "Load duration of models, in seconds": "blip_model_load_duration_seconds{$selector}",
    "Builds": "blip_build_info{$selector}",
}


def render_panel(number: int, title: str, row: int, column: int, **more: Any) -> dict[str, Any]:
    """Return a panel with its place in the grid."""
    place = {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row}
    return {"id": number, "title": title, "datasource": SOURCE, "gridPos": place} | more


def render_targets(series: list[Series]) -> list[dict[str, Any]]:
    """Return the targets of a panel."""
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "expr": each.expression.replace("$selector", SELECTOR),
            "legendFormat": each.legend,
        }
        for index, each in enumerate(series)
    ]


def render_variable(name: str, label: str, query: str) -> dict[str, Any]:
    """Return a selection at the top of the dashboard, of all values by default."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard as JSON values."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, entries in ROWS.items():
        place = {"h": 1, "w": 3 * WIDTH, "x": 0, "y": y}
        row = {"id": len(panels) + 1, "type": "row", "title": heading, "gridPos": place}
        panels.append(row | {"collapsed": False, "panels": []})
        y += 1
        for index, entry in enumerate(entries):
            defaults = {"unit": entry.unit, "min": 0, "custom": {"fillOpacity": 10}}
            body = {
                "type": "timeseries",
                "targets": render_targets(entry.series),
                "fieldConfig": {"defaults": defaults, "overrides": []},
            }
            top, column = y + index // 3 * HEIGHT, index % 3
            panels.append(render_panel(len(panels) + 1, entry.title, top, column, **body))
        y += (len(entries) + 2) // 3 * HEIGHT
    for index, (title, expression) in enumerate(TABLES.items()):
        target = render_targets([Series(expression)])[0] | {"format": "table", "instant": True}
        transformations = [{"id": "labelsToFields"}, {"id": "merge"}]
        body = {"type": "table", "targets": [target], "transformations": transformations}
        panels.append(render_panel(len(panels) + 1, title, y, index, **body))
    datasource = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
    }
    query = "label_values(blip_build_info, namespace)"
    namespace = render_variable("namespace", "Namespace", query)
    query = 'label_values(blip_build_info{namespace=~"$namespace"}, pod)'
    pods = render_variable("pod", "Pod", query)
    return {
        "uid": "blip-serve",
        "title": "blip-serve",
        "tags": ["blip-serve"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [datasource, namespace, pods]},
        "panels": panels,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT / "dashboard.json")
    arguments = parser.parse_args()
    arguments.output.write_text(json.dumps(dashboard(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
