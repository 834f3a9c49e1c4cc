"""Super-resolution in a real ComfyUI with the shipped checkpoint."""

import pytest
import torch
import torch.nn.functional as F
from graphs import give, inpaint_graph, picture
from host import CountNode, GraphError, node


def low_resolution():
    return F.interpolate(picture()[0].movedim(-1, 1), scale_factor=0.25, mode="area").movedim(1, -1)


@pytest.fixture
def graph(host):
    """A held-out emoji of 32x32, to become 128x128."""
    graph = inpaint_graph(host)
    graph["image"] = give(host, "IMAGE", low_resolution())
    graph["constraint"] = node(
        "PixelSRConstraint", image=["image", 0], vae=["ckpt", 2], factor=4, filter="area", noise=0.0
    )
    graph["sample"]["inputs"]["steps"] = 10
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2])
    graph["out"] = node("TestCapture", value=["decode", 0])
    return graph


def deviation(host, graph):
    """Mean |A I - y| of the decoded picture, in 8-bit levels."""
    out = host.run(graph)[0].movedim(-1, 1)
    low = F.interpolate(picture()[0].movedim(-1, 1), scale_factor=0.25, mode="area")
    return 255 * (F.interpolate(out, scale_factor=0.25, mode="area") - low).abs().mean().item()


def test_the_shrunk_picture_is_the_given_one(host, graph):
    ours = deviation(host, graph)
    assert len(CountNode.batches) == 20
    del graph["sample"]["inputs"]["constraint"]
    assert ours < 0.5 * deviation(host, graph)


def test_back_projection_is_exact_up_to_rounding(host, graph):
    graph["project"] = node("NewtonBackProjectPixels", image=["decode", 0], constraint=["constraint", 0])
    graph["out"]["inputs"]["value"] = ["project", 0]
    assert deviation(host, graph) < 0.5
    graph["out"]["inputs"]["value"] = ["project", 1]
    text = host.run(graph)[0]
    assert [line.split(":")[0] for line in text.splitlines()] == ["before", "projected", "as 8-bit picture"]
    before, projected, saved = (float(line.split("mean ")[1].split(",")[0]) for line in text.splitlines())
    assert before > 2 and projected < 0.1 and saved < 0.3


def test_noise_level_is_not_fitted(host, graph):
    """A measurement that is all noise to us is left alone: plain sampling."""
    graph["constraint"]["inputs"]["noise"] = 1.0
    free = host.run(graph)[0]
    del graph["sample"]["inputs"]["constraint"]
    assert torch.allclose(free, host.run(graph)[0], atol=1e-4)


def test_pixels_and_mask_together(host, graph):
    """Combined at no further calls."""
    image, mask = picture()
    graph["full"], graph["mask"] = give(host, "IMAGE", image), give(host, "MASK", mask)
    graph["half"] = node(
        "LatentMaskConstraint", image=["full", 0], mask=["mask", 0], vae=["ckpt", 2], fill="extend", erode=0,
        partial_cells=True,
    )  # fmt: skip
    graph["both"] = node(
        "NewtonCombineConstraints", constraint_a=["constraint", 0], constraint_b=["half", 0], weight_a=1.0,
        weight_b=1.0, start_a=0.0, start_b=0.0, end_a=1.0, end_b=1.0,
    )  # fmt: skip
    alone = host.run(graph)[0]
    graph["sample"]["inputs"]["constraint"] = ["both", 0]
    together = host.run(graph)[0]
    assert len(CountNode.batches) == 20
    graph["decode"]["inputs"]["samples"] = ["half", 1]
    as_encoded = host.run(graph)[0]
    known = (slice(None), slice(None), slice(0, 56))
    assert (together - as_encoded)[known].abs().mean() < 0.2 * (alone - as_encoded)[known].abs().mean()


def fails(host, graph, *words):
    with pytest.raises(GraphError) as error:
        host.run(graph)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_bad_input(host, graph):
    graph["constraint"]["inputs"]["factor"] = 3
    graph["image"] = give(host, "IMAGE", torch.zeros(1, 10, 10, 3))
    fails(host, graph, "factor:", "30x30", "multiple of 8")
    graph["constraint"]["inputs"]["factor"] = 1
    fails(host, graph, "factor", "smaller than min")


def test_wrong_latent_and_wrong_constraint(host, graph):
    graph["latent"] = node("EmptyLatentImage", width=64, height=128, batch_size=1)
    graph["sample"]["inputs"]["latent_image"] = ["latent", 0]
    fails(host, graph, "constraint:", "128x128", "8x16")
    graph["sample"]["inputs"]["latent_image"] = ["constraint", 1]
    spec = host.module("nodes.latent_mask").LatentMaskSpec(torch.ones(1, 4, 16, 16), torch.ones(1, 1, 16, 16))
    graph["mask_constraint"] = give(host, "NEWTON_CONSTRAINT", spec)
    graph["project"] = node("NewtonBackProjectPixels", image=["decode", 0], constraint=["mask_constraint", 0])
    graph["out"]["inputs"]["value"] = ["project", 0]
    fails(host, graph, "constraint:", "pixel constraint")
