"""Masks in graphs: combined, soft, set on the latent, under Differential Diffusion; crops and tiles."""

import logging

import pytest
import torch
from graphs import SIZE, custom_sampling, encoded, give, inpaint_graph, picture, sampled, without_mask
from host import CountNode, GraphError, node


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def known_error(out, known, columns=slice(0, 8)):
    return (out - known)[..., columns].square().mean().sqrt().item()


def stock_sampling(graph, latent, steps=6):
    """KSampler on a constrained model without a constraint of its own."""
    graph["constrained"] = node("NewtonConstrainModel", model=["count", 0])
    graph["sample"] = node(
        "KSampler", model=["constrained", 0], positive=["words", 0], negative=["words", 0], latent_image=latent,
        seed=1, steps=steps, cfg=1.0, sampler_name="euler_ancestral", scheduler="simple", denoise=1.0,
    )  # fmt: skip


def freely(host, graph, latent):
    """The same run, to the same noise, that knows nothing of its latent."""
    graph["free"] = give(host, "LATENT", {"samples": latent, "noise_mask": torch.ones(1, *latent.shape[-2:])})
    graph["sample"]["inputs"]["latent_image"] = ["free", 0]
    return sampled(host, graph)


def combined(**b):
    defaults = {f"{k}_{n}": v for n in "ab" for k, v in (("weight", 1.0), ("start", 0.0), ("end", 1.0))}
    return node("NewtonCombineConstraints", **({"constraint_a": ["constraint", 0]} | defaults | b))


def test_a_chain_of_combined_masks_is_held(host, graph):
    graph["one"], graph["two"] = combined(), combined(constraint_a=["one", 0])
    graph["sample"]["inputs"]["constraint"] = ["two", 0]
    out = sampled(host, graph)
    assert len(CountNode.batches) == 4 + 1
    assert torch.allclose(out[..., :8], encoded(host, graph)[..., :8], atol=1e-4)


def test_a_chained_node_acts_while_both_do_and_with_both_weights(host):
    combine, spec = host.module("nodes.combine"), host.module("nodes.constraint_spec")
    space = spec.LatentSpace((1, 4, 2, 2), torch.device("cpu"), None, None, lambda share: 10.0 * (1 - share))
    inner = combine.SumSpec((combine.Part(Bound(), 2.0, 0.2, 0.9),))
    (term,) = combine.SumSpec((combine.Part(inner, 3.0, 0.1, 0.5),)).bind(space).terms
    assert (term.weight, term.sigma_start, term.sigma_end) == (6.0, 8.0, 5.0)


class Bound:
    """A constraint that needs no binding."""

    def bind(self, space):
        return self


def test_combined_constraints_cost_no_further_calls(host, graph):
    """Left half from one node and top half from another: both are kept exactly, at the calls of one mask."""
    top = torch.ones(1, SIZE, SIZE)
    top[:, : SIZE // 2] = 0
    graph["top"] = give(host, "MASK", top)
    graph["other"] = node(
        "LatentMaskConstraint", image=["image", 0], mask=["top", 0], vae=["ckpt", 2], fill="none", erode=0,
        partial_cells=True,
    )  # fmt: skip
    graph["both"] = combined(constraint_b=["other", 0])
    graph["sample"]["inputs"] |= {"constraint": ["both", 0], "steps": 20}
    out = sampled(host, graph)
    assert len(CountNode.batches) == 20 + 4
    left = encoded(host, graph)
    graph["out"] = node("TestCapture", value=["other", 1])
    top = sampled(host, graph)
    corners = {(0, 8): top, (8, 0): left, (0, 0): (left + top) / 2}  # what both know is encoded with different fills
    for (row, column), known in corners.items():
        corner = (..., slice(row, row + 8), slice(column, column + 8))
        assert torch.allclose(out[corner], known[corner], atol=1e-4)


def test_a_constraint_scheduled_away_does_nothing(host, graph):
    sample = graph["sample"]
    without_mask(host, graph)
    graph["both"] = combined(start_a=1.0, end_a=1.0)
    sample["inputs"]["constraint"] = ["both", 0]
    scheduled = sampled(host, graph)
    del sample["inputs"]["constraint"]
    assert torch.allclose(scheduled, sampled(host, graph), atol=1e-5)
    graph["both"] = combined(start_a=0.6, end_a=0.5)
    sample["inputs"]["constraint"] = ["both", 0]
    with pytest.raises(GraphError, match="start_a"):
        host.run(graph)


def test_masks_that_keep_different_pictures_are_reported(host, graph, caplog):
    graph["inverted"] = give(host, "IMAGE", 1 - picture()[0])
    graph["other"] = node(
        "LatentMaskConstraint", image=["inverted", 0], mask=["mask", 0], vae=["ckpt", 2], fill="extend", erode=0,
        partial_cells=True,
    )  # fmt: skip
    graph["both"] = combined(constraint_b=["other", 0])
    sample = graph["sample"]
    sample["inputs"]["constraint"] = ["both", 0]
    with caplog.at_level(logging.WARNING):
        sampled(host, graph)
    assert "keep different pictures in 128 latent cells" in caplog.text


def staircase():
    """Kept, soft, softer, generated: from left to right, a quarter each."""
    mask = torch.zeros(1, SIZE, SIZE)
    for i, value in enumerate((0.0, 0.4, 0.8, 1.0)):
        mask[..., 32 * i : 32 * (i + 1)] = value
    return mask


@pytest.mark.parametrize("door", ["constraint", "noise mask"])
def test_soft_masks_stay_soft(host, graph, door):
    graph["mask"] = give(host, "MASK", staircase())
    known = encoded(host, graph)
    if door == "noise mask":
        graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
        stock_sampling(graph, ["masked", 0])
    else:
        graph["sample"]["inputs"]["steps"] = 6
    out = sampled(host, graph)
    free = sampled(host, graph | {"mask": give(host, "MASK", torch.ones(1, SIZE, SIZE))})
    kept = [known_error(out, known, slice(a, a + 4)) / known_error(free, known, slice(a, a + 4)) for a in (0, 4, 8)]
    assert kept[0] < 1e-4 and kept[1] < kept[2] < 0.9


def test_differential_diffusion_sets_cells_free_by_their_value(host, graph):
    """Its rule: a cell of value m is generated once the share of the run that is left has come down to m."""
    graph["mask"] = give(host, "MASK", staircase())
    seen = []

    class Ask:
        spec = None

        def bind(self, space):
            bound = self.spec.bind(space)
            seen.extend(
                bound.error(bound.y - 1, space.percent_to_sigma(p))[0, 0, 0, ::4].tolist() for p in (0.1, 0.4, 0.8)
            )
            return bound

    graph["ask"] = give(host, "NEWTON_CONSTRAINT", Ask())
    graph["out"] = node("TestCapture", value=["constraint", 0])
    Ask.spec = host.run(graph)[0]
    graph["out"] = node("TestCapture", value=["sample", 0])
    graph["sample"]["inputs"]["constraint"] = ["ask", 0]
    sampled(host, graph)
    soft = pytest.approx([1, 0.6, 0.2, 0], abs=1e-5)
    assert seen == [soft] * 3
    seen.clear()
    graph["differential"] = node("DifferentialDiffusion", model=["count", 0], strength=1.0)
    graph["sample"]["inputs"]["model"] = ["differential", 0]
    sampled(host, graph)
    assert seen == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_differential_diffusion_at_every_door(host, graph):
    """A noise mask, our node or a stock one: the same picture as with the constraint node."""
    graph["mask"] = give(host, "MASK", staircase())
    graph["differential"] = node("DifferentialDiffusion", model=["count", 0], strength=1.0)
    inputs = graph["sample"]["inputs"]
    without = sampled(host, graph)
    inputs["model"] = ["differential", 0]
    expected = sampled(host, graph)
    assert not torch.allclose(expected, without, atol=0.1)
    del inputs["constraint"]
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    inputs["latent_image"] = ["masked", 0]
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)
    custom_sampling(graph, node("NewtonSampler"), ["masked", 0])
    graph["sample"]["inputs"]["model"] = ["differential", 0]
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)


def test_noise_mask_beside_a_constraint_is_ignored(host, graph):
    stock_sampling(graph, ["constraint", 1])
    graph["constrained"]["inputs"]["constraint"] = ["constraint", 0]
    expected = sampled(host, graph)
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    stock_sampling(graph, ["masked", 0])
    graph["constrained"]["inputs"]["constraint"] = ["constraint", 0]
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)


def crop(graph, name, x, y, width, height, scaled):
    """What a detailer does: cut picture and mask out, enlarge both, encode, mark what is to change."""
    size = dict(upscale_method="bilinear", width=scaled[0], height=scaled[1], crop="disabled")
    graph |= {
        f"{name}_cut": node("ImageCrop", image=["image", 0], x=x, y=y, width=width, height=height),
        f"{name}_image": node("ImageScale", image=[f"{name}_cut", 0], **size),
        f"{name}_mask": node("CropMask", mask=["mask", 0], x=x, y=y, width=width, height=height),
        f"{name}_grey": node("MaskToImage", mask=[f"{name}_mask", 0]),
        f"{name}_scaled": node("ImageScale", image=[f"{name}_grey", 0], **size),
        f"{name}_large": node("ImageToMask", image=[f"{name}_scaled", 0], channel="red"),
        f"{name}_encoded": node("VAEEncode", pixels=[f"{name}_image", 0], vae=["ckpt", 2]),
        f"{name}": node("SetLatentNoiseMask", samples=[f"{name}_encoded", 0], mask=[f"{name}_large", 0]),
    }


def test_detailer_crops_of_any_size(host, graph):
    """One constrained model, crops of two sizes, each with its own noise mask."""
    crop(graph, "a", 32, 32, 64, 64, (128, 128))
    crop(graph, "b", 16, 0, 96, 64, (96, 64))
    for name in "ab":
        stock_sampling(graph, [name, 0], steps=4)
        out = sampled(host, graph)
        assert len(CountNode.batches) == 4 + 1
        known = sampled(host, graph | {"out": node("TestCapture", value=[f"{name}_encoded", 0])})
        half = out.shape[-1] // 2
        assert torch.allclose(out[..., :half], known[..., :half], atol=1e-4)
        assert not torch.allclose(out[..., half:], freely(host, graph, known)[..., half:], atol=0.1)


def test_tiles_fit_what_is_already_there(host, graph):
    """A tiled upscaler: the second tile overlaps the first by half and has to go on from it."""
    graph["empty"] = node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1)
    stock_sampling(graph, ["empty", 0])
    first = sampled(host, graph)
    assert len(CountNode.batches) == 6
    overlap = torch.cat([first[..., 8:], torch.zeros_like(first[..., 8:])], -1)
    graph["tile"] = give(host, "LATENT", {"samples": overlap, "noise_mask": picture()[1]})
    graph["sample"]["inputs"] |= {"latent_image": ["tile", 0], "seed": 2}
    second = sampled(host, graph)
    assert torch.allclose(second[..., :8], overlap[..., :8], atol=1e-4)
    assert not torch.allclose(second[..., 8:], freely(host, graph, overlap)[..., 8:], atol=0.1)


def test_a_constraint_does_not_fit_crops(host, graph):
    crop(graph, "b", 16, 0, 96, 64, (96, 64))
    stock_sampling(graph, ["b", 0])
    graph["constrained"]["inputs"]["constraint"] = ["constraint", 0]
    with pytest.raises(GraphError, match="Constrain Model without a constraint"):
        host.run(graph)


def test_noise_in_the_picture_is_not_kept(host, graph):
    """The known half stays as far from the noisy latent as its own noise at most, and is kept exactly without."""
    graph["constraint"]["inputs"]["noise"] = 0.2
    kept = {k: v for k, v in graph.items() if k in ("ckpt", "image", "mask", "constraint")}
    (spec,) = host.run(kept | {"out": node("TestCapture", value=["constraint", 0])})
    sigma_y = (spec.noise * spec.weights)[..., :8].square().mean().sqrt().item()
    assert 0 < known_error(sampled(host, graph), encoded(host, graph)) < 1.5 * sigma_y
    graph["constraint"]["inputs"]["noise"] = 0.0
    assert known_error(sampled(host, graph), encoded(host, graph)) < 1e-4
