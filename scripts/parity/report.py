"""Logs the tables of a parity run and checks its limits."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from parity.cases import Case
from parity.expected import Expected
from parity.models import Subject
from parity.sweep import Sweep
from parity.verdict import EQUAL, EXCUSED, MISMATCH, Verdict

logger = logging.getLogger("parity")

MAX_EXCUSED = 0.005
MIN_DISTINCT = 200
ENDED = (0.2, 0.8)
SHOWN = 20


def check_captions(cases: Sequence[Case], verdicts: Sequence[Verdict], records: Path) -> list[str]:
    """Log the table by group and return the failures."""
    counts: dict[str, Counter[str]] = {}
    for case, verdict in zip(cases, verdicts, strict=True):
        counts.setdefault(case.group, Counter())[verdict.kind] += 1
    logger.info("%-22s %6s %6s %8s %9s", "group", "cases", "equal", "excused", "mismatch")
    total: Counter[str] = Counter()
    for group, count in counts.items():
        total += count
        _row(group, count)
    _row("all", total)
    for number, (case, verdict) in enumerate(zip(cases, verdicts, strict=True)):
        if verdict.kind == EXCUSED:
            logger.info("excused %04d %s: %s", number, case, verdict.reason)
    wrong = [n for n, verdict in enumerate(verdicts) if verdict.kind == MISMATCH]
    for number in wrong[:SHOWN]:
        logger.info("MISMATCH %04d %s: %s", number, cases[number], verdicts[number].reason)
    failures = []
    if wrong:
        failures.append(f"{len(wrong)} of {len(cases)} captions mismatch; see {records}")
    if total[EXCUSED] > MAX_EXCUSED * len(cases):
        failures.append(f"{total[EXCUSED]} of {len(cases)} cases excused, must be at most 0.5 %")
    logger.info("%d cases, %d mismatches", len(cases), len(wrong))
    return failures


def _row(name: str, count: Counter[str]) -> None:
    figures = (count.total(), count[EQUAL], count[EXCUSED], count[MISMATCH])
    logger.info("%-22s %6d %6d %8d %9d", name, *figures)


def check_statistics(model: str, cases: Sequence[Case], expected: Sequence[Expected]) -> list[str]:
    """Check that a checkpoint's captions differ by image and that 20 to 80 % of them end."""
    answered = [
        (case, captions)
        for case, captions in zip(cases, expected, strict=True)
        if case.model == model and isinstance(captions, list)
    ]
    distinct = {caption.token_ids for _, captions in answered for caption in captions}
    plain = [captions[0] for case, captions in answered if case.group == "plain"]
    ended = sum(caption.finish_reason == "eos" for caption in plain) / max(1, len(plain))
    by_image = len({caption.token_ids for caption in plain})
    logger.info(
        "%s: %d distinct captions; of %d plain greedy ones %d distinct, %.0f %% ended",
        *(model, len(distinct), len(plain), by_image, 100 * ended),
    )
    failures = []
    if len(distinct) < MIN_DISTINCT:
        count = len(distinct)
        failures.append(f"{model}: {count} distinct captions, must be at least {MIN_DISTINCT}")
    if not ENDED[0] <= ended <= ENDED[1]:
        failures.append(f"{model}: {100 * ended:.0f} % of the captions end, must be 20 to 80 %")
    return failures


def check_pixels(sweep: Sweep) -> list[str]:
    """Log the figures of the pixel sweep and return the failures."""
    logger.info(
        "%d files: %d bit-identical, %d refused by both, %d refused by name, %d damaged, %d wrong",
        *(sweep.files, sweep.identical, sweep.refused_by_both),
        *(sweep.refused_by_name, sweep.damaged, len(sweep.wrong)),
    )
    for line in sweep.wrong[:SHOWN]:
        logger.info("WRONG %s", line)
    if not sweep.wrong:
        return []
    kinds = ", ".join(f"{kind} {count}" for kind, count in sweep.wrong_kinds.most_common())
    return [f"{len(sweep.wrong)} of {sweep.files} image files: {kinds}"]


def log_sizes(subject: Subject) -> None:
    """Log the sizes of a checkpoint and its bundle."""
    for name, folder in {
        "checkpoint": subject.checkpoint,
        "bundle": subject.bundle,
    }.items():
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        logger.info("%s of %s: %.1f MB", name, subject.name, total / 1e6)


def finish(work: Path, times: Sequence[tuple[str, float]], failures: Sequence[str]) -> int:
    """Log durations and failures and return the exit status.

    On success the work folder, which may have gigabytes, is removed.
    """
    for name, seconds in times:
        logger.info("%7.1f s  %s", seconds, name)
    logger.info("%7.1f s  altogether", sum(seconds for _, seconds in times))
    for failure in failures:
        logger.info("FAILED %s", failure)
    if failures:
        logger.info("parity failed; the work folder is %s", work)
        return 1
    shutil.rmtree(work)
    logger.info("parity holds")
    return 0
