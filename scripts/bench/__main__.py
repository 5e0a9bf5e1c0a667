"""Measures the service against other ways to serve BLIP and prints a table of ratios.

    python -m bench [--only PART ...] [--quick] [--report docs/benchmarks.md]

Each part runs its subjects in turn and writes `build/bench/results/<part>.json`. Models with the
shape of BLIP-large and random weights are made and exported first, if they are missing (minutes,
16 GB of memory). `make bench` installs the tools of all parts and runs them.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shlex
import sys
from pathlib import Path

from service import ROOT, default_binary

logger = logging.getLogger("bench")

# The modules of `bench.parts` with their descriptions, in the order of a full run.
PARTS = {
    "captions": "whole captions of one request, and their steps",
    "encoder": "the vision graph against its lower bound",
    "steps": "decoder steps of many rows",
    "concurrency": "16 concurrent requests, and their memory",
    "overhead": "time outside ONNX Runtime",
    "repeated": "repeated requests with caches",
    "preprocess": "image file to pixel values",
    "python_server": "requests per second against LitServe",
    "load": "closed and open loops over REST and gRPC",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parts = "; ".join(f"{name}: {about}" for name, about in PARTS.items())
    parser = argparse.ArgumentParser(description="Measure blip-serve.", epilog=f"Parts: {parts}.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few repetitions")
    parser.add_argument("--rounds", type=int, help="5, or 2 when quick")
    parser.add_argument("--binary", type=Path, default=default_binary())
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument(
        "--report", type=Path, help="measure nothing; write the measured figures into this page"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen parts, or write the report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parse_arguments(arguments)
    # torch takes seconds to import, so errors of the command line are reported before.
    from bench import report
    from bench.settings import Settings

    if options.report:
        results = report.read_results(options.work)
        report.update_page(options.report, results)
        return 0
    settings = Settings(
        binary=options.binary.resolve(),
        work=options.work.resolve(),
        quick=options.quick,
        rounds=options.rounds or (2 if options.quick else 5),
    )
    command = shlex.join(["python", "-m", "bench", *(arguments or sys.argv[1:])])
    for part in options.only:
        logger.info("=== %s: %s", part, PARTS[part])
        run = report.describe_run(settings, command)
        result = importlib.import_module(f"bench.parts.{part}").measure(settings)
        logger.info("%s", report.write_result(settings, part, run, result))
    results = report.read_results(settings.work, quick=settings.quick)
    lines = [*report.table(results), "", *report.load_table(results)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
