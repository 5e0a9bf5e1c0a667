"""Causes faults while the release binary is under load: `make faults`.

    python -m reliability.faults [--only FAULT ...] [--short] [--json FILE]

The docstring of each fault's module says what it proves. The exit status is 0 if no request was
lost.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reliability.faults.context import run_fault
from reliability.load.report import conclude

FAULTS = (
    "kill",
    "vanish",
    "stalled_host",
    "full_disk",
    "replaced_model",
    "descriptors",
    "memory",
    "clock",
    "stopped",
    "rolling",
)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT")
    parser.add_argument("--short", action="store_true", help="few repetitions, for the tests")
    parser.add_argument("--json", type=Path, help="write the verdicts here")
    options = parser.parse_args()
    reports = []
    for fault in options.only:
        reports.append(run_fault(fault, options.short))
        sys.stdout.write(f"{reports[-1]}\n")
        sys.stdout.flush()
    return conclude(reports, options.json)


if __name__ == "__main__":
    sys.exit(main())
