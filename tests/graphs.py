"""The standard inpainting graph of the host tests, and objects handed into graphs."""

from typing import Any

import numpy as np
import torch
from host import CHECKPOINT, ROOT, Host, node
from PIL import Image
from torch import Tensor

SIZE = 128


def picture() -> tuple[Tensor, Tensor]:
    """An emoji on white that the model never saw (1, 128, 128, 3), and a mask (1, 128, 128) of its right half."""
    path = ROOT / "tests" / "pictures" / "airplane.png"
    image = torch.from_numpy(np.array(Image.open(path).convert("RGB")) / 255).float()[None]
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    return image, mask


def give(host: Host, kind: str, value: Any) -> dict[str, Any]:
    """A graph node that hands out `value` as an output of type `kind`."""
    name = f"TestGive{len(host.nodes.NODE_CLASS_MAPPINGS)}"
    host.nodes.NODE_CLASS_MAPPINGS[name] = type(name, (), {
        "RETURN_TYPES": (kind,), "FUNCTION": "give", "CATEGORY": "test",
        "INPUT_TYPES": classmethod(lambda cls: {"required": {}}),
        "give": lambda self: (value,),
    })  # fmt: skip
    return node(name)


def inpaint_graph(host: Host) -> dict[str, dict[str, Any]]:
    """Nodes by name: ckpt, count, image, mask, words, constraint, sample, out."""
    image, mask = picture()
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "count": node("TestCount", model=["ckpt", 0]),
        "image": give(host, "IMAGE", image),
        "mask": give(host, "MASK", mask),
        "words": node("WordConditioning", text=""),
        "constraint": node(
            "LatentMaskConstraint", image=["image", 0], mask=["mask", 0], vae=["ckpt", 2], fill="extend", erode=0,
            partial_cells=True,
        ),
        "sample": node(
            "NewtonConstrainedSampler", model=["count", 0], positive=["words", 0], negative=["words", 0],
            latent_image=["constraint", 1], constraint=["constraint", 0], seed=1, steps=4, cfg=1.0,
            scheduler="simple", denoise=1.0,
        ),
        "out": node("TestCapture", value=["sample", 0]),
    }  # fmt: skip


def custom_sampling(graph: dict[str, Any], sampler: dict[str, Any], latent: list[Any], steps: int = 4) -> None:
    """Replace our node in `graph` by SamplerCustom with the given SAMPLER node."""
    graph |= {
        "sampler": sampler,
        "sigmas": node("BasicScheduler", model=["ckpt", 0], scheduler="simple", steps=steps, denoise=1.0),
        "sample": node(
            "SamplerCustom", model=["count", 0], add_noise=True, noise_seed=1, cfg=1.0, positive=["words", 0],
            negative=["words", 0], sampler=["sampler", 0], sigmas=["sigmas", 0], latent_image=latent,
        ),
    }  # fmt: skip


def newton_steps(graph: dict[str, Any], *users: str, **custom: Any) -> None:
    """Let the named nodes take Newton steps for masks too: one a level, or as `custom` says."""
    widgets = {"iterations": 1, "rate_first": 0.5, "rate_last": 0.5, "delta": 0.0, "eta": 1.0, "carry": True}
    graph["settings"] = node("NewtonSettings", preset="custom", **widgets | {"hold": False} | custom)
    for user in users:
        graph[user]["inputs"]["settings"] = ["settings", 0]


def sampled(host: Host, graph: dict[str, Any]) -> Tensor:
    return host.run(graph)[0]["samples"]


def encoded(host: Host, graph: dict[str, Any]) -> Tensor:
    """The constraint's own latent."""
    kept = {k: v for k, v in graph.items() if k in ("ckpt", "image", "mask", "constraint")}
    return sampled(host, kept | {"out": node("TestCapture", value=["constraint", 1])})


def without_mask(host: Host, graph: dict[str, Any]) -> None:
    """Let `graph` sample the constraint's latent without its noise mask, which would be a constraint too."""
    graph["unmasked"] = give(host, "LATENT", {"samples": encoded(host, graph)})
    graph["sample"]["inputs"]["latent_image"] = ["unmasked", 0]
