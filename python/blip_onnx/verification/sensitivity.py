"""Which linear layers suffer most from int8: each one's own error on its real activations.

The fp32 graphs caption a few images once and tell what every layer was given. What int8 makes of
it is computed in numpy, layer by layer, so no graph is built or run for any of them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from blip_onnx.generate import Bundle
from blip_onnx.graphs import int8
from blip_onnx.precision import Plan, Scheme
from blip_onnx.verification.agreement import Gate

_IMAGES = 8
# Rows of one image that are looked at; its scale comes from all of them.
_ROWS = 32


@dataclass
class _Probe:
    """A session that also keeps what its linear layers were given."""

    session: onnxruntime.InferenceSession
    values: list[str]
    # Per value and run: rows, and the least and largest number of the whole tensor.
    seen: dict[str, list[tuple[np.ndarray, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @classmethod
    def of(cls, path: Path, linears: dict[str, str]) -> _Probe:
        model = onnx.load(path, load_external_data=False)
        made = {name for node in model.graph.node for name in node.output}
        values = sorted(set(linears.values()) & made)
        known = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values if v not in known)
        probe = path.with_name(f"probe_{path.name}")
        # Beside the graph, whose weights it shares.
        probe.write_bytes(model.SerializeToString())
        return cls(onnxruntime.InferenceSession(probe, providers=["CPUExecutionProvider"]), values)

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """As a session's `run`."""
        outputs = self.session.run([*names, *self.values], feeds)
        for name, value in zip(self.values, outputs[len(names) :], strict=True):
            rows = value.reshape(-1, value.shape[-1])
            chosen = np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(int)
            self.seen[name].append((rows[chosen], float(value.min()), float(value.max())))
        return outputs[: len(names)]


def rank(
    folder: Path, linears: dict[str, str], weights: dict[str, np.ndarray], gate: Gate
) -> dict[str, float]:
    """Relative error of every linear layer's output in int8, the largest first.

    `folder` holds the fp32 bundle, `linears` the name of the value that each layer multiplies.
    """
    bundle: Any = Bundle(folder)
    of_vision = {name: value for name, value in linears.items() if _is_dynamic(name)}
    of_text = {name: value for name, value in linears.items() if not _is_dynamic(name)}
    bundle.vision = _Probe.of(folder / "vision_encoder.onnx", of_vision)
    bundle.text = _Probe.of(folder / "text_decoder.onnx", of_text)
    spread = np.linspace(0, len(gate.pixels) - 1, min(len(gate.pixels), _IMAGES)).astype(int)
    gate.caption(bundle, [gate.pixels[index] for index in spread])
    errors = {}
    for name, value in linears.items():
        seen = (bundle.vision if name in of_vision else bundle.text).seen[value]
        errors[name] = _error(name, weights, seen)
    return dict(sorted(errors.items(), key=lambda entry: -entry[1]))


def _is_dynamic(name: str) -> bool:
    return Plan("int8").scheme(name) is Scheme.DYNAMIC


def _error(
    name: str, weights: dict[str, np.ndarray], seen: list[tuple[np.ndarray, float, float]]
) -> float:
    matrix = weights[f"{name}.weight"]
    x = np.concatenate([rows for rows, _, _ in seen])
    if _is_dynamic(name):
        x_int8 = np.concatenate([int8.seen_per_tensor(*entry) for entry in seen])
        matrix_int8 = int8.seen_per_column(matrix.T)
    else:
        x_int8, matrix_int8 = int8.seen_in_blocks(x), int8.seen_in_blocks(matrix).T
    product = x @ matrix.T
    size = np.linalg.norm(product + weights[f"{name}.bias"])
    return float(np.linalg.norm(x_int8 @ matrix_int8 - product) / max(size, 1e-30))
