"""Heat maps, and sheets of labelled pictures, drawn with Pillow."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, PALE, PAPER, MARK = "#202020", "#606060", "#ffffff", "#00e0a0"
SIDE, GAP, HEAD, LINE = 224, 16, 44, 22  # of a cell and around it, pixels
# From a hundredth of the largest value to the largest, evenly on a logarithmic scale.
COLOURS = ((13, 8, 135), (84, 2, 163), (139, 10, 165), (185, 50, 137), (219, 92, 104), (244, 136, 73), (254, 188, 43),
           (240, 249, 33))  # fmt: skip
DECADES = 2


class Cell(NamedTuple):
    """A picture of a sheet and what stands below it."""

    picture: Image.Image
    caption: str = ""


def colours_of(shares: np.ndarray) -> np.ndarray:
    """Shares of the largest value (...) to RGB (..., 3), uint8."""
    with np.errstate(divide="ignore"):
        place = (1 + np.log10(shares) / DECADES).clip(0, 1) * (len(COLOURS) - 1)
    points, table = np.arange(len(COLOURS)), np.array(COLOURS)
    return np.stack([np.interp(place, points, table[:, i]) for i in range(3)], -1).round().astype(np.uint8)


def scaled(picture: Image.Image) -> Image.Image:
    """As large as a cell; latent cells stay squares."""
    factor = SIDE / max(picture.size)
    size = tuple(max(1, round(n * factor)) for n in picture.size)
    smooth = factor < 1 or min(picture.size) > 64
    return picture.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def marked(picture: Image.Image, weights: Tensor) -> Image.Image:
    """With a frame around the cells whose weight (h, w) is above 0."""
    rows, columns = (weights > 0).any(1).nonzero().flatten(), (weights > 0).any(0).nonzero().flatten()
    drawn = scaled(picture)
    across, down = drawn.width / weights.shape[1], drawn.height / weights.shape[0]
    box = (across * columns[0].item(), down * rows[0].item(), across * (columns[-1].item() + 1),
           down * (rows[-1].item() + 1))  # fmt: skip
    ImageDraw.Draw(drawn).rectangle([round(n) - (n > 0) for n in box], outline=MARK, width=2)
    return drawn


def heat(values: Tensor, top: float, weights: Tensor) -> Image.Image:
    """A map (h, w) >= 0 in colours, `top` the brightest, with a frame around the probed cells."""
    shares = values.double().cpu().numpy() / max(top, 1e-30)
    return marked(Image.fromarray(colours_of(shares)), weights)


def legend(top: float) -> Image.Image:
    """The colours from top to bottom with their values."""
    drawn = Image.new("RGB", (96, SIDE), PAPER)
    column = colours_of(10.0 ** np.linspace(0, -DECADES, SIDE))
    drawn.paste(Image.fromarray(column[:, None].repeat(18, 1)), (0, 0))
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(15)
    for i in range(DECADES + 1):
        pen.text((26, i * SIDE / DECADES), f"{top * 10.0**-i:.2g}", INK, font, ("lt", "lm", "ls")[min(i, 2)])
    return drawn


def picture_of(image: Tensor) -> Image.Image:
    """An IMAGE's picture (H, W, 3) in [0, 1]."""
    return Image.fromarray((255 * image[..., :3].clamp(0, 1)).round().byte().cpu().numpy())


def draw_sheet(title: str, columns: list[str], rows: list[tuple[str, list[Cell]]], note: str = "") -> Tensor:
    """An IMAGE (1, H, W, 3): a row of cells under its label, captions of several lines below the cells."""
    font, small = ImageFont.load_default(19), ImageFont.load_default(15)
    lines = max(cell.caption.count("\n") + 1 if cell.caption else 0 for _, cells in rows for cell in cells)
    heights = [max(cell.picture.height for cell in cells) + HEAD - 14 + lines * LINE for _, cells in rows]
    width = GAP + max(SIDE * (len(cells) - 1) + cells[-1].picture.width + GAP * len(cells) for _, cells in rows)
    top = 2 * HEAD - 8 if columns else HEAD
    sheet = Image.new("RGB", (width, top + sum(heights) + (HEAD if note else GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 12), title, INK, font)
    for i, column in enumerate(columns):  # above the first row
        pen.text((GAP + i * (SIDE + GAP), HEAD + 12), column, INK, small)
    for (label, cells), height in zip(rows, heights, strict=True):
        pen.text((GAP, top), label, PALE, small)
        for i, cell in enumerate(cells):
            left, below = GAP + i * (SIDE + GAP), top + HEAD - 22
            sheet.paste(cell.picture, (left, below))
            pen.multiline_text((left, below + cell.picture.height + 3), cell.caption, INK, small)
        top += height
    pen.text((GAP, sheet.height - HEAD + 12), note, PALE, small)
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255)[None]


def pooled(mask: Tensor, height: int, width: int) -> Tensor:
    """A pixel mask (1, H, W) as weights of latent cells (h, w): the share of each that is white."""
    return F.adaptive_avg_pool2d(mask.float().unsqueeze(1), (height, width))[0, 0]
