"""The standard graph of the style tests: a face sampled freely, and the same under a style."""

from typing import Any

import numpy as np
import torch
from graphs import SIZE, inpaint_graph
from host import ROOT, Host, node
from PIL import Image
from torch import Tensor

STEPS = 8
PEACOCK = Image.open(ROOT / "tests" / "pictures" / "peacock.png").convert("RGB")
REFERENCE = torch.from_numpy(np.array(PEACOCK) / 255).float()[None]  # (1, 128, 128, 3) in [0, 1]


def face_graph(host: Host) -> dict[str, dict[str, Any]]:
    """Free sampling of a face at cfg 3; `style` is to be added."""
    graph = inpaint_graph(host)
    graph["words"] = node("WordConditioning", text="smiling face")
    graph["negative"] = node("WordConditioning", text="")
    graph["latent"] = node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1)
    graph["sample"]["inputs"] |= {"latent_image": ["latent", 0], "negative": ["negative", 0], "cfg": 3.0,
                                  "steps": STEPS}  # fmt: skip
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2])
    graph["out"] = node("TestCapture", value=["decode", 0])
    return graph


def free(host: Host, graph: dict[str, Any]) -> Tensor:
    """The picture (1, 128, 128, 3) without any constraint."""
    inputs = {k: v for k, v in graph["sample"]["inputs"].items() if k not in ("constraint", "settings")}
    return host.run(graph | {"sample": node("NewtonConstrainedSampler", **inputs)})[0]


def constrained(host: Host, graph: dict[str, Any], constraint: str = "style") -> Tensor:
    """The picture under the constraint of the named node."""
    graph["sample"]["inputs"]["constraint"] = [constraint, 0]
    return host.run(graph)[0]
