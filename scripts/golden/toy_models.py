"""Toy language models for the golden file of the decoding code.

Their logits come from a table; generate() is that of transformers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

POSITIONS = 3
PAD_TOKEN_ID = 0
EOS_TOKEN_ID = 2


@dataclass(frozen=True)
class Case:
    """One call of generate()."""

    model: int
    prompt: list[int]
    eos_bias: float
    parameters: dict[str, Any]
    bad_words_ids: list[list[int]] = field(default_factory=list)

    def as_json(self, **expected: Any) -> dict[str, Any]:
        """Return the case with its expected values, without default values."""
        row: dict[str, Any] = {"model": self.model, "prompt": self.prompt}
        if self.eos_bias:
            row["eos_bias"] = self.eos_bias
        if self.bad_words_ids:
            row["bad_words_ids"] = self.bad_words_ids
        return row | {"parameters": self.parameters} | expected


class ToyConfig(PretrainedConfig):
    """The size of the vocabulary."""

    model_type = "toy"

    def __init__(self, vocab_size: int = 24, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        super().__init__(**kwargs)


class ToyModel(PreTrainedModel, GenerationMixin):
    """Looks up logits by the length and the last two ids."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig, table: torch.Tensor) -> None:
        super().__init__(config)
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # generate() takes the device from it
        self.table = table  # [POSITIONS, vocab_size, vocab_size]
        self.eos_bias = 0.0

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Return all ids at every step, without a cache and a mask (no prompt is padded)."""
        return {"input_ids": input_ids}

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        """Return the logits `[batch, 1, vocab_size]` of the next id."""
        length = input_ids.shape[1]
        # Without the length, paths with the same steps in another order would have equal scores.
        state = input_ids[:, -1] * 5 + length * 7
        if length > 1:
            state = state + input_ids[:, -2] * 3
        logits = self.table[(length - 1) % POSITIONS, state % self.config.vocab_size].clone()
        logits[:, EOS_TOKEN_ID] += self.eos_bias
        return CausalLMOutput(logits=logits[:, None])


def make_models(rng: random.Random) -> list[ToyModel]:
    """Make three models, from flat to peaked logits, of five decimals that JSON stores exactly."""
    models = []
    for vocab_size, spread in ((24, 1.5), (37, 3.0), (60, 0.7)):
        values = [round(rng.gauss(0.0, spread), 5) for _ in range(POSITIONS * vocab_size**2)]
        table = torch.tensor(values).reshape(POSITIONS, vocab_size, vocab_size)
        models.append(ToyModel(ToyConfig(vocab_size), table).eval())
    return models


def call(model: ToyModel, case: Case, copies: int = 1, **extra: Any) -> Any:
    """Call generate() as BLIP does: without padding in the prompt, with end and pad ids."""
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
    """Remove the padding after the first generated end token."""
    if EOS_TOKEN_ID in ids[prompt_length:]:
        return ids[: ids.index(EOS_TOKEN_ID, prompt_length) + 1]
    return ids
