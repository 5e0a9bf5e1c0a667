"""Overloads the release binary on one core: `make overload`.

    python -m reliability.overload [--seconds 20] [--only PART ...] [--short] [--json FILE]

The load comes from the other cores. The docstring of each part says what it proves; all checks are
on ratios and counts. The exit status is 0 if all claims hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from reliability.load.report import Report, conclude
from reliability.load.subject import split_cores
from reliability.overload import bodies, deadlines, fairness, goodput

_SHORT_SECONDS = 3.0
PARTS: dict[str, Callable[[argparse.Namespace], Awaitable[Report]]] = {
    "goodput": lambda options: goodput.run(options.seconds, _strictness(options)),
    "bodies": lambda _: bodies.run(),
    "deadlines": lambda options: deadlines.run(min(options.seconds / 4, 2)),
    "fairness": lambda options: fairness.run(options.seconds),
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, help="duration of each measured load; 20, or 3 with --short"
    )
    parser.add_argument("--short", action="store_true", help="one round, for the tests")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--json", type=Path, help="write the verdicts here")
    options = parser.parse_args()
    options.seconds = options.seconds or (_SHORT_SECONDS if options.short else 20.0)
    # Threads that gRPC starts later inherit these cores.
    os.sched_setaffinity(0, split_cores()[1])
    reports = []
    for name in options.only:
        reports.append(asyncio.run(PARTS[name](options)))
        sys.stdout.write(f"{reports[-1]}\n")
        sys.stdout.flush()
    return conclude(reports, options.json)


def _strictness(options: argparse.Namespace) -> goodput.Strictness:
    """Require less in short runs, where rates are coarse and other tests use the machine."""
    if options.short:
        return goodput.Strictness(rounds=1, cpu_share=0.75, rate_share=0.5)
    return goodput.Strictness(rounds=3, cpu_share=0.9, rate_share=0.9)


if __name__ == "__main__":
    sys.exit(main())
