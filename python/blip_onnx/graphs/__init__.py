"""The two ONNX graphs of a bundle: how they are built, converted and written."""
