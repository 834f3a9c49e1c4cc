"""A classifier that reads an avatar's attributes, and whether it is one whole avatar, from a picture or a part of it.

Its weights are those that `dev.py bench classifier` left; what it was trained on and how right it is stands there.
"""

import itertools
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pack import ROOT
from torch import Tensor, nn

sys.path.insert(0, str(ROOT / "demo"))
from avatars import BACKGROUND, CLOTHES, HAIR, SKIN, STYLES, load_pictures, read_index  # noqa: F401

WEIGHTS = Path(__file__).parent / "judge.safetensors"
SIDE = 64  # of the pictures that the network sees
ATTRIBUTES: dict[str, list[str]] = {
    "style": list(STYLES),
    "hair": sorted({f"{style} {hair}" for style, parts in STYLES.items() for hair in parts["hair"]}),
    "hair_colour": list(HAIR),
    "skin": list(SKIN),
    "glasses": ["", "glasses", "sunglasses"],
    "clothes_colour": ["", *CLOTHES],
    "background": list(BACKGROUND),
}
BARE = ("persona cap", "persona beanie", "persona buzzcut")  # show no colour of hair
# What one half of an avatar says of the other.
KEPT = ("hair_colour", "skin", "clothes_colour", "background")


def attributes(row: dict[str, str]) -> dict[str, str]:
    """What the classifier is to say of a picture of these attributes: hair with its style, two kinds of glasses.

    A colour of hair that cannot be seen is "".
    """
    found = {name: row.get(name) or "" for name in ATTRIBUTES}
    glasses = found["glasses"] if found["glasses"] in ("", "sunglasses") else "glasses"
    hair = f"{row['style']} {row['hair']}"
    colour = "" if hair in BARE else found["hair_colour"]
    return found | {"hair": hair, "hair_colour": colour, "glasses": glasses}


class Network(nn.Module):
    """Four strided convolutions on 64 x 64 pixels and their visibility; a linear layer for every attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 32, 64, 128, 192)
        layers = []
        for k, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(a, b, 5 if k == 0 else 3, 2, 2 if k == 0 else 1, bias=False), nn.BatchNorm2d(b)]
            layers += [nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.heads = nn.ModuleDict({name: nn.Linear(192 * 16, len(kinds)) for name, kinds in ATTRIBUTES.items()})
        self.whole = nn.Linear(192 * 16, 1)

    def forward(self, pictures: Tensor, visible: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits of the attributes and of being whole.

        Args:
            pictures: (B, 3, 64, 64) in [0, 1].
            visible: (B, 1, 64, 64), 0 where a pixel is not to be looked at.
        """
        f = self.body(torch.cat([(2 * pictures - 1) * visible, visible], 1))
        return {name: head(f) for name, head in self.heads.items()}, self.whole(f)[:, 0]


class Judge:
    """The trained classifier on pictures (N, H, W, 3), float in [0, 1]."""

    def __init__(self, weights: Path = WEIGHTS):
        from safetensors.torch import load_file

        self.network = Network().eval()
        self.network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})

    @torch.no_grad()
    def outputs(self, pictures: np.ndarray, visible: np.ndarray | None) -> tuple[dict[str, Tensor], Tensor]:
        shown = np.ones(pictures.shape[:3], bool) if visible is None else visible
        small = F.adaptive_avg_pool2d(torch.from_numpy(pictures).float().movedim(-1, 1), SIDE)
        return self.network(small, F.adaptive_avg_pool2d(torch.from_numpy(shown).float()[:, None], SIDE))

    def read(self, pictures: np.ndarray, visible: np.ndarray | None = None) -> list[dict[str, str]]:
        """The attributes of each picture, from the pixels where `visible` (N, H, W) is true; None: from all."""
        logits, _ = self.outputs(pictures, visible)
        picked = {name: logit.argmax(1).tolist() for name, logit in logits.items()}
        return [{name: ATTRIBUTES[name][k[i]] for name, k in picked.items()} for i in range(len(pictures))]

    def whole(self, pictures: np.ndarray) -> np.ndarray:
        """Whether each shows one whole avatar of one style, bool (N): not glued, mixed, bent, smeared, out of place."""
        return (self.outputs(pictures, None)[1] > 0).numpy()


def hit(name: str, read: dict[str, str], told: dict[str, str]) -> float:
    """1 where an attribute was read as it is, else 0; NaN: a colour of hair that cannot be seen."""
    return np.nan if name == "hair_colour" and not told[name] else float(read[name] == told[name])


def agreement(judge: Judge, rows: list[dict[str, str]], pictures: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(N, 4): whether each of KEPT, read from the hidden part alone, is as in the row; NaN: cannot be seen."""
    read = judge.read(pictures, hidden)
    told = [attributes(row) for row in rows]
    return np.array([
        [float(r[name] == t[name]) if t[name] else np.nan for name in KEPT] for r, t in zip(read, told, strict=True)
    ])  # fmt: skip


@cache
def shared_judge() -> Judge:
    return Judge()
