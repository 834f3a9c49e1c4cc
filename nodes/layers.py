"""Splitting an image into two layers and the mask between them."""

from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampler import LayerSettings, exact_layers, guided_filter, harden_mask, infer_mask, recompose, sample_layers
from .checks import checked
from .comfy_adapter import MultiPromptRun, sample_with_prompts, samples_at_once, simple_levels
from .constraint_spec import repeated
from .sockets import CATEGORY, cfg_input, schema, seed_input
from .vae_checks import check_pictures_vae, encode

# Progress of a run, 0 = pure noise, 1 = none, between which the rounds are spread.
FIRST, LAST = 0.3, 0.75
# How close to 0 or 1 a cell counts as certain.
CERTAIN = 0.2
# Of the mask in pixels: cells around a pixel whose colours count, and how close to 0 or 1 is certain then.
PASSES = (2, 0.4), (1, 0.3)
# How far a starting mask is believed before the image is seen.
BELIEF = 0.9
STRIP = 8  # pixels for a cell, and between two masks


def fit_optional(mask: Tensor | None, image: Tensor) -> Tensor:
    """A mask input as (B, 1, H, W) at the size of `image` (B, 3, H, W); zeros where not connected.

    Masks are repeated or cut to the pictures, as the host does.
    """
    if mask is None:
        return torch.zeros_like(image[:, :1])
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(image).clamp(0, 1)
    return F.interpolate(repeated(mask, len(image)), size=image.shape[2:], mode="nearest-exact")


def pad_to_multiple(t: Tensor, ratio: int) -> Tensor:
    """(B, C, H, W) with its last rows and columns repeated until both sides are multiples of `ratio`."""
    height, width = t.shape[-2:]
    return F.pad(t, (0, -width % ratio, 0, -height % ratio), mode="replicate")


def cell_prior(start: Tensor | None, fixed: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    """Probability of layer 1 before the image is seen, (B, 1, h, w), from masks (B, 1, H, W); 0 and 1 are certain.

    A cell is certain if it holds pixels fixed to one layer and none to the other.
    """
    first, second = (F.adaptive_max_pool2d(f, size) > 0.5 for f in fixed)
    prior = torch.full(first.shape, 0.5)
    if start is not None:
        prior += (BELIEF - 0.5) * (2 * F.adaptive_avg_pool2d(start, size) - 1)
    return prior.masked_fill(first & ~second, 1.0).masked_fill(second & ~first, 0.0)


def pixel_mask(cells: Tensor, picture: Tensor) -> Tensor:
    """The mask of cells (B, 1, h, w) at the size of the picture (B, 3, H, W), following its edges."""
    m = F.interpolate(cells, size=picture.shape[2:], mode="bilinear")
    for reach, certain in PASSES:
        m = harden_mask(guided_filter(m, picture, reach * picture.shape[2] // cells.shape[2]), certain)
    return m


def picture_strip(masks: list[Tensor]) -> Tensor:
    """Masks (B, 1, h, w) of the rounds side by side, (B, H, W, 3)."""
    tiles = [m.repeat_interleave(STRIP, 2).repeat_interleave(STRIP, 3) for m in masks]
    gaps = [F.pad(tile, (0, STRIP), value=0.5) for tile in tiles[:-1]]
    return torch.cat([*gaps, tiles[-1]], 3).movedim(1, -1).expand(-1, -1, -1, 3).contiguous()


def split(
    model: Any, latent: Tensor, prompts: list[Any], negative: Any, cfg: float, seed: int, rounds: int,
    steps: int, settings: LayerSettings, prior: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """The mask after each round, (B, 1, h, w) each, and both layers (B, C, h, w) in the VAE's coordinates.

    The mask is inferred without guidance: it compares probabilities, and what a guided model expects is none.
    """
    masks, layers = [], []
    at_once = samples_at_once(model, latent.shape, settings.samples)
    batches = -(-settings.samples // at_once)
    calls = settings.calls(rounds) // settings.samples * batches + 2 * steps
    levels = simple_levels(model, steps)

    def method(run: MultiPromptRun) -> None:
        space = run.space
        image = space.process_in(latent.to(space.device, torch.float32))
        spread = [space.percent_to_sigma(p) for p in torch.linspace(FIRST, LAST, rounds).tolist()]

        def on_round(i: int, m: Tensor) -> None:
            masks.append(m.cpu())
            run.show(m[0, 0])

        delta = run.delta(settings.newton)
        m = infer_mask(run.denoisers(1.0), image, spread, settings, delta, seed, prior, on_round)
        m = harden_mask(m, CERTAIN)
        masks[-1] = m.cpu()
        whole = sample_layers(run.denoisers(cfg), image, m, levels, seed)
        layers.extend(space.process_out(layer) for layer in whole)

    shape = torch.Size([at_once * len(latent), *latent.shape[1:]])
    sample_with_prompts(model, prompts, negative, shape, levels, seed, calls, method)
    return masks, layers


class LayerDecompose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LayerDecompose",
            search_aliases=["layers", "decompose", "separate", "segment", "layer decompose"],
            display_name="Split into Layers",
            category=CATEGORY,
            description="Splits an image into two layers, each described by a prompt, and the mask between them. No "
            "training and no segmentation model: each layer is what the diffusion model expects under its prompt.",
            inputs=[
                io.Image.Input("image", tooltip="The image to split, of any size."),
                io.Model.Input("model", tooltip="Any diffusion or flow model for pictures."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input("layer_1", tooltip="What the first layer (mask white) shows, as a prompt."),
                io.Conditioning.Input("layer_2", tooltip="What the second layer (mask black) shows, as a prompt."),
                io.Conditioning.Input("negative", tooltip="What is not to be painted. Has no effect at cfg 1."),
                seed_input("Seed of all noise and of the random masks. The same seed gives the same layers."),
                cfg_input(3.0, "Guidance scale of the painting at the end. The mask is found without guidance."),
                io.Int.Input(
                    "rounds",
                    default=6,
                    min=1,
                    max=100,
                    tooltip="How often the mask is improved, from high to low noise. A round costs 4 model calls for "
                    "each sample, all samples at once as memory allows.",
                ),
                io.Int.Input(
                    "samples",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Random masks per round by which each layer is judged. More are steadier.",
                ),
                io.Int.Input(
                    "steps",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="Noise levels for painting what is hidden in each layer at the end, 2 model calls each.",
                ),
                io.Boolean.Input(
                    "exact",
                    default=True,
                    tooltip="Correct the layers so that, put together, they give the image exactly.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Starting mask, such as a scribble or a box: 1 (white) is probably layer 1, 0 probably "
                    "layer 2. The image can overrule it.",
                ),
                io.Mask.Input("fixed_1", optional=True, tooltip="1 (white) is certainly layer 1."),
                io.Mask.Input("fixed_2", optional=True, tooltip="1 (white) is certainly layer 2."),
            ],
            outputs=[
                io.Image.Output(display_name="layer_1", tooltip="The first layer, whole."),
                io.Image.Output(display_name="layer_2", tooltip="The second layer, whole."),
                io.Mask.Output(display_name="mask", tooltip="1 where layer 1 is seen. For ImageCompositeMasked."),
                io.Mask.Output(
                    display_name="mask_2",
                    tooltip="1 where layer 2 is seen. Join Image with Alpha makes RGBA of layer_1 with this mask and "
                    "of layer_2 with the other one.",
                ),
                io.Image.Output(display_name="recomposition", tooltip="The layers put together by the mask."),
                io.Image.Output(display_name="rounds", tooltip="The mask after each round, from left to right."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, image: Tensor, model: Any, vae: Any, layer_1: Any, layer_2: Any, negative: Any, seed: int, cfg: float,
        rounds: int, samples: int, steps: int, exact: bool, mask: Tensor | None = None,
        fixed_1: Tensor | None = None, fixed_2: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        check_pictures_vae(vae)
        ratio = vae.spacial_compression_encode()
        picture = image[..., :3].movedim(-1, 1).float().cpu()  # BHWC -> BCHW; not there under --gpu-only
        start = None if mask is None else fit_optional(mask, picture)
        if start is not None and not (0 < start.mean() < 1):
            raise ValueError(
                "mask: it is all black or all white and says nothing about the layers. Paint a starting mask, or "
                "disconnect it; a picture without transparency gives an empty one."
            )
        fixed = fit_optional(fixed_1, picture), fit_optional(fixed_2, picture)
        if ((fixed[0] > 0.5) & (fixed[1] > 0.5)).any():
            raise ValueError("fixed_1, fixed_2: some pixels are white in both. Paint each of them in one.")
        padded = pad_to_multiple(picture, ratio)
        latent = encode(vae, padded.movedim(1, -1))
        prior = cell_prior(
            None if start is None else pad_to_multiple(start, ratio),
            tuple(pad_to_multiple(f, ratio) for f in fixed), tuple(latent.shape[2:]),
        )  # fmt: skip
        masks, layers = split(
            model, latent, [layer_1, layer_2], negative, cfg, seed, rounds, steps, LayerSettings(samples), prior
        )
        height, width = picture.shape[2:]
        m = pixel_mask(masks[-1], padded)[..., :height, :width]
        m = m.masked_fill(fixed[0] > 0.5, 1.0).masked_fill(fixed[1] > 0.5, 0.0)
        decoded = [vae.decode(layer).movedim(-1, 1)[..., :height, :width].to(picture) for layer in layers]
        if exact:
            decoded = exact_layers(picture, *decoded, m)
        whole = recompose(*decoded, m)
        strip = picture_strip(masks)
        shown = [t.movedim(1, -1) for t in (*decoded, whole)]  # BCHW -> BHWC
        return io.NodeOutput(
            shown[0], shown[1], m[:, 0], 1 - m[:, 0], shown[2], strip, ui=ui.PreviewImage(strip, cls=cls)
        )
