"""Converts a complete fp32 graph to fp16, in place.

Products, and the operators between them, are fp16. LayerNormalization, the residual sums in front
of it, masked scores and the logits are fp32: BERT's epsilon of 1e-12 and the lowest float of the
mask cannot be represented in fp16, and close logits would become equal. Inputs and outputs stay
fp32, so the service needs no other type. A Cast is added where a value meets an operator of the
other type.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blip_onnx import ExportError
from blip_onnx.graphs.builder import GraphBuilder

_FP32, _FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
_SUFFIX = {_FP32: "/fp32", _FP16: "/fp16"}
# Operators with a fixed type; the vocabulary projection is the only Gemm. All others are fp32 if
# one of their inputs is.
_TYPES = {
    "Concat": _FP16,
    "Conv": _FP16,
    "Gather": _FP16,
    "MatMul": _FP16,
    "MultiHeadAttention": _FP16,
    "Gemm": _FP32,
    "LayerNormalization": _FP32,
}
_NOT_FLOAT = {"Shape", "Less", "LessOrEqual", "GreaterOrEqual"}


def convert(graph: GraphBuilder) -> None:
    """Rewrite nodes, constants and inputs of `graph`, whose weights will be stored in fp16.

    Raises `ExportError` if a weight exceeds the range of fp16.
    """
    for name, array in graph.initializers.items():
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise ExportError(f"weight {name}: does not fit into fp16, use --precision fp32")
    _Converter(graph).convert()


class _Converter:
    """Rewrites the nodes of one graph."""

    def __init__(self, graph: GraphBuilder) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        # The type of each float value where it is computed.
        self.types = dict.fromkeys(graph.initializers, _FP16)
        for value in graph.inputs:
            if value.type.tensor_type.elem_type == _FP32:
                self.types[value.name] = _FP32
        self.constants = {
            name for name, tensor in graph.constants.items() if tensor.data_type == _FP32
        }
        # The name of a value in each type, by name and type.
        self.names: dict[tuple[str, int], str] = {}

    def convert(self) -> None:
        outputs = {value.name for value in self.graph.outputs}
        for node in self.graph.nodes:
            self._convert_node(node, outputs)
        for value in self.graph.outputs:
            if self.types[value.name] == _FP16:
                source = self.names[value.name, _FP16]
                self.nodes.append(helper.make_node("Cast", [source], [value.name], to=_FP32))
        self.graph.nodes[:] = self.nodes
        used = {name for node in self.nodes for name in node.input}
        for name in self.graph.constants.keys() - used:
            del self.graph.constants[name]

    def _convert_node(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        values = [name for name in node.input if name in self.types]
        has_constant = any(name in self.constants for name in node.input)
        if (values or has_constant) and node.op_type not in _NOT_FLOAT:
            types = [self.types[name] for name in values]
            # Operators on weights alone, or on constants alone, lead to the residual sums or the
            # mask, which are fp32.
            is_computed = any(name not in self.graph.initializers for name in values)
            default = _FP16 if is_computed and _FP32 not in types else _FP32
            dtype = _TYPES.get(node.op_type, default)
            node.input[:] = [self._cast(name, dtype) for name in node.input]
            for index, name in enumerate(node.output):
                self.types[name] = dtype
                if dtype == _FP16 and name in outputs:
                    node.output[index] = self.names[name, _FP16] = f"{name}{_SUFFIX[_FP16]}"
        self.nodes.append(node)

    def _cast(self, name: str, dtype: int) -> str:
        """Return the value `name` in the type `dtype`; a Cast is added at the first use."""
        if name in self.constants:
            return self._cast_constant(name, dtype)
        if self.types.get(name, dtype) == dtype:
            return self.names.get((name, dtype), name)
        if (name, dtype) not in self.names:
            source = self.names.get((name, self.types[name]), name)
            cast = f"{name}{_SUFFIX[dtype]}"
            self.nodes.append(helper.make_node("Cast", [source], [cast], cast, to=dtype))
            self.names[name, dtype] = cast
        return self.names[name, dtype]

    def _cast_constant(self, name: str, dtype: int) -> str:
        if dtype == _FP32:
            return name
        limit = np.finfo(np.float16)
        value = np.clip(numpy_helper.to_array(self.graph.constants[name]), limit.min, limit.max)
        cast = f"{name}{_SUFFIX[_FP16]}"
        tensor = numpy_helper.from_array(value.astype(np.float16), cast)
        self.graph.constants.setdefault(cast, tensor)
        return cast
