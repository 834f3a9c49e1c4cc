"""The four usual inpainting graphs: the stock KSampler replaced by ours, or its model constrained, and nothing else.

They run as they are, and their seams are smaller than before: at the border of the mask that was painted, where the
result is put into the picture, also where VAE Encode (for Inpainting) lets a grown mask be sampled.
"""

import numpy as np
import pytest
import torch
from graphs import SIZE, give
from host import ROOT, Host, node
from PIL import Image

CHECKPOINT = "ncs_avatars.safetensors"
PICTURES, STEPS = 4, 8


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """Held-out avatars in list order, (B, 128, 128, 3)."""
    files = sorted((ROOT / "demo" / "heldout").glob("*.png"))[:PICTURES]
    return torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB")) / 255).float() for f in files])


def hidden() -> torch.Tensor:
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    return mask


def stock(host: Host, truth: torch.Tensor) -> dict:
    """What the four have in common: loader, pictures with their right half grey, prompt, KSampler."""
    grey = torch.lerp(truth, torch.tensor(0.5), hidden().unsqueeze(-1))
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "image": give(host, "IMAGE", grey),
        "mask": give(host, "MASK", hidden()),
        "words": node("WordConditioning", text=""),
        "encode": node("VAEEncode", pixels=["image", 0], vae=["ckpt", 2]),
        "sample": node(
            "KSampler", model=["ckpt", 0], positive=["words", 0], negative=["words", 0], latent_image=["masked", 0],
            seed=1, steps=STEPS, cfg=1.0, sampler_name="euler_ancestral", scheduler="simple", denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2]),
        "out": node("TestCapture", value=["decode", 0]),
    }  # fmt: skip


def vae_encode_for_inpaint(graph):
    graph["masked"] = node(
        "VAEEncodeForInpaint", pixels=["image", 0], vae=["ckpt", 2], mask=["mask", 0], grow_mask_by=6
    )


def set_latent_noise_mask(graph):
    graph["masked"] = node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0])


def inpaint_model_conditioning(graph):
    graph["masked"] = node(
        "InpaintModelConditioning", positive=["words", 0], negative=["words", 0], vae=["ckpt", 2],
        pixels=["image", 0], mask=["mask", 0], noise_mask=True,
    )  # fmt: skip
    graph["sample"]["inputs"] |= {
        "positive": ["masked", 0], "negative": ["masked", 1], "latent_image": ["masked", 2],
    }  # fmt: skip


def differential_diffusion(graph):
    set_latent_noise_mask(graph)
    graph["differential"] = node("DifferentialDiffusion", model=["ckpt", 0])
    graph["sample"]["inputs"]["model"] = ["differential", 0]


GRAPHS = [vae_encode_for_inpaint, set_latent_noise_mask, inpaint_model_conditioning, differential_diffusion]


def replace_the_sampler(graph):
    kept = {k: v for k, v in graph["sample"]["inputs"].items() if k != "sampler_name"}
    graph["sample"] = node("NewtonConstrainedSampler", **kept)


def constrain_the_model(graph):
    inputs = graph["sample"]["inputs"]
    graph["constrained"] = node("NewtonConstrainModel", model=inputs["model"])
    inputs["model"] = ["constrained", 0]


def seam(made, truth):
    """Mean jump over the mask's border, as in the tables, of the result beside the truth, minus the truth's own."""
    border = SIZE // 2
    across = (made[:, :, border] - truth[:, :, border - 1]).abs().mean()
    return (across - (truth[:, :, border] - truth[:, :, border - 1]).abs().mean()).item()


@pytest.mark.parametrize("build", GRAPHS, ids=lambda build: build.__name__)
def test_swapped_in_it_runs_and_seams_are_smaller(host, truth, build):
    seams = {}
    for name, swap in (("stock", None), ("ours", replace_the_sampler), ("constrained", constrain_the_model)):
        graph = stock(host, truth)
        build(graph)
        if swap:
            swap(graph)
        (made,) = host.run(graph)
        assert made.shape == truth.shape
        seams[name] = seam(made, truth)
    assert seams["ours"] < seams["stock"] and seams["constrained"] < seams["stock"], seams
