"""The networks of the embedded checkpoint, in the layout that ComfyUI's stock loaders detect."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from word_vectors import WIDTH

SCALE = 0.18215  # the host's SD1.5 latent format multiplies an encoded latent by this


def import_host(path: str) -> None:
    """Put ComfyUI on the path and make it run in fp32 on the CPU unless there is a GPU."""
    sys.path.insert(0, path)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


def initialise(module: torch.nn.Module) -> torch.nn.Module:
    """The host's layers leave weights uninitialised; give them torch's own initialisation."""
    for m in module.modules():
        for base in (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm):
            if isinstance(m, base):
                base.reset_parameters(m)
    return module


def make_vae() -> torch.nn.Module:
    from comfy.taesd.taesd import TAESD

    return initialise(TAESD(latent_channels=4)).to(memory_format=torch.channels_last)


def make_unet() -> torch.nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init

    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1], channel_mult=[1],
        num_heads=8, num_head_channels=-1, use_spatial_transformer=True, context_dim=WIDTH, legacy=False,
        transformer_depth=[1], transformer_depth_middle=-2, transformer_depth_output=[0, 0],
        use_linear_in_transformer=False, operations=disable_weight_init,
    )  # fmt: skip
    initialise(unet)
    # Residual branches and the output start at zero.
    for name, p in unet.named_parameters():
        if name.endswith(("out_layers.3.weight", "out_layers.3.bias", "proj_out.weight", "proj_out.bias")):
            torch.nn.init.zeros_(p)
    torch.nn.init.zeros_(unet.out[2].weight)
    return unet


def alphas_cumprod() -> torch.Tensor:
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


def export(
    file: Path,
    vae: torch.nn.Module,
    mean: torch.Tensor,
    std: torch.Tensor,
    unet: torch.nn.Module,
    seed: int,
    steps: int,
) -> None:
    """One half-precision safetensors file in the layout of an SD1.5 checkpoint.

    The UNet saw latents with zero mean and unit deviation: `mean` and `std` go into the VAE's shift and scale.
    """
    tensors = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in vae.state_dict().items()}
    tensors["first_stage_model.vae_scale"] = SCALE * std
    tensors["first_stage_model.vae_shift"] = -mean / (SCALE * std)
    meta = {
        "modelspec.title": "Newton Constrained Sampling demo (Noto emoji, 128 px)",
        "modelspec.license": "MIT; pictures: Noto Emoji, SIL OFL 1.1 / Apache-2.0",
        "trained_by": "demo/train.py",
        "unet_steps": str(steps),
        "seed": str(seed),
    }
    save_file({k: v.half().contiguous().cpu() for k, v in tensors.items()}, file, metadata=meta)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, UNet after {steps} steps")
