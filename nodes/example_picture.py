"""The pictures that the pack ships, without copying them to the input folder."""

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from .checks import checked
from .sockets import CATEGORY, schema

DEMO = Path(__file__).parent.parent / "demo"
PICTURES = DEMO / "images"


class ExamplePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = sorted(f.name for f in PICTURES.glob("ncs_*.png"))
        return schema(
            node_id="NewtonExamplePicture",
            search_aliases=["load image", "demo", "example"],
            display_name="Example Picture",
            category=CATEGORY,
            description="A picture of this pack's demo graphs. For your own use Load Image, which gives the same two "
            "outputs.",
            inputs=[io.Combo.Input("image", options=names, default=names[0], tooltip="Which one.")],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The picture."),
                io.Mask.Output(display_name="MASK", tooltip="1 (white) where it is transparent, as Load Image does."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image: str) -> io.NodeOutput:
        with Image.open(PICTURES / image) as file:
            rgba = torch.from_numpy(np.array(file.convert("RGBA"), np.float32) / 255).unsqueeze(0)  # BHWC
        return io.NodeOutput(rgba[..., :3], 1 - rgba[..., 3], ui=ui.PreviewImage(rgba, cls=cls))
