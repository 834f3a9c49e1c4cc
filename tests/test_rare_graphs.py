"""Graphs that few build and that must do the right thing: weights and times of sums, batches in part, odd VAEs."""

import copy

import pytest
import torch
from graphs import custom_sampling, encoded, give, inpaint_graph, newton_steps, picture, sampled
from host import CountNode, GraphError, node
from test_other_packs import Anything

WHOLE = {f"{k}_{n}": v for n in "ab" for k, v in (("weight", 1.0), ("start", 0.0), ("end", 1.0))}


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


@pytest.mark.parametrize("off", [{"weight_b": 0.0}, {"start_b": 1.0}], ids=str)
def test_a_constraint_that_never_acts_is_as_none(host, graph, off, caplog):
    """The mask beside it keeps its resampling and its second order; the log tells of the other."""
    inputs = graph["sample"]["inputs"]
    inputs["steps"] = 12
    expected, calls = sampled(host, graph), len(CountNode.batches)
    assert calls > 12 and "active at no step" not in caplog.text
    graph["anything"] = give(host, "NEWTON_CONSTRAINT", Anything())
    graph["both"] = node(
        "NewtonCombineConstraints", constraint_a=["constraint", 0], constraint_b=["anything", 0], **WHOLE | off
    )
    inputs["constraint"] = ["both", 0]
    assert torch.equal(sampled(host, graph), expected) and len(CountNode.batches) == calls
    assert "active at no step" in caplog.text


def test_an_end_before_the_run_begins_is_told(host, graph, caplog):
    """Times are places in the model's schedule, of which denoise leaves out the beginning."""
    graph["early"] = node("NewtonCombineConstraints", constraint_a=["constraint", 0], **WHOLE | {"end_a": 0.3})
    graph["sample"]["inputs"] |= {"constraint": ["early", 0], "denoise": 0.3}
    sampled(host, graph)
    assert "active at no step" in caplog.text


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (None, [0, 1, 0, 1]),
        ([0, 1, 2, 3], [0, 1, 0, 1]),
        ([3], [1]),
        ([2, 5, 7], [0, 1, 1]),
        ([0, 0, 0, 0], [0, 1, 0, 1]),
    ],
)
def test_every_latent_has_the_picture_that_it_had_in_the_whole_batch(host, index, expected):
    """Of two pictures; an index of one number means that all have the noise of one seed."""
    count = len(expected)
    space = host.module("nodes.constraint_spec").LatentSpace(
        torch.Size((count, 4, 2, 2)), torch.device("cpu"), None, None, None, index
    )
    assert space.per_latent(torch.tensor([[0], [1]])).flatten().tolist() == expected


def test_back_projection_repeats_pictures_as_sampling_does(host, graph):
    small = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    graph["small"] = give(host, "IMAGE", small)
    graph["spec"] = node("PixelSRConstraint", image=["small", 0], vae=["ckpt", 2], factor=4, filter="area", noise=0.0)
    graph["large"] = give(host, "IMAGE", torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    graph["project"] = node("NewtonBackProjectPixels", image=["large", 0], constraint=["spec", 0])
    graph["out"]["inputs"]["value"] = ["project", 0]
    two = host.run(graph)[0]
    graph["small"] = give(host, "IMAGE", small.repeat(2, 1, 1, 1))
    assert torch.equal(two, host.run(graph)[0])


def test_a_vae_of_another_ratio_than_comfyui_expects(host, graph, vae):
    """Such as a small decoder for previews that the host takes for another model's."""
    wrong = copy.copy(vae)
    wrong.downscale_ratio = 4
    graph["wrong"] = give(host, "VAE", wrong)
    graph["constraint"]["inputs"]["vae"] = ["wrong", 0]
    with pytest.raises(GraphError, match=r"(?s)Load the complete VAE.*vae: it draws 8 pixels .* expects 4"):
        host.run(graph)


def test_a_vae_with_an_alpha_channel(host, graph, vae):
    """The fourth channel is no part of what is measured."""

    class Alpha:
        def __init__(self):
            self.__dict__ = vae.__dict__

        def __getattr__(self, name):
            return getattr(vae, name)

        def decode(self, samples):
            rgb = vae.decode(samples)
            return torch.cat([rgb, torch.ones_like(rgb[..., :1])], -1)

    codec = host.module("nodes.comfy_adapter").PixelCodec(Alpha())
    z = torch.zeros(1, 4, 8, 8)
    with torch.inference_mode():
        assert torch.equal(codec.decode(z), vae.decode(z).movedim(-1, 1))


@pytest.mark.parametrize("name", ["heun", "dpm_2_ancestral", "dpmpp_2s_ancestral", "seeds_2", "seeds_3"])
def test_a_restart_of_the_last_level_alone(host, graph, name):
    """From it to itself: no sampler can step there, ours draws fresh noise."""
    graph["stock"] = node("KSamplerSelect", sampler_name=name)
    graph["driven"] = node("NewtonConstrainSampler", sampler=["stock", 0], constraint=["constraint", 0])
    newton_steps(graph, "driven", hold=True, restarts=2, restart_from=1.0)
    known = encoded(host, graph)
    custom_sampling(graph, graph.pop("driven"), ["constraint", 1])
    out = sampled(host, graph)
    assert out.isfinite().all() and torch.allclose(out[..., :8], known[..., :8], atol=1e-4)
    beyond_one = 2 if name == "seeds_3" else 1  # at each of the three steps that end above 0; one call resamples
    assert len(CountNode.batches) == 4 + 2 + 3 * beyond_one + 1


def test_bfloat16_pictures_are_composited(host, graph):
    made = {"image": picture()[0].flip(1), "original": picture()[0], "mask": picture()[1]}
    graph["composite"] = node(
        "NewtonCompositeInsideMask", image=["image", 0], original=["original", 0], mask=["mask", 0], feather=4,
        match_colour=True,
    )  # fmt: skip
    graph["out"]["inputs"]["value"] = ["composite", 0]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        for key, t in made.items():
            graph[key] = give(host, "MASK" if key == "mask" else "IMAGE", t.bfloat16().to(dtype))
        found.append(host.run(graph)[0])
    assert torch.equal(found[0], found[1].bfloat16())
