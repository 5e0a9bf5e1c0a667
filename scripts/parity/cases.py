"""Cases of the parity run: image file x prompt x parameters, drawn from a seed.

Each parameter has a group in which only this parameter is set (with `num_beams` where it has no
effect without it), and one group combines them at random. Drawing does not depend on answers, except
for `bad_words`: the caller passes words that occur in the models' captions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

PLAIN_PROMPTS = [
    "a photography of",
    "a picture of",
    "an image of",
    "a",
    "two",
    "the dog is",
]
LONG_PROMPTS = [
    "a photography of two cats and a dog next to a red umbrella on a green background with",
    "in the middle one can clearly see , from left to right , a house , a tree , a car and a bus",
    "there is a small brown dog sitting on top of a large wooden table in front of an open window",
    "one two three four five six seven eight nine ten one two three four five six seven eight nine",
]
ODD_PROMPTS = [
    "",
    "   ",
    " a   dog\tand\na cat ",
    "a dog, a cat & a car!",
    "what's this? it isn't ...",
    'the sign says: "50% off" (today) - #1',
    "A PICTURE OF The Dog",
    "café crème à l'Ångström",
    "naïve résumé",
    "日本の犬",
    "собака и кот",
    "🚀 rocket ☃",
    "ﬁve ½ ①",
    "zero\u200bwidth e\u0301",
    "control\u0007char",
    "[SEP]",
    "a [SEP] dog",
    "[MASK] of a cat",
    "[CLS] [PAD] dog",
    "[UNK] [unused5]",
    "[DEC] a",
    "zxqvbrwk",
    "supercalifragilisticexpialidocious dogs",
    "x" * 120,
    "3.14159 + 2,000 = ?",
]

Draw = Callable[[random.Random], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One request; `parameters` has transformers' names and `bad_words` as strings."""

    group: str
    model: str
    image: str
    prompt: str | None
    parameters: dict[str, Any] = field(default_factory=dict)


def draw_prompt(rng: random.Random) -> str:
    """Draw an ordinary prompt in half of the cases, otherwise a long or odd one."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(PLAIN_PROMPTS)
    return rng.choice(LONG_PROMPTS if kind < 0.65 else ODD_PROMPTS)


def _one(name: str, values: Sequence[Any], beams: float) -> Draw:
    """Return a function that draws one parameter, with beam search in a share `beams` of cases."""

    def draw(rng: random.Random) -> dict[str, Any]:
        searching = rng.random() < beams
        extra = {"num_beams": rng.randint(2, 5)} if searching else {}
        return extra | {name: rng.choice(values)}

    return draw


def _returned(rng: random.Random) -> dict[str, Any]:
    beams = rng.randint(2, 6)
    return {"num_beams": beams, "num_return_sequences": rng.randint(2, beams)}


def _stopped(rng: random.Random) -> dict[str, Any]:
    """Draw all hypotheses and favour long ones, because only then the stopping rules differ."""
    beams = rng.randint(2, 6)
    chosen = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 24}
    chosen["early_stopping"] = rng.choice([True, True, True, "never", "never", False])
    return chosen | {"length_penalty": rng.choice([1.0, 2.0, 2.0, 3.0])}


SINGLE: dict[str, Draw] = {
    "max_new_tokens": _one("max_new_tokens", [1, 2, 3, 5, 8, 12, 16, 24, 32], 0.3),
    "min_new_tokens": _one("min_new_tokens", range(5, 21), 0.3),
    "min_length": _one("min_length", range(5, 21), 0.3),
    "num_beams": _one("num_beams", [2, 3, 4, 5, 6, 8], 0.0),
    "num_return_sequences": _returned,
    "length_penalty": _one("length_penalty", [-1.5, -0.5, 0.0, 0.3, 0.6, 1.4, 2.0, 3.0], 0.85),
    "early_stopping": _stopped,
    "repetition_penalty": _one("repetition_penalty", [0.7, 0.9, 1.05, 1.2, 1.5, 2.0, 5.0], 0.4),
    "no_repeat_ngram_size": _one("no_repeat_ngram_size", [1, 2, 3, 4], 0.4),
}
"""Groups in which only one parameter is set; prompt and bad_words have their own functions."""


@dataclass(frozen=True)
class Pool:
    """The images and words that the cases of one model are drawn from."""

    images: Sequence[str]
    words: dict[str, list[str]]
    """Words, and pairs of words, of the plain captions of some images, for `bad_words`."""

    def draw_bad_words(self, rng: random.Random) -> tuple[str, list[str]]:
        """Draw an image and words of its plain caption."""
        image = rng.choice(sorted(image for image, words in self.words.items() if words))
        words = self.words[image]
        return image, rng.sample(words, k=min(rng.randint(1, 4), len(words)))


def draw_combination(rng: random.Random) -> dict[str, Any]:
    """Draw several parameters that transformers accepts together."""
    chosen: dict[str, Any] = {}
    if rng.random() < 0.6:
        chosen["num_beams"] = rng.randint(2, 6)
        if rng.random() < 0.4:
            chosen["num_return_sequences"] = rng.randint(1, chosen["num_beams"])
    for name in (
        "max_new_tokens",
        "length_penalty",
        "repetition_penalty",
        "no_repeat_ngram_size",
    ):
        if rng.random() < 0.4:
            chosen[name] = SINGLE[name](rng)[name]
    if "num_beams" in chosen and rng.random() < 0.6:
        chosen["early_stopping"] = rng.choice([False, True, "never"])
    if rng.random() < 0.3:
        chosen["min_new_tokens"] = rng.randint(1, chosen.get("max_new_tokens", 20))
    if rng.random() < 0.2:
        # At most what max_new_tokens allows without a prompt; more would be a contradiction.
        chosen["min_length"] = rng.randint(1, chosen.get("max_new_tokens", 20) + 1)
    if rng.random() < 0.35:
        chosen["bad_words"] = []  # filled when the image is drawn
    return chosen


def draw_cases(seed: int, total: int, pools: dict[str, Pool]) -> list[Case]:
    """Draw about `total` cases: 3 % per single parameter, 30 % combined, the rest plain."""
    rng = random.Random(f"cases {seed}")
    models = list(pools)
    each = max(1, -(-total * 32 // 1000))
    cases: list[Case] = []

    def add(group: str, count: int, parameters: Draw, prompted: float) -> None:
        for number in range(count):
            model = models[number % len(models)]
            image = rng.choice(pools[model].images)
            prompt = draw_prompt(rng) if rng.random() < prompted else None
            chosen = parameters(rng)
            if "bad_words" in chosen:
                image, chosen["bad_words"] = pools[model].draw_bad_words(rng)
            cases.append(Case(group, model, image, prompt, chosen))

    for group, draw in SINGLE.items():
        add(group, each, draw, 0.25)
    add("bad_words", each, _one("bad_words", [()], 0.4), 0.1)
    add("prompt", 2 * each, lambda _rng: {}, 1.0)
    add("top_k=1", each, lambda _rng: {"do_sample": True, "top_k": 1}, 0.3)
    add("combined", total * 3 // 10, draw_combination, 0.5)
    cases.extend(_plain(max(0, total - len(cases)), pools))
    return cases


def _plain(count: int, pools: dict[str, Pool]) -> Iterator[Case]:
    """Yield greedy captions without a prompt, for each model's images in order."""
    models = list(pools)
    for number in range(count):
        model = models[number % len(models)]
        images = pools[model].images
        yield Case("plain", model, images[number // len(models) % len(images)], None)


def draw_sampled(seed: int, count: int, pools: dict[str, Pool]) -> list[Case]:
    """Draw sampling with a seed, which is compared with itself and not with torch's generator."""
    rng = random.Random(f"sampled {seed}")
    models = list(pools)
    cases = []
    for number in range(count):
        model = models[number % len(models)]
        parameters: dict[str, Any] = {"do_sample": True, "seed": rng.randrange(2**63)}
        for name, values in {
            "temperature": [0.5, 1.0, 1.7],
            "top_k": [0, 5, 50],
            "top_p": [0.3, 0.9, 1.0],
            "num_return_sequences": [1, 2, 4],
            "num_beams": [1, 3],
        }.items():
            if rng.random() < 0.5:
                parameters[name] = rng.choice(values)
        if parameters.get("num_beams") == 3 and "num_return_sequences" in parameters:
            parameters["num_return_sequences"] = min(3, parameters["num_return_sequences"])
        image = rng.choice(pools[model].images)
        cases.append(Case("sampled", model, image, draw_prompt(rng), parameters))
    return cases


def draw_large(seed: int, model: str, images: Sequence[str]) -> list[Case]:
    """Draw a few cases for a model that takes seconds per caption: greedy, beams, prompts."""
    rng = random.Random(f"large {seed}")
    parameters: list[dict[str, Any]] = [
        {},
        {"num_beams": 3},
        {"max_new_tokens": 8, "repetition_penalty": 1.5},
        {
            "num_beams": 3,
            "num_return_sequences": 2,
            "length_penalty": 0.5,
            "max_new_tokens": 10,
        },
    ]
    return [
        Case("large", model, images[number % len(images)], prompt, parameters[number % 4])
        for number, prompt in enumerate([None] * 8 + [draw_prompt(rng) for _ in range(8)])
    ]
