"""Writes graphs with their weights outside the protobuf, aligned for memory mapping.

The weights are in `<graph>.onnx.data`, so the protobuf stays small for models of any size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blip_onnx import ExportError
from blip_onnx.graphs import fp16
from blip_onnx.graphs.builder import CONTRIB, GraphBuilder

OPSET = 20
IR_VERSION = 9
# A protobuf message cannot reach 2 GiB.
PROTOBUF_LIMIT = 2**31 - 1

# Initializers below this size, in bytes, stay inside the protobuf.
INLINE_LIMIT = 1024
# Tensors of at least this size, in bytes, start on a page, so that they can be mapped.
PAGE_LIMIT = 64 * 1024


def save_graph(graph: GraphBuilder, path: Path) -> None:
    """Write `path` and, beside it, `path`.data with the weights.

    Raises `ExportError` if the protobuf would reach 2 GiB.
    """
    plan = graph.plan
    if plan.precision == "fp16":
        fp16.convert(graph)
    stored = np.float16 if plan.stores_fp16 or plan.precision == "fp16" else np.float32
    initializers = list(graph.constants.values())
    with open(f"{path}.data", "wb") as data:
        for name, array in graph.initializers.items():
            # Tensors are copied one by one, so a large model needs no second copy in memory.
            dtype = array.dtype if name in graph.typed else stored
            array = np.ascontiguousarray(array, dtype)
            initializers.append(write_tensor(name, array, data))
    content = helper.make_graph(graph.nodes, graph.name, graph.inputs, graph.outputs, initializers)
    model = helper.make_model(
        content,
        opset_imports=[helper.make_opsetid(*entry) for entry in _opsets(graph)],
        ir_version=IR_VERSION,
        producer_name="blip-serve",
    )
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ExportError(f"{path.name}: must be below 2 GiB, the limit of a protobuf")
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def _opsets(graph: GraphBuilder) -> list[tuple[str, int]]:
    contrib = any(node.domain == CONTRIB for node in graph.nodes)
    return [("", OPSET), (CONTRIB, 1)] if contrib else [("", OPSET)]


def write_tensor(name: str, array: np.ndarray, data: Any) -> TensorProto:
    """Return the initializer `name`, inline if small, else appended to the open file `data`."""
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
