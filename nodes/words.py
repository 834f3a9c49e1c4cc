"""Words to CONDITIONING for the demo checkpoint."""

import torch
from comfy_api.latest import io

from .checks import checked
from .sockets import CATEGORY, schema
from .word_vectors import embed_words


class WordConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WordConditioning",
            search_aliases=["prompt", "clip text encode", "demo"],
            display_name="Word Conditioning (demo model)",
            category=CATEGORY,
            description="Prompt for models that were trained on hashed words instead of a text encoder, such as the "
            "demo checkpoint of this pack. Not for SD, SDXL, SD3 or FLUX: use CLIP Text Encode there.",
            inputs=[
                io.String.Input(
                    "text",
                    default="",
                    tooltip="Up to 8 words that the model was trained on, such as 'toon pinkhair darkskin'. The "
                    "help page lists them. Their order does not matter. Empty: no prompt.",
                )
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING", tooltip="For positive or negative.")],
        )

    @classmethod
    @checked
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput([[embed_words(text).unsqueeze(0), {"pooled_output": torch.zeros(1, 768)}]])
