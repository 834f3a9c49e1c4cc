"""How a limited number of model calls is spread over the noise levels."""

import math

from .denoiser import Scales

# Noise levels whose corrections count most: arctan(s / alpha).
MIDDLE = 0.94


def share(steps: int, iterations: int, remaining: list[Scales]) -> int:
    """Newton steps for the first of the `remaining` noise levels, when `steps` are left for all of them.

    All levels get the same number, at most `iterations`; what is over goes to the middle ones, one each.
    """
    each, over = divmod(steps, len(remaining))
    middle = sorted(range(len(remaining)), key=lambda i: abs(math.atan2(remaining[i].s, remaining[i].alpha) - MIDDLE))
    return min(iterations, each + (0 in middle[:over]))
