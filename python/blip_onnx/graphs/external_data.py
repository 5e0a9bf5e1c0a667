"""Weights outside the protobuf, aligned for memory mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

# Smaller initializers stay inside the protobuf: bytes.
INLINE_LIMIT = 1024
# Tensors from this size on start on a page, so that they can be mapped: bytes.
PAGE_LIMIT = 64 * 1024


def write_tensor(name: str, array: np.ndarray, data: Any) -> TensorProto:
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
