"""Writes captions.json and tokenizer.json from the oracle: transformers on the embedded model.

`tests/golden/captions.json` has the sample images x prompts and parameters, with ids, text, score
and finish reason. `tests/golden/tokenizer.json` has prompts with their ids, and ids with their text.
Both contain the versions of the libraries and the checksum of the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from dataclasses import asdict
from typing import Any

import torch

from oracle.captions import Oracle, library_versions
from parity.cases import LONG_PROMPTS, ODD_PROMPTS, PLAIN_PROMPTS
from service import ROOT

logger = logging.getLogger("golden")

IMAGES = ROOT / "examples" / "images"
CHECKPOINT = ROOT / "models" / "scenes" / "checkpoint"
GOLDEN = ROOT / "tests" / "golden"

REQUESTS: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    ("a photography of", {}),
    ("", {"num_beams": 3}),
    ("two", {"max_new_tokens": 5}),
    ("a [SEP] café, 3.5!", {"max_new_tokens": 12}),
    (None, {"max_new_tokens": 2}),
    (None, {"num_beams": 3, "num_return_sequences": 3}),
    (
        "a picture of",
        {"num_beams": 4, "length_penalty": -0.5, "early_stopping": "never"},
    ),
    (None, {"num_beams": 2, "early_stopping": True, "length_penalty": 2.0}),
    (None, {"min_new_tokens": 12, "repetition_penalty": 1.5}),
    (None, {"min_length": 14, "no_repeat_ngram_size": 2}),
    (None, {"bad_words": ["a", "next to"], "num_beams": 3}),
    (
        "an image of",
        {"repetition_penalty": 1.2, "num_beams": 5, "num_return_sequences": 2},
    ),
    (None, {"do_sample": True, "top_k": 1}),
]
"""Prompt and parameters; images alternate between the entries at even and at odd positions."""

WORDS = "a an two three photo dog cats café Ångström it's e.g. x-ray 3.14 re-unite [SEP] 犬 ½ 🚀"
PROMPTS = 200
TEXTS = 50


def write() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    oracle = Oracle(CHECKPOINT)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    _write("captions", {"cases": captions(oracle)})
    _write("tokenizer", {"prompts": prompts(oracle), "texts": texts(oracle)})


def captions(oracle: Oracle) -> list[dict[str, Any]]:
    """Return one entry per image and request."""
    cases = []
    for number, path in enumerate(sorted(p for p in IMAGES.iterdir() if p.is_file())):
        for prompt, parameters in REQUESTS[number % 2 :: 2]:
            answer = oracle.caption(path.read_bytes(), prompt, parameters)
            cases.append(
                {
                    "image": path.name,
                    "prompt": prompt,
                    "parameters": parameters,
                    "captions": [asdict(caption) for caption in answer],
                }
            )
    return cases


def prompts(oracle: Oracle) -> list[dict[str, Any]]:
    """Return prompts, the ids that the decoder starts from, and those ids as text.

    `input_ids` are those of `generate`, with the start token and without [SEP]. `word_ids` are those
    of the same text in `bad_words`, without special tokens.
    """
    rng = random.Random(0)
    words = WORDS.split() + [word for prompt in ODD_PROMPTS for word in prompt.split()]
    drawn = [*PLAIN_PROMPTS, *LONG_PROMPTS, *ODD_PROMPTS]
    while len(drawn) < PROMPTS:
        separator = rng.choice([" ", " ", "", ", ", "\t"])
        drawn.append(separator.join(rng.choices(words, k=rng.randint(1, 9))))
    start = oracle.model.config.text_config.bos_token_id
    tokenizer = oracle.processor.tokenizer
    entries = []
    for prompt in drawn:
        input_ids = [start, *oracle.processor(text=prompt).input_ids[1:-1]]
        entries.append(
            {
                "prompt": prompt,
                "input_ids": input_ids,
                "word_ids": tokenizer(prompt, add_special_tokens=False).input_ids,
                "text": oracle.processor.decode(input_ids, skip_special_tokens=True),
            }
        )
    return entries


def texts(oracle: Oracle) -> list[dict[str, Any]]:
    """Return random ids, including special and unused ones, as text."""
    rng = random.Random(1)
    size = oracle.model.config.text_config.vocab_size
    entries = []
    for _ in range(TEXTS):
        ids = [rng.choice([rng.randrange(size), rng.randrange(1100)]) for _ in range(12)]
        ids[rng.randrange(12)] = rng.choice([0, 100, 102, size - 1])
        entries.append({"ids": ids, "text": oracle.processor.decode(ids, skip_special_tokens=True)})
    return entries


def _write(name: str, sections: dict[str, list[dict[str, Any]]]) -> None:
    """Write one entry per line, so that a diff is readable."""
    weights = (CHECKPOINT / "model.safetensors").read_bytes()
    header = {
        "made_with": library_versions(),
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
    }
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    for section, entries in sections.items():
        lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        parts.append(f" {json.dumps(section)}: [\n  {lines}\n ]")
        logger.info("%s: %d %s", name, len(entries), section)
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    json.loads(text)
    (GOLDEN / f"{name}.json").write_text(text, "utf-8")
