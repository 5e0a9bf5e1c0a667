"""Bundles in int8 and fp16: their graphs, their manifests, and finite logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from blip_onnx.generate import Bundle, CachedDecoder
from blip_onnx.precision import VOCABULARY
from support.exporting import TINY, Exporter

EVERYTHING = ("--min-agreement", "0")
GRAPHS = ("vision_encoder.onnx", "text_decoder.onnx")
# Self-attention 2, cross-attention 2, feed-forward 2; in the encoder's graph key and value.
DECODER_LINEARS = 6 * TINY.text.layers + 2
ENCODER_LINEARS = 4 * TINY.vision.layers + 2 * TINY.text.layers


@pytest.fixture(scope="module")
def bundles(exporter: Exporter, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny checkpoint in int8 and in fp16."""
    folder = tmp_path_factory.mktemp("precisions")
    for precision in ("int8", "fp16"):
        exporter.export(tiny, folder / precision, "--precision", precision, *EVERYTHING)
    return folder


def load_graph(path: Path) -> onnx.GraphProto:
    return onnx.load(path, load_external_data=False).graph


def count(graph: onnx.GraphProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in graph.node)


def test_int8_quantises_every_linear_layer(bundles: Path) -> None:
    vision, text = (load_graph(bundles / "int8" / name) for name in GRAPHS)
    assert count(vision, "DynamicQuantizeMatMul") == ENCODER_LINEARS
    assert count(vision, "MultiHeadAttention") == TINY.vision.layers
    assert count(vision, "MatMul") == count(vision, "MatMulNBits") == 0
    assert count(text, "MatMulNBits") == DECODER_LINEARS
    # The remaining products are those of attention.
    assert count(text, "MatMul") == 4 * TINY.text.layers
    assert count(text, "Gemm") == count(text, "DynamicQuantizeMatMul") == 0
    for name in GRAPHS:
        opsets = onnx.load(bundles / "int8" / name, load_external_data=False).opset_import
        assert {(entry.domain, entry.version) for entry in opsets} == {
            ("", 20),
            ("com.microsoft", 1),
        }


def test_int8_weights_are_aligned_in_the_external_data(bundles: Path) -> None:
    for name, kind in zip(GRAPHS, (TensorProto.INT8, TensorProto.UINT8), strict=True):
        graph = load_graph(bundles / "int8" / name)
        quantised = [tensor for tensor in graph.initializer if tensor.data_type == kind]
        assert len(quantised) == count(graph, "DynamicQuantizeMatMul") + count(graph, "MatMulNBits")
        for tensor in quantised:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == f"{name}.data"
            assert int(entries["length"]) == np.prod(tensor.dims)
            assert int(entries["offset"]) % 64 == 0


def test_in_int8_only_the_embedding_reads_the_vocabulary_in_fp32(bundles: Path) -> None:
    graph = load_graph(bundles / "int8" / "text_decoder.onnx")
    tables = {t.name: t.data_type for t in graph.initializer if 30524 in t.dims and len(t.dims) > 1}
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    assert tables.pop(words) == TensorProto.FLOAT
    assert {node.op_type for node in graph.node if words in node.input} == {"Gather"}
    assert tables == {
        f"{VOCABULARY}.weight": TensorProto.UINT8,
        f"{VOCABULARY}.weight/scale": TensorProto.FLOAT,
    }


def test_fp16_inputs_and_outputs_are_those_of_fp32(bundles: Path, bundle: Path) -> None:
    for name in GRAPHS:
        half, full = (load_graph(folder / name) for folder in (bundles / "fp16", bundle))
        assert list(half.input) == list(full.input)
        assert list(half.output) == list(full.output)


def test_fp16_stores_weights_in_half_precision_and_normalises_in_fp32(bundles: Path) -> None:
    for name in GRAPHS:
        path = bundles / "fp16" / name
        graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=False).graph
        types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        weights = [tensor for tensor in graph.initializer if "constant" not in tensor.name]
        assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
        for node in graph.node:
            if node.op_type == "MatMul":
                # Shape inference stops at MultiHeadAttention.
                known = {types[value] for value in node.input if value in types}
                assert known == {TensorProto.FLOAT16}
            if node.op_type in ("LayerNormalization", "Gemm"):
                assert {types[value] for value in node.input} == {TensorProto.FLOAT}
        halves = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT16]
        assert all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in halves)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_manifest_describes_the_quantisation(bundles: Path, precision: str) -> None:
    written = json.loads((bundles / precision / "manifest.json").read_text("utf-8"))
    assert written["precision"] == precision
    figures = written["quantization"]
    assert sorted(figures) == ["agreement", "captions", "cider", "images", "kept", "quantized"]
    assert (figures["images"], figures["captions"]) == (2, 4)
    assert figures["kept"] == ([VOCABULARY] if precision == "fp16" else [])
    assert figures["quantized"] + len(figures["kept"]) == ENCODER_LINEARS + DECODER_LINEARS
    assert 0 <= figures["agreement"] <= 1
    assert 0 <= figures["cider"] <= 10
    verified = written["verification"]
    assert (verified["images"], verified["cases"]) == (2, 4)
    assert 1e-4 < verified["max_abs_logit_difference"] < 3


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("level", [0.0, 1.0, 50.0])
def test_logits_are_finite_for_any_image(bundles: Path, precision: str, level: float) -> None:
    loaded = Bundle(bundles / precision, threads=1)
    shape = (1, 3, TINY.image_size, TINY.image_size)
    pixels = level * np.random.default_rng(0).standard_normal(shape, np.float32)
    decoder = CachedDecoder(loaded, loaded.encode(pixels), capacity=12)
    ids, parents = np.full((2, 3), 1037), None
    for token in range(5):
        logits = decoder(ids, parents)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        parents = np.arange(2)
        ids = np.concatenate([ids, np.full((2, 1), 1000 + token)], axis=1)
