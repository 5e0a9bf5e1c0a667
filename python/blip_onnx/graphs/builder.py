"""Builds ONNX graphs from weights.

Weights keep their name in the state_dict. Dense weights are stored `[in, out]`, the operand order
of MatMul, so that no transpose is left for load time. The `Plan` says by a layer's name in which
precision the layer is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blip_onnx import ExportError
from blip_onnx.graphs import int8
from blip_onnx.precision import Plan, Scheme

# The domain of ONNX Runtime's contributed operators; imported only by graphs that use them.
CONTRIB = "com.microsoft"

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass
class GraphBuilder:
    """An ONNX graph under construction, in the precisions of `plan`."""

    name: str
    plan: Plan = field(default_factory=Plan)
    # The checkpoint's weights, from which `linear`, `layer_norm` and `weight` take theirs.
    state_dict: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    # Every linear layer with the name of the value that it multiplies.
    linears: dict[str, str] = field(default_factory=dict)
    # Initializers that are stored in the type of their array, whatever the plan.
    typed: set[str] = field(default_factory=set)

    def input(self, name: str, elem_type: int, shape: list[str | int]) -> str:
        """Declare a graph input; a string in `shape` is a dimension known only at run time."""
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, shape))
        return name

    def output(self, name: str, elem_type: int, shape: list[str | int]) -> None:
        """Declare a graph output."""
        self.outputs.append(helper.make_tensor_value_info(name, elem_type, shape))

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = f"{op_type}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name, **attributes))
        return output

    def split(self, x: str, parts: int) -> list[str]:
        """Split `x` into equal parts of its last axis."""
        name = f"Split_{len(self.nodes)}"
        outputs = [f"{name}_{part}" for part in range(parts)]
        node = helper.make_node("Split", [x], outputs, name, axis=-1, num_outputs=parts)
        self.nodes.append(node)
        return outputs

    def weight(self, name: str, array: np.ndarray | None = None) -> str:
        """Return an fp32 value with the weight `name` of the state_dict, or with `array`.

        A name that was added before is the same initializer.
        """
        value = f"{name}/fp32" if self.plan.stores_fp16 else name
        if name not in self.initializers:
            self.initializers[name] = self.state_dict[name] if array is None else array
            if self.plan.stores_fp16:
                self.op("Cast", name, output=value, to=TensorProto.FLOAT)
        return value

    def constant(self, value: float | list[int]) -> str:
        """Add a small int64 or fp32 constant, inline so that shape inference sees it."""
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        values = "x".join(map(repr, np.ravel(array).tolist()))
        name = f"constant_{array.dtype}_{values}_{array.ndim}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def linear(
        self,
        x: str,
        name: str,
        *,
        rows: slice = slice(None),
        table: str | None = None,
        output: str | None = None,
    ) -> str:
        """Multiply as the torch Linear `name`: `x @ W.T + b`.

        `rows` selects some of its outputs. `table` names the weight under which W is stored in
        torch's layout `[out, in]`, because another operator gathers its rows.
        """
        self.linears[name] = x
        part = "" if rows == slice(None) else f"[{rows.start}:{rows.stop}]"
        matrix = self.state_dict[f"{name}.weight"][rows]  # [out, in]
        bias = self.weight(f"{name}.bias{part}", self.state_dict[f"{name}.bias"][rows])
        match self.plan.scheme(name):
            case Scheme.DYNAMIC:
                return self._dynamic(x, f"{name}.weight{part}", matrix, bias)
            case Scheme.BLOCKS:
                return self._blocks(x, f"{name}.weight{part}", matrix, bias, output)
        if table:
            return self.op("Gemm", x, self.weight(table, matrix), bias, output=output, transB=1)
        product = self.op("MatMul", x, self.weight(f"{name}.weight{part}", matrix.T))
        return self.op("Add", product, bias, output=output)

    def _dynamic(self, x: str, name: str, matrix: np.ndarray, bias: str) -> str:
        values, scale = int8.quantize_per_column(matrix.T)
        inputs = [x, self._typed(name, values), self._typed(f"{name}/scale", scale), "", bias]
        return self.op("DynamicQuantizeMatMul", *inputs, domain=CONTRIB)

    def _blocks(self, x: str, name: str, matrix: np.ndarray, bias: str, output: str | None) -> str:
        values, scale = int8.quantize_in_blocks(matrix)
        inputs = [x, self._typed(name, values), self._typed(f"{name}/scale", scale), "", "", bias]
        return self.op(
            "MatMulNBits",
            *inputs,
            output=output,
            domain=CONTRIB,
            N=matrix.shape[0],
            K=matrix.shape[1],
            bits=8,
            block_size=int8.BLOCK,
            # Selects the fast kernel, which quantises the activations as well.
            accuracy_level=4,
        )

    def _typed(self, name: str, array: np.ndarray) -> str:
        self.initializers[name] = array
        self.typed.add(name)
        return name

    def layer_norm(self, x: str, name: str, epsilon: float) -> str:
        """Normalise over the last axis as the LayerNorm `name`."""
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def activation(self, x: str, hidden_act: str) -> str:
        """Apply the activation that transformers calls `hidden_act`."""
        match _ACTIVATIONS.get(hidden_act):
            case "gelu":
                return self.op("Gelu", x)
            case "gelu_tanh":
                return self.op("Gelu", x, approximate="tanh")
            case "relu":
                return self.op("Relu", x)
            case "quick_gelu":
                gate = self.op("Sigmoid", self.op("Mul", x, self.constant(1.702)))
                return self.op("Mul", x, gate)
            case "silu":
                return self.op("Mul", x, self.op("Sigmoid", x))
        known = ", ".join(_ACTIVATIONS)
        raise ExportError(f"hidden_act: unknown activation {hidden_act!r}, must be one of {known}")

    def split_heads(
        self, x: str, heads: int, head_dim: int, perm: tuple[int, ...], output: str | None = None
    ) -> str:
        """Reshape `[batch, length, hidden]` to `[batch, length, heads, head_dim]` and transpose."""
        split = self.op("Reshape", x, self.constant([0, 0, heads, head_dim]))
        return self.op("Transpose", split, output=output, perm=perm)
