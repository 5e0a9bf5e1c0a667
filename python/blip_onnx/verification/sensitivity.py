"""Ranks the linear layers by their error in int8, measured on their real activations.

The fp32 graphs caption a few images once, with the inputs of all layers as additional outputs. The
int8 result of each layer is then computed in numpy, so no graph is built or run for a single layer.
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
from blip_onnx.verification.agreement import ReferenceCaptions

_IMAGES = 8
# The error is computed on this many rows of a run; the scale comes from all of them.
_ROWS = 32


@dataclass(frozen=True)
class _Activations:
    """The input of one linear layer in one run."""

    # [rows, in]: a sample of the rows.
    rows: np.ndarray
    # The extremes of all rows.
    low: float
    high: float


@dataclass
class _Probe:
    """A session that also records the inputs of its linear layers."""

    session: onnxruntime.InferenceSession
    values: list[str]
    activations: dict[str, list[_Activations]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def from_graph(cls, path: Path, linears: dict[str, str]) -> _Probe:
        """Load the graph `path` with the inputs of `linears` as additional outputs."""
        model = onnx.load(path, load_external_data=False)
        computed = {name for node in model.graph.node for name in node.output}
        values = sorted(set(linears.values()) & computed)
        known = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values if v not in known)
        # In the folder of the graph, whose external data it shares.
        probe = path.with_name(f"probe_{path.name}")
        probe.write_bytes(model.SerializeToString())
        return cls(onnxruntime.InferenceSession(probe, providers=["CPUExecutionProvider"]), values)

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run the session as `InferenceSession.run` does."""
        outputs = self.session.run([*names, *self.values], feeds)
        for name, value in zip(self.values, outputs[len(names) :], strict=True):
            rows = value.reshape(-1, value.shape[-1])  # [rows, in]
            sample = rows[_spread(len(rows), _ROWS)]
            activations = _Activations(sample, float(value.min()), float(value.max()))
            self.activations[name].append(activations)
        return outputs[: len(names)]


def rank(
    folder: Path,
    linears: dict[str, str],
    state_dict: dict[str, np.ndarray],
    references: ReferenceCaptions,
) -> dict[str, float]:
    """Return the relative error of every linear layer's output in int8, the largest first.

    `folder` holds the fp32 bundle, `linears` the name of the value that each layer multiplies.
    """
    bundle: Any = Bundle(folder)
    vision = {name: value for name, value in linears.items() if _is_dynamic(name)}
    text = {name: value for name, value in linears.items() if name not in vision}
    bundle.vision = _Probe.from_graph(folder / "vision_encoder.onnx", vision)
    bundle.text = _Probe.from_graph(folder / "text_decoder.onnx", text)
    pixels = references.pixels
    references.caption(bundle, [pixels[index] for index in _spread(len(pixels), _IMAGES)])
    errors = {}
    for name, value in linears.items():
        activations = (bundle.vision if name in vision else bundle.text).activations[value]
        errors[name] = _relative_error(name, state_dict, activations)
    return dict(sorted(errors.items(), key=lambda entry: -entry[1]))


def _spread(length: int, count: int) -> np.ndarray:
    """Return at most `count` indices spread evenly over `length`."""
    return np.linspace(0, length - 1, min(length, count)).astype(int)


def _is_dynamic(name: str) -> bool:
    return Plan("int8").scheme(name) is Scheme.DYNAMIC


def _relative_error(
    name: str, state_dict: dict[str, np.ndarray], activations: list[_Activations]
) -> float:
    matrix = state_dict[f"{name}.weight"]  # [out, in]
    x = np.concatenate([each.rows for each in activations])  # [rows, in]
    if _is_dynamic(name):
        x_int8 = np.concatenate(
            [int8.fake_quantize_per_tensor(each.rows, each.low, each.high) for each in activations]
        )
        matrix_int8 = int8.fake_quantize_per_column(matrix.T)  # [in, out]
    else:
        x_int8 = int8.fake_quantize_in_blocks(x)
        matrix_int8 = int8.fake_quantize_in_blocks(matrix).T  # [in, out]
    product = x @ matrix.T  # [rows, out]
    size = np.linalg.norm(product + state_dict[f"{name}.bias"])
    return float(np.linalg.norm(x_int8 @ matrix_int8 - product) / max(size, 1e-30))
