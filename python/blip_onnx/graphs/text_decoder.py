"""The graph `text_decoder.onnx`: one decoding step of rows that may differ in past length.

Inputs are the new tokens, each row's past length, which rows belong to which image, and the caches;
outputs are the logits of the last new token and the self-attention cache with the new tokens in it.
The service hands in the same memory for the cache before and after, so only they are written. An
image's keys and values are read once for all its rows and never repeated. Every row is multiplied
by kernels for one row, so its bits are the same alone and in any company.
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


@dataclass(frozen=True)
class _Step:
    """Values that every layer shares."""

    # [rows, 1, query, cap]: 0 where a key may be seen, the lowest float elsewhere.
    mask: str
    # [rows, heads, query, 3]: where the new keys and values go.
    new_slots: str
    # Shape [images, beams, query, 1, heads, head_dim] of a cross-attention query.
    cross_shape: str
    # Shape [images * beams, query, hidden].
    slots_shape: str


def build(config: Any, weights: dict[str, np.ndarray], plan: Plan, tied: bool) -> GraphBuilder:
    """The decoder graph of a `BlipConfig`.

    With `tied`, word embeddings and vocabulary projection are one initializer.
    """
    text = config.text_config
    graph = GraphBuilder("text_decoder", plan)
    ids = graph.input("input_ids", TensorProto.INT64, ["rows", "query"])
    past_lengths = graph.input("past_lengths", TensorProto.INT64, ["rows"])
    # The row of each beam of each image; an image with fewer beams repeats any row.
    graph.input("image_rows", TensorProto.INT64, ["images", "beams"])
    # Where each row stands in image_rows: image * beams + beam.
    graph.input("row_slots", TensorProto.INT64, ["rows"])
    _declare_caches(graph, config)
    past = graph.op("Unsqueeze", past_lengths, graph.constant([1]))
    query = graph.op("Shape", ids, start=1, end=2)
    positions = graph.op("Add", past, _range(graph, query))
    step = _step(graph, text, query, positions)
    hidden = _embed(graph, text, weights, ids, positions)
    for index in range(text.num_hidden_layers):
        hidden = _layer(graph, text, weights, hidden, index, step)
    _head(graph, text, weights, hidden, tied)
    return graph


def packed_name(index: int) -> str:
    """The linear layer that query, key and value of a decoder layer's self-attention become."""
    return f"{_LAYER}.{index}.attention.self.qkv"


def packed(config: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights and biases of those layers: one product instead of three."""
    return {
        f"{packed_name(index)}.{kind}": np.concatenate(
            [
                weights[f"{_LAYER}.{index}.attention.self.{part}.{kind}"]
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


def _step(graph: GraphBuilder, text: Any, query: str, positions: str) -> _Step:
    """What the layers share; `query` is `[1]`, `positions` of the new tokens `[rows, query]`."""
    heads = text.num_attention_heads
    head_dim = text.hidden_size // heads
    cap = graph.op("Shape", "past_key_values.0.decoder.key", start=2, end=3)
    position = graph.op("Unsqueeze", positions, graph.constant([1, 3]))
    # A token sees what lies before it, and itself.
    seen = graph.op("LessOrEqual", _range(graph, cap), position)
    mask = graph.op("Where", seen, graph.constant(0.0), graph.constant(_MASKED))
    row = _range(graph, graph.op("Shape", "past_lengths"))
    row = graph.op("Unsqueeze", row, graph.constant([1, 2, 3]))
    head = _range(graph, graph.constant([heads]))
    head = graph.op("Unsqueeze", head, graph.constant([0, 2, 3]))
    total = graph.op("Add", graph.op("Add", row, head), position)
    zeros = graph.op("Sub", total, total)
    parts = [graph.op("Add", part, zeros) for part in (row, head, position)]
    new_slots = graph.op("Concat", *parts, axis=-1)
    images_beams = graph.op("Shape", "image_rows")
    one_query = graph.constant([1, heads, head_dim])
    cross_shape = graph.op("Concat", images_beams, query, one_query, axis=0)
    slots_shape = graph.op(
        "Concat", graph.constant([-1]), query, graph.constant([text.hidden_size]), axis=0
    )
    return _Step(mask, new_slots, cross_shape, slots_shape)


def _range(graph: GraphBuilder, length: str) -> str:
    """0, 1, ... below `length`, which is `[1]`."""
    return graph.op("Range", graph.constant(0), graph.op("Squeeze", length), graph.constant(1))


def _embed(
    graph: GraphBuilder, text: Any, weights: dict[str, np.ndarray], ids: str, positions: str
) -> str:
    """Word plus position embeddings, normalised: `[rows, query, hidden]`."""

    def rows_of(table: str, indices: str) -> str:
        name = f"{_EMBEDDINGS}.{table}.weight"
        return graph.op("Gather", graph.weight(name, weights[name]), indices, axis=0)

    hidden = graph.op(
        "Add", rows_of("word_embeddings", ids), rows_of("position_embeddings", positions)
    )
    return graph.layer_norm(hidden, weights, f"{_EMBEDDINGS}.LayerNorm", text.layer_norm_eps)


def _layer(
    graph: GraphBuilder,
    text: Any,
    weights: dict[str, np.ndarray],
    hidden: str,
    index: int,
    step: _Step,
) -> str:
    """Self-attention, cross-attention and feed-forward, each followed by its LayerNorm."""
    eps = text.layer_norm_eps
    name = f"{_LAYER}.{index}"

    def finish(inner: str, residual: str, part: str) -> str:
        dense = graph.linear(inner, weights, f"{part}.dense")
        total = graph.op("Add", dense, residual)
        return graph.layer_norm(total, weights, f"{part}.LayerNorm", eps)

    context = _self_attention(graph, text, weights, hidden, index, step)
    hidden = finish(context, hidden, f"{name}.attention.output")
    context = _cross_attention(graph, text, weights, hidden, index, step)
    hidden = finish(context, hidden, f"{name}.crossattention.output")
    inner = graph.linear(hidden, weights, f"{name}.intermediate.dense")
    inner = graph.activation(inner, text.hidden_act)
    return finish(inner, hidden, f"{name}.output")


def _self_attention(
    graph: GraphBuilder,
    text: Any,
    weights: dict[str, np.ndarray],
    hidden: str,
    index: int,
    step: _Step,
) -> str:
    """Attention over the new and the past tokens; writes the new ones into the cache."""
    heads = text.num_attention_heads
    head_dim = text.hidden_size // heads
    parts = graph.split(graph.linear(hidden, weights, packed_name(index)), 3)
    parts[0] = _scaled(graph, parts[0], head_dim)
    query, *new = [graph.split_heads(part, (heads, head_dim), (0, 2, 1, 3)) for part in parts]

    def with_new(kind: str, new: str) -> str:
        past, present = (
            f"{side}.{index}.decoder.{kind}" for side in ("past_key_values", "present")
        )
        graph.output(present, TensorProto.FLOAT, ["rows", heads, "cap", head_dim])
        return graph.op("ScatterND", past, step.new_slots, new, output=present)

    keys = graph.op("Transpose", with_new("key", new[0]), perm=(0, 1, 3, 2))
    scores = graph.op("MatMul", query, keys)
    probabilities = graph.op("Softmax", graph.op("Add", scores, step.mask), axis=-1)
    context = graph.op("MatMul", probabilities, with_new("value", new[1]))
    context = graph.op("Transpose", context, perm=(0, 2, 1, 3))
    return graph.op("Reshape", context, graph.constant([0, 0, text.hidden_size]))


def _scaled(graph: GraphBuilder, query: str, head_dim: int) -> str:
    """The query by the scale of attention: far fewer numbers than the scores it is meant for."""
    return graph.op("Div", query, graph.constant(math.sqrt(head_dim)))


def _cross_attention(
    graph: GraphBuilder,
    text: Any,
    weights: dict[str, np.ndarray],
    hidden: str,
    index: int,
    step: _Step,
) -> str:
    """Attention over the image, without mask: all rows of an image share its keys and values."""
    head_dim = text.hidden_size // text.num_attention_heads
    query = graph.linear(hidden, weights, f"{_LAYER}.{index}.crossattention.self.query")
    query = graph.op("Gather", _scaled(graph, query, head_dim), "image_rows", axis=0)
    query = graph.op("Reshape", query, step.cross_shape)
    # [images, heads, beams, query, 1, head_dim]: one product for each row, those of a head in a
    # row, so that the head's keys and values stay in the cache of the processor.
    query = graph.op("Transpose", query, perm=(0, 4, 1, 2, 3, 5))
    keys, values = (
        graph.op("Unsqueeze", f"past_key_values.{index}.encoder.{kind}", graph.constant([2, 3]))
        for kind in ("key", "value")
    )
    probabilities = graph.op("Softmax", graph.op("MatMul", query, keys), axis=-1)
    context = graph.op("MatMul", probabilities, values)
    context = graph.op("Transpose", context, perm=(0, 2, 3, 4, 1, 5))
    context = graph.op("Reshape", context, step.slots_shape)
    return graph.op("Gather", context, "row_slots", axis=0)


def _head(
    graph: GraphBuilder, text: Any, weights: dict[str, np.ndarray], hidden: str, tied: bool
) -> None:
    """Logits `[rows, vocab]` of the last query position."""
    last = graph.op("Gather", hidden, graph.constant(-1), axis=1)
    inner = graph.linear(last, weights, f"{_HEAD}.transform.dense")
    inner = graph.activation(inner, text.hidden_act)
    name = f"{_HEAD}.transform.LayerNorm"
    inner = graph.layer_norm(inner, weights, name, text.layer_norm_eps)
    table = f"{_EMBEDDINGS}.word_embeddings" if tied else VOCABULARY
    graph.linear(inner, weights, VOCABULARY, table=f"{table}.weight", output="logits")
    graph.output("logits", TensorProto.FLOAT, ["rows", text.vocab_size])
