"""Writes the files of a bundle: both graphs, the tokenizer and the manifest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_onnx.checkpoint import Checkpoint
from blip_onnx.graphs import text_decoder, vision_encoder
from blip_onnx.graphs.external_data import save_graph
from blip_onnx.precision import Plan

MANIFEST = "manifest.json"
GRAPHS = ("vision_encoder.onnx", "text_decoder.onnx")


@dataclass(frozen=True)
class Writer:
    """Writes one checkpoint in any precision."""

    checkpoint: Checkpoint
    # The checkpoint's weights, with the packed projections of the decoder added.
    state_dict: dict[str, np.ndarray]
    # Whether fp16 holds every weight exactly.
    fits_fp16: bool
    # Whether the vocabulary projection equals the word embeddings.
    is_tied: bool

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Writer:
        """Create a writer that shares the weights of `checkpoint`."""
        state = checkpoint.model.state_dict()
        weights = {name: tensor.numpy() for name, tensor in state.items()}
        weights |= text_decoder.pack_qkv(checkpoint.config, weights)
        return cls(checkpoint, weights, _fits_fp16(weights), _is_tied(weights))

    def write(self, folder: Path, plan: Plan, manifest: dict[str, Any]) -> dict[str, str]:
        """Write the files of a bundle into `folder`.

        Returns every linear layer with the name of the value that it multiplies.
        """
        stores_fp16 = self.fits_fp16 and plan.precision != "fp16"
        plan = dataclasses.replace(plan, stores_fp16=stores_fp16)
        config = self.checkpoint.config
        linears: dict[str, str] = {}
        # A graph is written before the next is built: only one has its quantised weights in memory.
        for name in GRAPHS:
            if name == GRAPHS[0]:
                graph = vision_encoder.build(config, self.state_dict, plan)
            else:
                graph = text_decoder.build(config, self.state_dict, plan, self.is_tied)
            save_graph(graph, folder / name)
            linears |= graph.linears
        _write_tokenizer(folder / "tokenizer.json", self.checkpoint.tokenizer)
        (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        return linears


def _fits_fp16(weights: dict[str, np.ndarray]) -> bool:
    with np.errstate(over="ignore"):
        return all(np.array_equal(array, array.astype(np.float16)) for array in weights.values())


def _is_tied(weights: dict[str, np.ndarray]) -> bool:
    embeddings = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    return np.array_equal(embeddings, weights["text_decoder.cls.predictions.decoder.weight"])


def _write_tokenizer(path: Path, tokenizer: Any) -> None:
    """Write transformers' tokenizer, without truncation or padding set by an earlier call."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    path.write_text(backend.to_str(), "utf-8")
