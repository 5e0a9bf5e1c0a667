"""The service's answers to many cases over gRPC, several of them concurrent, to share batches."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from oracle.captions import Caption
from parity import expected
from parity.cases import Case
from parity.expected import Expected
from parity.verdict import brief
from service import Service

logger = logging.getLogger("parity")


@dataclass(frozen=True)
class Client:
    """Sends cases to a running service."""

    service: Service
    in_flight: int

    def answer(self, case: Case) -> Expected:
        """Return the answer to one case."""
        image = expected.image_bytes(case)
        try:
            captions = self.service.caption(image, case.prompt, case.parameters, case.model)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return [
            Caption(tuple(c.token_ids), c.text, c.score, self.service.finish_reason(c))
            for c in captions
        ]

    def answers(self, cases: Sequence[Case]) -> list[Expected]:
        """Return the answers in the order of the cases, which are sent in random order."""
        order = list(range(len(cases)))
        random.Random(len(cases)).shuffle(order)
        with ThreadPoolExecutor(self.in_flight) as pool:
            shuffled = pool.map(self.answer, [cases[i] for i in order])
            answers = dict(zip(order, shuffled, strict=True))
        return [answers[i] for i in range(len(cases))]

    def check_concurrency(self, cases: Sequence[Case], sampled: Sequence[Case]) -> list[str]:
        """Return the cases whose answers, with scores, differ between repetitions.

        All cases are sent in sequence and concurrently, `sampled` twice in sequence.
        """
        chosen = [*cases, *sampled]
        sequential = [self.answer(case) for case in chosen]
        repeated = [self.answer(case) for case in sampled]
        concurrent = self.answers(chosen)
        failures = [
            f"{case}: sequential {brief(one)}, concurrent {brief(other)}"
            for case, one, other in zip(chosen, sequential, concurrent, strict=True)
            if one != other
        ]
        for case, one, other in zip(sampled, sequential[len(cases) :], repeated, strict=True):
            if one != other:
                failures.append(f"{case}: {brief(one)}, repeated {brief(other)}")
            if isinstance(one, str):
                failures.append(f"{case}: refused: {one}")
        logger.info(
            "%d cases sequential and concurrent, %d sampled ones twice: %d differ",
            *(len(chosen), len(sampled), len(failures)),
        )
        return failures
