"""Composites of two pictures with a known mask, and what else could find it."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pack import ROOT
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.ndimage import binary_erosion, binary_opening, distance_transform_edt

sys.path.insert(0, str(ROOT / "demo"))
from avatars import BACKGROUND

PHOTOS = Path(os.environ.get("NEWTON_ASSETS", ROOT.parent / "shared" / "assets")) / "photos" / "CBSD68"

PATTERNS = ("stripes", "dots", "checks")


@dataclass(frozen=True)
class Composite:
    """`image = mask * first + (1 - mask) * second`; pictures float (H, W, C) in [0, 1], mask float (H, W)."""

    name: str
    first: np.ndarray
    second: np.ndarray
    mask: np.ndarray
    words: tuple[str, str] = ("", "")

    @property
    def image(self) -> np.ndarray:
        m = self.mask[..., None]
        return m * self.first + (1 - m) * self.second

    @property
    def telling(self) -> np.ndarray:
        """Where the layers differ, so that the image says which one it shows, bool (H, W)."""
        return abs(self.first - self.second).max(-1) > 0.1


def half(size: int, rng: np.random.Generator) -> np.ndarray:
    """A half plane through the middle."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    return (x * np.cos(angle) + y * np.sin(angle) > 0).astype(np.float64)


def disc(size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    middle = rng.uniform(0.35, 0.65, 2) * size
    return ((y - middle[0]) ** 2 + (x - middle[1]) ** 2 < (0.3 * size) ** 2).astype(np.float64)


def small_composites(kind: str, first: np.ndarray, second: np.ndarray) -> list[Composite]:
    """Of two sets of pictures (N, H, W, 1); kind ink: the first's bright strokes lie over the second."""
    cases = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        rng, size = np.random.default_rng(i), a.shape[0]
        mask = (a[..., 0] > 0.25).astype(np.float64) if kind == "ink" else {"half": half, "disc": disc}[kind](size, rng)
        cases.append(Composite(f"{kind}_{i:02}", a, b, mask))
    return cases


def cut_out(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha (H, W) and colours of an avatar on a plain background, the corner's.

    What the background shows through holes and beyond the figure is exact; pixels at its edge are taken for mixtures of
    the background and the nearest colour inside.
    """
    ground = picture[0, 0]
    figure = binary_opening(abs(picture - ground).max(-1) > 2 / 255, np.ones((2, 2)))
    inside = binary_erosion(figure, np.ones((3, 3)), border_value=1)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    colours = picture[tuple(nearest)]
    full = np.square(colours - ground).sum(-1)
    mixed = np.clip(((picture - ground) * (colours - ground)).sum(-1) / np.maximum(full, 1e-6), 0, 1)
    alpha = np.where(inside, 1.0, np.where(figure, mixed, 0.0))
    return alpha, np.where(inside[..., None], picture, colours)


def pattern(name: str, size: int, colours: tuple[str, str]) -> np.ndarray:
    """The data set's backgrounds, (H, W, 3)."""
    y, x = np.mgrid[:size, :size] + 0.5
    marked = {
        "stripes": (x + y) % 32 < 16,
        "dots": (x % 16 - 8) ** 2 + (y % 16 - 8) ** 2 < 16,
        "checks": (x // 16 + y // 16) % 2 < 1,
    }[name]
    ground, mark = (np.array([int(c[i : i + 2], 16) for i in (0, 2, 4)]) / 255 for c in colours)
    return np.where(marked[..., None], mark, ground)


def avatar_composites(kind: str, rows: list[dict[str, str]], pictures: np.ndarray, count: int) -> list[Composite]:
    """`count` composites of avatars (N, H, W, 3), in their order.

    pattern, photo: an avatar, cut out of its plain background, which its prompt names, over one of the data set's
    patterned backgrounds or over a photograph, whose prompt says no more than that it is a scenery. half, disc: two
    avatars, divided by a line or a disc.
    """
    if kind in ("half", "disc"):
        pairs = [(2 * i, 2 * i + 1) for i in range(count)]
        masks = [{"half": half, "disc": disc}[kind](pictures.shape[1], np.random.default_rng(i)) for i in range(count)]
        return [
            Composite(f"{kind}_{i:02}", pictures[a], pictures[b], mask, (rows[a]["prompt"], rows[b]["prompt"]))
            for i, ((a, b), mask) in enumerate(zip(pairs, masks, strict=True))
        ]
    cases = []
    for i, k in enumerate([k for k, row in enumerate(rows) if not row["pattern"]][:count]):
        alpha, colours = cut_out(pictures[k])
        style, paper = PATTERNS[i % 3], list(BACKGROUND)[i % len(BACKGROUND)]
        if kind == "photo":
            ground, words = photograph(i), "empty scenery"
        else:
            ground, words = pattern(style, len(alpha), BACKGROUND[paper]), f"empty {paper}{style}"
        cases.append(Composite(f"{kind}_{i:02}", colours, ground, alpha, (rows[k]["prompt"], words)))
    return cases


def photograph(i: int) -> np.ndarray:
    """The middle of a photograph, 128 x 128 x 3."""
    files = sorted(PHOTOS.glob("*.png"))
    if not files:
        raise FileNotFoundError(f"skipped: no photographs in {PHOTOS} (NEWTON_ASSETS)")
    picture = Image.open(files[i % len(files)]).convert("RGB")
    left, top = (picture.width - 256) // 2, (picture.height - 256) // 2
    return np.asarray(picture.crop((left, top, left + 256, top + 256)).resize((128, 128))) / 255


Segmentation = Callable[[np.ndarray, np.ndarray], np.ndarray]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of the box around a mask, at least a pixel inside the frame."""
    (top, bottom), (left, right) = (np.flatnonzero((mask > 0.5).any(axis))[[0, -1]] for axis in (1, 0))
    left, top, size = max(1, left), max(1, top), len(mask)
    return int(left), int(top), int(min(right, size - 2) - left + 1), int(min(bottom, size - 2) - top + 1)


def kmeans(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The better of both ways to call two clusters of colours 1."""
    points = np.broadcast_to(image, (*image.shape[:2], 3)).reshape(-1, 3).astype(np.float64)
    labels = kmeans2(points, 2, minit="++", seed=0)[1].reshape(image.shape[:2]).astype(np.float64)
    return max((labels, 1 - labels), key=lambda m: ((m > 0.5) == (truth > 0.5)).mean())


def baselines() -> dict[str, Segmentation]:
    """Other ways from a picture (H, W, C) and what each is told of the true mask to a mask."""
    try:
        import cv2
    except ImportError:
        print("skipped: grabcut (opencv-python-headless is not installed)")
        return {"kmeans": kmeans}

    def grabcut(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
        cv2.setRNGSeed(0)
        rgb = (255 * np.broadcast_to(image, (*image.shape[:2], 3))).round().astype(np.uint8).copy()
        labels, state = np.zeros(image.shape[:2], np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
        cv2.grabCut(rgb, labels, box_of(truth), *state, 5, cv2.GC_INIT_WITH_RECT)
        return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float64)

    return {"kmeans": kmeans, "grabcut": grabcut}
