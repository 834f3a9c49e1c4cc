"""What stands in the unknown region while a picture is encoded."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def extend_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Pixels take the colour of the nearest pixel that is rather known, the more the less they are known themselves.

    A pixel of mask m is 2 m - 1 of the way to that colour, and stays below 1/2: monotone and continuous in m, exact at
    0 and 1, and never further than m. Grey where nothing is known.

    Args:
        image: (B, H, W, 3) in [0, 1].
        mask: (B, H, W) in [0, 1], 1 = unknown.
    """
    return torch.lerp(image, nearest_known(image, mask), (2 * mask - 1).clamp(min=0).unsqueeze(-1))


def nearest_known(image: Tensor, mask: Tensor) -> Tensor:
    out = image.clone()
    for picture, unknown in zip(out, (mask >= 0.5).cpu().numpy(), strict=True):
        if unknown.all():
            picture[:] = 0.5
        else:
            rows, columns = distance_transform_edt(unknown, return_distances=False, return_indices=True)
            picture[:] = picture[torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))]
    return out


def grey_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Unknown pixels become mid-grey, softly where the mask is soft."""
    return image + mask.unsqueeze(-1) * (0.5 - image)


def no_fill(image: Tensor, mask: Tensor) -> Tensor:
    return image


FILLS = {"extend": extend_fill, "grey": grey_fill, "none": no_fill}
