"""The oracle's answers to many cases, by worker processes of one torch thread each.

The vision tower runs once per image and model in a worker, so cases go out grouped by image. A
mismatch is explained by the same function in the main process.
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
"""Captions, or why the oracle refused."""

_oracles: dict[str, Oracle] = {}
_images = Path()


def load(checkpoints: dict[str, Path], images: Path, threads: int = 1) -> None:
    """Readies this process; the number of threads may not change between answer and margin."""
    import torch

    global _images
    torch.set_num_threads(threads)
    _images = images
    for name, checkpoint in checkpoints.items():
        _oracles[name] = Oracle(checkpoint)


def oracle(name: str) -> Oracle:
    """A model that `load` has loaded in this process."""
    return _oracles[name]


def image_bytes(case: Case) -> bytes:
    """The file of a case."""
    return (_images / case.image).read_bytes()


def answer(case: Case) -> Expected:
    """What transformers makes of one case."""
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
        """In the order of the cases."""
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
def workers(checkpoints: dict[str, Path], images: Path) -> Iterator[Workers]:
    """As many workers as cores, two at most: each holds every model."""
    count = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=load,
        initargs=(checkpoints, images),
    ) as pool:
        yield Workers(pool)


def words_said(captions: Expected) -> list[str]:
    """Words, and pairs of words, of the first caption."""
    if isinstance(captions, str):
        return []
    words = captions[0].text.split()
    return sorted({*words, *(f"{a} {b}" for a, b in pairwise(words))})
