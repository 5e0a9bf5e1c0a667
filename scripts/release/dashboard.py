"""Writes the Grafana dashboard from the list of panels below: `make manifests`.

A panel is a title, a unit of Grafana's, and expressions with their legends. `$selector` limits every series to what is chosen
at the top. The file is files/dashboard.json of the chart.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "blip-serve" / "files"
SELECTOR = 'namespace=~"$namespace", pod=~"$pod"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8


def rate(metric: str, by: str, more: str = "") -> str:
    """Per second, summed by labels."""
    chosen = f"$selector, {more}" if more else "$selector"
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


def quantiles(metric: str, by: str = "", more: str = "") -> list[tuple[str, str]]:
    """Median, 95th and 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    buckets = rate(f"{metric}_bucket", labels, more)
    return [(f"histogram_quantile(0.{q}, {buckets})", f"p{q}{legend}") for q in ("50", "95", "99")]


def mean(metric: str, by: str) -> list[tuple[str, str]]:
    """Sum over count of a histogram."""
    return [(f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}", f"{{{{{by}}}}}")]


def gauge(metric: str, by: str) -> tuple[str, str]:
    """A gauge, summed by a label."""
    return (f"sum by ({by}) ({metric}{{$selector}})", f"{{{{{by}}}}}")


def hits(cache: str) -> tuple[str, str]:
    """Share of look-ups that found something."""
    found = rate("blip_cache_lookups_total", "model", f'cache="{cache}", result="hit"')
    asked = rate("blip_cache_lookups_total", "model", f'cache="{cache}"')
    return (f"{found} / {asked}", f"{cache} {{{{model}}}}")


def share(part: str, whole: str, legend: str) -> tuple[str, str]:
    """The fullest pod."""
    return (f"max({part}{{$selector}} / {whole}{{$selector}})", legend)


ROWS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "Requests": [
        ("Requests by outcome", "reqps", [(rate("blip_requests_total", "outcome"), "{{outcome}}")]),
        ("Duration", "s", quantiles("blip_request_duration_seconds")),
        (
            "What went wrong",
            "reqps",
            [
                (
                    rate("blip_requests_total", "outcome, reason", 'outcome!="ok"'),
                    "{{outcome}} {{reason}}",
                )
            ],
        ),
        (
            "Requests by surface and model",
            "reqps",
            [(rate("blip_requests_total", "surface, model"), "{{surface}} {{model}}")],
        ),
        ("Requests by key", "reqps", [(rate("blip_requests_total", "key"), "{{key}}")]),
        (
            "Image URLs refused",
            "ops",
            [(rate("blip_image_url_refusals_total", "reason"), "{{reason}}")],
        ),
    ],
    "How full": [
        (
            "Bounds, the fullest pod",
            "percentunit",
            [
                share("blip_requests_in_flight", "blip_queue_capacity", "requests"),
                share("blip_in_flight_bytes", "blip_in_flight_bytes_limit", "bytes of bodies"),
                share("process_open_fds", "process_max_fds", "open files"),
            ],
        ),
        ("Requests in flight", "none", [gauge("blip_requests_in_flight", "pod")]),
        ("Waiting for the engine", "none", [gauge("blip_queue_depth", "model")]),
        (
            "Connections",
            "none",
            [
                gauge("blip_connections", "pod"),
                (rate("blip_connections_total", "pod"), "new per second {{pod}}"),
            ],
        ),
        ("Bytes of bodies", "bytes", [gauge("blip_in_flight_bytes", "pod")]),
        ("Ready", "none", [gauge("blip_ready", "pod")]),
    ],
    "Models": [
        ("Captions", "ops", [(rate("blip_captions_total", "model"), "{{model}}")]),
        ("Tokens", "ops", [(rate("blip_generated_tokens_total", "model"), "{{model}}")]),
        ("Tokens in a caption", "none", mean("blip_caption_tokens", "model")),
        ("Stages, 95th percentile", "s", quantiles("blip_stage_duration_seconds", "stage")[1:2]),
        ("Stages, mean", "s", mean("blip_stage_duration_seconds", "stage")),
        (
            "Where the time goes",
            "s",
            [(rate("blip_stage_duration_seconds_sum", "stage"), "{{stage}}")],
        ),
        ("Rows in a decoder step", "none", mean("blip_decoder_step_rows", "model")),
        ("Rows being decoded", "none", [gauge("blip_decoder_rows", "model")]),
        ("Found in the caches", "percentunit", [hits("caption"), hits("image")]),
    ],
    "Process": [
        ("Processor", "none", [(rate("process_cpu_seconds_total", "pod"), "{{pod}}")]),
        ("Memory", "bytes", [gauge("process_resident_memory_bytes", "pod")]),
        (
            "Reloads",
            "none",
            [
                (
                    "sum by (what, outcome) (increase(blip_reloads_total{$selector}[$__interval]))",
                    "{{what}} {{outcome}}",
                )
            ],
        ),
    ],
}
TABLES = [
    ("Models", "blip_model_info{$selector}"),
    ("Seconds that loading took", "blip_model_load_duration_seconds{$selector}"),
    ("Builds", "blip_build_info{$selector}"),
]


def panel(number: int, title: str, row: int, column: int, **more: Any) -> dict[str, Any]:
    """What every panel has."""
    place = {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row}
    return {"id": number, "title": title, "datasource": SOURCE, "gridPos": place} | more


def series(expressions: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The targets of a panel over time."""
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "expr": expression.replace("$selector", SELECTOR),
            "legendFormat": legend,
        }
        for index, (expression, legend) in enumerate(expressions)
    ]


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice at the top, all by default."""
    everything = {"text": "All", "value": "$__all"}
    more = {
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "refresh": 2,
        "current": everything,
    }
    chosen = {"query": query, "refId": name}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": chosen,
        "definition": query,
    } | more


def dashboard() -> dict[str, Any]:
    """All of it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, entries in ROWS.items():
        place = {"h": 1, "w": 3 * WIDTH, "x": 0, "y": y}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": heading,
                "gridPos": place,
                "collapsed": False,
                "panels": [],
            }
        )
        y += 1
        for index, (title, unit, expressions) in enumerate(entries):
            field = {
                "defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10}},
                "overrides": [],
            }
            body = {"type": "timeseries", "targets": series(expressions), "fieldConfig": field}
            panels.append(panel(len(panels) + 1, title, y + index // 3 * HEIGHT, index % 3, **body))
        y += (len(entries) + 2) // 3 * HEIGHT
    for index, (title, expression) in enumerate(TABLES):
        target = series([(expression, "")])[0] | {"format": "table", "instant": True}
        shown = [{"id": "labelsToFields"}, {"id": "merge"}]
        body = {"type": "table", "targets": [target], "transformations": shown}
        panels.append(panel(len(panels) + 1, title, y, index, **body))
    datasource = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
    }
    namespace = variable("namespace", "Namespace", "label_values(blip_build_info, namespace)")
    pods = variable("pod", "Pod", 'label_values(blip_build_info{namespace=~"$namespace"}, pod)')
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
