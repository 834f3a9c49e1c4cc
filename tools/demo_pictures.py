"""The held-out pictures that the demo takes, and the inputs of the shipped graphs, made of the first of them.

.cache/venv-0.3.75/bin/python tools/demo_pictures.py    # writes demo/images
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from headless import ROOT
from PIL import Image
from scipy.ndimage import gaussian_filter

sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "demo")]
from avatars import HELDOUT, SHIPPED, read_heldout
from masks import MASKS, masked_input

BLUR = 3.0  # pixels, as in deblur_demo


@dataclass(frozen=True)
class Avatar:
    """A held-out picture: its number in the list, RGB (128, 128, 3), opacity (128, 128) and words; all uint8."""

    number: int
    truth: np.ndarray
    alpha: np.ndarray
    prompt: str


def read_rgb(file: object) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def heldout(count: int = SHIPPED) -> list[Avatar]:
    """The first ones of the list."""
    return [
        Avatar(i, read_rgb(HELDOUT / r["file"]), np.asarray(Image.open(HELDOUT / "alpha" / r["file"])), r["prompt"])
        for i, r in enumerate(read_heldout()[:count])
    ]


def shrunk(truth: np.ndarray, factor: int) -> Image.Image:
    size = truth.shape[1] // factor, truth.shape[0] // factor
    return Image.fromarray(truth).resize(size, Image.Resampling.BOX)


def grey(truth: np.ndarray) -> Image.Image:
    return Image.fromarray(truth).convert("L")


def blurred(truth: np.ndarray) -> Image.Image:
    return Image.fromarray(gaussian_filter(truth, (BLUR, BLUR, 0), mode="nearest"))


def masked(truth: np.ndarray, mask: str) -> Image.Image:
    return Image.fromarray(masked_input(truth, MASKS[mask](len(truth))))


def bands(pictures: list[np.ndarray]) -> Image.Image:
    """Each picture gives one of as many upright bands."""
    width = pictures[0].shape[1]
    band = np.arange(width) * len(pictures) // width
    return Image.fromarray(np.choose(band[None, :, None], pictures))


# The pictures that the shipped graphs load, by the numbers of the held-out pictures they are made of.
INPUTS: dict[str, tuple[tuple[int, ...], Callable[..., Image.Image]]] = {
    "half": ((0,), lambda truth: masked(truth, "half")),
    "box": ((1,), lambda truth: masked(truth, "box")),
    "strokes": ((2,), lambda truth: masked(truth, "strokes")),
    "small": ((3,), lambda truth: shrunk(truth, 4)),
    "grey": ((4,), grey),
    "blurred": ((5,), blurred),
    "plain": ((6,), Image.fromarray),
    "layers": ((7,), Image.fromarray),
    "three_layers": ((0, 1, 2), lambda *truths: bands(list(truths))),
}


def main() -> None:
    folder = ROOT / "demo" / "images"
    folder.mkdir(exist_ok=True)
    avatars = heldout(8)
    for name, (numbers, make) in INPUTS.items():
        make(*(avatars[n].truth for n in numbers)).save(folder / f"ncs_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
