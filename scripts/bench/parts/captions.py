"""Sequential requests to a model with BLIP-large's shape: service, transformers, raw sessions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.images import jpegs
from bench.measure import interleave, measure_seconds, ratios
from bench.settings import Result, Settings
from bench.subjects.peers import RawSessions, Transformers
from bench.subjects.served import Client, Counters, body, start_service

_BEAMS = 3


def measure(settings: Settings) -> Result:
    """Measure whole captions; all subjects of a round get the same image, each round a new one."""
    model, rounds = settings.model, settings.rounds
    pictures = jpegs(rounds + 1)
    result = Result()
    peers = {
        "transformers fp32": Transformers(model.checkpoint, torch.float32),
        "transformers bf16": Transformers(model.checkpoint, torch.bfloat16),
    }
    for precision, bundle in model.bundles.items():
        peers[f"raw sessions {precision}"] = RawSessions(bundle, model.checkpoint)
    ids: dict[str, list[list[int]]] = {}

    def peer(name: str) -> Callable[[int], float]:
        seen = ids.setdefault(name, [])
        return lambda index: measure_seconds(
            lambda: seen.append(peers[name].caption(pictures[index]))
        )

    with start_service(settings, model.bundles) as service:
        client = Client(service)
        before = {name: Counters.read(service, name) for name in model.bundles}
        steps: dict[str, list[float]] = {}

        def served(precision: str, beams: int) -> Callable[[int], float]:
            name = _name(precision, beams)

            def caption(index: int) -> float:
                request = body(pictures[index], precision, num_beams=beams)
                start = Counters.read(service, precision)
                seconds, answer = client.caption(request)
                runs = Counters.read(service, precision).since(start)
                ids.setdefault(name, []).append(answer["token_ids"])
                if index >= 0:
                    steps.setdefault(name, []).append(runs.step_seconds(beams))
                return seconds

            return caption

        subjects = {name: peer(name) for name in peers}
        for precision in model.bundles:
            for beams in (1, _BEAMS):
                subjects[_name(precision, beams)] = served(precision, beams)
        seen = interleave(subjects, rounds)
        for name in model.bundles:
            counters = Counters.read(service, name).since(before[name])
            result.details[f"counters {name}"] = counters.json()
    for precision in model.bundles:
        _compare(result, precision, seen, steps)
    result.add_seconds(seen)
    # In fp32 the captions must be equal, so that the work is the same.
    same = [a == b for a, b in zip(ids["transformers fp32"], ids["blip-serve fp32"], strict=True)]
    result.details["fp32 captions equal to transformers"] = f"{sum(same)} of {len(same)}"
    return result


def _name(precision: str, beams: int) -> str:
    return f"blip-serve {precision}" + (f", {beams} beams" if beams > 1 else "")


def _compare(
    result: Result, precision: str, seen: dict[str, list[float]], steps: dict[str, list[float]]
) -> None:
    """Add the figures of the service in one precision."""
    one, many = _name(precision, 1), _name(precision, _BEAMS)
    for peer in ("transformers fp32", "transformers bf16", f"raw sessions {precision}"):
        result.add(f"{precision} against {peer}", ratios(seen[peer], seen[one]))
    result.add(f"3 beams / greedy, {precision}", ratios(seen[many], seen[one]))
    result.add(f"3-beam step / greedy step, {precision}", ratios(steps[many], steps[one]))
