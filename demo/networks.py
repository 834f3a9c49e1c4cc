"""The networks of the embedded checkpoint, in the layout that ComfyUI's stock loaders detect."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from word_vectors import WIDTH


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


def make_vae(channels: int) -> torch.nn.Module:
    from comfy.taesd.taesd import TAESD

    return initialise(TAESD(latent_channels=channels)).to(memory_format=torch.channels_last)


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


def fast_dtype(device: str) -> torch.dtype:
    """For training: bfloat16, but float32 on CPUs without instructions for it, where bfloat16 is many times slower."""
    slow = device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.float32 if slow else torch.bfloat16


def make_mmdit(depth: int = 3) -> torch.nn.Module:
    """SD3's transformer for 16 x 16 latents; its width is 64 times its depth, as the host detects it."""
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper, get_2d_sincos_pos_embed
    from comfy.ops import disable_weight_init

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64 * depth}}
    mmdit = OpenAISignatureMMDITWrapper(
        input_size=None, patch_size=2, in_channels=16, out_channels=16, depth=depth, num_patches=64,
        pos_embed_max_size=8, pos_embed_scaling_factor=None, qk_norm="rms", dtype=torch.float32,
        operations=disable_weight_init, context_embedder_config=embedder,
    )  # fmt: skip
    initialise(mmdit)
    mmdit.pos_embed.copy_(torch.from_numpy(get_2d_sincos_pos_embed(64 * depth, 8)))
    # Every block starts as the identity, and the output at zero.
    for name, p in mmdit.named_parameters():
        if ".adaLN_modulation.1." in name or name.startswith("final_layer.linear"):
            torch.nn.init.zeros_(p)
        elif name.endswith(("ln_q.weight", "ln_k.weight")):
            torch.nn.init.ones_(p)
    return mmdit


def eps_target(z: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SD's schedule at u in [0, 1): noisy input, the network's time, and what it predicts, the noise."""
    t = (1000 * u).long()
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=z.device) ** 2, 0)[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise, t.float(), noise


def flow_target(z: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Straight paths, at u shifted by 3 as the host's SD3 has it; the network predicts the velocity."""
    s = (3 * u / (1 + 2 * u)).view(-1, 1, 1, 1)
    return (1 - s) * z + s * noise, 1000 * s.flatten(), noise - z


@dataclass(frozen=True)
class Layout:
    """A checkpoint format of the host.

    Attributes:
        channels: of the latent.
        scale, shift: the host's latent format makes (latent - shift) * scale of an encoded latent.
        make: builds the network.
        target: noisy input, time and target of a latent, noise and u in [0, 1).
    """

    channels: int
    scale: float
    shift: float
    make: Callable[[], torch.nn.Module]
    target: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


LAYOUTS = {
    "sd15": Layout(4, 0.18215, 0.0, make_unet, eps_target),
    "sd3": Layout(16, 1.5305, 0.0609, make_mmdit, flow_target),
}


def export(
    file: Path,
    layout: Layout,
    vae: torch.nn.Module,
    mean: Tensor,
    std: Tensor,
    network: torch.nn.Module,
    meta: dict[str, str],
) -> None:
    """One half-precision safetensors file that the stock checkpoint loader takes.

    The network saw latents with zero mean and unit deviation: `mean` and `std` go into the VAE's scale and shift.
    """
    tensors = {f"model.diffusion_model.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in vae.state_dict().items()}
    tensors["first_stage_model.vae_scale"] = layout.scale * std
    tensors["first_stage_model.vae_shift"] = layout.shift - mean / (layout.scale * std)
    save_file({k: v.half().contiguous().cpu() for k, v in tensors.items()}, file, metadata=meta)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, network after {meta['steps']} steps")
