"""Builds ONNX graphs from weights: nodes, initializers and their external data file.

Weights keep their name in the state_dict. Dense weights are stored `[in, out]`, the operand order
of MatMul, so that no transpose is left for load time. They live in `<graph>.onnx.data`, aligned
for memory mapping; the protobuf itself stays small whatever the size of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blip_onnx import ExportError

OPSET = 20
IR_VERSION = 9
# A protobuf message cannot reach 2 GiB.
PROTOBUF_LIMIT = 2**31 - 1
# Smaller initializers stay inside the protobuf: bytes.
INLINE_LIMIT = 1024
# Tensors from this size on start on a page, so that they can be mapped: bytes.
PAGE_LIMIT = 64 * 1024

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
    """One ONNX graph in the making.

    With `half`, weights are stored in fp16 and cast to fp32 inside the graph; the caller has
    checked that this loses nothing.
    """

    name: str
    half: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)

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

    def weight(self, name: str, array: np.ndarray) -> str:
        """A weight as fp32 value of the graph; the same name twice is the same initializer."""
        value = f"{name}/fp32" if self.half else name
        if name not in self.weights:
            self.weights[name] = array
            if self.half:
                self.op("Cast", name, output=value, to=TensorProto.FLOAT)
        return value

    def constant(self, value: float | list[int]) -> str:
        """A small int64 or fp32 constant, inline so that shape inference sees it."""
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        name = (
            f"constant_{array.dtype}_{'x'.join(map(repr, np.ravel(array).tolist()))}_{array.ndim}"
        )
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, weights: dict[str, np.ndarray], name: str) -> str:
        """`x @ W.T + b` of a torch Linear called `name`."""
        product = self.op("MatMul", x, self.weight(f"{name}.weight", weights[f"{name}.weight"].T))
        return self.op("Add", product, self.weight(f"{name}.bias", weights[f"{name}.bias"]))

    def layer_norm(self, x: str, weights: dict[str, np.ndarray], name: str, epsilon: float) -> str:
        """LayerNorm over the last axis, with the tower's own epsilon."""
        scale = self.weight(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.weight(f"{name}.bias", weights[f"{name}.bias"])
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def activation(self, x: str, hidden_act: str) -> str:
        """The activation that transformers calls `hidden_act`."""
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
        raise ExportError(f"activation {hidden_act!r} is not supported (supported: {known})")

    def split_heads(
        self, x: str, heads: tuple[int, int], perm: tuple[int, ...], output: str | None = None
    ) -> str:
        """`[batch, length, hidden]` to `[batch, length, *heads]`, axes in the order of `perm`.

        `heads` is (number of heads, head_dim).
        """
        split = self.op("Reshape", x, self.constant([0, 0, *heads]))
        return self.op("Transpose", split, output=output, perm=perm)

    def save(self, path: Path) -> None:
        """Write `path` and, beside it, `path`.data with the weights."""
        initializers = list(self.constants.values())
        with open(f"{path}.data", "wb") as data:
            for name, array in self.weights.items():
                # One tensor at a time is copied, so a large model needs no second copy in memory.
                array = np.ascontiguousarray(array, np.float16 if self.half else np.float32)
                initializers.append(_write_tensor(name, array, data))
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="blip-serve",
        )
        if model.ByteSize() > PROTOBUF_LIMIT:
            raise ExportError(f"{path.name} does not fit into a protobuf of 2 GiB")
        path.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(path))


def _write_tensor(name: str, array: np.ndarray, data: Any) -> TensorProto:
    """The initializer `name`: inline when small, else appended to the open file `data`."""
    if array.nbytes < INLINE_LIMIT:
        return numpy_helper.from_array(array, name)
    alignment = 4096 if array.nbytes >= PAGE_LIMIT else 64
    data.write(b"\0" * (-data.tell() % alignment))
    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    location = {"location": Path(data.name).name, "offset": data.tell(), "length": array.nbytes}
    for key, value in location.items():
        tensor.external_data.add(key=key, value=str(value))
    data.write(memoryview(array).cast("B"))
    return tensor
