"""Writes tests/golden/generation.json: what transformers' generate() does with toy language models.

The toy models are tables of logits, written into the file, so that the decoding code alone is compared: ids and scores of
greedy and beam search, probabilities after the sampling warpers, frequencies of sampled sequences, and which parameters
are refused. Run it again only when the pinned transformers changes:

    .venv/bin/python scripts/make_generation_golden.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

LOGGER = logging.getLogger("make_generation_golden")
OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "generation.json"

SEED = 20_260_401
POSITIONS = 3
PAD_TOKEN_ID = 0
EOS_TOKEN_ID = 2
SAMPLED_RUNS = 20_000


@dataclass(frozen=True)
class Case:
    """One call of generate()."""

    model: int
    prompt: list[int]
    eos_bias: float
    parameters: dict[str, Any]
    bad_words_ids: list[list[int]] = field(default_factory=list)

    def as_json(self, **expected: Any) -> dict[str, Any]:
        """The case with its expected values, without what is not set."""
        row: dict[str, Any] = {"model": self.model, "prompt": self.prompt}
        if self.eos_bias:
            row["eos_bias"] = self.eos_bias
        if self.bad_words_ids:
            row["bad_words_ids"] = self.bad_words_ids
        return row | {"parameters": self.parameters} | expected


class ToyConfig(PretrainedConfig):
    """Nothing but the width of the vocabulary."""

    model_type = "toy"

    def __init__(self, vocab_size: int = 24, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        super().__init__(**kwargs)


class ToyModel(PreTrainedModel, GenerationMixin):
    """Logits looked up by the length so far and the last two ids."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig, table: torch.Tensor) -> None:
        super().__init__(config)
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # generate() asks for a device
        self.table = table  # [POSITIONS, vocab_size, vocab_size]
        self.eos_bias = 0.0

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """There is no cache: every step gets all ids. Prompts are not padded, so the mask says nothing."""
        return {"input_ids": input_ids}

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        """Logits `[batch, 1, vocab_size]` of the id after the last."""
        length = input_ids.shape[1]
        # The length keeps paths that take the same steps in another order from having equal scores.
        state = input_ids[:, -1] * 5 + length * 7
        if length > 1:
            state = state + input_ids[:, -2] * 3
        logits = self.table[
            (length - 1) % POSITIONS, state % self.config.vocab_size
        ].clone()
        logits[:, EOS_TOKEN_ID] += self.eos_bias
        return CausalLMOutput(logits=logits[:, None])


def make_models(rng: random.Random) -> list[ToyModel]:
    """Three vocabularies, from nearly flat to peaked. Five decimals, so that JSON holds the very f32 value."""
    models = []
    for vocab_size, spread in ((24, 1.5), (37, 3.0), (60, 0.7)):
        values = [
            round(rng.gauss(0.0, spread), 5) for _ in range(POSITIONS * vocab_size**2)
        ]
        table = torch.tensor(values).reshape(POSITIONS, vocab_size, vocab_size)
        models.append(ToyModel(ToyConfig(vocab_size), table).eval())
    return models


def call(model: ToyModel, case: Case, copies: int = 1, **extra: Any) -> Any:
    """generate() as BLIP calls it: the prompt without padding, end and pad ids passed."""
    model.eos_bias = case.eos_bias
    input_ids = torch.tensor([case.prompt] * copies)
    return model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
        bad_words_ids=case.bad_words_ids or None,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **case.parameters,
        **extra,
    )


def strip(ids: list[int], prompt_length: int) -> list[int]:
    """Without the fill after the first end token that was generated."""
    if EOS_TOKEN_ID in ids[prompt_length:]:
        return ids[: ids.index(EOS_TOKEN_ID, prompt_length) + 1]
    return ids


def expected_sequences(model: ToyModel, case: Case) -> list[dict[str, Any]]:
    """Ids, score and finish reason of every returned sequence."""
    output = call(model, case)
    rows = []
    for row, ids in enumerate(output.sequences.tolist()):
        ids = strip(ids, len(case.prompt))
        generated = ids[len(case.prompt) :]
        if case.parameters.get("num_beams", 1) > 1:
            score = output.sequences_scores[row].item()
        else:
            log_probs = [
                logits[row].log_softmax(-1)
                for logits in output.logits[: len(generated)]
            ]
            total = sum(
                step[token].item()
                for step, token in zip(log_probs, generated, strict=True)
            )
            score = total / len(generated) ** case.parameters.get("length_penalty", 1.0)
        reason = "eos" if generated[-1] == EOS_TOKEN_ID else "length"
        rows.append(
            {"token_ids": ids, "score": round(score, 7), "finish_reason": reason}
        )
    return rows


def draw_setting(rng: random.Random, models: list[ToyModel]) -> dict[str, Any]:
    """A model, a prompt of one to four ids (start token first) and how likely the end is."""
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
    """Pieces of what would be said without them (so that they bite), a random one, sometimes the end token alone."""
    parameters = {"max_new_tokens": 8}
    ids = (
        call(models[setting["model"]], Case(**setting, parameters=parameters))
        .sequences[0]
        .tolist()
    )
    words = []
    for _ in range(rng.randrange(1, 4)):
        start, length = rng.randrange(len(ids)), rng.randrange(1, 4)
        words.append(ids[start : start + length])
    words.append([rng.randrange(3, 20) for _ in range(rng.randrange(1, 3))])
    return words + [[EOS_TOKEN_ID]] * rng.randrange(2)


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


def single_cases(rng: random.Random, models: list[ToyModel]) -> Iterator[Case]:
    """Each parameter alone, greedy and with beams."""
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
    """Every combination of the beam parameters."""
    for num_beams, penalty, stopping in itertools.product(
        range(2, 7), *BEAM_PARAMETERS.values()
    ):
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
    """Long searches whose end depends on the early stop rule and the sign of the length penalty."""
    rules = itertools.product(
        [-2.0, -1.0, -0.3, 1.0], BEAM_PARAMETERS["early_stopping"], range(8)
    )
    for penalty, stopping, _ in rules:
        parameters = {
            "num_beams": rng.randrange(2, 7),
            "length_penalty": penalty,
            "early_stopping": stopping,
            "max_new_tokens": 25,
        }
        # Flat logits and a likely end: many finished beams that others may still displace.
        parameters["num_return_sequences"] = parameters["num_beams"]
        prompt = [models[2].config.vocab_size - 2, rng.randrange(3, 58)]
        eos_bias = round(rng.uniform(0.0, 2.5), 2)
        yield Case(model=2, prompt=prompt, eos_bias=eos_bias, parameters=parameters)


def random_cases(
    rng: random.Random, models: list[ToyModel], count: int
) -> Iterator[Case]:
    """Everything with everything."""
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
            parameters["num_return_sequences"] = rng.randrange(
                1, parameters["num_beams"] + 1
            )
            parameters |= {
                n: rng.choice(v)
                for n, v in BEAM_PARAMETERS.items()
                if rng.random() < 0.5
            }
        words = draw_bad_words(rng, models, setting) if rng.random() < 0.3 else []
        yield Case(**setting, parameters=parameters, bad_words_ids=words)


def warped_cases(rng: random.Random, models: list[ToyModel]) -> Iterator[Case]:
    """Sampling parameters alone and together, with and without processors and beams."""
    grid = itertools.product(
        [1.0, 0.3, 1.7], [None, 0, 1, 5, 100], [1.0, 0.0, 0.3, 0.9], [1, 2]
    )
    for temperature, top_k, top_p, num_beams in grid:
        parameters: dict[str, Any] = {
            "do_sample": True,
            "max_new_tokens": 1,
            "temperature": temperature,
        }
        parameters |= {} if top_k is None else {"top_k": top_k}
        parameters |= {"top_p": top_p} | (
            {"num_beams": num_beams} if num_beams > 1 else {}
        )
        if rng.random() < 0.3:
            parameters["repetition_penalty"] = 1.5
        if rng.random() < 0.3:
            parameters["min_new_tokens"] = 1
        setting = draw_setting(rng, models)
        words = draw_bad_words(rng, models, setting) if rng.random() < 0.3 else []
        yield Case(**setting, parameters=parameters, bad_words_ids=words)


def warped_probabilities(model: ToyModel, case: Case) -> list[float]:
    """Probability of each id as the first one drawn."""
    scores = call(model, case).scores[0][0]
    return [round(probability, 9) for probability in scores.softmax(-1).tolist()]


def sampled_cases(models: list[ToyModel]) -> Iterator[Case]:
    """Few enough outcomes for their frequencies to be compared."""
    vocab_size = models[1].config.vocab_size
    setting = {"model": 1, "prompt": [vocab_size - 2, 7], "eos_bias": 3.0}
    common = {"do_sample": True, "max_new_tokens": 3}
    yield Case(**setting, parameters=common | {"top_k": 4})
    yield Case(
        **setting, parameters=common | {"top_k": 0, "top_p": 0.6, "temperature": 1.2}
    )
    yield Case(**setting, parameters=common | {"top_k": 4, "num_beams": 2})
    yield Case(
        **setting,
        parameters=common | {"top_k": 6, "num_beams": 3, "early_stopping": True},
    )


def sampled_frequencies(model: ToyModel, case: Case) -> list[list[Any]]:
    """Frequency of each returned sequence, the most frequent first."""
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(SAMPLED_RUNS // 1000):
        for ids in call(model, case, copies=1000).sequences.tolist():
            counts[tuple(strip(ids, len(case.prompt)))] += 1
    return [[list(ids), count / SAMPLED_RUNS] for ids, count in counts.most_common()]


def early_stop_row(rng: random.Random) -> dict[str, Any]:
    """Whether transformers' rule keeps a beam search open. Scores lie close together, so that the rule decides."""
    num_beams, generated, max_new_tokens = (
        rng.randrange(1, 4),
        rng.randrange(1, 9),
        rng.randrange(9, 20),
    )
    penalty, stopping = (
        rng.choice([-1.0, -0.3, 0.0, 0.3, 1.0]),
        rng.choice([False, True, "never"]),
    )
    running_score = round(rng.uniform(-12.0, -1.0), 3)
    length = rng.choice([generated, max_new_tokens])
    finished = [
        round(running_score / length**penalty + rng.gauss(0.0, 0.3), 3)
        for _ in range(num_beams)
    ]
    done = [rng.random() < 0.8 for _ in finished]
    finished = [
        score if is_done else -1e9
        for score, is_done in zip(finished, done, strict=True)
    ]
    improvable = ToyModel._check_early_stop_heuristic(
        is_early_stop_heuristic_unsatisfied=torch.tensor([[True]]),
        running_beam_scores=torch.tensor([[running_score]]),
        beam_scores=torch.tensor([finished]),
        is_sent_finished=torch.tensor([done]),
        cur_len=3 + generated,
        max_length=3 + max_new_tokens,
        decoder_prompt_len=3,
        early_stopping=stopping,
        length_penalty=penalty,
    )
    is_open = ToyModel._beam_search_has_unfinished_sequences(
        improvable, torch.tensor([done]), torch.tensor([[False]]), stopping
    )
    return {
        "parameters": {
            "num_beams": num_beams,
            "length_penalty": penalty,
            "early_stopping": stopping,
            "max_new_tokens": max_new_tokens,
        },
        "running_score": running_score,
        "generated_len": generated,
        "finished": list(zip(finished, done, strict=True)),
        "is_open": bool(is_open),
    }


def log_softmax_row(spread: float) -> dict[str, Any]:
    """torch's log-probabilities at some of 30,524 logits from 0 to `spread`, made without a random generator."""
    fractions = [((i * 2_654_435_761 % 2**32) >> 8) / 2**24 for i in range(30_524)]
    log_probs = torch.tensor([fraction * spread for fraction in fractions]).log_softmax(
        -1
    )
    picks = range(0, len(fractions), 1000)
    return {
        "spread": spread,
        "log_probs": [[i, round(log_probs[i].item(), 7)] for i in picks],
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


def is_accepted(model: ToyModel, parameters: dict[str, Any]) -> bool:
    """Whether generate() goes through for a prompt of two ids."""
    case = Case(
        model=0,
        prompt=[model.config.vocab_size - 2, 5],
        eos_bias=0.0,
        parameters=parameters,
    )
    try:
        call(model, case)
    except ValueError as error:
        LOGGER.info("refused: %s: %s", parameters, error)
        return False
    return True


def build() -> dict[str, Any]:
    """The whole file as JSON values."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    models = make_models(rng)
    cases = [
        *single_cases(rng, models),
        *beam_cases(rng, models),
        *stopping_cases(rng, models),
        *random_cases(rng, models, 600),
    ]
    return {
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": PAD_TOKEN_ID,
        "models": [
            [[round(x, 5) for x in row] for row in m.table.flatten(0, 1).tolist()]
            for m in models
        ],
        "cases": [
            c.as_json(sequences=expected_sequences(models[c.model], c)) for c in cases
        ],
        "warped": [
            c.as_json(probabilities=warped_probabilities(models[c.model], c))
            for c in warped_cases(rng, models)
        ],
        "sampled": [
            c.as_json(frequencies=sampled_frequencies(models[c.model], c))
            for c in sampled_cases(models)
        ],
        "early_stops": [early_stop_row(rng) for _ in range(200)],
        "log_softmax": [log_softmax_row(spread) for spread in (0.0, 1.0, 7.5, 30.0)],
        "verdicts": [
            [parameters, is_accepted(models[0], parameters)]
            for parameters in VERDICT_PARAMETERS
        ],
    }


def write(golden: dict[str, Any], path: Path) -> None:
    """One case a line, so that a change shows as the lines it changes."""
    parts = []
    for key, value in golden.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
            parts.append(f'"{key}":[\n{lines}\n]')
        else:
            parts.append(f'"{key}":{json.dumps(value)}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Many cases are made to be warned about.
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    golden = build()
    write(golden, arguments.output)
    reasons = Counter(
        s["finish_reason"] for case in golden["cases"] for s in case["sequences"]
    )
    LOGGER.info(
        "%d cases, %s, %d bytes in %s",
        len(golden["cases"]),
        dict(reasons),
        arguments.output.stat().st_size,
        arguments.output,
    )


if __name__ == "__main__":
    main()
