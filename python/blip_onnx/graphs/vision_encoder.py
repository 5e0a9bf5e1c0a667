"""The graph `vision_encoder.onnx`: pixels to the decoder's cross-attention keys and values.

The projections of every decoder layer run here, once per image, so that no decoding step and no
beam repeats them and the decoder never sees the encoder's hidden states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from blip_onnx.graphs.builder import CONTRIB, GraphBuilder
from blip_onnx.precision import Plan

_EMBEDDINGS = "vision_model.embeddings"


def build(config: Any, weights: dict[str, np.ndarray], plan: Plan) -> GraphBuilder:
    """The vision graph of a `BlipConfig`; `weights` is the state_dict as numpy arrays."""
    vision = config.vision_config
    graph = GraphBuilder("vision_encoder", plan)
    size = vision.image_size
    pixels = graph.input("pixel_values", TensorProto.FLOAT, ["batch", 3, size, size])
    hidden = _embed(graph, vision, weights, pixels)
    for index in range(vision.num_hidden_layers):
        hidden = _layer(graph, vision, weights, hidden, f"vision_model.encoder.layers.{index}")
    name = "vision_model.post_layernorm"
    hidden = graph.layer_norm(hidden, weights, name, vision.layer_norm_eps)
    _cross_projections(graph, config, weights, hidden)
    return graph


def _embed(graph: GraphBuilder, vision: Any, weights: dict[str, np.ndarray], pixels: str) -> str:
    """`[batch, 3, H, W]` to `[batch, tokens, hidden]`: patches behind the class token."""
    patch, hidden = vision.patch_size, vision.hidden_size
    tokens = (vision.image_size // patch) ** 2 + 1

    def weight(name: str) -> str:
        return graph.weight(f"{_EMBEDDINGS}.{name}", weights[f"{_EMBEDDINGS}.{name}"])

    patches = graph.op(
        "Conv",
        pixels,
        weight("patch_embedding.weight"),
        weight("patch_embedding.bias"),
        kernel_shape=[patch, patch],
        strides=[patch, patch],
    )
    flat = graph.op("Reshape", patches, graph.constant([0, hidden, tokens - 1]))
    flat = graph.op("Transpose", flat, perm=(0, 2, 1))
    # A zero row in front of the patches; the class token reaches it through the position table,
    # which takes it in at load time. So no batch-sized copy of the class token is needed.
    padded = graph.op("Pad", flat, graph.constant([0, 1, 0, 0, 0, 0]))
    class_token = graph.op(
        "Pad", weight("class_embedding"), graph.constant([0, 0, 0, 0, tokens - 1, 0])
    )
    positions = graph.op("Add", class_token, weight("position_embedding"))
    return graph.op("Add", padded, positions)


def _layer(
    graph: GraphBuilder, vision: Any, weights: dict[str, np.ndarray], hidden: str, name: str
) -> str:
    """One pre-norm transformer layer over `[batch, tokens, hidden]`."""
    eps = vision.layer_norm_eps
    normed = graph.layer_norm(hidden, weights, f"{name}.layer_norm1", eps)
    attended = _attention(graph, vision, weights, normed, f"{name}.self_attn")
    hidden = graph.op("Add", attended, hidden)
    normed = graph.layer_norm(hidden, weights, f"{name}.layer_norm2", eps)
    inner = graph.linear(normed, weights, f"{name}.mlp.fc1")
    inner = graph.activation(inner, vision.hidden_act)
    return graph.op("Add", graph.linear(inner, weights, f"{name}.mlp.fc2"), hidden)


def _attention(
    graph: GraphBuilder, vision: Any, weights: dict[str, np.ndarray], hidden: str, name: str
) -> str:
    """Self-attention; the checkpoint has query, key and value in one linear layer."""
    packed = f"{name}.qkv"
    if graph.plan.fuses_attention(packed):
        parts = graph.split(graph.linear(hidden, weights, packed), 3)
        heads = vision.num_attention_heads
        context = graph.op("MultiHeadAttention", *parts, domain=CONTRIB, num_heads=heads)
    else:
        context = _separate_attention(graph, vision, weights, hidden, packed)
    return graph.linear(context, weights, f"{name}.projection")


def _separate_attention(
    graph: GraphBuilder, vision: Any, weights: dict[str, np.ndarray], hidden: str, packed: str
) -> str:
    """Attention in single products: no part is cut out of, or turned after, a larger tensor."""
    heads, size = vision.num_attention_heads, vision.hidden_size
    head_dim = size // heads

    def project(part: int) -> str:
        rows = slice(part * size, (part + 1) * size)
        return graph.linear(hidden, weights, packed, rows=rows)

    # The query is the smallest tensor that the scale could be put on.
    query = graph.op("Mul", project(0), graph.constant(head_dim**-0.5))
    query = graph.split_heads(query, (heads, head_dim), (0, 2, 1, 3))
    key = graph.split_heads(project(1), (heads, head_dim), (0, 2, 3, 1))
    value = graph.split_heads(project(2), (heads, head_dim), (0, 2, 1, 3))
    probabilities = graph.op("Softmax", graph.op("MatMul", query, key), axis=-1)
    context = graph.op("MatMul", probabilities, value)
    context = graph.op("Transpose", context, perm=(0, 2, 1, 3))
    return graph.op("Reshape", context, graph.constant([0, 0, size]))


def _cross_projections(
    graph: GraphBuilder, config: Any, weights: dict[str, np.ndarray], hidden: str
) -> None:
    """Keys `[batch, heads, head_dim, tokens]` and values `[batch, heads, tokens, head_dim]`."""
    text, vision = config.text_config, config.vision_config
    heads = text.num_attention_heads
    head_dim = text.hidden_size // heads
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    layouts = {
        "key": ((0, 2, 3, 1), ["batch", heads, head_dim, tokens]),
        "value": ((0, 2, 1, 3), ["batch", heads, tokens, head_dim]),
    }
    for index in range(text.num_hidden_layers):
        for kind, (perm, shape) in layouts.items():
            name = f"text_decoder.bert.encoder.layer.{index}.crossattention.self.{kind}"
            projected = graph.linear(hidden, weights, name)
            output = f"present.{index}.encoder.{kind}"
            graph.split_heads(projected, (heads, head_dim), perm, output)
            graph.output(output, TensorProto.FLOAT, shape)
