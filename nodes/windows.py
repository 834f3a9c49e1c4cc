"""Pictures larger than a model was trained for, seen through overlapping windows of its own size."""

from typing import Any

from comfy_api.latest import io

from ..sampler.tiles import windows
from .checks import checked
from .sockets import CATEGORY, schema


class WindowConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WindowConditioning",
            search_aliases=["tiles", "large picture", "upscale", "multidiffusion", "windows"],
            display_name="Window Conditioning",
            category=CATEGORY,
            description="For pictures larger than the model was trained for: it sees overlapping windows of its own "
            "size, whose estimates are averaged at every model call (MultiDiffusion, arXiv 2302.08113). The constraint "
            "acts on the whole picture. Works with every sampler.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, for every window."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, for every window."),
                io.Latent.Input("latent_image", tooltip="The latent that will be sampled; only its size counts."),
                io.Int.Input(
                    "window",
                    default=64,
                    min=2,
                    max=2048,
                    tooltip="Side of the windows in latent cells (8 pixels for most models): the size that the model "
                    "was trained for, 64 for SD1.5, 128 for SDXL, 16 for the demo checkpoints.",
                ),
                io.Int.Input(
                    "overlap",
                    default=16,
                    min=0,
                    max=2048,
                    tooltip="Cells that neighbours share at least. Half of the window leaves least to see and takes "
                    "about four times the network's work of none.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Once for each window."),
                io.Conditioning.Output(display_name="negative", tooltip="Once for each window."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, positive: list[Any], negative: list[Any], latent_image: dict[str, Any], window: int, overlap: int
    ) -> io.NodeOutput:
        if overlap >= window:
            raise ValueError(
                f"overlap: it is {overlap}, but has to be smaller than the window of {window}. Set half of the window."
            )
        shape = latent_image["samples"].shape
        if len(shape) not in (4, 5):
            raise ValueError(
                f"latent_image: its shape {tuple(shape)} is that of an audio latent or of several packed together; "
                "windows are for pictures and video. Sample it without them."
            )
        height, width = shape[-2:]
        for name, conditioning in (("positive", positive), ("negative", negative)):
            check_whole(name, conditioning)
        rows, columns = (windows(n, window, overlap, 1) for n in (height, width))
        areas = [(down - top, right - left, top, left) for top, down, _ in rows for left, right, _ in columns]
        return io.NodeOutput(over(areas, positive), over(areas, negative))


def check_whole(name: str, conditioning: list[Any]) -> None:
    """Windows are areas: a prompt that has one already, or a ControlNet, would see the wrong part of the picture."""
    for key, what in (("area", "an area of its own"), ("control", "a ControlNet")):
        if any(options.get(key) is not None for _, options in conditioning):
            raise ValueError(
                f"{name}: it has {what}, which windows cannot show. Give a prompt that is for all of the picture."
            )


def over(areas: list[tuple[int, int, int, int]], conditioning: list[Any]) -> list[Any]:
    """Every prompt for every area (h, w, top, left) in cells: the host samples each by itself and averages."""
    if len(areas) == 1:
        return conditioning
    return [[c, options | {"area": area, "set_area_to_bounds": False}] for c, options in conditioning for area in areas]
