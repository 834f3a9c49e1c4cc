"""Runs that begin below full noise, and a noise mask beside a constraint that is no mask.

On 32x32 pictures through the shipped VAE, with an analytic prior of their 4x4 cells in place of the network.
"""

import logging
from dataclasses import replace

import analytic
import pytest
import torch
import torch.nn.functional as F
from analytic_model import analytic_model, to_latent
from graphs import give, inpaint_graph, picture, sampled
from host import CHECKPOINT, node

SIDE = 32
PRIOR = analytic.Gaussian(torch.zeros(64), analytic.smooth_covariance())
KNOWN, HIDDEN = slice(0, 2), slice(2, 4)


@pytest.fixture(scope="module")
def model(host):
    """The prior in place of the shipped checkpoint's network."""
    ckpt = node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    return analytic_model(host.run({"ckpt": ckpt, "out": node("TestCapture", value=["ckpt", 0])})[0], PRIOR)


def shrunk(image, side):
    return F.interpolate(image.movedim(-1, 1), size=(side, side), mode="area").movedim(1, -1)


@pytest.fixture
def graph(host, model):
    graph = inpaint_graph(host)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., SIDE // 2 :] = 1
    graph |= {
        "model": give(host, "MODEL", model),
        "image": give(host, "IMAGE", shrunk(picture()[0], SIDE)),
        "mask": give(host, "MASK", mask),
    }
    graph["sample"]["inputs"] |= {"model": ["model", 0], "steps": 10}
    return graph


def rms(a, b, columns):
    return (a - b)[..., columns].square().mean().sqrt().item()


def captured(host, graph, name, slot=0):
    """An output of a node."""
    wanted = {k: v for k, v in graph.items() if k not in ("out", "pictures", "sample", "decode")}
    return host.run(wanted | {"out": node("TestCapture", value=[name, slot])})[0]


def two_passes(graph, model, latent):
    """KSampler (Advanced) twice; the first leaves its noise for the second."""
    common = {
        "model": [model, 0], "positive": ["words", 0], "negative": ["words", 0], "noise_seed": 1, "steps": 20,
        "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
    }  # fmt: skip
    graph["first"] = node(
        "KSamplerAdvanced", **common, add_noise="enable", latent_image=latent, start_at_step=0, end_at_step=10,
        return_with_leftover_noise="enable",
    )  # fmt: skip
    graph["sample"] = node(
        "KSamplerAdvanced", **common, add_noise="disable", latent_image=["first", 0], start_at_step=10,
        end_at_step=1000, return_with_leftover_noise="disable",
    )  # fmt: skip


def test_a_noise_mask_over_leftover_noise_is_left_out_and_it_is_said(host, graph, model, caplog):
    """Stock keeps the noise as if it were the picture."""
    latent_format = model.get_model_object("latent_format")
    known = latent_format.process_out(to_latent(PRIOR.draw(16, seed=7)))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., HIDDEN] = 1
    graph["masked"] = give(host, "LATENT", {"samples": known, "noise_mask": mask})
    graph["constrained"] = node("NewtonConstrainModel", model=["model", 0])
    two_passes(graph, "constrained", ["masked", 0])
    off = [rms(latent_format.process_in(sampled(host, graph)), latent_format.process_in(known), KNOWN)]
    assert "its noise mask has nothing to keep" in caplog.text
    two_passes(graph, "model", ["masked", 0])
    off.append(rms(latent_format.process_in(sampled(host, graph)), latent_format.process_in(known), KNOWN))
    print(f"\nknown half off by rms {off[0]:.2f}, stock {off[1]:.2f}, in units of the latent")
    assert off[0] < 0.5 * off[1]


def test_a_constraint_knows_the_picture_in_both_passes(host, graph):
    known = captured(host, graph, "constraint", 1)["samples"]
    graph["constrained"] = node("NewtonConstrainModel", model=["model", 0], constraint=["constraint", 0])
    two_passes(graph, "constrained", ["constraint", 1])
    assert rms(sampled(host, graph), known, KNOWN) < 1e-3


@pytest.mark.parametrize("door", ["node", "model"])
def test_a_noise_mask_beside_a_pixel_constraint_is_kept_too(host, graph, door):
    """What the latent's mask leaves black stays, and the picture still shrinks to the given one."""
    low = shrunk(picture()[0], SIDE // 4)
    graph["image"] = give(host, "IMAGE", low)
    graph["constraint"] = node(
        "PixelSRConstraint", image=["image", 0], vae=["ckpt", 2], factor=4, filter="area", noise=0.0
    )
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    inputs = graph["sample"]["inputs"] | {"latent_image": ["masked", 0]}
    if door == "model":
        graph["constrained"] = node("NewtonConstrainModel", model=["model", 0], constraint=["constraint", 0])
        inputs = inputs | {"model": ["constrained", 0], "sampler_name": "euler_ancestral"}
        graph["sample"] = node("KSampler", **{k: v for k, v in inputs.items() if k != "constraint"})
    graph["sample"]["inputs"] = {k: v for k, v in inputs.items() if door == "node" or k != "constraint"}
    start = captured(host, graph, "constraint", 1)["samples"]
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2])
    graph["pictures"] = node("TestCapture", value=["decode", 0])
    latent, decoded = sorted(host.run(graph), key=lambda seen: not isinstance(seen, dict))
    assert rms(latent["samples"], start, KNOWN) < 1e-3
    off = (shrunk(decoded, SIDE // 4) - low).square().mean().sqrt()
    del graph["constrained" if door == "model" else "sample"]["inputs"]["constraint"]
    without = sorted(host.run(graph), key=lambda seen: not isinstance(seen, dict))[1]
    alone = (shrunk(without, SIDE // 4) - low).square().mean().sqrt()
    print(f"\n{door}: rms of A I - y {off:.3f}, with the mask alone {alone:.3f}")
    assert off < 0.5 * alone


@pytest.mark.parametrize("door", ["node", "model", "sampler"])
def test_denoise_below_1_begins_with_what_the_mask_covers(host, graph, door, caplog):
    """The picture itself, not what it was filled with, at every door; at denoise 1 the fill, which hides it."""
    common = {"positive": ["words", 0], "negative": ["words", 0], "latent_image": ["constraint", 1], "cfg": 1.0}

    def run(fill, denoise):
        graph["constraint"]["inputs"]["fill"] = fill
        inputs = {"steps": 10, "denoise": denoise}
        if door == "node":
            graph["sample"]["inputs"] |= inputs
        elif door == "model":
            graph["constrained"] = node("NewtonConstrainModel", model=["model", 0], constraint=["constraint", 0])
            graph["sample"] = node(
                "KSampler", model=["constrained", 0], sampler_name="euler", scheduler="simple", seed=1, **common,
                **inputs,
            )  # fmt: skip
        else:
            graph["sampler"] = node("NewtonSampler", constraint=["constraint", 0])
            graph["sigmas"] = node("BasicScheduler", model=["ckpt", 0], scheduler="simple", **inputs)
            graph["sample"] = node(
                "SamplerCustom", model=["model", 0], add_noise=True, noise_seed=1, sampler=["sampler", 0],
                sigmas=["sigmas", 0], **common,
            )  # fmt: skip
        return sampled(host, graph)

    with caplog.at_level(logging.INFO):
        filled, own = run("extend", 0.4), run("none", 0.4)
    assert "begins with the picture under the mask" in caplog.text
    starts = [captured(host, graph | {"constraint": node("LatentMaskConstraint", **graph["constraint"]["inputs"] | {
        "fill": fill})}, "constraint", 1)["samples"] for fill in ("extend", "none")]  # fmt: skip
    assert rms(filled, own, HIDDEN) < 0.2 * rms(*starts, HIDDEN)
    assert rms(run("extend", 1.0), run("none", 1.0), HIDDEN) > 1e-3


def test_a_run_begins_with_the_fill_where_the_filled_picture_is_given(host, graph):
    """As in the cookbook's graph for fewer calls: what was masked away leaves no trace."""
    given = graph["constraint"]["inputs"]
    graph["fill"] = node("LatentMaskConstraint", **given)
    graph["constraint"] = node("LatentMaskConstraint", **given | {"image": ["fill", 3], "fill": "none"})
    graph["sample"]["inputs"] |= {"steps": 8, "denoise": 0.8, "latent_image": ["constraint", 1]}
    image, made = shrunk(picture()[0], SIDE), []
    for content in (image, torch.cat([image[:, :, : SIDE // 2], 1 - image[:, :, SIDE // 2 :]], 2)):
        graph["image"] = give(host, "IMAGE", content)
        made.append(sampled(host, graph))
    start = captured(host, graph, "constraint", 1)["samples"]
    assert torch.equal(*made) and rms(made[0], start, KNOWN) < 0.1
    assert rms(made[0], start, HIDDEN) > 0.05


def test_a_latent_of_its_own_is_where_a_run_begins(host, graph):
    """With denoise below 1 over another latent, such as that of a first pass, nothing is put into it."""
    spec = captured(host, graph, "constraint")
    graph["first"] = give(host, "LATENT", {"samples": 0.5 * captured(host, graph, "constraint", 1)["samples"]})
    graph["sample"]["inputs"] |= {"denoise": 0.4, "latent_image": ["first", 0]}
    out = sampled(host, graph)
    graph["bare"] = give(host, "NEWTON_CONSTRAINT", replace(spec, hidden=None))
    graph["sample"]["inputs"]["constraint"] = ["bare", 0]
    assert torch.equal(out, sampled(host, graph))
