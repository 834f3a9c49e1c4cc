"""Large pictures piece by piece."""

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(apply: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, unit_in: int, unit_out: int) -> Tensor:
    """`apply` on overlapping tiles of the last two dimensions, blended; its memory grows with the tile, not with x.

    Differentiable where `apply` is. One tile over everything is `apply` itself.

    Args:
        apply: maps (..., unit_in h, unit_in w) to (..., unit_out h, unit_out w): 1 and 8 for a decoder.
        x: (..., unit_in H, unit_in W).
        tile, overlap: in cells, the unit of H and W; 0 <= overlap < tile.
    """
    height, width = x.shape[-2] // unit_in, x.shape[-1] // unit_in
    if max(height, width) <= tile:
        return apply(x)
    out = x.new_zeros(0)
    for top, down, row in windows(height, tile, overlap, unit_out):
        for left, right, column in windows(width, tile, overlap, unit_out):
            y = apply(x[..., top * unit_in : down * unit_in, left * unit_in : right * unit_in])
            if not out.numel():
                out = y.new_zeros(*y.shape[:-2], height * unit_out, width * unit_out)
            part = out[..., top * unit_out : down * unit_out, left * unit_out : right * unit_out]
            part += y * torch.outer(row, column).to(y)
    return out


def windows(length: int, tile: int, overlap: int, unit: int) -> list[tuple[int, int, Tensor]]:
    """Evenly spaced spans of `tile` cells with their weights, which rise over the overlap and sum to 1 everywhere."""
    tile = min(tile, length)
    count = 1 if length == tile else -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / max(count - 1, 1)) for i in range(count)]
    place = (torch.arange(tile * unit) + 0.5) / unit
    slope = (torch.minimum(place, tile - place) / max(overlap, 1e-3)).clamp(max=1)
    total = torch.zeros(length * unit)
    for start in starts:
        total[start * unit : (start + tile) * unit] += slope
    return [(s, s + tile, slope / total[s * unit : (s + tile) * unit]) for s in starts]
