"""Composites of two pictures with a known mask, and what else could find it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pack import ROOT
from PIL import Image

PHOTOS = Path(os.environ.get("NEWTON_ASSETS", ROOT.parent / "shared" / "assets")) / "photos" / "CBSD68"
OPAQUE = 0.25  # least mean alpha of an emoji: others show too little


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


def spread(items: list, count: int) -> list:
    """`count` items at even distances, the first and the last among them; repeated where there are fewer."""
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def emoji_pairs(split: str, count: int, squares: bool) -> tuple[list[str], np.ndarray]:
    """Words and RGBA pictures (2 count, 128, 128, 4) of evenly spaced emoji of a split that show enough.

    squares: every second one is a plain coloured square.
    """
    sys.path.insert(0, str(ROOT / "demo"))
    from emoji import draw_all, find_font, read_index

    rows = [r for r in read_index() if r["split"] == split]
    plain = [r for r in rows if r["words"].startswith("large ") and "square" in r["words"]]
    font, rows = find_font(None), spread([r for r in rows if r not in plain], min(len(rows), 4 * count))
    alpha = draw_all(rows, font)[..., 3].mean((1, 2)) / 255
    shown = spread([r for r, a in zip(rows, alpha, strict=True) if a > OPAQUE], 2 * count)
    if squares:
        shown[1::2] = spread(plain, count)
    return [r["words"] for r in shown], draw_all(shown, font).astype(np.float64) / 255


def over(rgba: np.ndarray, ground: np.ndarray | float) -> np.ndarray:
    return rgba[..., :3] * rgba[..., 3:] + ground * (1 - rgba[..., 3:])


def shrunk(rgba: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """An emoji of `side` pixels somewhere in an empty picture of its old size."""
    size = rgba.shape[0]
    small = Image.fromarray((255 * rgba).round().astype(np.uint8)).resize((side, side), Image.Resampling.LANCZOS)
    out = np.zeros_like(rgba)
    y, x = rng.integers(0, size - side + 1, 2)
    out[y : y + side, x : x + side] = np.asarray(small) / 255
    return out


def emoji_composites(kind: str, split: str, count: int) -> list[Composite]:
    """Emoji with another one, as `kind` says.

    half, disc: two on white beside each other. square, over: a small one over a coloured square, over another one.
    photo: over a photograph, whose prompt is empty.
    """
    words, drawn = emoji_pairs(split, count, kind == "square")
    cases = []
    for i in range(count):
        rng, a, b = np.random.default_rng(i), drawn[2 * i], drawn[2 * i + 1]
        names, ground = (words[2 * i], words[2 * i + 1]), over(b, 1.0)
        if kind in ("half", "disc"):
            mask = {"half": half, "disc": disc}[kind](128, rng)
        else:
            a = shrunk(a, 80, rng) if kind in ("square", "over") else a
            mask = a[..., 3]
        if kind == "photo":
            names, ground = (words[2 * i], ""), photograph(i)
        # Without alpha there is no colour: white, as in the pictures that the model knows.
        first = over(a, 1.0) if kind in ("half", "disc") else np.where(a[..., 3:] > 0, a[..., :3], 1.0)
        cases.append(Composite(f"{kind}_{names[0].replace(' ', '_')[:24]}", first, ground, mask, names))
    return cases


def photograph(i: int) -> np.ndarray:
    """The middle of a photograph, 128 x 128 x 3."""
    files = sorted(PHOTOS.glob("*.png"))
    if not files:
        raise FileNotFoundError(f"skipped: no photographs in {PHOTOS} (NEWTON_ASSETS)")
    picture = Image.open(files[i % len(files)]).convert("RGB")
    left, top = (picture.width - 256) // 2, (picture.height - 256) // 2
    return np.asarray(picture.crop((left, top, left + 256, top + 256)).resize((128, 128))) / 255


def baselines() -> dict:
    """Classical segmentations of a picture (H, W, C) into a mask, of unknown polarity."""
    try:
        import cv2
    except ImportError:
        print("skipped: otsu, kmeans and grabcut (opencv-python-headless is not installed)")
        return {}

    def bytes_of(image: np.ndarray) -> np.ndarray:
        return (255 * np.broadcast_to(image, (*image.shape[:2], 3))).round().astype(np.uint8).copy()

    def otsu(image: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(bytes_of(image), cv2.COLOR_RGB2GRAY)
        return cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)[1].astype(np.float64)

    def kmeans(image: np.ndarray) -> np.ndarray:
        cv2.setRNGSeed(0)
        points = bytes_of(image).reshape(-1, 3).astype(np.float32)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.1)
        labels = cv2.kmeans(points, 2, None, stop, 5, cv2.KMEANS_PP_CENTERS)[1]
        return labels.reshape(image.shape[:2]).astype(np.float64)

    def grabcut(image: np.ndarray) -> np.ndarray:
        cv2.setRNGSeed(0)
        size, labels = image.shape[0], np.zeros(image.shape[:2], np.uint8)
        edge = size // 10
        box = (edge, edge, size - 2 * edge, size - 2 * edge)
        state = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(bytes_of(image), labels, box, *state, 5, cv2.GC_INIT_WITH_RECT)
        return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float64)

    return {"otsu": otsu, "kmeans": kmeans, "grabcut": grabcut}
