"""The calls of generate() in the golden file of the decoding code."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from golden.toy_models import EOS_TOKEN_ID, Case, ToyModel, call

SINGLE_PARAMETERS: dict[str, list[Any]] = {
    "max_new_tokens": [1, 2, 5, 12, 30],
    "max_length": [5, 9, 20],
    "min_new_tokens": [0, 1, 4, 9, 25],
    "min_length": [0, 3, 6, 25],
    "length_penalty": [-0.5, 0.0, 0.6, 2.0],
    "repetition_penalty": [0.7, 1.2, 2.5],
    "no_repeat_ngram_size": [0, 1, 2, 3, 4],
}
BEAM_PARAMETERS: dict[str, list[Any]] = {
    "length_penalty": [-0.5, 0.0, 0.3, 1.0, 2.0],
    "early_stopping": [False, True, "never"],
}

VERDICT_PARAMETERS: list[dict[str, Any]] = [
    {"max_new_tokens": 0},
    {"max_new_tokens": 1},
    {"max_length": 2},
    {"max_length": 3},
    {"min_new_tokens": 50, "max_new_tokens": 3},
    {"num_return_sequences": 2},
    {"num_return_sequences": 2, "do_sample": True},
    {"num_return_sequences": 3, "num_beams": 2},
    {"num_return_sequences": 3, "num_beams": 2, "do_sample": True},
    {"num_return_sequences": 2, "num_beams": 2},
    {"repetition_penalty": 0.0},
    {"repetition_penalty": -1.0},
    {"repetition_penalty": 0.5},
    {"early_stopping": True},
    {"length_penalty": -3.0, "num_beams": 2},
    {"do_sample": True, "temperature": 0.0},
    {"do_sample": True, "temperature": -1.0},
    {"do_sample": False, "temperature": 0.0},
    {"temperature": -1.0, "num_beams": 2},
    {"do_sample": True, "top_p": -0.1},
    {"do_sample": True, "top_p": 0.0},
    {"do_sample": True, "top_p": 1.0},
    {"top_p": -0.1},
    {"do_sample": True, "top_k": 0},
    {"do_sample": True, "top_k": 1000},
]


def draw_setting(rng: random.Random, models: list[ToyModel]) -> dict[str, Any]:
    """Draw a model, a prompt of one to four ids (start token first) and a bias of the end token."""
    model = rng.randrange(len(models))
    vocab_size = models[model].config.vocab_size
    words = [rng.randrange(3, vocab_size - 2) for _ in range(rng.randrange(4))]
    return {
        "model": model,
        "prompt": [vocab_size - 2, *words],
        "eos_bias": rng.choice([-2.0, 0.0, 0.0, 1.5, 3.0]),
    }


def draw_bad_words(
    rng: random.Random, models: list[ToyModel], setting: dict[str, Any]
) -> list[list[int]]:
    """Draw parts of the sequence without bad words, a random word, and sometimes the end token."""
    parameters = {"max_new_tokens": 8}
    ids = (
        call(models[setting["model"]], Case(**setting, parameters=parameters)).sequences[0].tolist()
    )
    words = []
    for _ in range(rng.randrange(1, 4)):
        start, length = rng.randrange(len(ids)), rng.randrange(1, 4)
        words.append(ids[start : start + length])
    words.append([rng.randrange(3, 20) for _ in range(rng.randrange(1, 3))])
    return words + [[EOS_TOKEN_ID]] * rng.randrange(2)


def single_cases(rng: random.Random, models: list[ToyModel]) -> Iterator[Case]:
    """Yield each parameter separately, greedy and with beams."""
    for name, values in SINGLE_PARAMETERS.items():
        for value, num_beams, _ in itertools.product(values, (1, 3), range(4)):
            beams = {"num_beams": num_beams} if num_beams > 1 else {}
            yield Case(**draw_setting(rng, models), parameters={name: value} | beams)
    for num_beams, _ in itertools.product((1, 3), range(25)):
        setting = draw_setting(rng, models)
        words = draw_bad_words(rng, models, setting)
        beams = {"num_beams": num_beams} if num_beams > 1 else {}
        yield Case(**setting, parameters=beams, bad_words_ids=words)


def beam_cases(rng: random.Random, models: list[ToyModel]) -> Iterator[Case]:
    """Yield every combination of the beam parameters."""
    for num_beams, penalty, stopping in itertools.product(range(2, 7), *BEAM_PARAMETERS.values()):
        for returned in (1, num_beams):
            parameters = {
                "num_beams": num_beams,
                "num_return_sequences": returned,
                "length_penalty": penalty,
                "early_stopping": stopping,
                "max_new_tokens": rng.choice([3, 6, 10, 20]),
            }
            yield Case(**draw_setting(rng, models), parameters=parameters)


def stopping_cases(rng: random.Random, models: list[ToyModel]) -> Iterator[Case]:
    """Yield long searches that end by the early stop rule and the sign of the length penalty."""
    rules = itertools.product([-2.0, -1.0, -0.3, 1.0], BEAM_PARAMETERS["early_stopping"], range(8))
    for penalty, stopping, _ in rules:
        parameters = {
            "num_beams": rng.randrange(2, 7),
            "length_penalty": penalty,
            "early_stopping": stopping,
            "max_new_tokens": 25,
        }
        # Flat logits and a likely end token give many finished beams that others may replace.
        parameters["num_return_sequences"] = parameters["num_beams"]
        prompt = [models[2].config.vocab_size - 2, rng.randrange(3, 58)]
        eos_bias = round(rng.uniform(0.0, 2.5), 2)
        yield Case(model=2, prompt=prompt, eos_bias=eos_bias, parameters=parameters)


def random_cases(rng: random.Random, models: list[ToyModel], count: int) -> Iterator[Case]:
    """Yield random combinations of all parameters."""
    for _ in range(count):
        setting = draw_setting(rng, models)
        parameters = {
            name: rng.choice(values)
            for name, values in SINGLE_PARAMETERS.items()
            if rng.random() < 0.35
        }
        if parameters.get("max_length", 99) <= len(setting["prompt"]):
            del parameters["max_length"]
        if rng.random() < 0.7:
            parameters["num_beams"] = rng.randrange(2, 7)
            parameters["num_return_sequences"] = rng.randrange(1, parameters["num_beams"] + 1)
            parameters |= {
                n: rng.choice(v) for n, v in BEAM_PARAMETERS.items() if rng.random() < 0.5
            }
        words = draw_bad_words(rng, models, setting) if rng.random() < 0.3 else []
        yield Case(**setting, parameters=parameters, bad_words_ids=words)


def warped_cases(rng: random.Random, models: list[ToyModel]) -> Iterator[Case]:
    """Yield combinations of the sampling parameters, with and without processors and beams."""
    grid = itertools.product([1.0, 0.3, 1.7], [None, 0, 1, 5, 100], [1.0, 0.0, 0.3, 0.9], [1, 2])
    for temperature, top_k, top_p, num_beams in grid:
        parameters: dict[str, Any] = {
            "do_sample": True,
            "max_new_tokens": 1,
            "temperature": temperature,
        }
        parameters |= {} if top_k is None else {"top_k": top_k}
        parameters |= {"top_p": top_p} | ({"num_beams": num_beams} if num_beams > 1 else {})
        if rng.random() < 0.3:
            parameters["repetition_penalty"] = 1.5
        if rng.random() < 0.3:
            parameters["min_new_tokens"] = 1
        setting = draw_setting(rng, models)
        words = draw_bad_words(rng, models, setting) if rng.random() < 0.3 else []
        yield Case(**setting, parameters=parameters, bad_words_ids=words)


def sampled_cases(models: list[ToyModel]) -> Iterator[Case]:
    """Yield cases with few possible sequences, so that their frequencies can be compared."""
    vocab_size = models[1].config.vocab_size
    setting = {"model": 1, "prompt": [vocab_size - 2, 7], "eos_bias": 3.0}
    common = {"do_sample": True, "max_new_tokens": 3}
    yield Case(**setting, parameters=common | {"top_k": 4})
    yield Case(**setting, parameters=common | {"top_k": 0, "top_p": 0.6, "temperature": 1.2})
    yield Case(**setting, parameters=common | {"top_k": 4, "num_beams": 2})
    yield Case(
        **setting,
        parameters=common | {"top_k": 6, "num_beams": 3, "early_stopping": True},
    )
