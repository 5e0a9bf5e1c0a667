"""The parts of the lower precisions: int8 arithmetic, fp16 graphs, CIDEr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from blip_onnx import ExportError
from blip_onnx.generate import session_options
from blip_onnx.graphs import int8
from blip_onnx.graphs.builder import GraphBuilder
from blip_onnx.graphs.external_data import save_graph
from blip_onnx.precision import Plan
from blip_onnx.verification.cider import cider

ENCODER, DECODER = "vision_model.layer", "text_decoder.layer"


def linear(name: str, inner: int, outer: int) -> dict[str, np.ndarray]:
    """Returns random weights of one torch Linear."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((outer, inner), np.float32) / np.sqrt(np.float32(inner))
    return {f"{name}.weight": matrix, f"{name}.bias": rng.standard_normal(outer, np.float32)}


def session(folder: Path, plan: Plan, name: str, weights: dict) -> onnxruntime.InferenceSession:
    """Returns a session of a graph with this layer only."""
    outer, inner = weights[f"{name}.weight"].shape
    graph = GraphBuilder("linear", plan, weights)
    x = graph.input("x", TensorProto.FLOAT, ["rows", "length", inner])
    graph.op("Identity", graph.linear(x, name), output="y")
    graph.output("y", TensorProto.FLOAT, ["rows", "length", outer])
    save_graph(graph, folder / "linear.onnx")
    return onnxruntime.InferenceSession(folder / "linear.onnx", session_options())


@pytest.mark.parametrize(("inner", "outer"), [(48, 192), (768, 768), (96, 384)])
def test_numpy_computes_the_same_int8_products_as_the_kernels(
    tmp_path: Path, inner: int, outer: int
) -> None:
    x = np.random.default_rng(1).standard_normal((1, 17, inner), np.float32)
    flat = x[0]
    for name in (ENCODER, DECODER):
        weights = linear(name, inner, outer)
        ours = session(tmp_path, Plan("int8"), name, weights).run(None, {"x": x})[0][0]
        matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if name == ENCODER:
            seen = int8.fake_quantize_per_tensor(flat, float(x.min()), float(x.max()))
            expected = seen @ int8.fake_quantize_per_column(matrix.T)
        else:
            expected = int8.fake_quantize_in_blocks(flat) @ int8.fake_quantize_in_blocks(matrix).T
        np.testing.assert_allclose(ours, expected + bias, atol=2e-5)
        error = np.abs(ours - (flat @ matrix.T + bias)).max()
        assert 1e-4 < error < 0.1


@pytest.mark.parametrize(("inner", "outer"), [(768, 768), (768, 3072), (3072, 768), (80, 200)])
def test_a_quantised_decoder_row_has_the_same_bits_in_a_batch_of_any_size(
    tmp_path: Path, inner: int, outer: int
) -> None:
    weights = linear(DECODER, inner, outer)
    run = session(tmp_path, Plan("int8"), DECODER, weights).run
    x = np.random.default_rng(1).standard_normal((16, 1, inner), np.float32)
    together = run(None, {"x": x})[0]
    for rows in (1, 2, 3, 4, 5, 8):
        for start in range(0, 17 - rows, rows):
            part = slice(start, start + rows)
            assert np.array_equal(run(None, {"x": x[part]})[0], together[part])


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_a_column_of_zeros_stays_zero(tmp_path: Path, name: str) -> None:
    weights = linear(name, 64, 8)
    weights[f"{name}.weight"][3] = 0
    x = np.random.default_rng(1).standard_normal((1, 4, 64), np.float32)
    run = session(tmp_path, Plan("int8"), name, weights).run
    assert np.array_equal(
        run(None, {"x": x})[0][..., 3], np.full((1, 4), weights[f"{name}.bias"][3])
    )
    # The activations of an image may be all zero, too.
    nothing = run(None, {"x": np.zeros_like(x)})[0]
    np.testing.assert_allclose(nothing[0, 0], weights[f"{name}.bias"], atol=1e-6)


def masked_attention(plan: Plan) -> GraphBuilder:
    """Builds the attention of one query with the lowest float on masked keys."""
    graph = GraphBuilder("masked", plan)
    scores = graph.input("scores", TensorProto.FLOAT, [1, 3])
    graph.input("keep", TensorProto.BOOL, [1, 3])
    graph.input("value", TensorProto.FLOAT, [3, 1])
    lowest = graph.constant(float(np.finfo(np.float32).min))
    mask = graph.op("Where", "keep", graph.constant(0.0), lowest)
    scaled = graph.op("Mul", scores, graph.constant(1.0))
    probabilities = graph.op("Softmax", graph.op("Add", scaled, mask), axis=-1)
    graph.op("MatMul", probabilities, "value", output="y")
    graph.output("y", TensorProto.FLOAT, [1, 1])
    return graph


def test_a_mask_has_the_same_effect_in_fp16_as_in_fp32(tmp_path: Path) -> None:
    feeds = {
        "scores": np.array([[1, 2, -3]], np.float32),
        "keep": np.array([[True, True, False]]),
        "value": np.array([[1], [2], [3]], np.float32),
    }
    results = {}
    for precision in ("fp32", "fp16"):
        graph = masked_attention(Plan(precision))
        save_graph(graph, tmp_path / "masked.onnx")
        run = onnxruntime.InferenceSession(tmp_path / "masked.onnx").run
        results[precision] = run(None, feeds)[0]
        # In unused rows of a batch every key may be masked.
        assert np.isfinite(run(None, feeds | {"keep": np.zeros((1, 3), bool)})[0]).all()
    np.testing.assert_allclose(results["fp16"], results["fp32"], atol=2e-3)


def test_a_weight_that_fp16_cannot_hold_is_refused(tmp_path: Path) -> None:
    weights = linear(ENCODER, 8, 8)
    weights[f"{ENCODER}.bias"][0] = 7e4
    with pytest.raises(ExportError, match="layer.bias: does not fit into fp16"):
        session(tmp_path, Plan("fp16"), ENCODER, weights)


def test_cider_equals_the_reference_implementation() -> None:
    references = [
        "a dog next to a house on a red background",
        "two cats on a blue background",
        "a boat",
        "a bird above an owl on a red background",
    ]
    captions = [
        "a dog above a house on a red background",
        "two cats on a blue background",
        "a boat on a pink background",
        "an owl",
    ]
    # From CiderScorer of pycocoevalcap 1.2.
    assert cider(captions, references) == pytest.approx(4.685779148447929)
    assert cider(references[:2], references[:2]) == pytest.approx(10)
    assert cider(["a"], ["a"]) == 0
