"""Measures of an inpainted picture; images are float (H, W, C) in [0, 1], masks bool (H, W), True where hidden."""

import numpy as np


def mse(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Mean squared difference over the pixels of a mask."""
    return float(np.square(a - b)[where].mean())


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of a mask."""
    return float(-10 * np.log10(mse(a, b, where)))


def composite(truth: np.ndarray, generated: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Hard paste: generated pixels where hidden, the known pixels themselves elsewhere."""
    return np.where(hidden[..., None], generated, truth)


def seam(image: np.ndarray, hidden: np.ndarray) -> float:
    """Mean absolute jump between neighbouring pixels of which one is hidden and one known."""
    jumps = []
    for axis in (0, 1):
        across = np.diff(hidden.astype(np.int8), axis=axis) != 0
        jumps.append(abs(np.diff(image, axis=axis))[across])
    return float(np.concatenate(jumps).mean())
