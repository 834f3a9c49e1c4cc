"""Small model files of each family, written so that the host's own loaders detect them, and graphs that use them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from graphs import give
from host import Host, node
from safetensors.torch import save_file
from torch import Tensor

# The tensors from which the host reads off a model's family and size.
SIGNATURES = {
    "sd3": {
        "joint_blocks.0.context_block.attn.qkv.weight": (384, 128),
        "joint_blocks.1.context_block.attn.qkv.weight": (384, 128),
        "x_embedder.proj.weight": (128, 16, 2, 2),
        "final_layer.linear.weight": (64, 128),
        "context_embedder.weight": (128, 32),
        "y_embedder.mlp.0.weight": (128, 24),
        "pos_embed": (1, 256, 128),
    },
    # Flux is 3072 wide whatever the file says; one double block is the least.
    "flux_schnell": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 32),
        "vector_in.in_layer.weight": (3072, 24),
    },
    "flux_dev": {"guidance_in.in_layer.weight": (3072, 256)},
    "wan": {
        "head.modulation": (1, 2, 128),
        "head.head.weight": (64, 128),
        "blocks.0.ffn.0.weight": (128, 128),
        "patch_embedding.weight": (128, 16, 1, 2, 2),
    },
    # 36 blocks with 40 heads whatever the file says.
    "cosmos": {
        "blocks.block0.blocks.0.block.attn.to_q.0.weight": (480, 480),
        "x_embedder.proj.1.weight": (480, 68),
    },
    # The next two: newer hosts only. The pinned one insists on Cosmos 2 with 28 blocks.
    "cosmos_predict2": {
        "blocks.0.mlp.layer1.weight": (8192, 2048),
        "x_embedder.proj.1.weight": (2048, 68),
    },
    "qwen_image": {
        "txt_norm.weight": (3584,),
        "img_in.weight": (3072, 64),
        "transformer_blocks.0.attn.norm_q.weight": (128,),
    },
    "z_image": {
        "cap_embedder.1.weight": (3840, 32),
        "noise_refiner.0.attention.k_norm.weight": (128,),
        "layers.0.attention.k_norm.weight": (128,),
    },
    # The next two: newer hosts only. The pinned one insists on the width of the large models.
    "flux_narrow": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "img_in.weight": (128, 64),
        "txt_in.weight": (128, 32),
        "vector_in.in_layer.weight": (128, 24),
        "guidance_in.in_layer.weight": (128, 256),
    },
    "flux2_klein": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "double_stream_modulation_img.lin.weight": (768, 128),
        "img_in.weight": (128, 128),
        "txt_in.weight": (128, 32),
    },
    "cogvideox": {
        "blocks.0.norm1.linear.weight": (384, 32),
        "patch_embed.proj.weight": (64, 16, 2, 2),
        "patch_embed.text_proj.weight": (64, 32),
    },
}
# Of the text embedding, where a file cannot choose.
WIDTHS = {"wan": 4096, "cosmos": 1024, "cosmos_predict2": 1024, "qwen_image": 3584}
SIGNATURES["flux_dev"] |= SIGNATURES["flux_schnell"]


def full_state(signature: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Every tensor of the diffusion model that the host detects from a signature, without storage."""
    from comfy.model_detection import model_config_from_unet

    sign = {k: torch.empty(shape, device="meta") for k, shape in signature.items()}
    return model_config_from_unet(sign, "").get_model(sign, "", device="meta").diffusion_model.state_dict()


def save_sparse(file: Path, state: dict[str, Tensor]) -> None:
    """A safetensors file in which tensors without storage are holes: they read as zeros and take no space."""
    end, header = 0, {}
    for name, t in state.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [end, end := end + t.nbytes]}
    text = json.dumps(header).encode()
    with file.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, t in state.items():
            if not t.is_meta:
                f.seek(8 + len(text) + header[name]["data_offsets"][0])
                f.write(t.numpy().tobytes())
        f.truncate(8 + len(text) + end)


@cache
def write_model(host: Host, family: str, silent: bool = False) -> str:
    """Name of a file for UNETLoader: random weights, zeros in wide blocks and, if silent, in the last layer.

    A silent network predicts 0, whatever its input; the others something small, so that J is near c times the identity.
    """
    generator, state = torch.Generator().manual_seed(0), full_state(SIGNATURES[family])
    for name, t in state.items():
        wide, last = t.numel() > 2e7 or "blocks.block" in name, name.startswith(("final_layer", "head.head"))
        if not wide and not (silent and last):
            scale = (0.02 if last else 1) * t[0].numel() ** -0.5
            state[name] = scale * torch.randn(t.shape, generator=generator)
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    file = f"{family}{'_silent' * silent}.safetensors"
    save_sparse(folder / file, state)
    return file


@cache
def write_video_vae(host: Host) -> str:
    """Name of a file for VAELoader: the architecture of Wan 2.1, as narrow as 8 channels."""
    from comfy.ldm.wan.vae import WanVAE

    torch.manual_seed(0)
    sizes = {
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_scales": [],
        "temperal_downsample": [False, True, True],
    }
    vae = WanVAE(dim=8, z_dim=16, **sizes)
    folder = host.base / "models" / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: 0.1 * torch.randn(t.shape) for k, t in vae.state_dict().items()}, folder / "wan_vae.safetensors")
    return "wan_vae.safetensors"


def family_graph(
    host: Host, family: str, shape: tuple[int, ...], steps: int = 4, silent: bool = False
) -> dict[str, dict[str, Any]]:
    """Nodes by name: model, count, words, known, latent, sample, out. The left half of the latent is known."""
    latent_mask = host.module("nodes.latent_mask")
    y = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weights = torch.zeros(1, 1, *(1,) * (len(shape) - 4), *shape[-2:])
    weights[..., : shape[-1] // 2] = 1
    words = [[torch.zeros(1, 4, WIDTHS.get(family, 32)), {"pooled_output": torch.zeros(1, 24)}]]
    return {
        "model": node("UNETLoader", unet_name=write_model(host, family, silent), weight_dtype="default"),
        "count": node("TestCount", model=["model", 0]),
        "words": give(host, "CONDITIONING", words),
        "known": give(host, "NEWTON_CONSTRAINT", latent_mask.LatentMaskSpec(y, weights)),
        "latent": give(host, "LATENT", {"samples": y}),
        "sample": node(
            "NewtonConstrainedSampler", model=["count", 0], positive=["words", 0], negative=["words", 0],
            latent_image=["latent", 0], constraint=["known", 0], seed=1, steps=steps, cfg=1.0, scheduler="simple",
            denoise=1.0,
        ),
        "out": node("TestCapture", value=["sample", 0]),
    }  # fmt: skip
