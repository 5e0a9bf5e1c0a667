"""Which precision each weight of a model is stored and multiplied in, decided by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

PRECISIONS = ("fp32", "fp16", "int8")
# The layers after the decoder's last one; the projection to the vocabulary computes the logits.
HEAD = "text_decoder.cls.predictions."
VOCABULARY = f"{HEAD}decoder"
# The layers that run once per image: the vision tower and the projections after it.
_ENCODER = re.compile(r"vision_model\.|text_decoder\..*\.crossattention\.self\.(key|value)$")


class Scheme(Enum):
    """How a linear layer is multiplied."""

    FLOAT = "float"
    # int8 weights with a scale per column; activations as uint8 with one scale per run. This is
    # the fastest scheme where many rows share a weight, but the rows of a run share a scale.
    DYNAMIC = "dynamic"
    # 8-bit weights and activations with a scale per 32 values: rows do not affect each other.
    BLOCKS = "blocks"


@dataclass(frozen=True)
class Plan:
    """The precision of the graphs of one bundle."""

    precision: str = "fp32"
    # fp32 weights are stored in fp16, which holds them exactly, and cast in the graph.
    stores_fp16: bool = False
    # Linear layers that int8 leaves in fp32.
    kept: frozenset[str] = frozenset()

    def scheme(self, name: str) -> Scheme:
        """Return how the linear layer `name` is multiplied."""
        if self.precision != "int8" or name in self.kept:
            return Scheme.FLOAT
        # Each run of the encoder has one image, so all rows of a run belong to it.
        return Scheme.DYNAMIC if is_encoder(name) else Scheme.BLOCKS

    def fuses_attention(self, name: str) -> bool:
        """Whether the packed projection `name` feeds one attention operator.

        In fp32 separate products are faster, and bit-equal whatever the operator's kernel does.
        """
        return self.precision == "fp16" or self.scheme(name) is Scheme.DYNAMIC


def is_encoder(name: str) -> bool:
    """Whether the linear layer `name` is part of the vision graph."""
    return _ENCODER.match(name) is not None
