"""The graph `vision_encoder.onnx`: pixels to the decoder's cross-attention keys and values.

The projections of every decoder layer run here, once per image, so that no decoding step and no
beam repeats them and the decoder never sees the encoder's hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from blip_onnx.graphs.builder import CONTRIB, GraphBuilder
from blip_onnx.precision import Plan

_EMBEDDINGS = "vision_model.embeddings"


def build(config: Any, state_dict: dict[str, np.ndarray], plan: Plan) -> GraphBuilder:
    """Build the vision graph of a `BlipConfig`."""
    vision = config.vision_config
    graph = GraphBuilder("vision_encoder", plan, state_dict)
    size = vision.image_size
    pixels = graph.input("pixel_values", TensorProto.FLOAT, ["batch", 3, size, size])
    encoder = _Encoder(graph, vision)
    hidden = encoder.embed(pixels)  # [batch, tokens, hidden]
    for index in range(vision.num_hidden_layers):
        hidden = encoder.layer(hidden, f"vision_model.encoder.layers.{index}")
    hidden = graph.layer_norm(hidden, "vision_model.post_layernorm", vision.layer_norm_eps)
    _project_cross_attention(graph, config, hidden)
    return graph


@dataclass(frozen=True)
class _Encoder:
    """Adds the layers of the vision tower to a graph."""

    graph: GraphBuilder
    # The `BlipVisionConfig`.
    vision: Any

    def embed(self, pixels: str) -> str:
        """Embed `[batch, 3, height, width]` as the class token and the patches."""
        graph, vision = self.graph, self.vision
        patch, hidden = vision.patch_size, vision.hidden_size
        tokens = (vision.image_size // patch) ** 2 + 1
        patches = graph.op(
            "Conv",
            pixels,
            graph.weight(f"{_EMBEDDINGS}.patch_embedding.weight"),
            graph.weight(f"{_EMBEDDINGS}.patch_embedding.bias"),
            kernel_shape=[patch, patch],
            strides=[patch, patch],
        )  # [batch, hidden, rows of patches, columns of patches]
        flat = graph.op("Reshape", patches, graph.constant([0, hidden, tokens - 1]))
        flat = graph.op("Transpose", flat, perm=(0, 2, 1))  # [batch, tokens - 1, hidden]
        # A zero row in front of the patches; the class token is added with the position table,
        # to which constant folding adds it at load time. No batch-sized copy of it is needed.
        padded = graph.op("Pad", flat, graph.constant([0, 1, 0, 0, 0, 0]))
        class_token = graph.weight(f"{_EMBEDDINGS}.class_embedding")
        padding = graph.constant([0, 0, 0, 0, tokens - 1, 0])
        class_token = graph.op("Pad", class_token, padding)  # [1, tokens, hidden]
        positions = graph.weight(f"{_EMBEDDINGS}.position_embedding")
        positions = graph.op("Add", class_token, positions)
        return graph.op("Add", padded, positions)  # [batch, tokens, hidden]

    def layer(self, hidden: str, name: str) -> str:
        """Add one pre-norm transformer layer over `[batch, tokens, hidden]`."""
        graph, eps = self.graph, self.vision.layer_norm_eps
        normed = graph.layer_norm(hidden, f"{name}.layer_norm1", eps)
        hidden = graph.op("Add", self._attention(normed, f"{name}.self_attn"), hidden)
        normed = graph.layer_norm(hidden, f"{name}.layer_norm2", eps)
        inner = graph.linear(normed, f"{name}.mlp.fc1")
        inner = graph.activation(inner, self.vision.hidden_act)
        return graph.op("Add", graph.linear(inner, f"{name}.mlp.fc2"), hidden)

    def _attention(self, hidden: str, name: str) -> str:
        """Add self-attention; the checkpoint has query, key and value in one linear layer."""
        graph, qkv = self.graph, f"{name}.qkv"
        if graph.plan.fuses_attention(qkv):
            parts = graph.split(graph.linear(hidden, qkv), 3)
            heads = self.vision.num_attention_heads
            context = graph.op("MultiHeadAttention", *parts, domain=CONTRIB, num_heads=heads)
        else:
            context = self._separate_attention(hidden, qkv)
        return graph.linear(context, f"{name}.projection")  # [batch, tokens, hidden]

    def _separate_attention(self, hidden: str, qkv: str) -> str:
        """Add attention in single products, so that no tensor is split or transposed afterwards."""
        graph, size = self.graph, self.vision.hidden_size
        heads = self.vision.num_attention_heads
        head_dim = size // heads

        def project(part: int) -> str:
            return graph.linear(hidden, qkv, rows=slice(part * size, (part + 1) * size))

        # The query is the smallest tensor that the scale can be applied to.
        query = graph.op("Mul", project(0), graph.constant(head_dim**-0.5))
        # [batch, heads, tokens, head_dim]
        query = graph.split_heads(query, heads, head_dim, (0, 2, 1, 3))
        # [batch, heads, head_dim, tokens]
        key = graph.split_heads(project(1), heads, head_dim, (0, 2, 3, 1))
        # [batch, heads, tokens, head_dim]
        value = graph.split_heads(project(2), heads, head_dim, (0, 2, 1, 3))
        probabilities = graph.op("Softmax", graph.op("MatMul", query, key), axis=-1)
        context = graph.op("MatMul", probabilities, value)
        context = graph.op("Transpose", context, perm=(0, 2, 1, 3))
        return graph.op("Reshape", context, graph.constant([0, 0, size]))  # [batch, tokens, hidden]


def _project_cross_attention(graph: GraphBuilder, config: Any, hidden: str) -> None:
    """Add the keys and values that each decoder layer attends to."""
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
            output = f"present.{index}.encoder.{kind}"
            graph.split_heads(graph.linear(hidden, name), heads, head_dim, perm, output)
            graph.output(output, TensorProto.FLOAT, shape)
