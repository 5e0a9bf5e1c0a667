"""Which precision each weight of a model is stored and multiplied in: one decision, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

PRECISIONS = ("fp32", "fp16", "int8")
# Behind the decoder's last layer; the projection to the vocabulary makes the logits.
HEAD = "text_decoder.cls.predictions."
VOCABULARY = f"{HEAD}decoder"
# What runs once per image: the vision tower and the projections behind it.
_ENCODER = re.compile(r"vision_model\.|text_decoder\..*\.crossattention\.self\.(key|value)$")


class Scheme(Enum):
    """How a linear layer is multiplied."""

    FLOAT = "float"
    # int8 weights with a scale per column; activations as uint8 with one scale per run. Fastest
    # where many rows share a weight, but the rows of a run touch each other.
    DYNAMIC = "dynamic"
    # 8-bit weights and activations with a scale per 32 values: every row for itself.
    BLOCKS = "blocks"


@dataclass(frozen=True)
class Plan:
    """What the graphs of one bundle are made of."""

    precision: str = "fp32"
    # fp32 weights are stored in fp16, which holds them exactly, and cast in the graph.
    half: bool = False
    # Linear layers that int8 leaves alone.
    kept: frozenset[str] = frozenset()

    def scheme(self, name: str) -> Scheme:
        """How the linear layer `name` is multiplied."""
        if self.precision != "int8" or name in self.kept:
            return Scheme.FLOAT
        # Images are encoded one at a time, so the rows of a run are one image's.
        return Scheme.DYNAMIC if is_encoder(name) else Scheme.BLOCKS

    def fuses_attention(self, name: str) -> bool:
        """Whether the packed projection `name` feeds one attention operator.

        In fp32 separate products are faster, and bit-equal whatever the operator's kernel does.
        """
        return self.precision == "fp16" or self.scheme(name) is Scheme.DYNAMIC


def is_encoder(name: str) -> bool:
    """Whether the linear layer `name` is part of the vision graph."""
    return _ENCODER.match(name) is not None
