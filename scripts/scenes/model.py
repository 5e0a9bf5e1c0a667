"""The model in models/scenes: its configuration, word pieces and conversion to a checkpoint.

Training uses compact ids for the word pieces that occur in captions and prompts. `export` maps them
to the 30,524 ids of BLIP, rounds the weights to half precision and writes a folder that
transformers loads.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

from scenes.dataset import BACKGROUNDS, KINDS, OBJECTS, PROMPTS, SIDE, with_article

BOS, SEP, PAD, VOCABULARY = 30522, 102, 0, 30524
PATCH = 16
UNUSED_BIAS = -40.0  # output bias of ids that training does not use


def read_vocabulary(path: Path) -> dict[str, int]:
    """Read word pieces and their ids from a vocab.txt or a tokenizer.json."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)["model"]["vocab"]
    return {piece: index for index, piece in enumerate(text.rstrip("\n").split("\n"))}


class Words:
    """Word pieces of bert-base-uncased, and the compact ids used in training."""

    def __init__(self, vocabulary: Path) -> None:
        self.vocabulary = read_vocabulary(vocabulary)
        self.tokenizer = BertWordPieceTokenizer(self.vocabulary, lowercase=True)
        nouns = [with_article(name) for name in OBJECTS] + list(OBJECTS.values())
        relations = [kind for kind in KINDS if kind != "one"]
        colours = [f"on {with_article(name)} background" for name in BACKGROUNDS]
        texts = [*nouns, *relations, *colours, *PROMPTS]
        pieces = {piece for text in texts for piece in self.pieces(text)}
        self.used = sorted(pieces | {BOS, SEP, PAD})
        self.compact = {full: index for index, full in enumerate(self.used)}

    def pieces(self, text: str) -> list[int]:
        """Return the ids of a text without [CLS] and [SEP]."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, text: str) -> list[int]:
        """Return the compact ids of a text."""
        return [self.compact[piece] for piece in self.pieces(text)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of compact ids, up to the first [SEP]."""
        full = [self.used[index] for index in ids]
        full = full[: full.index(SEP)] if SEP in full else full
        return self.tokenizer.decode([index for index in full if index < BOS])


def config(words: int, bos: int, sep: int, pad: int) -> BlipConfig:
    """Return the model's configuration, whose head counts differ from the class defaults."""
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.02,  # the default, 1e-10, makes all weights nearly zero
    }
    text = {
        "vocab_size": words,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": 128,
        "projection_dim": 96,
        "bos_token_id": bos,
        "sep_token_id": sep,
        "pad_token_id": pad,
    }
    return BlipConfig(text_config=text, vision_config=vision, projection_dim=96)


def export(blip: BlipForConditionalGeneration, words: Words, out: Path) -> None:
    """Map the compact ids to BLIP's vocabulary and save checkpoint and processor."""
    torch.manual_seed(0)
    full = BlipForConditionalGeneration(config(VOCABULARY, BOS, SEP, PAD))
    state, small = full.state_dict(), blip.state_dict()
    used = torch.tensor(words.used)
    for name, tensor in small.items():
        if tensor.shape == state[name].shape:
            state[name] = tensor.clone()
        elif tensor.dim() == 1:
            state[name] = torch.full_like(state[name], UNUSED_BIAS).index_copy(0, used, tensor)
        else:
            state[name] = state[name].index_copy(0, used, tensor)
    full.load_state_dict({name: tensor.half().float() for name, tensor in state.items()})
    full.tie_weights()
    full.save_pretrained(out)
    # The file has half precision and the configuration float32, to which loading converts exactly.
    halves = {
        name: tensor.half().contiguous()
        for name, tensor in full.state_dict().items()
        if name not in full.all_tied_weights_keys
    }
    save_file(halves, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    save_processor(words, out)


def save_processor(words: Words, out: Path) -> None:
    """Save tokenizer and image processor for BlipProcessor.from_pretrained."""
    tokenizer = BertTokenizerFast(vocab=words.vocabulary, do_lower_case=True, model_max_length=128)
    size = {"height": SIDE, "width": SIDE}
    BlipProcessor(BlipImageProcessorPil(size=size), tokenizer).save_pretrained(out)
