"""The dashboard and the alerts use only metrics of docs/metrics.md, and every alert fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from release import dashboard
from service import ROOT

FOLDER = ROOT / "deploy" / "helm" / "blip-serve" / "files"
DASHBOARD = FOLDER / "dashboard.json"
DOCUMENT = ROOT / "docs" / "metrics.md"
ROW = re.compile(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \| ([^|]*)\| ([^|]*)\| (.+) \|$")
# Labels that Prometheus adds to every series.
TARGET = {"namespace", "pod", "instance", "job"}
NAME = re.compile(r"\b(?:blip|process)_[a-z_]+")
LABEL = re.compile(r"(?:by|on) \(([^)]*)\)")
MATCHER = re.compile(r"([a-z_]+)(?:=~|!~|!=|=)\"")


def table() -> dict[str, tuple[str, set[str]]]:
    """Returns the names in docs/metrics.md, with type and labels."""
    rows = [match for line in DOCUMENT.read_text().splitlines() if (match := ROW.match(line))]
    return {row[1]: (row[2], set(re.findall(r"`([a-z_]+)`", row[3]))) for row in rows}


def series(metrics: dict[str, tuple[str, set[str]]]) -> dict[str, set[str]]:
    """Returns the names of the series in expressions, with their labels."""
    named: dict[str, set[str]] = {}
    for name, (kind, labels) in metrics.items():
        if kind == "histogram":
            named[f"{name}_bucket"] = labels | {"le"}
            named[f"{name}_sum"] = named[f"{name}_count"] = labels
        else:
            named[name] = labels
    return named


def panels() -> list[str]:
    """Returns every expression of the dashboard."""
    shown = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in shown for target in panel.get("targets", [])]


def rules() -> list[dict[str, Any]]:
    """Returns every rule."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    return panels() + [rule["expr"] for rule in rules()]


def test_the_document_names_every_metric_once_with_its_type() -> None:
    text = DOCUMENT.read_text()
    metrics = table()
    assert len(metrics) >= 27
    assert len(re.findall(r"^\| `(?:blip|process)_", text, re.MULTILINE)) == len(metrics)
    for name, (kind, _) in metrics.items():
        assert name.endswith("_total") == (kind == "counter"), name


@pytest.mark.parametrize("expression", expressions())
def test_every_name_and_label_is_in_the_document(expression: str) -> None:
    known = series(table())
    # Series with colons are recorded by the rules.
    names = set(NAME.findall(expression))
    assert names or "blip:errors:" in expression
    assert names <= known.keys()
    used = {label.strip() for group in LABEL.findall(expression) for label in group.split(",")}
    used |= set(MATCHER.findall(expression))
    allowed = TARGET.union(*(known[name] for name in names))
    assert used <= allowed


def test_the_recorded_series_are_those_that_are_used() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for text in expressions() for name in re.findall(r"blip:[a-z0-9_:]+", text)}
    assert used == recorded


def test_the_dashboard_shows_every_metric_except_three_of_the_process() -> None:
    named = {name for expression in panels() for name in NAME.findall(expression)}
    missing = {name for name in table() if not named & {name, f"{name}_bucket", f"{name}_sum"}}
    assert missing == {
        "process_start_time_seconds",
        "process_threads",
        "process_virtual_memory_bytes",
    }


def test_the_committed_dashboard_is_generated_by_the_script() -> None:
    text = json.dumps(dashboard.dashboard(), indent=1) + "\n"
    assert DASHBOARD.read_text() == text, "make manifests"


def test_panels_have_distinct_ids_and_do_not_overlap() -> None:
    shown = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown) >= 25
    occupied: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in shown):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & occupied and place["x"] + place["w"] <= 24
        occupied |= cells


def promtool(*arguments: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    done = promtool("test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    fired = {check["alertname"] for check in checks if check.get("exp_alerts")}
    quiet = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    assert fired == quiet == alerts


def test_the_cases_of_the_alerts_fail_for_a_changed_threshold(tmp_path: Path) -> None:
    text = (FOLDER / "alerts.yaml").read_text()
    assert "> 0.9 or" in text
    (tmp_path / "alerts.yaml").write_text(text.replace("> 0.9 or", "> 0.99 or"))
    (tmp_path / "alerts_test.yaml").write_text((FOLDER / "alerts_test.yaml").read_text())
    done = promtool("test", "rules", "alerts_test.yaml", cwd=tmp_path)
    assert done.returncode != 0 and "BlipSaturated" in done.stdout + done.stderr


def test_the_document_describes_every_alert() -> None:
    text = DOCUMENT.read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert f"**{rule['alert']}**" in text
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
