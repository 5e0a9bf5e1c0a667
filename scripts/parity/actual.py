"""The service's answers to many cases over gRPC, several in flight so that they share batches."""

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
        """One case."""
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
        """All cases, mixed so that different models and parameters meet, in the given order."""
        order = list(range(len(cases)))
        random.Random(len(cases)).shuffle(order)
        with ThreadPoolExecutor(self.in_flight) as pool:
            shuffled = pool.map(self.answer, [cases[i] for i in order])
            answers = dict(zip(order, shuffled, strict=True))
        return [answers[i] for i in range(len(cases))]

    def check_company(self, cases: Sequence[Case], sampled: Sequence[Case]) -> list[str]:
        """Every answer, scores too, must be the same alone, alone again and in company."""
        chosen = [*cases, *sampled]
        alone = [self.answer(case) for case in chosen]
        again = [self.answer(case) for case in sampled]
        company = self.answers(chosen)
        failures = [
            f"{case}: alone {brief(one)}, in company {brief(other)}"
            for case, one, other in zip(chosen, alone, company, strict=True)
            if one != other
        ]
        failures += [
            f"{case}: {brief(one)}, again {brief(other)}"
            for case, one, other in zip(sampled, alone[len(cases) :], again, strict=True)
            if one != other
        ]
        failures += [
            f"{case}: refused: {one}"
            for case, one in zip(sampled, alone[len(cases) :], strict=True)
            if isinstance(one, str)
        ]
        logger.info(
            "%d cases alone and in company, %d sampled ones twice: %d differ",
            *(len(chosen), len(sampled), len(failures)),
        )
        return failures
