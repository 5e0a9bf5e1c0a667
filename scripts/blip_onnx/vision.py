"""The graph `vision_encoder.onnx`: pixels to the decoder's cross-attention keys and values.

The projections of every decoder layer run here, once per image, so that no decoding step and no
beam repeats them and the decoder never sees the encoder's hidden states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from blip_onnx.graph import GraphBuilder

_EMBEDDINGS = "vision_model.embeddings"


def build(config: Any, weights: dict[str, np.ndarray], half: bool) -> GraphBuilder:
    """The vision graph of a `BlipConfig`; `weights` is the state_dict as numpy arrays."""
    vision = config.vision_config
    graph = GraphBuilder("vision_encoder", half)
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
    """Self-attention with the packed query, key and value projection."""
    heads = vision.num_attention_heads
    head_dim = vision.hidden_size // heads
    packed = graph.linear(hidden, weights, f"{name}.qkv")
    packed = graph.op("Reshape", packed, graph.constant([0, 0, 3, heads, head_dim]))
    # [3, batch, heads, tokens, head_dim]
    packed = graph.op("Transpose", packed, perm=(2, 0, 3, 1, 4))
    query, key, value = (
        graph.op("Gather", packed, graph.constant(part), axis=0) for part in range(3)
    )
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=(0, 1, 3, 2)))
    scores = graph.op("Mul", scores, graph.constant(head_dim**-0.5))
    context = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    context = graph.op("Transpose", context, perm=(0, 2, 1, 3))
    context = graph.op("Reshape", context, graph.constant([0, 0, vision.hidden_size]))
    return graph.linear(context, weights, f"{name}.projection")


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
