"""The graph `text_decoder.onnx`: one decoding step of rows that may differ in past length.

Inputs are the new tokens, each row's past length, which rows belong to which image, and the caches;
outputs are the logits of the last new token and the self-attention cache with the new tokens in it.
The service binds a cache's input and output to the same memory, so only the new entries are
written. An image's keys and values are read once for all its rows and never repeated. Every row is
multiplied by kernels for one row, so its bits do not depend on the other rows of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from blip_onnx.graphs.builder import GraphBuilder
from blip_onnx.precision import VOCABULARY, Plan

_EMBEDDINGS = "text_decoder.bert.embeddings"
_LAYER = "text_decoder.bert.encoder.layer"
_HEAD = "text_decoder.cls.predictions"
_MASKED = float(np.finfo(np.float32).min)


def build(
    config: Any, state_dict: dict[str, np.ndarray], plan: Plan, is_tied: bool
) -> GraphBuilder:
    """Build the decoder graph of a `BlipConfig`.

    With `is_tied`, word embeddings and vocabulary projection are one initializer.
    """
    graph = GraphBuilder("text_decoder", plan, state_dict)
    ids = graph.input("input_ids", TensorProto.INT64, ["rows", "query"])
    past_lengths = graph.input("past_lengths", TensorProto.INT64, ["rows"])
    # The row of each beam of each image; an image with fewer beams repeats any row.
    graph.input("image_rows", TensorProto.INT64, ["images", "beams"])
    # The position of each row in image_rows: image * beams + beam.
    graph.input("row_slots", TensorProto.INT64, ["rows"])
    _declare_caches(graph, config)
    past = graph.op("Unsqueeze", past_lengths, graph.constant([1]))  # [rows, 1]
    query = graph.op("Shape", ids, start=1, end=2)  # [1]
    positions = graph.op("Add", past, _range(graph, query))  # [rows, query]
    decoder = _Decoder.from_step(graph, config.text_config, query, positions)
    hidden = decoder.embed(ids, positions)  # [rows, query, hidden]
    for index in range(config.text_config.num_hidden_layers):
        hidden = decoder.layer(hidden, index)  # [rows, query, hidden]
    decoder.head(hidden, is_tied)
    return graph


def qkv_name(index: int) -> str:
    """Return the name of the linear layer that packs query, key and value of a self-attention."""
    return f"{_LAYER}.{index}.attention.self.qkv"


def pack_qkv(config: Any, state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights and biases of the packed layers: one product instead of three."""
    return {
        f"{qkv_name(index)}.{kind}": np.concatenate(
            [
                state_dict[f"{_LAYER}.{index}.attention.self.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
        )
        for index in range(config.text_config.num_hidden_layers)
        for kind in ("weight", "bias")
    }


def _declare_caches(graph: GraphBuilder, config: Any) -> None:
    text, vision = config.text_config, config.vision_config
    heads = text.num_attention_heads
    head_dim = text.hidden_size // heads
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    shapes = {
        "decoder.key": ["rows", heads, "cap", head_dim],
        "decoder.value": ["rows", heads, "cap", head_dim],
        "encoder.key": ["images", heads, head_dim, tokens],
        "encoder.value": ["images", heads, tokens, head_dim],
    }
    for index in range(text.num_hidden_layers):
        for kind, shape in shapes.items():
            graph.input(f"past_key_values.{index}.{kind}", TensorProto.FLOAT, shape)


def _range(graph: GraphBuilder, length: str) -> str:
    """Count 0, 1, ... below `length`, whose shape is `[1]`."""
    return graph.op("Range", graph.constant(0), graph.op("Squeeze", length), graph.constant(1))


@dataclass(frozen=True)
class _Decoder:
    """Adds the layers of a decoder to a graph, with the values that all layers share."""

    graph: GraphBuilder
    # The `BlipTextConfig`.
    text: Any
    # [rows, 1, query, cap]: 0 where a key is attended to, the lowest float elsewhere.
    mask: str
    # [rows, heads, query, 3]: indices of the new keys and values in the cache.
    new_slots: str
    # Shape [images, beams, query, 1, heads, head_dim] of a cross-attention query.
    cross_shape: str
    # Shape [images * beams, query, hidden].
    slots_shape: str

    @classmethod
    def from_step(cls, graph: GraphBuilder, text: Any, query: str, positions: str) -> _Decoder:
        """Compute the shared values; `query` is `[1]`, `positions` of the new tokens `[rows, query]`."""
        heads = text.num_attention_heads
        head_dim = text.hidden_size // heads
        cap = graph.op("Shape", "past_key_values.0.decoder.key", start=2, end=3)  # [1]
        # [rows, 1, query, 1]
        position = graph.op("Unsqueeze", positions, graph.constant([1, 3]))
        # A token attends to the tokens before it, and to itself.
        seen = graph.op("LessOrEqual", _range(graph, cap), position)  # [rows, 1, query, cap]
        mask = graph.op("Where", seen, graph.constant(0.0), graph.constant(_MASKED))
        row = _range(graph, graph.op("Shape", "past_lengths"))
        row = graph.op("Unsqueeze", row, graph.constant([1, 2, 3]))  # [rows, 1, 1, 1]
        head = _range(graph, graph.constant([heads]))
        head = graph.op("Unsqueeze", head, graph.constant([0, 2, 3]))  # [1, heads, 1, 1]
        total = graph.op("Add", graph.op("Add", row, head), position)  # [rows, heads, query, 1]
        zeros = graph.op("Sub", total, total)
        parts = [graph.op("Add", part, zeros) for part in (row, head, position)]
        new_slots = graph.op("Concat", *parts, axis=-1)  # [rows, heads, query, 3]
        images_beams = graph.op("Shape", "image_rows")
        one_query = graph.constant([1, heads, head_dim])
        cross_shape = graph.op("Concat", images_beams, query, one_query, axis=0)
        slots_shape = graph.op(
            "Concat", graph.constant([-1]), query, graph.constant([text.hidden_size]), axis=0
        )
        return cls(graph, text, mask, new_slots, cross_shape, slots_shape)

    def embed(self, ids: str, positions: str) -> str:
        """Add word and position embeddings, normalised: `[rows, query, hidden]`."""

        def gather(table: str, indices: str) -> str:
            weight = self.graph.weight(f"{_EMBEDDINGS}.{table}.weight")
            return self.graph.op("Gather", weight, indices, axis=0)

        words, places = gather("word_embeddings", ids), gather("position_embeddings", positions)
        hidden = self.graph.op("Add", words, places)
        return self._layer_norm(hidden, f"{_EMBEDDINGS}.LayerNorm")

    def layer(self, hidden: str, index: int) -> str:
        """Add self-attention, cross-attention and feed-forward, each followed by its LayerNorm."""
        name = f"{_LAYER}.{index}"
        context = self._self_attention(hidden, index)
        hidden = self._residual(context, hidden, f"{name}.attention.output")
        context = self._cross_attention(hidden, index)
        hidden = self._residual(context, hidden, f"{name}.crossattention.output")
        inner = self.graph.linear(hidden, f"{name}.intermediate.dense")
        inner = self.graph.activation(inner, self.text.hidden_act)
        return self._residual(inner, hidden, f"{name}.output")

    def head(self, hidden: str, is_tied: bool) -> None:
        """Compute the logits `[rows, vocab]` of the last query position."""
        graph = self.graph
        last = graph.op("Gather", hidden, graph.constant(-1), axis=1)  # [rows, hidden]
        inner = graph.linear(last, f"{_HEAD}.transform.dense")
        inner = graph.activation(inner, self.text.hidden_act)
        inner = self._layer_norm(inner, f"{_HEAD}.transform.LayerNorm")
        table = f"{_EMBEDDINGS}.word_embeddings" if is_tied else VOCABULARY
        graph.linear(inner, VOCABULARY, table=f"{table}.weight", output="logits")
        graph.output("logits", TensorProto.FLOAT, ["rows", self.text.vocab_size])

    def _self_attention(self, hidden: str, index: int) -> str:
        """Attend to the past and the new tokens; writes the new ones into the cache."""
        graph, heads = self.graph, self.text.num_attention_heads
        head_dim = self.text.hidden_size // heads
        parts = graph.split(graph.linear(hidden, qkv_name(index)), 3)
        parts[0] = self._scale(parts[0], head_dim)
        # Each [rows, heads, query, head_dim].
        query, *new = [graph.split_heads(part, heads, head_dim, (0, 2, 1, 3)) for part in parts]

        def append(kind: str, new: str) -> str:
            past, present = (
                f"{side}.{index}.decoder.{kind}" for side in ("past_key_values", "present")
            )
            graph.output(present, TensorProto.FLOAT, ["rows", heads, "cap", head_dim])
            return graph.op("ScatterND", past, self.new_slots, new, output=present)

        keys = append("key", new[0])
        keys = graph.op("Transpose", keys, perm=(0, 1, 3, 2))  # [rows, heads, head_dim, cap]
        scores = graph.op("MatMul", query, keys)  # [rows, heads, query, cap]
        probabilities = graph.op("Softmax", graph.op("Add", scores, self.mask), axis=-1)
        values = append("value", new[1])  # [rows, heads, cap, head_dim]
        context = graph.op("MatMul", probabilities, values)  # [rows, heads, query, head_dim]
        context = graph.op("Transpose", context, perm=(0, 2, 1, 3))
        size = graph.constant([0, 0, self.text.hidden_size])
        return graph.op("Reshape", context, size)  # [rows, query, hidden]

    def _cross_attention(self, hidden: str, index: int) -> str:
        """Attend to the image, without a mask: all rows of an image share its keys and values."""
        graph = self.graph
        head_dim = self.text.hidden_size // self.text.num_attention_heads
        query = graph.linear(hidden, f"{_LAYER}.{index}.crossattention.self.query")
        # [images, beams, query, hidden]
        query = graph.op("Gather", self._scale(query, head_dim), "image_rows", axis=0)
        # [images, beams, query, 1, heads, head_dim]
        query = graph.op("Reshape", query, self.cross_shape)
        # [images, heads, beams, query, 1, head_dim]: one product for each row, those of a head one
        # after the other, so that the head's keys and values stay in the processor's cache.
        query = graph.op("Transpose", query, perm=(0, 4, 1, 2, 3, 5))
        # [images, heads, 1, 1, head_dim, tokens] and [images, heads, 1, 1, tokens, head_dim]
        keys, values = (
            graph.op("Unsqueeze", f"past_key_values.{index}.encoder.{kind}", graph.constant([2, 3]))
            for kind in ("key", "value")
        )
        probabilities = graph.op("Softmax", graph.op("MatMul", query, keys), axis=-1)
        # [images, heads, beams, query, 1, head_dim]
        context = graph.op("MatMul", probabilities, values)
        context = graph.op("Transpose", context, perm=(0, 2, 3, 4, 1, 5))
        # [images * beams, query, hidden]
        context = graph.op("Reshape", context, self.slots_shape)
        return graph.op("Gather", context, "row_slots", axis=0)  # [rows, query, hidden]

    def _scale(self, query: str, head_dim: int) -> str:
        """Scale the query rather than the scores, which are far more numbers."""
        return self.graph.op("Div", query, self.graph.constant(math.sqrt(head_dim)))

    def _residual(self, inner: str, hidden: str, name: str) -> str:
        dense = self.graph.linear(inner, f"{name}.dense")
        return self._layer_norm(self.graph.op("Add", dense, hidden), f"{name}.LayerNorm")

    def _layer_norm(self, hidden: str, name: str) -> str:
        return self.graph.layer_norm(hidden, name, self.text.layer_norm_eps)
