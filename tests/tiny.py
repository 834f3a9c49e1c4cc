"""Small random models and model files, for the nodes that the shipped checkpoint has no place for."""

from pathlib import Path
from typing import Any

import torch
from host import CHECKPOINT, ROOT
from safetensors.torch import load_file, save_file

WIDTH = 320  # of the shipped network


def random_weights(module: torch.nn.Module, output: str = "") -> torch.nn.Module:
    """Torch's own initialisation for the host's layers, which start as raw memory.

    The layer called `output` gets a tenth of it: eps is then small, x0 is near x and J near the identity, which is a
    poor denoiser but one that can obey.
    """
    torch.manual_seed(0)
    for m in module.modules():
        for base in (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm):
            if isinstance(m, base):
                base.reset_parameters(m)
    if output:
        with torch.no_grad():
            module.get_submodule(output).weight *= 0.1
    return module


def patcher(model: Any) -> Any:
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(model.requires_grad_(False), torch.device("cpu"), torch.device("cpu"))


def unet(inpainting: bool = False) -> Any:
    """A MODEL like SD1.5's, 32 channels wide, with the middle block and the second level that FreeU and PAG act on.

    An inpainting one has five more channels in, for the mask and the masked picture.
    """
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.SD15({
        "image_size": 32, "in_channels": 9 if inpainting else 4, "out_channels": 4, "model_channels": 32,
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "use_spatial_transformer": True, "context_dim": 768,
        "legacy": False, "transformer_depth": [1, 1], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1], "use_linear_in_transformer": False, "dtype": torch.float32,
    })  # fmt: skip
    model = comfy.model_base.BaseModel(config)
    if inpainting:
        model.set_inpaint()
    random_weights(model.diffusion_model, "out.2")
    return patcher(model)


def mmdit() -> Any:
    """A MODEL like SD3's of two blocks, for 4-channel latents."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.SD3({
        "input_size": None, "in_channels": 4, "depth": 2, "adm_in_channels": 8, "pos_embed_max_size": 16,
        "num_patches": 256, "context_embedder_config": {"target": "torch.nn.Linear",
        "params": {"in_features": 768, "out_features": 128}}, "dtype": torch.float32,
    })  # fmt: skip
    config.latent_format = comfy.latent_formats.SD15()
    model = comfy.model_base.SD3(config)
    random_weights(model.diffusion_model, "final_layer.linear")
    torch.nn.init.normal_(model.diffusion_model.pos_embed)
    return patcher(model)


def write_lora(file: Path) -> None:
    """A LoRA of rank 1 with random weights on the shipped network's convolutions and attention."""
    weights = load_file(ROOT / "demo" / CHECKPOINT)
    generator, lora = torch.Generator().manual_seed(0), {}
    for key, weight in weights.items():
        if not key.startswith("model.diffusion_model.input_blocks.1") or weight.ndim < 2:
            continue
        name = "lora_unet_" + key.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
        flat = (weight.shape[0], weight[0].numel())
        scale = weight.float().std()
        up, down = torch.randn(flat[0], 1, generator=generator), torch.randn(1, flat[1], generator=generator)
        tail = (1, 1) if weight.ndim == 4 else ()
        lora[f"{name}.lora_up.weight"] = scale * up.reshape(flat[0], 1, *tail)
        lora[f"{name}.lora_down.weight"] = down.reshape(1, *weight.shape[1:])
    save_file(lora, file)


def write_controlnet(file: Path) -> None:
    """A ControlNet with random weights in the shipped network's format."""
    from comfy.cldm.cldm import ControlNet

    net = ControlNet(
        image_size=32, in_channels=4, model_channels=WIDTH, hint_channels=3, num_res_blocks=[1], channel_mult=[1],
        num_heads=8, use_spatial_transformer=True, transformer_depth=[1], transformer_depth_middle=0,
        context_dim=768, legacy=False,
    )  # fmt: skip
    save_file({k: v.half().contiguous() for k, v in random_weights(net).state_dict().items()}, file)
