"""LanPaint, the nearest rival, as it is: its own KSampler node, unmodified, from the folder LANPAINT_PATH."""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from counted import counted
from torch import Tensor


@cache
def load_node() -> Any:
    folder = Path(os.environ["LANPAINT_PATH"])
    spec = importlib.util.spec_from_file_location(
        "lanpaint_pack", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["lanpaint_pack"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package.NODE_CLASS_MAPPINGS["LanPaint_KSampler"]()


def sample(model: Any, prompt: list, latent: Tensor, mask: Tensor, steps: int, seed: int) -> tuple[Tensor, int]:
    """Latents and model calls; unprompted, euler, scheduler `simple`, its other inputs at their defaults.

    Args:
        mask: (B, H, W) in pixels, 1 = regenerate.
    """
    model, seen = counted(model)
    latent_image = {"samples": latent, "noise_mask": mask.unsqueeze(1)}
    out = load_node().sample(model, seed, steps, 1.0, "euler", "simple", prompt, prompt, latent_image)[0]
    return out["samples"], len(seen)
