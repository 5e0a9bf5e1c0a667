"""The graph `text_decoder.onnx`: one decoding step of rows that may differ in past length.

Inputs are the new tokens, each row's past length and the caches; outputs are the logits of the
last new token and the new slice of the self-attention cache. Rows of one image lie side by side:
cross-attention puts them on the query axis, so the image's keys and values are read once for all
its beams and never repeated. Keys are ordered new first, then past: the valid prefix of the past
then starts at the same place whatever the capacity of the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from blip_onnx.graph import GraphBuilder
from blip_onnx.precision import VOCABULARY, Plan

_EMBEDDINGS = "text_decoder.bert.embeddings"
_HEAD = "text_decoder.cls.predictions"
_MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Step:
    """Values that every layer shares."""

    # [rows, 1, query, query + cap]: 0 where a key may be seen, the lowest float elsewhere.
    mask: str
    # Shape [images, beams * query, heads, head_dim] of a cross-attention query.
    cross_shape: str
    # Shape [rows, query, hidden].
    hidden_shape: str


def build(config: Any, weights: dict[str, np.ndarray], plan: Plan, tied: bool) -> GraphBuilder:
    """The decoder graph of a `BlipConfig`.

    With `tied`, word embeddings and vocabulary projection are one initializer.
    """
    text = config.text_config
    graph = GraphBuilder("text_decoder", plan)
    ids = graph.input("input_ids", TensorProto.INT64, ["rows", "query"])
    past_lengths = graph.input("past_lengths", TensorProto.INT64, ["rows"])
    _declare_caches(graph, config)
    rows_query = graph.op("Shape", ids)
    query = graph.op("Squeeze", graph.op("Shape", ids, start=1, end=2))
    past = graph.op("Unsqueeze", past_lengths, graph.constant([1]))
    arange = graph.op("Range", graph.constant(0), query, graph.constant(1))
    step = _step(graph, text, rows_query, query, past, arange)
    hidden = _embed(graph, text, weights, ids, graph.op("Add", past, arange))
    for index in range(text.num_hidden_layers):
        hidden = _layer(graph, text, weights, hidden, index, step)
    _head(graph, text, weights, hidden, tied)
    return graph


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


def _step(
    graph: GraphBuilder, text: Any, rows_query: str, query: str, past: str, arange: str
) -> _Step:
    """Mask and shapes of this step; `past` is `[rows, 1]`, `arange` is `[query]`."""
    heads = text.num_attention_heads
    head_dim = text.hidden_size // heads
    cap = graph.op("Shape", "past_key_values.0.decoder.key", start=2, end=3)
    keys = graph.op("Add", query, graph.op("Squeeze", cap))
    key_index = graph.op("Range", graph.constant(0), keys, graph.constant(1))
    # Slot of a key in the past; negative for the new keys, which come first.
    slot = graph.op("Sub", key_index, query)
    in_past = graph.op("Unsqueeze", graph.op("Less", slot, past), graph.constant([1, 2]))
    query_index = graph.op("Unsqueeze", arange, graph.constant([1]))
    causal = graph.op(
        "Or",
        graph.op("LessOrEqual", key_index, query_index),
        graph.op("GreaterOrEqual", slot, graph.constant(0)),
    )
    mask = graph.op(
        "Where",
        graph.op("And", in_past, causal),
        graph.constant(0.0),
        graph.constant(_MASKED),
    )
    images = graph.op("Shape", "past_key_values.0.encoder.value", start=0, end=1)
    cross_shape = graph.op("Concat", images, graph.constant([-1, heads, head_dim]), axis=0)
    hidden_shape = graph.op("Concat", rows_query, graph.constant([text.hidden_size]), axis=0)
    return _Step(mask, cross_shape, hidden_shape)


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
    name = f"text_decoder.bert.encoder.layer.{index}"

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
    """Attention over the new and the past tokens; emits the new slice of the cache."""
    heads = text.num_attention_heads
    head_dim = text.hidden_size // heads
    name = f"text_decoder.bert.encoder.layer.{index}.attention.self"

    def all_of(kind: str) -> str:
        present = f"present.{index}.decoder.{kind}"
        projected = graph.linear(hidden, weights, f"{name}.{kind}")
        graph.split_heads(projected, (heads, head_dim), (0, 2, 1, 3), present)
        graph.output(present, TensorProto.FLOAT, ["rows", heads, "query", head_dim])
        return graph.op("Concat", present, f"past_key_values.{index}.decoder.{kind}", axis=2)

    query = _scaled(graph, graph.linear(hidden, weights, f"{name}.query"), head_dim)
    query = graph.split_heads(query, (heads, head_dim), (0, 2, 1, 3))
    keys = graph.op("Transpose", all_of("key"), perm=(0, 1, 3, 2))
    scores = graph.op("MatMul", query, keys)
    probabilities = graph.op("Softmax", graph.op("Add", scores, step.mask), axis=-1)
    context = graph.op("MatMul", probabilities, all_of("value"))
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
    """Attention over the image: beams and query positions share the query axis, no mask."""
    head_dim = text.hidden_size // text.num_attention_heads
    name = f"text_decoder.bert.encoder.layer.{index}.crossattention.self.query"
    query = _scaled(graph, graph.linear(hidden, weights, name), head_dim)
    query = graph.op("Reshape", query, step.cross_shape)
    query = graph.op("Transpose", query, perm=(0, 2, 1, 3))
    scores = graph.op("MatMul", query, f"past_key_values.{index}.encoder.key")
    probabilities = graph.op("Softmax", scores, axis=-1)
    context = graph.op("MatMul", probabilities, f"past_key_values.{index}.encoder.value")
    context = graph.op("Transpose", context, perm=(0, 2, 1, 3))
    return graph.op("Reshape", context, step.hidden_shape)


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
