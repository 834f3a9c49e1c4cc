"""Pictures larger than a model: mosaics of its own pictures, each of which is measured as any other.

The model sees overlapping windows of its own size (Window Conditioning), one constrained run for a whole mosaic.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from entry import Entry
from targets import CheckpointTarget


def joined(parts: np.ndarray, n: int) -> np.ndarray:
    """(n^2, h, w, ...) row by row to (n h, n w, ...)."""
    rows = parts.reshape(n, n, *parts.shape[1:]).swapaxes(1, 2)
    return rows.reshape(n * parts.shape[1], n * parts.shape[2], *parts.shape[3:])


def cut(whole: np.ndarray, n: int) -> np.ndarray:
    """The inverse of `joined`."""
    h, w = whole.shape[0] // n, whole.shape[1] // n
    return whole.reshape(n, h, n, w, *whole.shape[2:]).swapaxes(1, 2).reshape(n * n, h, w, *whole.shape[2:])


def over_windows(target: CheckpointTarget, cells: int, window: int, run: Any) -> Any:
    """What `run` gives while every prompt of the model is for windows."""
    from newton_pack.nodes.windows import WindowConditioning

    latent, whole = {"samples": torch.zeros(1, target.vae.latent_channels, cells, cells)}, target.prompt
    made = WindowConditioning.execute(whole, whole, latent, window, window // 2).result
    target.prompt, target.negative = made
    try:
        return run()
    finally:
        target.prompt = target.negative = whole


class Mosaic:
    """A `Target` whose batches are mosaics of n x n pictures, of one seed."""

    def __init__(self, target: CheckpointTarget, n: int, window: int = 16):
        self.target, self.n, self.window, self.batch = target, n, window, n * n
        self.name, self.dtype, self.rows = target.name, target.dtype, target.rows
        self.features = target.features
        self.notes = target.notes | {"mosaics": f"{n} x {n} pictures, windows of {window} latent cells"}

    def truths(self, split: str, count: int) -> tuple[list[str], np.ndarray]:
        """As many as a mosaic takes, from the beginning again where there are fewer."""
        names, pictures = self.target.truths(split, count)
        pick = np.arange(count) % len(names)
        return [names[i] for i in pick], pictures[pick]

    def inpaint(self, entry: Entry, levels: int, truth: np.ndarray, hidden: np.ndarray, seeds: list[int]) -> tuple:
        whole, mask = joined(truth, self.n)[None], joined(hidden, self.n)[None]
        run = partial(self.target.inpaint, entry, levels, whole, mask, seeds[:1])
        made, calls = over_windows(self.target, whole.shape[1] // 8, self.window, run)
        return cut(made[0], self.n), calls
