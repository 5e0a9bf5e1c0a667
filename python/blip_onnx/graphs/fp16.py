"""Turns a finished fp32 graph into fp16, in place.

Products, and what lies between them, are fp16. LayerNormalization, the residual sums in front of
it, masked scores and the logits are fp32: BERT's epsilon of 1e-12 and a mask's lowest float do not
exist in fp16, and neighbouring logits would become equal. Inputs and outputs stay fp32, so the
service needs no other type. Casts are put where a value meets an operator of the other type.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blip_onnx import ExportError
from blip_onnx.graphs.builder import GraphBuilder

_FULL, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_SUFFIX = {_FULL: "/fp32", _HALF: "/fp16"}
# Operators with a type of their own; the vocabulary projection is the only Gemm. All others take
# fp32 as soon as one value does.
_TYPES = {
    "Concat": _HALF,
    "Conv": _HALF,
    "Gather": _HALF,
    "MatMul": _HALF,
    "MultiHeadAttention": _HALF,
    "Gemm": _FULL,
    "LayerNormalization": _FULL,
}
_NOT_FLOAT = {"Shape", "Less", "LessOrEqual", "GreaterOrEqual"}


def convert(graph: GraphBuilder) -> None:
    """Rewrite the nodes, constants and inputs of `graph`; its weights are to be stored in fp16."""
    for name, array in graph.weights.items():
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise ExportError(f"weight {name} does not fit into fp16")
    _Conversion(graph).run()


class _Conversion:
    def __init__(self, graph: GraphBuilder) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        # The type that each float value was made in.
        self.types = dict.fromkeys(graph.weights, _HALF)
        for value in graph.inputs:
            if value.type.tensor_type.elem_type == _FULL:
                self.types[value.name] = _FULL
        self.constants = {
            name for name, tensor in graph.constants.items() if tensor.data_type == _FULL
        }
        # Names of values by name and type.
        self.names: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        outputs = {value.name for value in self.graph.outputs}
        for node in self.graph.nodes:
            self._convert(node, outputs)
        for value in self.graph.outputs:
            if self.types[value.name] == _HALF:
                cast = (self.names[value.name, _HALF], value.name)
                self.nodes.append(helper.make_node("Cast", cast[:1], cast[1:], to=_FULL))
        self.graph.nodes[:] = self.nodes
        used = {name for node in self.nodes for name in node.input}
        for name in self.graph.constants.keys() - used:
            del self.graph.constants[name]

    def _convert(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        values = [name for name in node.input if name in self.types]
        if (values or self._floats(node)) and node.op_type not in _NOT_FLOAT:
            made = [self.types[name] for name in values]
            # Weights alone, or constants alone, lead to the residual sums or the mask: fp32.
            computed = any(name not in self.graph.weights for name in values)
            default = _HALF if computed and _FULL not in made else _FULL
            wanted = _TYPES.get(node.op_type, default)
            inputs = [self._as(name, wanted) for name in node.input]
            node.input[:] = inputs
            for index, name in enumerate(node.output):
                self.types[name] = wanted
                if wanted == _HALF and name in outputs:
                    node.output[index] = self.names[name, _HALF] = f"{name}{_SUFFIX[_HALF]}"
        self.nodes.append(node)

    def _floats(self, node: onnx.NodeProto) -> bool:
        return any(name in self.constants for name in node.input)

    def _as(self, name: str, wanted: int) -> str:
        """The value `name` in the type `wanted`, cast at its first use."""
        if name in self.constants:
            return self._constant(name, wanted)
        if self.types.get(name, wanted) == wanted:
            return self.names.get((name, wanted), name)
        if (name, wanted) not in self.names:
            source = self.names.get((name, self.types[name]), name)
            cast = f"{name}{_SUFFIX[wanted]}"
            self.nodes.append(helper.make_node("Cast", [source], [cast], cast, to=wanted))
            self.names[name, wanted] = cast
        return self.names[name, wanted]

    def _constant(self, name: str, wanted: int) -> str:
        if wanted == _FULL:
            return name
        limit = np.finfo(np.float16)
        value = np.clip(numpy_helper.to_array(self.graph.constants[name]), limit.min, limit.max)
        half = f"{name}{_SUFFIX[_HALF]}"
        tensor = numpy_helper.from_array(value.astype(np.float16), half)
        self.graph.constants.setdefault(half, tensor)
        return half
