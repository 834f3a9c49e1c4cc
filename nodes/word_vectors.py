"""Words to CONDITIONING without a text encoder, for models trained that way (the embedded demo checkpoint)."""

import hashlib
import re

import torch

TOKENS, WIDTH = 8, 768


def word_vector(word: str) -> torch.Tensor:
    """A fixed vector of ±1, shape (768,), drawn from the SHAKE-256 hash of the word: the same everywhere."""
    digest = hashlib.shake_256(word.encode()).digest(WIDTH // 8)
    bits = torch.tensor(list(digest), dtype=torch.uint8)
    return ((bits[:, None] >> torch.arange(8)) & 1).flatten().float() * 2 - 1


def embed_words(text: str) -> torch.Tensor:
    """The first 8 distinct words of `text` as (8, 768); missing words are zero rows, so "" is all zeros."""
    words = list(dict.fromkeys(re.findall(r"[a-z0-9]+", text.lower())))[:TOKENS]
    out = torch.zeros(TOKENS, WIDTH)
    for i, word in enumerate(words):
        out[i] = word_vector(word)
    return out
