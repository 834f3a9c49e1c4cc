"""Graphs of Jacobian Probe and Direction Compare."""

from typing import Any

import pytest
import torch
from graphs import SIZE, give, picture
from host import CHECKPOINT, GraphError, Host, node
from torch import Tensor

PROBE = {"cfg": 1.0, "noise_levels": "1", "x": 5, "y": 6, "derivative": "forward difference", "probes": 2, "seed": 0}


def base(host: Host, file: str = CHECKPOINT) -> dict[str, Any]:
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=file),
        "count": node("TestCount", model=["ckpt", 0]),
        "image": give(host, "IMAGE", picture()[0]),
        "mask": give(host, "MASK", picture()[1]),
        "words": node("WordConditioning", text="flags"),
        "none": node("WordConditioning", text=""),
    }


def probe_graph(host: Host) -> dict[str, Any]:
    return base(host) | {
        "node": node(
            "NewtonJacobianProbe", model=["count", 0], positive=["words", 0], negative=["none", 0], vae=["ckpt", 2],
            image=["image", 0], **PROBE,
        ),
        "picture": node("TestCapture", value=["node", 0]),
        "text": node("TestCapture", value=["node", 1]),
    }  # fmt: skip


def compare_graph(host: Host) -> dict[str, Any]:
    """The known part is a square of 16 pixels: four latent cells."""
    mask = torch.ones(1, SIZE, SIZE)
    mask[:, 48:64, 48:64] = 0
    return base(host) | {
        "mask": give(host, "MASK", mask),
        "settings": node(
            "NewtonSettings", preset="custom", iterations=2, rate_first=0.5, rate_last=0.5, delta=0.0, eta=1.0,
            carry=False, hold=False,
        ),
        "node": node(
            "NewtonDirectionCompare", model=["count", 0], positive=["words", 0], negative=["none", 0],
            vae=["ckpt", 2], image=["image", 0], mask=["mask", 0], settings=["settings", 0], cfg=1.0, noise=2.0, seed=0,
        ),
        "picture": node("TestCapture", value=["node", 0]),
        "text": node("TestCapture", value=["node", 1]),
    }  # fmt: skip


def run(host: Host, graph: dict[str, Any]) -> tuple[Tensor, str]:
    """The node's sheet and text."""
    seen = host.run(graph)
    return next(s for s in seen if isinstance(s, torch.Tensor)), next(s for s in seen if isinstance(s, str))


def fails(host: Host, graph: dict[str, Any], *words: str) -> None:
    with pytest.raises(GraphError) as error:
        host.run(graph)
    for word in words:
        assert word in str(error.value), str(error.value)


def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The progress bars that nodes make from now on, with `total` and `current`."""
    import comfy.utils

    made = []

    class Bar:
        def __init__(self, total: int, node_id: str | None = None):
            self.total, self.current = total, 0
            made.append(self)

        def update(self, value: int) -> None:
            self.current += value

        def update_absolute(self, value: int, total: int) -> None:
            self.current, self.total = value, total

    monkeypatch.setattr(comfy.utils, "ProgressBar", Bar)
    return made
