"""Pictures named by what no gradient passes through: JPEG compression, few levels, few colours."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..sampler import LinearMeasurement

# IMAGE to IMAGE, (B, H, W, 3) in [0, 1]: what travels over the TARGET socket.
ImageMap = Callable[[Tensor], Tensor]
# What a faulty function raises; a cancelled run is none of these.
FAULTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
          TypeError, ValueError)  # fmt: skip


def to_pillow(picture: Tensor) -> Image.Image:
    """One HWC picture."""
    return Image.fromarray((255 * picture.clamp(0, 1)).round().byte().cpu().numpy())


def from_pillow(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255


def each_picture(image: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    return torch.stack([from_pillow(change(to_pillow(picture))) for picture in image]).to(image)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Pillow's JPEG and back, colour halved in both directions as it does by default."""

    def change(picture: Image.Image) -> Image.Image:
        with io.BytesIO() as file:
            picture.save(file, "JPEG", quality=quality)
            return Image.open(file).convert("RGB")

    return each_picture(image, change)


@dataclass(frozen=True)
class Jpeg:
    """JPEG as a measurement; compressing twice changes little, so the identity serves as adjoint and pseudo-inverse.

    As in Kawar, Song, Ermon, Elad, "JPEG artifact correction using denoising diffusion restoration models".
    """

    quality: int

    def A(self, picture: Tensor) -> Tensor:
        return as_picture_map(lambda image: jpeg(image, self.quality))(picture)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y

    def A_dagger(self, y: Tensor) -> Tensor:
        return y

    def to(self, device: torch.device) -> "Jpeg":
        return self


class Compressed(LinearMeasurement):
    """A picture as JPEG left it. Changes of a picture are no pictures to compress: for them A is the identity."""

    def A_adjoint_A(self, change: Tensor) -> Tensor:
        return change


def posterise(image: Tensor, levels: int) -> Tensor:
    """Every channel to its nearest of `levels` >= 2 even steps from 0 to 1."""
    return (image * (levels - 1)).round() / (levels - 1)


def pixel_art(image: Tensor, cell: int, colours: int, palette: Tensor | None) -> Tensor:
    """Square cells of one colour each, out of few: the commonest in the cell, as averages would blur at every step.

    Args:
        image: (B, H, W, 3) in [0, 1].
        cell: side of a cell in pixels; height and width must be multiples of it.
        colours: how many, 2 to 256; the picture's own, by Pillow's median cut and k-means.
        palette: (n, 3) in [0, 1], colours to use instead.
    """
    height, width = image.shape[1:3]
    if height % cell or width % cell:
        raise ValueError(
            f"cell: {cell} does not divide the picture's {width}x{height}. Choose a divisor of both, such as "
            f"{math.gcd(height, width)}."
        )
    palettes = [palette] * len(image)
    if palette is None:
        centres = image[:, cell // 2 :: cell, cell // 2 :: cell]
        reduced = each_picture(centres, lambda picture: picture.quantize(colours, kmeans=1))
        palettes = [picture.reshape(-1, 3).unique(dim=0) for picture in reduced]
    small = torch.stack([commonest(*both, cell) for both in zip(image, palettes, strict=True)])
    return small.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def commonest(picture: Tensor, palette: Tensor, cell: int) -> Tensor:
    """Of each square cell of (H, W, 3) the colour to which most of its pixels are nearest, (H / cell, W / cell, 3)."""
    palette = palette.to(picture)
    pixels = picture.reshape(-1, 3).split(2**16)  # the distances of all at once would be large
    index = torch.cat([torch.cdist(some, palette).argmin(1) for some in pixels]).reshape(picture.shape[:2])
    return palette[index.unfold(0, cell, cell).unfold(1, cell, cell).flatten(2).mode(-1).values]


def distinct_colours(image: Tensor) -> Tensor:
    """The colours of a palette picture (B, H, W, 3), (n, 3), at most 256 of them."""
    colours = (255 * image[..., :3].clamp(0, 1)).round().reshape(-1, 3).unique(dim=0) / 255
    if not 2 <= len(colours) <= 256:
        raise ValueError(
            f"palette: the picture has {len(colours)} colours. Give one of 2 to 256, without soft edges or JPEG."
        )
    return colours


def named(function: ImageMap) -> ImageMap:
    """A user's function, whose exceptions say that they are its own; running out of memory stays what it is."""

    def target(image: Tensor) -> Tensor:
        try:
            return function(image)
        except torch.OutOfMemoryError:
            raise
        except FAULTS as e:
            raise ValueError(
                f"function: it raised {type(e).__name__} ({e}) for an IMAGE of shape {tuple(image.shape)}. Mend it, or "
                "choose another target."
            ) from e

    return target


def as_picture_map(target: ImageMap) -> Callable[[Tensor], Tensor]:
    """From IMAGE to IMAGE, to (B, 3, H, W) to (B, 3, H, W) as constraints see pictures; checks what comes back.

    Raises:
        ValueError: it gave no finite IMAGE of the same shape.
    """

    def picture_map(picture: Tensor) -> Tensor:
        image = picture.clamp(0, 1).movedim(1, -1).cpu()  # BCHW -> BHWC, where every IMAGE is
        out = target(image)
        if not isinstance(out, Tensor) or out.shape != image.shape:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"function: it returned {found} for an IMAGE of shape {tuple(image.shape)}. Return an IMAGE of the "
                "same shape."
            )
        if not out.isfinite().all():
            raise ValueError("function: it returned NaN or infinite values. Return an IMAGE in [0, 1].")
        return out.movedim(-1, 1).to(picture)

    return picture_map
