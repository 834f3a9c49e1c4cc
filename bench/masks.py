"""Masks of the hidden region, (H, W) bool, True where the picture is to be generated."""

import numpy as np


def half(size: int) -> np.ndarray:
    """The right half."""
    return np.tile(np.arange(size) >= size // 2, (size, 1))


def box(size: int) -> np.ndarray:
    """A box of half the width and height in the centre."""
    inside = abs(np.arange(size) + 0.5 - size / 2) < size / 4
    return inside[:, None] & inside


def strokes(size: int, seed: int = 0, count: int = 4) -> np.ndarray:
    """Free-form brush strokes: `count` random walks of four thick segments each."""
    rng = np.random.default_rng(seed)
    pixels = np.stack(np.mgrid[:size, :size], -1) + 0.5  # H W 2
    hidden = np.zeros((size, size), bool)
    for _ in range(count):
        point, angle = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0, 2 * np.pi)
        radius = rng.uniform(0.04, 0.08) * size
        for _ in range(4):
            angle += rng.uniform(-1.2, 1.2)
            move = rng.uniform(0.12, 0.25) * size * np.array([np.sin(angle), np.cos(angle)])
            # Distance of every pixel to the segment.
            along = np.clip((pixels - point) @ move / (move @ move), 0, 1)
            hidden |= np.linalg.norm(pixels - point - along[..., None] * move, axis=-1) < radius
            point = point + move
    return hidden


def cells(size: int, seed: int = 0, share: float = 0.5) -> np.ndarray:
    """Random square cells, eight to a side, of which `share` are hidden."""
    hidden = np.random.default_rng(seed).permutation(64).reshape(8, 8) < share * 64
    nearest = np.arange(size) * 8 // size
    return hidden[np.ix_(nearest, nearest)]


def outpaint(size: int) -> np.ndarray:
    """All but a box of half the width and height in the centre."""
    return ~box(size)


MASKS = {"half": half, "box": box, "strokes": strokes}
ALL_MASKS = {**MASKS, "cells": cells, "outpaint": outpaint}
SEEDED = ("strokes", "cells")


def bench_mask(name: str, size: int, image: int) -> np.ndarray:
    """Masks that are drawn at random differ from image to image, never from method to method."""
    return ALL_MASKS[name](size, seed=image) if name in SEEDED else ALL_MASKS[name](size)


def masked_input(truth: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) to the RGBA that LoadImage reads: alpha 0 and mid-grey where hidden."""
    rgb = np.where(hidden[..., None], np.uint8(128), truth)
    return np.dstack([rgb, np.where(hidden, np.uint8(0), np.uint8(255))])
