"""The claims of a suite, whether they hold, and the numbers behind them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Check:
    """One claim."""

    claim: str
    holds: bool
    observed: str


@dataclass
class Report:
    """The claims of one suite, or of one part of a suite."""

    title: str
    checks: list[Check] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def check(self, claim: str, holds: bool, observed: Any = "") -> None:
        """Add a claim; `observed` is the evidence."""
        self.checks.append(Check(claim, bool(holds), str(observed)))

    def note(self, **values: Any) -> None:
        """Add numbers to the report that are not checked."""
        self.notes |= values

    @property
    def holds(self) -> bool:
        """Whether there are claims and all of them hold."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def __str__(self) -> str:
        lines = [f"=== {self.title}: {'holds' if self.holds else 'FAILS'}"]
        lines += [f"    {name.replace('_', ' ')}: {value}" for name, value in self.notes.items()]
        for check in self.checks:
            mark = "ok  " if check.holds else "FAIL"
            lines.append(
                f"  {mark} {check.claim}" + (f" ({check.observed})" if check.observed else "")
            )
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """Return the report for the result file."""
        return asdict(self) | {"holds": self.holds}


def conclude(reports: list[Report], output: Path | None) -> int:
    """Write the result file if `output` is given, and return the exit status."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        content = [report.json() for report in reports]
        output.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    failed = [report.title for report in reports if not report.holds]
    verdict = f"FAILED: {', '.join(failed)}" if failed or not reports else "all hold"
    sys.stdout.write(f"{len(reports) - len(failed)} of {len(reports)} parts: {verdict}\n")
    return 1 if failed or not reports else 0
