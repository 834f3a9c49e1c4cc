"""What a sampling node shows while it runs: bar, latent preview, and a line of text."""

import time
from typing import Any

import comfy.utils
import latent_preview
from comfy_execution.utils import get_executing_context
from torch import Tensor

LARGE_CFG = 6  # from here on seams are about as large as those of stock replacement at 4, see bench/results/cfg.md


class NodeProgress:
    """The node's progress bar and text, one tick per model call, with the host's latent preview once a level."""

    def __init__(self, model: Any):
        self.bar = comfy.utils.ProgressBar(1)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self.context = get_executing_context()
        self.first = 0.0  # when the first call had ended: before it models are loaded

    def call(self, done: int, total: int) -> None:
        self.bar.update_absolute(done, total)
        now = time.monotonic()
        self.first = self.first or now
        left = (now - self.first) / (done - 1) * (total - done) if done > 1 else 0
        self.say(f"{done} of {total} model calls" + (f", {left:.0f} s left" if left >= 0.5 else ""))

    def level(self, step: int, x0: Tensor, x: Tensor, levels: int) -> None:
        if self.previewer:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", x0)
            self.bar.update_absolute(self.bar.current, self.bar.total, preview)

    def say(self, text: str) -> None:
        """Below the node's widgets, in place of what stood there."""
        if self.context:
            from server import PromptServer  # there is a server where a node runs, and nowhere else

            PromptServer.instance.send_progress_text(text, self.context.node_id)


def closing_text(calls: int, seconds: float, cfg: float, constrained: bool) -> str:
    """What the node says after a run."""
    hint = f"\nTry a cfg of 4 or less: {cfg:g} weakens the constraint." if constrained and cfg > LARGE_CFG else ""
    return f"{calls} model calls, {seconds:.1f} s{hint}"
