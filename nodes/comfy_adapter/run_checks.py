"""What a sampler function of the host is given by other nodes than ours, checked before the first model call."""

import math
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..checks import check_finite, check_unit_range


def check_run(guider: Any, x: Tensor, sigmas: Tensor, mask: Tensor | None) -> None:
    """Raises a ValueError that names the input.

    Args:
        guider: of the run, with its conditionings ready for the model.
        x: (B, C, ..., h, w), noisy.
        sigmas: two or more noise levels.
        mask: the latent's noise mask as the host interpolates it.
    """
    levels = sigmas.tolist()
    if not all(math.isfinite(s) and s >= 0 for s in levels):
        raise ValueError(f"sigmas: {shown(levels)} are no noise levels. Give finite ones that are not negative.")
    if any(b > a for a, b in pairwise(levels)) or not all(levels[:-1]):
        raise ValueError(
            f"sigmas: {shown(levels)} do not fall. Give levels from high to low, not flipped: constrained sampling "
            "removes noise."
        )
    cfg = getattr(guider, "cfg", 1.0)
    if isinstance(cfg, float | int) and not math.isfinite(cfg):  # other packs' guiders may have one for each step
        raise ValueError(f"cfg: it is {cfg}. Set a number, such as 1 (without guidance) to 10.")
    check_finite("latent_image", x)
    if mask is not None:
        check_unit_range("latent_image: noise_mask", mask)
    for name, conds in getattr(guider, "conds", {}).items():
        for key, value in (item for c in conds or () for item in c.get("model_conds", {}).items()):
            if isinstance(getattr(value, "cond", None), Tensor):
                check_finite(name, value.cond, masks="mask" in key)


def shown(levels: list[float]) -> str:
    return ", ".join(f"{s:g}" for s in levels[:5]) + (", ..." if len(levels) > 5 else "")
