"""The oracle's answers to many cases, by worker processes with one torch thread each.

Cases are grouped by image, because a worker runs the vision tower once per image and model. The
margin of a mismatch is computed by the same code in the main process.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path

from oracle.captions import Caption, ImageRefused, Oracle
from parity.cases import Case

Expected = list[Caption] | str
"""Captions, or the reason why the oracle refused the case."""

_oracles: dict[str, Oracle] = {}
_images = Path()


def load(checkpoints: dict[str, Path], images: Path, threads: int = 1) -> None:
    """Load the oracles of this process, with the same number of threads for answers and margins."""
    import torch

    global _images
    torch.set_num_threads(threads)
    _images = images
    for name, checkpoint in checkpoints.items():
        _oracles[name] = Oracle(checkpoint)


def oracle(name: str) -> Oracle:
    """Return an oracle that `load` has loaded in this process."""
    return _oracles[name]


def image_bytes(case: Case) -> bytes:
    """Return the image file of a case."""
    return (_images / case.image).read_bytes()


def answer(case: Case) -> Expected:
    """Return the oracle's answer to one case."""
    try:
        return _oracles[case.model].caption(image_bytes(case), case.prompt, case.parameters)
    except ImageRefused as refusal:
        return f"image refused: {refusal}"


def _answer_all(cases: list[Case]) -> list[Expected]:
    return [answer(case) for case in cases]


class Workers:
    """Worker processes with the oracles loaded."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def answers(self, cases: Sequence[Case]) -> list[Expected]:
        """Return the answers in the order of the cases."""
        order = sorted(range(len(cases)), key=lambda i: (cases[i].model, cases[i].image))
        groups = [
            list(group)
            for _, group in groupby(order, key=lambda i: (cases[i].model, cases[i].image))
        ]
        parts = self._pool.map(_answer_all, [[cases[i] for i in group] for group in groups])
        answers: dict[int, Expected] = {}
        for group, part in zip(groups, parts, strict=True):
            answers.update(zip(group, part, strict=True))
        return [answers[i] for i in range(len(cases))]


@contextmanager
def start_workers(checkpoints: dict[str, Path], images: Path) -> Iterator[Workers]:
    """Start a worker per core, but at most two, because each loads every model."""
    count = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=load,
        initargs=(checkpoints, images),
    ) as pool:
        yield Workers(pool)


def words_of(captions: Expected) -> list[str]:
    """Return words, and pairs of words, of the first caption."""
    if isinstance(captions, str):
        return []
    words = captions[0].text.split()
    return sorted({*words, *(f"{a} {b}" for a, b in pairwise(words))})
