"""Writes tests/golden/generation.json: the results of transformers' generate() for toy models.

The toy models are tables of logits, which the file contains, so that only the decoding code is
compared: ids and scores of greedy and beam search, probabilities after the sampling warpers,
frequencies of sampled sequences, and which parameters are refused. The file depends only on the
pinned version of transformers.
"""

from __future__ import annotations

import json
import logging
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

from golden.generation_cases import (
    VERDICT_PARAMETERS,
    beam_cases,
    random_cases,
    sampled_cases,
    single_cases,
    stopping_cases,
    warped_cases,
)
from golden.toy_models import EOS_TOKEN_ID, PAD_TOKEN_ID, Case, ToyModel, call, make_models, strip

LOGGER = logging.getLogger("golden")
OUTPUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "generation.json"

SEED = 20_260_401
SAMPLED_RUNS = 20_000


def expected_sequences(model: ToyModel, case: Case) -> list[dict[str, Any]]:
    """Return ids, score and finish reason of every returned sequence."""
    output = call(model, case)
    rows = []
    for row, ids in enumerate(output.sequences.tolist()):
        ids = strip(ids, len(case.prompt))
        generated = ids[len(case.prompt) :]
        if case.parameters.get("num_beams", 1) > 1:
            score = output.sequences_scores[row].item()
        else:
            log_probs = [logits[row].log_softmax(-1) for logits in output.logits[: len(generated)]]
            total = sum(
                step[token].item() for step, token in zip(log_probs, generated, strict=True)
            )
            score = total / len(generated) ** case.parameters.get("length_penalty", 1.0)
        reason = "eos" if generated[-1] == EOS_TOKEN_ID else "length"
        rows.append({"token_ids": ids, "score": round(score, 7), "finish_reason": reason})
    return rows


def warped_probabilities(model: ToyModel, case: Case) -> list[float]:
    """Return the probability of each id in the first draw."""
    scores = call(model, case).scores[0][0]
    return [round(probability, 9) for probability in scores.softmax(-1).tolist()]


def sampled_frequencies(model: ToyModel, case: Case) -> list[list[Any]]:
    """Return the frequency of each returned sequence, the most frequent first."""
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(SAMPLED_RUNS // 1000):
        for ids in call(model, case, copies=1000).sequences.tolist():
            counts[tuple(strip(ids, len(case.prompt)))] += 1
    return [[list(ids), count / SAMPLED_RUNS] for ids, count in counts.most_common()]


def early_stop_row(rng: random.Random) -> dict[str, Any]:
    """Return whether transformers keeps a beam search open, for scores close to the limit."""
    num_beams = rng.randrange(1, 4)
    generated = rng.randrange(1, 9)
    max_new_tokens = rng.randrange(9, 20)
    penalty = rng.choice([-1.0, -0.3, 0.0, 0.3, 1.0])
    stopping = rng.choice([False, True, "never"])
    running_score = round(rng.uniform(-12.0, -1.0), 3)
    length = rng.choice([generated, max_new_tokens])
    finished = [
        round(running_score / length**penalty + rng.gauss(0.0, 0.3), 3) for _ in range(num_beams)
    ]
    done = [rng.random() < 0.8 for _ in finished]
    finished = [score if is_done else -1e9 for score, is_done in zip(finished, done, strict=True)]
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
    """Return torch's log-probabilities at some of 30,524 logits from 0 to `spread`."""
    fractions = [((i * 2_654_435_761 % 2**32) >> 8) / 2**24 for i in range(30_524)]
    log_probs = torch.tensor([fraction * spread for fraction in fractions]).log_softmax(-1)
    picks = range(0, len(fractions), 1000)
    return {
        "spread": spread,
        "log_probs": [[i, round(log_probs[i].item(), 7)] for i in picks],
    }


def is_accepted(model: ToyModel, parameters: dict[str, Any]) -> bool:
    """Whether generate() accepts the parameters, for a prompt of two ids."""
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
    """Return the content of the file."""
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
            [[round(x, 5) for x in row] for row in m.table.flatten(0, 1).tolist()] for m in models
        ],
        "cases": [c.as_json(sequences=expected_sequences(models[c.model], c)) for c in cases],
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
            [parameters, is_accepted(models[0], parameters)] for parameters in VERDICT_PARAMETERS
        ],
    }


def write_file(golden: dict[str, Any], path: Path) -> None:
    """Write one case per line, so that a diff is readable."""
    parts = []
    for key, value in golden.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
            parts.append(f'"{key}":[\n{lines}\n]')
        else:
            parts.append(f'"{key}":{json.dumps(value)}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def write() -> None:
    """Write the file."""
    # Many cases cause warnings on purpose.
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    golden = build()
    write_file(golden, OUTPUT)
    reasons = Counter(s["finish_reason"] for case in golden["cases"] for s in case["sequences"])
    LOGGER.info(
        "%d cases, %s, %d bytes in %s",
        len(golden["cases"]),
        dict(reasons),
        OUTPUT.stat().st_size,
        OUTPUT,
    )
