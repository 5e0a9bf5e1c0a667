"""What an exported bundle contains: its graphs, its weights and its manifest.

All tests use a tiny random checkpoint; transformers is the only source of expected values.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from onnx import TensorProto
from transformers import BlipForConditionalGeneration
from transformers.activations import ACT2FN

from blip_onnx import ExportError, checkpoint, manifest
from blip_onnx.graphs import builder as graph
from blip_onnx.graphs import external_data
from support.exporting import TINY, Exporter, edit_json

GRAPHS = ("vision_encoder.onnx", "text_decoder.onnx")


def load_graph(path: Path) -> onnx.ModelProto:
    """Loads a graph without its weights."""
    return onnx.load(path, load_external_data=False)


def test_the_decoder_takes_cross_attention_keys_and_values_not_hidden_states(bundle: Path) -> None:
    model = load_graph(bundle / "text_decoder.onnx")
    expected = {"input_ids", "past_lengths", "image_rows", "row_slots"} | {
        f"past_key_values.{layer}.{side}.{kind}"
        for layer in range(TINY.text.layers)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    }
    assert {value.name for value in model.graph.input} == expected


def test_cross_attention_keys_and_values_are_only_multiplied(bundle: Path) -> None:
    nodes = load_graph(bundle / "text_decoder.onnx").graph.node
    inputs = {
        f"past_key_values.{layer}.encoder.{kind}"
        for layer in range(TINY.text.layers)
        for kind in ("key", "value")
    }
    # A view with two more dimensions, not a copy.
    views = {
        node.output[0] for node in nodes if node.op_type == "Unsqueeze" and node.input[0] in inputs
    }
    assert len(views) == len(inputs)
    consumers = [
        (node.op_type, name) for node in nodes for name in node.input if name in inputs | views
    ]
    assert {op for op, name in consumers if name in views} == {"MatMul"}
    assert {op for op, name in consumers if name in inputs} <= {"Unsqueeze", "Shape"}
    assert not {"Expand", "Tile"} & {node.op_type for node in nodes}


def test_the_vision_graph_emits_every_layers_keys_and_values(bundle: Path) -> None:
    outputs = load_graph(bundle / "vision_encoder.onnx").graph.output
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in outputs
    }
    heads, head_dim, tokens = TINY.text.heads, TINY.text.hidden // TINY.text.heads, 17
    expected = {}
    for layer in range(TINY.text.layers):
        expected[f"present.{layer}.encoder.key"] = ["batch", heads, head_dim, tokens]
        expected[f"present.{layer}.encoder.value"] = ["batch", heads, tokens, head_dim]
    assert shapes == expected


def vocabulary_tables(path: Path) -> dict[str, set[str]]:
    """Returns the names of the `[vocab, hidden]` initializers, each with the ops that read it."""
    model = load_graph(path).graph
    return {
        tensor.name: {node.op_type for node in model.node if tensor.name in node.input}
        for tensor in model.initializer
        if list(tensor.dims) == [30524, TINY.text.hidden]
    }


def test_tied_embeddings_are_one_initializer(bundle: Path) -> None:
    tables = vocabulary_tables(bundle / "text_decoder.onnx")
    assert list(tables.values()) == [{"Gather", "Gemm"}]


def test_untied_embeddings_are_two_initializers(
    exporter: Exporter, copy: Path, tmp_path: Path
) -> None:
    # transformers ties the two unless the file holds both and they differ.
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    table = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    weights["text_decoder.cls.predictions.decoder.weight"] = table.flip(1).contiguous()
    safetensors.torch.save_file(weights, copy / "model.safetensors", {"format": "pt"})
    # The export verifies its captions: with one table they would differ.
    exporter.export(copy, tmp_path / "bundle")
    tables = vocabulary_tables(tmp_path / "bundle" / "text_decoder.onnx")
    assert sorted(tables.values(), key=sorted) == [{"Gather"}, {"Gemm"}]


def test_weights_that_fp16_represents_exactly_are_stored_in_fp16(
    exporter: Exporter, bundle: Path, tmp_path: Path
) -> None:
    def halve(model: BlipForConditionalGeneration) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.half())

    checkpoint_folder = exporter.save(tmp_path / "checkpoint", halve)
    written = exporter.export(checkpoint_folder, tmp_path / "bundle")
    assert written["precision"] == "fp32"
    for name in GRAPHS:
        half, full = (load_graph(folder / name).graph for folder in (tmp_path / "bundle", bundle))
        assert weight_types(half) == {TensorProto.FLOAT16}
        assert weight_types(full) == {TensorProto.FLOAT}
    table = vocabulary_tables(tmp_path / "bundle" / "text_decoder.onnx")
    assert list(table.values()) == [{"Cast"}]


def weight_types(model: onnx.GraphProto) -> set[int]:
    return {
        tensor.data_type for tensor in model.initializer if not tensor.name.startswith("constant")
    }


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_keep_the_contract_and_store_large_weights_outside_the_protobuf(
    bundle: Path, name: str
) -> None:
    model = load_graph(bundle / name)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]
    locations = {tensor.data_location for tensor in model.graph.initializer}
    assert TensorProto.EXTERNAL in locations
    for tensor in model.graph.initializer:
        size = int(np.prod(tensor.dims)) * 4
        assert (tensor.data_location == TensorProto.EXTERNAL) == (
            size >= external_data.INLINE_LIMIT
        )
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == f"{name}.data"
            assert int(entries["offset"]) % (4096 if size >= external_data.PAGE_LIMIT else 64) == 0


def test_a_graph_beyond_the_protobuf_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(external_data, "PROTOBUF_LIMIT", 100)
    builder = graph.GraphBuilder("too_big")
    x = builder.input("x", TensorProto.FLOAT, [1])
    builder.op("Add", x, builder.constant(1.0), output="y")
    builder.output("y", TensorProto.FLOAT, [1])
    with pytest.raises(ExportError, match="2 GiB"):
        external_data.save_graph(builder, tmp_path / "too_big.onnx")


def test_the_manifest_describes_the_checkpoint_and_has_correct_checksums(bundle: Path) -> None:
    written = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert sorted(written["files"]) == sorted(
        path.name for path in bundle.iterdir() if path.name != "manifest.json"
    )
    for name, entry in written["files"].items():
        content = (bundle / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert written["text"] == {
        "vocab_size": 30524,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "bos_token_id": 30522,
        "eos_token_id": 102,
        "pad_token_id": 0,
    }
    assert written["preprocessor"]["image_mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert written["generation"] == {"max_new_tokens": 20, "num_beams": 1}
    figures = written["verification"]
    assert (figures["images"], figures["cases"]) == (2, 8)
    assert 0 < figures["max_abs_logit_difference"] < 1e-2


def test_generation_defaults_are_those_of_the_text_decoder(copy: Path) -> None:
    # transformers drops num_beams from text_config and ignores generation_config.json for BLIP, but
    # keeps settings without a global default.
    def change(content: dict[str, Any]) -> None:
        content["text_config"] |= {"num_beams": 4, "min_new_tokens": 3}

    edit_json(copy / "config.json", change)
    edit_json(copy / "generation_config.json", lambda content: content.update(num_beams=7))
    loaded = checkpoint.load(str(copy), None)
    described = manifest.describe(loaded, "fp32", "white", "pillow13")
    assert described["generation"] == {
        "max_new_tokens": 20,
        "num_beams": 1,
        "min_new_tokens": loaded.model.text_decoder.generation_config.min_new_tokens,
    }
    assert described["generation"]["min_new_tokens"] == 3


def test_a_pytorch_bin_checkpoint_loads_the_same_weights(tiny: Path, copy: Path) -> None:
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    expected = checkpoint.load(str(tiny), None).model.state_dict()
    loaded = checkpoint.load(str(copy), None).model.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("hidden_act", list(graph._ACTIVATIONS))
def test_activations_equal_those_of_transformers(hidden_act: str, tmp_path: Path) -> None:
    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    builder = graph.GraphBuilder("activation")
    name = builder.input("x", TensorProto.FLOAT, [len(x)])
    builder.op("Identity", builder.activation(name, hidden_act), output="y")
    builder.output("y", TensorProto.FLOAT, [len(x)])
    external_data.save_graph(builder, tmp_path / "activation.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "activation.onnx")
    expected = ACT2FN[hidden_act](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-6, atol=2e-6)
