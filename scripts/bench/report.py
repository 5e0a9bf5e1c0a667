"""The result files, and the tables on the terminal and in docs/benchmarks.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import GOALS
from bench.machine import describe_machine, read_versions
from bench.measure import Spread
from bench.settings import Result, Settings

_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"
_LOADS = ("closed loop", "open loop")


def write_result(settings: Settings, part: str, run: dict[str, Any], result: Result) -> Path:
    """Write one JSON file for a part; `run` describes the machine and the command."""
    content = {
        "part": part,
        **run,
        "quick": settings.quick,
        "figures": {name: _figure(name, seen) for name, seen in result.figures.items()},
        "details": result.details,
    }
    path = settings.work / "results" / f"{part}{'-quick' if settings.quick else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def describe_run(settings: Settings, command: str) -> dict[str, Any]:
    """Describe command and machine; called before a part, for the load average of other processes."""
    return {
        "command": command,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": read_versions(settings.binary),
    }


def _figure(name: str, seen: Spread) -> dict[str, Any]:
    goal = GOALS.get(name)
    if not goal:
        return seen.json()
    return seen.json() | {"goal": str(goal), "reached": goal.is_reached(seen)}


def read_results(work: Path, *, quick: bool = False) -> list[dict[str, Any]]:
    """Read the result files of a work folder, of quick or of full runs."""
    files = sorted((work / "results").glob("*.json"))
    contents = [json.loads(file.read_text("utf-8")) for file in files]
    return [content for content in contents if content["quick"] == quick]


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield Markdown lines: the figures with a goal in the order of GOALS, then the others."""
    figures: dict[str, dict[str, Any]] = {}
    for result in results:
        figures |= result["figures"]
    yield "| figure | median (quartiles), rounds | goal (stretch goal) | reached |"
    yield "|---|---|---|---|"
    for name in sorted(figures, key=lambda name: list(GOALS).index(name) if name in GOALS else 99):
        seen = figures[name]
        spread = f"{seen['median']:.3g} ({seen['low']:.3g} to {seen['high']:.3g}), {seen['rounds']}"
        reached = {True: "yes", False: "**no**", None: ""}[seen.get("reached")]
        yield f"| {name} | {spread} | {seen.get('goal', '')} | {reached} |"


def load_table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield Markdown lines: throughput and latency of the embedded model under load."""
    loads = [
        row for result in results for kind in _LOADS for row in result["details"].get(kind, [])
    ]
    if not loads:
        return
    yield "| load | transport | answered per second | p50, ms | p95, ms | p99, ms | failed |"
    yield "|---|---|---|---|---|---|---|"
    for row in loads:
        rate = row.get("offered per second")
        load = f"{rate} per second" if rate else f"{row['connections']} connections"
        times = [f"{1e3 * row[name]['median']:.1f}" for name in ("p50", "p95", "p99")]
        answered = f"{row['requests_per_second']['median']:.1f}"
        cells = [load, row["transport"], answered, *times, str(row["failed"])]
        yield f"| {' | '.join(cells)} |"


def origin(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield Markdown lines: time, commit and machine of each part."""
    yield "| part | time (UTC) | commit | machine | load average before |"
    yield "|---|---|---|---|---|"
    for result in results:
        host = result["machine"]
        words = [host["cpu"], f"{host['cores']} cores", f"{host['memory GB']} GB"]
        words += host["extensions"]
        cells = [result["part"], result["at"][:16], result["versions"]["commit"], ", ".join(words)]
        yield f"| {' | '.join(cells)} | {host['load average before']:.1f} |"
    yield ""
    newest = max(results, key=lambda result: result["at"])["versions"]
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in newest.items()) + "."


def update_page(page: Path, results: list[dict[str, Any]]) -> None:
    """Write the tables between the page's markers."""
    sections = [list(lines) for lines in (table(results), load_table(results), origin(results))]
    body = "\n\n".join("\n".join(lines) for lines in sections if lines)
    text = page.read_text("utf-8")
    marked = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    if not marked.search(text):
        raise SystemExit(f"error: {page}: must contain {_BEGIN} and {_END}")
    page.write_text(marked.sub(lambda _: f"{_BEGIN}\n{body}\n{_END}", text), "utf-8")
