"""transformers and Pillow as the reference: captions, pixels, and checkpoints to compare on."""
