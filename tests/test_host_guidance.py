"""Held masks under guidance, in a real ComfyUI: the noise learns from the error of the conditional estimate."""

import pytest
import torch
from graphs import custom_sampling, inpaint_graph, sampled
from host import node

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


def first_error(host, monkeypatch, graph, guider, **inputs):
    """e at the first noise level, where every run has the same x."""
    loop, seen = host.module("sampler.sample"), []
    measured = loop.residual
    with monkeypatch.context() as patch:
        patch.setattr(loop, "residual", lambda e: (seen.append(e.clone()), measured(e))[1])
        sampled(host, graph | {"guider": node(guider, **inputs)})
    return seen[0]


@pytest.mark.parametrize("model", ["count", "rescaled"])
@pytest.mark.parametrize("guider", GUIDERS)
def test_the_error_is_that_of_the_conditional_estimate(host, monkeypatch, graph, guider, model):
    prompt, inputs = GUIDERS[guider]
    expected = first_error(host, monkeypatch, graph, "BasicGuider", model=["count", 0], conditioning=[prompt, 0])
    found = first_error(host, monkeypatch, graph, guider, model=[model, 0], **inputs)
    assert torch.allclose(found, expected, atol=1e-4)
    keep = host.module("nodes.comfy_adapter.guidance").Conditional
    monkeypatch.setattr(keep, "__call__", lambda self, args: args["denoised"])
    graph["sigmas"]["inputs"]["steps"] = 4  # the first level is the same, and the host does not answer from its cache
    unaware = first_error(host, monkeypatch, graph, guider, model=[model, 0], **inputs)
    assert not torch.allclose(unaware, expected, atol=0.05)
