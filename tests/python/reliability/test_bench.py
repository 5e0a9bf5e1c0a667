"""The benchmark runs, counts its requests, and writes the figures of docs/benchmarks.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.figures import GOALS
from bench.models import Model
from bench.parts import captions, concurrency, encoder, overhead, repeated, steps
from bench.settings import NEW_TOKENS, Settings
from service import default_binary
from support.exporting import Exporter


@pytest.fixture(scope="module")
def settings(
    exporter: Exporter, tiny: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """The settings of a quick run with the tiny model."""
    work = tmp_path_factory.mktemp("bench")
    exporter.export(tiny, work / "int8", "--precision", "int8", "--min-agreement", "0")
    model = Model("tiny", tiny, {"fp32": bundle, "int8": work / "int8"})
    return Settings(default_binary(), work, quick=True, rounds=1, given_model=model)


def measure(settings: Settings, part: Any) -> dict[str, Any]:
    """Measures a part and returns the content of its result file."""
    run = report.describe_run(settings, "test")
    path = report.write_result(settings, part.__name__, run, part.measure(settings))
    content = json.loads(path.read_text("utf-8"))
    assert content["quick"] and content["machine"]["cores"] and content["versions"]["torch"]
    assert content["figures"]
    for figure in content["figures"].values():
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
    return content


def test_service_and_transformers_do_the_same_work_for_captions(settings: Settings) -> None:
    content = measure(settings, captions)
    # A round to warm up, and a measured one.
    assert content["details"]["fp32 captions equal to transformers"] == "2 of 2"
    assert {name for name in GOALS if "transformers" in name or "beam" in name} >= {
        name for name, figure in content["figures"].items() if "goal" in figure
    }
    for precision in ("fp32", "int8"):
        counters = content["details"][f"counters {precision}"]
        # Greedy and with beams, twice; the prompt of the beams is a run with a single row.
        assert (counters["requests"], counters["failed"]) == (4, 0)
        runs = counters["decoder_runs_by_rows"]
        assert runs["1"] + runs["3"] == 4 * NEW_TOKENS


def test_concurrent_requests_are_counted_and_batched(settings: Settings) -> None:
    content = measure(settings, concurrency)
    counters = content["details"]["counters"]
    # One by one and concurrently, each in both rounds.
    assert (counters["requests"], counters["failed"]) == (4 * settings.requests, 0)
    runs = {int(rows): count for rows, count in counters["decoder_runs_by_rows"].items()}
    assert sum(rows * count for rows, count in runs.items()) == 4 * settings.requests * NEW_TOKENS
    assert max(runs) > 1
    assert content["figures"]["peak memory / allowed"]["reached"]


def test_graphs_are_measured_separately(settings: Settings) -> None:
    figures = measure(settings, encoder)["figures"] | measure(settings, steps)["figures"]
    assert {"encoder floor / encoder, int8", "16-row step / 16 one-row steps, fp32"} <= set(figures)


def test_the_operations_of_the_vision_graph_do_not_depend_on_its_precision(
    settings: Settings,
) -> None:
    fp32, int8 = (encoder.operations(bundle) for bundle in settings.model.bundles.values())
    assert set(fp32) == {"fp32"} and set(int8) == {"fp32", "int8"}
    assert fp32.total() == int8.total()


def test_time_outside_the_engine_is_a_fraction(settings: Settings) -> None:
    for name, figure in measure(settings, overhead)["figures"].items():
        assert name.startswith("outside ") and figure["high"] < 1


def test_a_repeated_image_runs_no_graph(settings: Settings) -> None:
    details = measure(settings, repeated)["details"]
    assert details["repeats with no run and the same caption"] == "2 of 2"


def test_the_table_is_written_into_the_page(settings: Settings, tmp_path: Path) -> None:
    measure(settings, overhead)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n", "utf-8")
    report.update_page(page, report.read_results(settings.work, quick=True))
    text = page.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| outside the engine, fp32 |" in text and "Versions: " in text
