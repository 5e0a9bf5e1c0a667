"""The verdict on one case: equal, excused by the oracle's own margin, or a mismatch.

Token ids, text and finish reason must be equal. Where ids differ, the case is excused if the margin
of the oracle's decision is below four times the logit difference in the manifest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from oracle.captions import Caption
from oracle.margin import margin_of_mismatch
from parity.cases import Case
from parity.expected import Expected, image_bytes, oracle
from parity.models import Subject

RELATIVE_SCORE_TOLERANCE = 1e-4

REFUSED = "INVALID_ARGUMENT: image"
"""The beginning of the service's answer to an image that it cannot read."""

EQUAL, EXCUSED, MISMATCH = "equal", "excused", "mismatch"


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison, and the reason if it is not equal."""

    kind: str
    reason: str = ""


def compare(case: Case, expected: Expected, got: Expected, subject: Subject) -> Verdict:
    """Compare the answers to one case; may run the oracle again."""
    if isinstance(expected, str) or isinstance(got, str):
        if isinstance(expected, str) and isinstance(got, str) and got.startswith(REFUSED):
            return Verdict(EQUAL)
        return Verdict(MISMATCH, f"expected {brief(expected)}, got {brief(got)}")
    if [c.token_ids for c in expected] == [c.token_ids for c in got]:
        wrong = _beyond_tokens(expected, got, subject.tolerance)
        return Verdict(MISMATCH, wrong) if wrong else Verdict(EQUAL)
    if len(expected) != len(got):
        return Verdict(MISMATCH, f"{len(expected)} captions expected, got {len(got)}")
    margin = margin_of_mismatch(
        oracle(case.model),
        image_bytes(case),
        case.prompt,
        case.parameters,
        [c.token_ids for c in got],
        subject.tolerance,
    )
    if margin is None:
        return Verdict(MISMATCH, f"expected {brief(expected)}, got {brief(got)}")
    reason = f"{margin.decision}: margin {margin.gap:.2e} < {subject.tolerance:.2e}"
    return Verdict(EXCUSED, reason)


def _beyond_tokens(
    expected: Sequence[Caption], got: Sequence[Caption], tolerance: float
) -> str | None:
    """Return the difference of captions with equal ids, or None."""
    for row, (want, have) in enumerate(zip(expected, got, strict=True)):
        if want.text != have.text:
            return f"row {row}: text {want.text!r} expected, got {have.text!r}"
        if want.finish_reason != have.finish_reason:
            return f"row {row}: {want.finish_reason} expected, got {have.finish_reason}"
        allowed = RELATIVE_SCORE_TOLERANCE * abs(want.score) + tolerance * len(want.token_ids)
        if not abs(want.score - have.score) <= allowed:
            return f"row {row}: score {want.score} expected, got {have.score}"
    return None


def brief(answer: Expected) -> str:
    """Format an answer as one line."""
    if isinstance(answer, str):
        return answer
    return str([(list(c.token_ids), round(c.score, 5), c.finish_reason) for c in answer])


def write_replay(
    path: Path,
    case: Case,
    subject: Subject,
    expected: Expected,
    got: Expected,
    verdict: Verdict,
) -> None:
    """Record a case for `python -m parity --replay FILE`."""
    record = {
        "case": asdict(case),
        "subject": {
            "name": subject.name,
            "checkpoint": str(subject.checkpoint),
            "bundle": str(subject.bundle),
        },
        "verdict": asdict(verdict),
        "expected": expected if isinstance(expected, str) else [asdict(c) for c in expected],
        "got": got if isinstance(got, str) else [asdict(c) for c in got],
        "image_base64": base64.b64encode(image_bytes(case)).decode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def read_replay(path: Path, images: Path) -> tuple[Case, Subject]:
    """Read a file written by `write_replay`, and write its image into `images`."""
    record = json.loads(path.read_text("utf-8"))
    case = Case(**record["case"])
    images.mkdir(parents=True, exist_ok=True)
    (images / case.image).write_bytes(base64.b64decode(record["image_base64"]))
    fields = record["subject"]
    subject = Subject(fields["name"], Path(fields["checkpoint"]), Path(fields["bundle"]))
    return case, subject
