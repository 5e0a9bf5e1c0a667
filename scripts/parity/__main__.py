"""Proves that the service answers as transformers does, token for token, on fresh random cases.

    python -m parity [--seed N] [--cases 2000] [--sweep 1000] [--binary PATH] [--large]

The seed is printed first and replays a run. The embedded model and fresh random checkpoints are
served by one process; every answer is compared with transformers' own `generate()` from the same
file bytes; then image files of every kind are compared pixel by pixel. Exit code 0 means no
mismatch. A mismatch leaves a file below build/parity that `--replay FILE` runs again.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from parity import actual, report
from parity import expected as parity_oracle
from parity import models as parity_models
from parity import sweep as parity_sweep
from parity.cases import Case, Pool, draw_cases, draw_large, draw_sampled
from parity.expected import Workers, words_said, workers
from parity.images import write_images
from parity.models import EMBEDDED, KINDS, Subject
from parity.verdict import MISMATCH, brief, compare, read_replay, write_replay
from service import ROOT, Service, default_binary, models_toml

logger = logging.getLogger("parity")

IMAGES_PER_MODEL = 240
WORD_SAMPLE = 40
SAMPLED = 40
ALONE_AGAIN = 60
ENOUGH_CASES = 1000
"""Statistics of a checkpoint's captions are a gate only in runs of at least this many cases."""


@dataclass
class Run:
    """One parity run: options, work folder, and what happened so far."""

    seed: int
    work: Path
    binary: Path
    times: list[tuple[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a step."""
        logger.info("%s ...", name)
        began = time.monotonic()
        yield
        self.times.append((name, time.monotonic() - began))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Parity of the service with transformers.")
    parser.add_argument("--seed", type=int, help="replay a run (default: a fresh seed)")
    parser.add_argument("--cases", type=int, default=2000, help="captions to compare")
    parser.add_argument("--sweep", type=int, default=1000, help="image files to compare")
    parser.add_argument("--binary", type=Path, default=default_binary())
    parser.add_argument(
        "--checkpoints",
        nargs="*",
        default=list(KINDS),
        help="kinds of random checkpoints",
    )
    parser.add_argument("--large", action="store_true", help="BLIP-large's shape, few cases")
    parser.add_argument("--replay", type=Path, help="run one recorded case again")
    return parser.parse_args()


def main() -> int:
    """Runs the proof; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    arguments = parse_arguments()
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    logger.info("seed %d", seed)
    work = ROOT / "build" / "parity" / str(seed)
    run = Run(seed, work, arguments.binary.resolve())
    if arguments.replay:
        return replay(run, arguments.replay)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if arguments.large:
        run_large(run)
    else:
        run_all(run, arguments.checkpoints, arguments.cases, arguments.sweep)
    return report.finish(run.work, run.times, run.failures)


def run_all(run: Run, kinds: list[str], cases: int, sweep: int) -> None:
    """The gate of CI: captions of small models, then the pixel sweep."""
    with run.step("checkpoints and bundles"):
        subjects = [parity_models.embedded()]
        subjects += parity_models.make_all(kinds, run.seed, run.work)
    compare_captions(run, subjects, cases)
    if sweep:
        compare_pixels(run, subjects[0], sweep)


def run_large(run: Run) -> None:
    """BLIP-large's shape with random weights: a handful of cases."""
    threads = parity_models.available_cores()
    with run.step("checkpoint of BLIP-large's shape"):
        large = parity_models.make_checkpoint("large", run.seed, run.work, threads)
    with run.step("export"):
        parity_models.export(large, threads)
    report.sizes(large)
    images = write_images(run.seed, 6, run.work / "images")["corpus"]
    cases = draw_large(run.seed, large.name, images)
    parity_oracle.load({large.name: large.checkpoint}, run.work / "images", threads)
    with run.step(f"oracle, {len(cases)} cases"):
        expected = [parity_oracle.answer(case) for case in cases]
    judge(run, [large], cases, expected, in_flight=4)


def compare_captions(run: Run, subjects: list[Subject], total: int) -> None:
    """Draws cases, asks the oracle, asks the service, compares."""
    checkpoints = {subject.name: subject.checkpoint for subject in subjects}
    folder = run.work / "images"
    with run.step("images"):
        names = write_images(run.seed, IMAGES_PER_MODEL, folder)
    with workers(checkpoints, folder) as oracle:
        with run.step("oracle: words worth banning"):
            pools = {s.name: _pool(s.name, names, oracle) for s in subjects}
        cases = draw_cases(run.seed, total, pools)
        with run.step(f"oracle, {len(cases)} cases"):
            expected = oracle.answers(cases)
    parity_oracle.load(checkpoints, folder)
    sampled = draw_sampled(run.seed, SAMPLED, pools)
    judge(run, subjects, cases, expected, in_flight=6, sampled=sampled)
    if total >= ENOUGH_CASES:
        for subject in subjects:
            if subject.name != EMBEDDED:
                run.failures += report.statistics(subject.name, cases, expected)


def _pool(model: str, names: dict[str, list[str]], oracle: Workers) -> Pool:
    images = names["scenes" if model == EMBEDDED else "corpus"]
    plain = [Case("words", model, image, None) for image in images[:WORD_SAMPLE]]
    said = {
        case.image: words_said(answer)
        for case, answer in zip(plain, oracle.answers(plain), strict=True)
    }
    return Pool(images, said)


def judge(
    run: Run,
    subjects: list[Subject],
    cases: list[Case],
    expected: list[parity_oracle.Expected],
    in_flight: int,
    sampled: list[Case] | None = None,
) -> None:
    """Puts all cases to one service and compares every answer."""
    bundles = {subject.name: subject.bundle for subject in subjects}
    models = run.work / "models.toml"
    models.write_text(models_toml(bundles, subjects[0].name), "utf-8")
    by_name = {subject.name: subject for subject in subjects}
    with Service(models, run.binary, run.work / "service.log") as service:
        client = actual.Client(service, in_flight)
        with run.step(f"service, {len(cases)} cases"):
            got = client.answers(cases)
        if sampled:
            with run.step("service: alone and in company"):
                again = list(range(0, len(cases), max(1, len(cases) // ALONE_AGAIN)))
                run.failures += client.check_company([cases[i] for i in again], sampled)
    with run.step("comparison"):
        verdicts = [
            compare(case, want, have, by_name[case.model])
            for case, want, have in zip(cases, expected, got, strict=True)
        ]
    for number, verdict in enumerate(verdicts):
        if verdict.kind == MISMATCH:
            path = run.work / "mismatches" / f"{number:04d}.json"
            case, want, have = cases[number], expected[number], got[number]
            write_replay(path, case, by_name[case.model], want, have, verdict)
    run.failures += report.captions(cases, verdicts, run.work / "mismatches")


def compare_pixels(run: Run, subject: Subject, count: int) -> None:
    """The preprocessing sweep, with the preprocessing of the published checkpoints."""
    with run.step(f"pixel sweep, {count} files"):
        model = parity_sweep.published_preprocessing(subject.bundle, run.work / "published")
        sweep = parity_sweep.sweep(run.binary, model, run.seed + 1, count, run.work)
    run.failures += report.pixels(sweep)


def replay(run: Run, record: Path) -> int:
    """Runs one recorded case again, alone."""
    case, subject = read_replay(record, run.work / "images")
    parity_oracle.load({subject.name: subject.checkpoint}, run.work / "images")
    models = run.work / "models.toml"
    models.write_text(models_toml({subject.name: subject.bundle}, subject.name), "utf-8")
    expected = parity_oracle.answer(case)
    with Service(models, run.binary, run.work / "service.log") as service:
        got = actual.Client(service, 1).answers([case])[0]
    verdict = compare(case, expected, got, subject)
    logger.info("%s", case)
    logger.info("oracle:  %s\nservice: %s", brief(expected), brief(got))
    logger.info("%s %s", verdict.kind, verdict.reason)
    return int(verdict.kind == MISMATCH)


if __name__ == "__main__":
    sys.exit(main())
