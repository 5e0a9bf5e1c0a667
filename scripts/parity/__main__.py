"""Proves that the service's captions equal those of transformers, on new random cases.

    python -m parity [--seed N] [--cases 2000] [--sweep 1000] [--binary PATH] [--large]

The seed is printed first; `--seed` repeats a run. One process serves the embedded model and new
random checkpoints. Every answer is compared with that of `generate()` for the same file bytes; then
image files of every kind are compared pixel by pixel. The exit status is 0 if there is no mismatch.
A mismatch is recorded in a file below build/parity, which `--replay FILE` runs again.
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

from parity import expected, models, report, sweep
from parity.actual import Client
from parity.cases import Case, Pool, draw_cases, draw_large, draw_sampled
from parity.expected import Expected, Workers, start_workers, words_of
from parity.images import write_images
from parity.models import EMBEDDED, KINDS, Subject
from parity.verdict import MISMATCH, brief, compare, read_replay, write_replay
from service import ROOT, Service, default_binary, models_toml

logger = logging.getLogger("parity")

IMAGES_PER_MODEL = 240
WORD_SAMPLE = 40
SAMPLED = 40
REPEATED = 60
ENOUGH_CASES = 1000
"""Statistics of a checkpoint's captions are only checked in runs of at least this many cases."""


@dataclass
class Run:
    """One parity run: options, work folder, durations and failures."""

    seed: int
    work: Path
    binary: Path
    times: list[tuple[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the duration of a step."""
        logger.info("%s ...", name)
        began = time.monotonic()
        yield
        self.times.append((name, time.monotonic() - began))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Compare the service with transformers.")
    parser.add_argument("--seed", type=int, help="repeat a run (default: a new seed)")
    parser.add_argument("--cases", type=int, default=2000, help="captions to compare")
    parser.add_argument("--sweep", type=int, default=1000, help="image files to compare")
    parser.add_argument("--binary", type=Path, default=default_binary())
    parser.add_argument(
        "--checkpoints",
        nargs="*",
        default=list(KINDS),
        help="kinds of random checkpoints",
    )
    parser.add_argument("--large", action="store_true", help="shape of BLIP-large, few cases")
    parser.add_argument("--replay", type=Path, help="run one recorded case again")
    return parser.parse_args()


def main() -> int:
    """Compare, and return the exit status."""
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


def run_all(run: Run, kinds: list[str], cases: int, files: int) -> None:
    """Compare captions of small models, then pixels; this is what CI runs."""
    with run.step("checkpoints and bundles"):
        subjects = [models.embedded()]
        subjects += models.make_all(kinds, run.seed, run.work)
    compare_captions(run, subjects, cases)
    if files:
        compare_pixels(run, subjects[0], files)


def run_large(run: Run) -> None:
    """Compare a few captions of a model with the shape of BLIP-large and random weights."""
    threads = models.available_cores()
    with run.step("checkpoint with the shape of BLIP-large"):
        large = models.make_checkpoint("large", run.seed, run.work, threads)
    with run.step("export"):
        models.export(large, threads)
    report.log_sizes(large)
    images = write_images(run.seed, 6, run.work / "images")["corpus"]
    cases = draw_large(run.seed, large.name, images)
    expected.load({large.name: large.checkpoint}, run.work / "images", threads)
    with run.step(f"oracle, {len(cases)} cases"):
        answers = [expected.answer(case) for case in cases]
    check(run, [large], cases, answers, in_flight=4)


def compare_captions(run: Run, subjects: list[Subject], total: int) -> None:
    """Draw cases and compare the answers of oracle and service."""
    checkpoints = {subject.name: subject.checkpoint for subject in subjects}
    folder = run.work / "images"
    with run.step("images"):
        names = write_images(run.seed, IMAGES_PER_MODEL, folder)
    with start_workers(checkpoints, folder) as oracle:
        with run.step("oracle: words for bad_words"):
            pools = {s.name: _pool(s.name, names, oracle) for s in subjects}
        cases = draw_cases(run.seed, total, pools)
        with run.step(f"oracle, {len(cases)} cases"):
            answers = oracle.answers(cases)
    expected.load(checkpoints, folder)
    sampled = draw_sampled(run.seed, SAMPLED, pools)
    check(run, subjects, cases, answers, in_flight=6, sampled=sampled)
    if total >= ENOUGH_CASES:
        for subject in subjects:
            if subject.name != EMBEDDED:
                run.failures += report.check_statistics(subject.name, cases, answers)


def _pool(model: str, names: dict[str, list[str]], oracle: Workers) -> Pool:
    images = names["scenes" if model == EMBEDDED else "corpus"]
    plain = [Case("words", model, image, None) for image in images[:WORD_SAMPLE]]
    words = {
        case.image: words_of(answer)
        for case, answer in zip(plain, oracle.answers(plain), strict=True)
    }
    return Pool(images, words)


def check(
    run: Run,
    subjects: list[Subject],
    cases: list[Case],
    answers: list[Expected],
    in_flight: int,
    sampled: list[Case] | None = None,
) -> None:
    """Send all cases to one service and compare its answers with those of the oracle."""
    bundles = {subject.name: subject.bundle for subject in subjects}
    catalogue = run.work / "models.toml"
    catalogue.write_text(models_toml(bundles, subjects[0].name), "utf-8")
    by_name = {subject.name: subject for subject in subjects}
    with Service(catalogue, run.binary, run.work / "service.log") as service:
        client = Client(service, in_flight)
        with run.step(f"service, {len(cases)} cases"):
            got = client.answers(cases)
        if sampled:
            with run.step("service: sequential and concurrent"):
                chosen = cases[:: max(1, len(cases) // REPEATED)]
                run.failures += client.check_concurrency(chosen, sampled)
    with run.step("comparison"):
        verdicts = [
            compare(case, want, have, by_name[case.model])
            for case, want, have in zip(cases, answers, got, strict=True)
        ]
    for number, verdict in enumerate(verdicts):
        if verdict.kind == MISMATCH:
            path = run.work / "mismatches" / f"{number:04d}.json"
            case, want, have = cases[number], answers[number], got[number]
            write_replay(path, case, by_name[case.model], want, have, verdict)
    run.failures += report.check_captions(cases, verdicts, run.work / "mismatches")


def compare_pixels(run: Run, subject: Subject, count: int) -> None:
    """Compare the pixels of image files, with the preprocessing of the published checkpoints."""
    with run.step(f"pixel sweep, {count} files"):
        model = sweep.published_preprocessing(subject.bundle, run.work / "published")
        result = sweep.sweep(run.binary, model, run.seed + 1, count, run.work)
    run.failures += report.check_pixels(result)


def replay(run: Run, record: Path) -> int:
    """Run one recorded case again."""
    case, subject = read_replay(record, run.work / "images")
    expected.load({subject.name: subject.checkpoint}, run.work / "images")
    catalogue = run.work / "models.toml"
    catalogue.write_text(models_toml({subject.name: subject.bundle}, subject.name), "utf-8")
    answer = expected.answer(case)
    with Service(catalogue, run.binary, run.work / "service.log") as service:
        got = Client(service, 1).answers([case])[0]
    verdict = compare(case, answer, got, subject)
    logger.info("%s", case)
    logger.info("oracle:  %s\nservice: %s", brief(answer), brief(got))
    logger.info("%s %s", verdict.kind, verdict.reason)
    return int(verdict.kind == MISMATCH)


if __name__ == "__main__":
    sys.exit(main())
