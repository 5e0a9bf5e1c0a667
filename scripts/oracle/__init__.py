"""transformers and Pillow as the oracle: captions, pixels and random checkpoints to compare."""
