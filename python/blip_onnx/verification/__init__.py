"""Compares a bundle with transformers, and int8 and fp16 with fp32."""
