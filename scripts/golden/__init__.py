"""Writes the files of tests/golden from transformers and Pillow."""
