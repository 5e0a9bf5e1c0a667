"""The vision graph against a lower bound, the speed of one large product on the same machine.

The bound ("floor") is the sum over the graph's products of operations / rate, each at the rate of
its precision. The rate is that of ONNX Runtime in a session with one MatMul of BLIP-large's widest
layer, measured in the same rounds on the same threads.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.measure import interleave, measure_seconds
from bench.settings import Result, Settings
from bench.subjects.peers import random_pixels
from blip_onnx.generate import Bundle

# The first layer of BLIP-large's MLP.
_ROWS, _INNER, _COLUMNS = 577, 1024, 4096
_PRODUCT = 2 * _ROWS * _INNER * _COLUMNS
_REPEATS = 5


def measure(settings: Settings) -> Result:
    """Measure encoder runs and single products in turn."""
    result = Result()
    bundles = {name: Bundle(path) for name, path in settings.model.bundles.items()}
    size = next(iter(bundles.values())).manifest["vision"]["image_size"]
    pixels = random_pixels([1, 3, size, size])
    products = {
        "fp32": [_session("MatMul", np.float32)],
        # The product in int32, and the operator of the bundles, which returns fp32.
        "int8": [_session("MatMulInteger", np.int8), _session("DynamicQuantizeMatMul", np.int8)],
    }

    def rate(precision: str) -> float:
        repeats = settings.pick(_REPEATS, quick=1)
        return max(_PRODUCT / _median_run(*product, repeats) for product in products[precision])

    subjects = {f"rate {name}": lambda _, name=name: rate(name) for name in products}
    for name, bundle in bundles.items():
        subjects[name] = lambda _, bundle=bundle: measure_seconds(lambda: bundle.encode(pixels))
    seen = interleave(subjects, settings.rounds)
    for name in bundles:
        work = operations(settings.model.bundles[name])
        floors = [
            sum(count / seen[f"rate {precision}"][index] for precision, count in work.items())
            for index in range(settings.rounds)
        ]
        shares = [floor / whole for floor, whole in zip(floors, seen[name], strict=True)]
        result.add(f"encoder floor / encoder, {name}", shares)
        result.details[f"operations {name}"] = dict(work)
    result.add_seconds({f"encoder {name}": seen[name] for name in bundles})
    rates = {name: f"{median(seen[f'rate {name}']) / 1e9:.0f}" for name in products}
    result.details["rates, 10^9 operations/s"] = rates
    return result


def operations(bundle: Path) -> Counter[str]:
    """Count multiplications and additions of the vision graph for one image, by precision."""
    vision = json.loads((bundle / "manifest.json").read_text("utf-8"))["vision"]
    tokens, hidden = vision["num_tokens"], vision["hidden_size"]
    graph = onnx.load(bundle / "vision_encoder.onnx", load_external_data=False).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    # A weight may be stored in fp16 and cast.
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    work: Counter[str] = Counter()
    for node in graph.node:
        shape = shapes.get(node.input[1]) if len(node.input) > 1 else None
        match node.op_type:
            case "Conv":
                work["fp32"] += 2 * (tokens - 1) * math.prod(shape)
            case "MatMul" if shape:
                work["fp32"] += 2 * tokens * math.prod(shape)
            case "DynamicQuantizeMatMul":
                work["int8"] += 2 * tokens * math.prod(shape)
            case "MatMul":
                # The scores, or their product with the values.
                work["fp32"] += 2 * tokens * tokens * hidden
            case "MultiHeadAttention":
                work["fp32"] += 4 * tokens * tokens * hidden
            case name if "MatMul" in name or name in ("Gemm", "Attention", "Einsum"):
                raise ValueError(f"the operations of {name} in the vision graph are not counted")
    return work


def _session(op: str, dtype: type) -> tuple[onnxruntime.InferenceSession, dict[str, np.ndarray]]:
    """Create a session of one product with a constant weight, and its input."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((_INNER, _COLUMNS)) * 40).astype(dtype)
    x = rng.standard_normal((_ROWS, _INNER)).astype(np.float32)
    initializers = [numpy_helper.from_array(weight, "weight")]
    inputs, output, domain = ["x", "weight"], TensorProto.FLOAT, ""
    if op == "MatMulInteger":
        x = (x * 40 + 128).clip(0, 255).astype(np.uint8)
        output = TensorProto.INT32
    if op == "DynamicQuantizeMatMul":
        scale = np.full(_COLUMNS, 0.01, np.float32)
        initializers.append(numpy_helper.from_array(scale, "scale"))
        inputs, domain = [*inputs, "scale"], "com.microsoft"
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], domain=domain)],
        op,
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", output, [_ROWS, _COLUMNS])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    serialized = model.SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, ["CPUExecutionProvider"])
    return session, {"x": x}


def _median_run(
    session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], repeats: int
) -> float:
    return median(measure_seconds(lambda: session.run(None, feeds)) for _ in range(repeats))
