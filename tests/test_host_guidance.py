"""Held masks and painted layers under guidance, in a real ComfyUI: what learns is the conditional estimate's error."""

import pytest
import torch
from graphs import custom_sampling, inpaint_graph, sampled
from host import CHECKPOINT, node

GUIDERS = {
    "CFGGuider": ("flags", {"positive": ["flags", 0], "negative": ["faces", 0], "cfg": 8.0}),
    "PerpNegGuider": (
        "flags",
        {"positive": ["flags", 0], "negative": ["faces", 0], "empty_conditioning": ["words", 0], "cfg": 8.0,
         "neg_scale": 1.0},
    ),
    "DualCFGGuider": (
        "faces",
        {"cond1": ["flags", 0], "cond2": ["faces", 0], "negative": ["words", 0], "cfg_conds": 4.0,
         "cfg_cond2_negative": 8.0, "style": "regular"},
    ),
}  # fmt: skip


@pytest.fixture
def graph(host):
    graph = inpaint_graph(host)
    graph |= {name: node("WordConditioning", text=name) for name in ("flags", "faces")}
    graph["rescaled"] = node("RescaleCFG", model=["count", 0], multiplier=0.7)
    custom_sampling(graph, node("NewtonSampler", constraint=["constraint", 0]), ["constraint", 1], steps=3)
    graph["noise"] = node("RandomNoise", noise_seed=1)
    graph["sample"] = node(
        "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
        sigmas=["sigmas", 0], latent_image=["constraint", 1],
    )  # fmt: skip
    return graph


def held_errors(host, monkeypatch, run):
    """e of held masks at each noise level of a run."""
    loop, seen = host.module("sampler.replacement"), []
    measured = loop.masked_rms
    with monkeypatch.context() as patch:
        patch.setattr(loop, "masked_rms", lambda e: (seen.append(e.clone()), measured(e))[1])
        run()
    return seen


def first_error(host, monkeypatch, graph, guider, **inputs):
    """e at the first noise level, where every run has the same x."""
    return held_errors(host, monkeypatch, lambda: sampled(host, graph | {"guider": node(guider, **inputs)}))[0]


@pytest.mark.parametrize("model", ["count", "rescaled"])
@pytest.mark.parametrize("guider", GUIDERS)
def test_the_error_is_that_of_the_conditional_estimate(host, monkeypatch, graph, guider, model):
    prompt, inputs = GUIDERS[guider]
    expected = first_error(host, monkeypatch, graph, "BasicGuider", model=["count", 0], conditioning=[prompt, 0])
    found = first_error(host, monkeypatch, graph, guider, model=[model, 0], **inputs)
    assert torch.allclose(found, expected, atol=1e-4)
    keep = host.module("nodes.comfy_adapter.guidance").CondCapture
    monkeypatch.setattr(keep, "__call__", lambda self, args: args["denoised"])
    graph["sigmas"]["inputs"]["steps"] = 4  # the first level is the same, and the host does not answer from its cache
    unaware = first_error(host, monkeypatch, graph, guider, model=[model, 0], **inputs)
    assert not torch.allclose(unaware, expected, atol=0.05)


def test_layers_are_painted_by_it_too(host, monkeypatch):
    graph = {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "image": node("EmptyImage", width=128, height=128, batch_size=2, color=0xCC8844),
        **{words: node("WordConditioning", text=words) for words in ("flags", "faces", "")},
    }
    inputs = {"image": ["image", 0], "model": ["ckpt", 0], "vae": ["ckpt", 2], "layer_1": ["flags", 0],
              "layer_2": ["faces", 0], "negative": ["", 0], "seed": 1, "rounds": 1, "samples": 1,
              "exact": False}  # fmt: skip

    def errors(cfg):
        graph["layers"] = node("LayerDecompose", **inputs, cfg=cfg, steps=2)
        graph["shown"] = node("TestCapture", value=["layers", 0])
        return held_errors(host, monkeypatch, lambda: host.run(graph))

    plain, guided = errors(1.0), errors(8.0)
    for first in (0, 2):  # of each layer
        assert torch.allclose(guided[first], plain[first], atol=1e-4)
    keep = host.module("nodes.comfy_adapter.guidance").CondCapture
    monkeypatch.setattr(keep, "__call__", lambda self, args: setattr(self, "x0", args["denoised"]) or self.x0)
    host.executor.reset()
    assert not torch.allclose(errors(8.0)[0], plain[0], atol=0.05)
