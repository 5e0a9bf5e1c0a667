"""Writes the files of a bundle: both graphs, the tokenizer and the manifest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_onnx.checkpoint import Checkpoint
from blip_onnx.generate import Bundle
from blip_onnx.graphs import text_decoder, vision_encoder
from blip_onnx.graphs.external_data import save_graph
from blip_onnx.precision import Plan

MANIFEST = "manifest.json"
GRAPHS = ("vision_encoder.onnx", "text_decoder.onnx")


@dataclass(frozen=True)
class Writer:
    """One checkpoint, to be written in one precision or another."""

    checkpoint: Checkpoint
    weights: dict[str, np.ndarray]
    # fp16 holds every weight exactly.
    half: bool
    # The vocabulary projection equals the word embeddings.
    tied: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Writer:
        """A writer of `checkpoint`; its weights are shared, not copied."""
        state = checkpoint.model.state_dict()
        weights = {name: tensor.numpy() for name, tensor in state.items()}
        weights |= text_decoder.packed(checkpoint.config, weights)
        return cls(checkpoint, weights, _fits_half(weights), _is_tied(weights))

    def write(self, folder: Path, plan: Plan, manifest: dict[str, Any]) -> dict[str, str]:
        """Fill `folder`; every linear layer with the name of the value that it multiplies."""
        plan = dataclasses.replace(plan, half=self.half and plan.precision != "fp16")
        config = self.checkpoint.config
        linears: dict[str, str] = {}
        # One graph at a time, so that the quantised weights of only one are in memory.
        for name in GRAPHS:
            if name == GRAPHS[0]:
                graph = vision_encoder.build(config, self.weights, plan)
            else:
                graph = text_decoder.build(config, self.weights, plan, self.tied)
            save_graph(graph, folder / name)
            linears |= graph.linears
        _write_tokenizer(folder / "tokenizer.json", self.checkpoint.tokenizer)
        (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        return linears

    def load(self, folder: Path, plan: Plan, manifest: dict[str, Any]) -> Bundle:
        """Fill `folder` and load it."""
        self.write(folder, plan, manifest)
        return Bundle(folder)


def _fits_half(weights: dict[str, np.ndarray]) -> bool:
    with np.errstate(over="ignore"):
        return all(np.array_equal(array, array.astype(np.float16)) for array in weights.values())


def _is_tied(weights: dict[str, np.ndarray]) -> bool:
    embeddings = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    return np.array_equal(embeddings, weights["text_decoder.cls.predictions.decoder.weight"])


def _write_tokenizer(path: Path, tokenizer: Any) -> None:
    """The tokenizer the oracle uses, without truncation or padding left from an earlier call."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    path.write_text(backend.to_str(), "utf-8")
