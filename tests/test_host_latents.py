"""What a LATENT says beside its samples: its noise mask, and which VAE an empty one was meant for."""

import inspect

import pytest
import tiny
import torch
from graphs import custom_sampling, give, inpaint_graph, newton_steps, sampled
from host import node


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def told(host, graph):
    """What an inpainting network called "nine" is told at each call: mean of the mask, rms of the picture."""
    seen, model = [], tiny.unet(inpainting=True)

    def watch(executor, x, t, c_concat=None, *args, **kwargs):
        seen.append((c_concat[:, :1].mean().item(), c_concat[:, 1:].square().mean().sqrt().item()))
        return executor(x, t, c_concat, *args, **kwargs)

    model.add_wrapper_with_key("apply_model", "watch", watch)
    host.run(graph | {"nine": give(host, "MODEL", model)})
    return seen


MASKED = {
    "SetLatentNoiseMask": {"samples": ["encoded", 0], "mask": ["mask", 0]},
    "VAEEncodeForInpaint": {"pixels": ["image", 0], "mask": ["mask", 0], "vae": ["ckpt", 2], "grow_mask_by": 6},
}


@pytest.mark.parametrize("door", ["node", "model", "sampler"])
@pytest.mark.parametrize("kind", [*MASKED, "LatentMaskConstraint"])
def test_an_inpainting_network_is_told_the_mask(host, graph, kind, door):
    """As under the stock KSampler: with no mask it would be told that everything is masked, and shown nothing."""
    latent = ["constraint", 1]
    if kind in MASKED:
        graph["encoded"] = node("VAEEncode", pixels=["image", 0], vae=["ckpt", 2])
        graph["masked"], latent = node(kind, **MASKED[kind]), ["masked", 0]
        del graph["sample"]["inputs"]["constraint"]
    ours = graph["sample"]["inputs"]
    ours |= {"model": ["nine", 0], "latent_image": latent, "steps": 2}
    stock = {name: value for name, value in ours.items() if name != "constraint"} | {"sampler_name": "euler"}
    expected = told(host, graph | {"sample": node("KSampler", **stock)})[0]
    if door == "model":
        graph["constrained"] = node("NewtonConstrainModel", model=["nine", 0])
        graph["sample"] = node("KSampler", **stock | {"model": ["constrained", 0]})
    elif door == "sampler":
        custom_sampling(graph, node("NewtonSampler"), latent, steps=2)
        graph["sample"]["inputs"]["model"] = ["nine", 0]
    seen = told(host, graph)
    print(f"\n{kind}, {door}: mask mean {seen[0][0]:.3f}, picture rms {seen[0][1]:.3f}; stock {expected}")
    assert 0.4 < expected[0] < 0.8 and expected[1] > 0.1
    assert len(seen) >= 2 and all(call == pytest.approx(expected, abs=1e-6) for call in seen)


def test_the_latent_of_a_mask_constraint_says_the_same_as_the_constraint(host, graph):
    """Our node without the constraint, and stock samplers: eroded cells and partial ones as in the constraint."""
    graph["constraint"]["inputs"]["erode"] = 1
    expected = sampled(host, graph)
    del graph["sample"]["inputs"]["constraint"]
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)


def with_format(model, **attributes):
    """A clone of MODEL whose latents have other attributes."""
    model, latent_format = model.clone(), type(model.model.latent_format)()
    for name, value in attributes.items():
        setattr(latent_format, name, value)
    model.add_object_patch("latent_format", latent_format)
    return model


def test_an_empty_latent_gets_the_size_that_the_model_needs(host, graph):
    """Nodes for an empty latent count on 8 pixels a cell and say so; hosts of 2026 correct it for other models."""
    import comfy.sample

    graph["wide"] = give(host, "MODEL", with_format(tiny.unet(), spacial_downscale_ratio=16))
    latent = {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 8, "batch_index": [3], "type": "picture"}
    graph["empty"] = give(host, "LATENT", latent)
    inputs = graph["sample"]["inputs"]
    inputs |= {"model": ["wide", 0], "latent_image": ["empty", 0], "steps": 1}
    del inputs["constraint"]
    out = host.run(graph)[0]
    stock = host.run(graph | {"sample": node("KSampler", **inputs, sampler_name="euler")})[0]
    knows = "downscale_ratio_spacial" in inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    assert out["samples"].shape == stock["samples"].shape == ((1, 4, 8, 8) if knows else (1, 4, 16, 16))
    assert set(out) == {"samples", "batch_index", "type"}


@pytest.mark.parametrize(
    ("mask", "shape"),
    [((16, 16), (2, 4, 8, 8)), ((2, 16, 16), (4, 4, 8, 8)), ((2, 1, 16, 16), (2, 4, 8, 8)),
     ((1, 16, 16), (1, 4, 3, 8, 8)), ((3, 16, 16), (2, 4, 3, 8, 8)), ((1, 1, 3, 1, 1), (2, 4, 3, 8, 8)),
     ((2, 1, 3, 8, 8), (2, 4, 3, 8, 8))],
)  # fmt: skip
def test_every_layout_of_a_noise_mask_gives_the_weights_that_the_host_blends_with(host, mask, shape):
    """Masks whose pixels are all alike within a cell: interpolation and pooling agree on them."""
    import comfy.sampler_helpers

    raw_weights = host.module("nodes.comfy_adapter.noise_mask").raw_weights
    few = torch.rand(*mask[:-2], 1, 1, generator=torch.Generator().manual_seed(0)).expand(mask)
    weights = raw_weights(few, torch.Size(shape), None)
    stock = 1 - comfy.sampler_helpers.prepare_mask(few, shape, "cpu")
    assert torch.allclose(weights.expand(shape), stock, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 5.0])
@pytest.mark.parametrize("constrained", [False, True])
def test_a_single_sigma_leaves_the_latent_as_stock_does(host, graph, sigma, constrained):
    custom_sampling(graph, node("KSamplerSelect", sampler_name="euler"), ["constraint", 1])
    graph["sigmas"] = give(host, "SIGMAS", torch.tensor([sigma]))
    expected = sampled(host, graph)
    graph["sampler"] = node("NewtonSampler", **{"constraint": ["constraint", 0]} if constrained else {})
    assert torch.equal(sampled(host, graph), expected)


@pytest.mark.parametrize("reason", ["mask away", "target"])
def test_progress_reaches_its_total(host, graph, monkeypatch, reason):
    """Resampling that a scheduled mask leaves out, and steps that a residual target spares, are not waited for."""
    import comfy.utils

    ticks = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda v, t, p=None, node_id=None: ticks.append((v, t)))
    inputs = graph["sample"]["inputs"] | {"steps": 20}
    graph["sample"]["inputs"] = inputs
    if reason == "target":
        newton_steps(graph, "sample", residual_target=100.0)
    else:
        widgets = {f"{k}_{n}": v for n in "ab" for k, v in (("weight", 1.0), ("start", 0.0), ("end", 1.0))}
        graph["late"] = node("NewtonCombineConstraints", constraint_a=["constraint", 0], **widgets | {"start_a": 0.9})
        inputs["constraint"] = ["late", 0]
    sampled(host, graph)
    assert ticks[-1] == (20, 20)
