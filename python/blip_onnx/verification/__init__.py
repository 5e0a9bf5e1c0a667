"""Comparisons of a bundle with transformers, and of int8 and fp16 with fp32."""
