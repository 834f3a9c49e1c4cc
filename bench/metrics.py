"""Measures of an inpainted picture; images are float (H, W, C) in [0, 1], masks bool (H, W), True where hidden."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import binary_erosion, laplace
from scipy.spatial.distance import cdist
from scipy.stats import t


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


def sharpness(image: np.ndarray, truth: np.ndarray, hidden: np.ndarray) -> float:
    """High-frequency energy (squared Laplacian) inside the hidden region, relative to the truth's."""
    inner = binary_erosion(hidden, np.ones((3, 3)), border_value=1)
    where = inner if inner.any() else hidden

    def energy(a: np.ndarray) -> float:
        return float(np.square(laplace(a, axes=(0, 1), mode="nearest"))[where].mean())

    return energy(image) / max(energy(truth), 1e-12)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) between two sets of vectors (n, d), (m, d)."""
    return cdist(a, b)


def mean_pairwise(a: np.ndarray) -> float:
    """Mean distance between different members of a set: the diversity of its samples."""
    n = len(a)
    return float(distances(a, a).sum() / (n * (n - 1))) if n > 1 else float("nan")


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Energy distance of two sets of vectors, unbiased: about 0 for two draws of one distribution, may be below."""
    return 2 * float(distances(a, b).mean()) - mean_pairwise(a) - mean_pairwise(b)


def energy_score(samples: np.ndarray, truth: np.ndarray) -> float:
    """Energy score of samples (n, d) against the truth (d,).

    A proper score: on average lowest for draws from the true conditional distribution, so that neither a blurred
    mean nor a diversity out of proportion wins.
    """
    return float(distances(samples, truth[None]).mean()) - mean_pairwise(samples) / 2


def feature_measures(features: np.ndarray, truths: np.ndarray, index: list[tuple], seeds: int) -> list[dict]:
    """One dict per case of measures in feature space; those over seeds and sets are the same in all they belong to.

    Args:
        features: (N, d) of the pictures made.
        truths: (images, d).
        index: (N) of (group, image, seed), seeds running fastest, then images.
    """
    groups = np.array([group for group, *_ in index])
    of_group = {group: energy_distance(features[groups == group], truths) for group in dict.fromkeys(groups.tolist())}
    rows = []
    for k, (group, image, seed) in enumerate(index):
        f = features[k - seed : k - seed + seeds]
        rows.append({
            "hidden_feature_distance": float(np.linalg.norm(features[k] - truths[image])),
            "diversity": mean_pairwise(f),
            "energy_score": energy_score(f, truths[image]),
            "distribution_distance": of_group[group],
        })  # fmt: skip
    return rows


def paired_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b and half the width of its 95 % interval (Student), over independent cases."""
    d = np.asarray(a, float) - np.asarray(b, float)
    half = t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5 if len(d) > 1 else float("nan")
    return float(d.mean()), float(half)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    z = 1.96
    middle, half = hits + z**2 / 2, z * (hits * (n - hits) / n + z**2 / 4) ** 0.5
    return float((middle - half) / (n + z**2)), float((middle + half) / (n + z**2))


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], float], count: int = 2000) -> tuple[float, float]:
    """The 95 % interval of a statistic of independent values, by resampling them."""
    rng = np.random.default_rng(0)
    drawn = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(count)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def set_distance(d: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Energy distance of the sets of these indices into the distance matrix d, as of the samples: never negative."""
    return float(2 * d[np.ix_(a, b)].mean() - d[np.ix_(a, a)].mean() - d[np.ix_(b, b)].mean())
