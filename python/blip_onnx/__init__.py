"""Writes BLIP captioning checkpoints as ONNX bundles, without tracing.

`checkpoint` loads what transformers loads, `graphs` builds and writes the two graphs, `manifest`
describes the bundle, and `verification` compares it with transformers; `bundle` runs these steps.
`precision` decides in which precision each layer is multiplied, and `quantization` compares the
captions of int8 and fp16 with those of the fp32 graphs. `generate` searches captions over the
graphs of a bundle.
"""


class ExportError(Exception):
    """The reason why an export failed, as one line for the command line."""
