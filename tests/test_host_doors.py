"""The MODEL door: stock samplers driven under a constraint. And combined constraints."""

import logging

import pytest
import torch
from graphs import SIZE, custom_sampling, encoded, give, inpaint_graph, picture, sampled
from host import CountNode, GraphError, node


@pytest.fixture
def graph(host):
    """The standard graph, sampled by the stock KSampler on a constrained model."""
    graph = inpaint_graph(host)
    graph["constrained"] = node("NewtonConstrainModel", model=["count", 0], constraint=["constraint", 0])
    stock_sampling(graph, "euler_ancestral")
    return graph


def stock_sampling(graph, sampler_name, model="constrained", latent="constraint", slot=1):
    graph["sample"] = node(
        "KSampler", model=[model, 0], positive=["words", 0], negative=["words", 0], latent_image=[latent, slot],
        seed=1, steps=6, cfg=1.0, sampler_name=sampler_name, scheduler="simple", denoise=1.0,
    )  # fmt: skip


def known_error(out, known):
    return (out - known)[..., :8].square().mean().sqrt().item()


@pytest.mark.parametrize(
    "name",
    ["euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "ddpm", "lcm", "seeds_2",
     "seeds_3"],
)  # fmt: skip
def test_stock_samplers_obey(host, graph, name):
    stock_sampling(graph, name)
    known, out = encoded(host, graph), sampled(host, graph)
    calls = len(CountNode.batches)
    stock_sampling(graph, name, model="count")
    free = sampled(host, graph)
    plain = len(CountNode.batches)
    assert torch.isfinite(out).all()
    # lcm noises its estimate anew at every level, so a correction lasts least there.
    assert known_error(out, known) < (0.8 if name == "lcm" else 0.7) * known_error(free, known)
    # One call more per level than the sampler itself: the first of its own is already known.
    assert calls == plain + 6
    assert plain == 6 + 5 * host.module("nodes.comfy_adapter").SINGLE_STEP[name]


def test_the_list_of_supported_samplers_is_the_tested_one(host):
    tested = test_stock_samplers_obey.pytestmark[0].args[1]
    assert list(host.module("nodes.comfy_adapter").SINGLE_STEP) == tested


@pytest.mark.parametrize("name", ["dpmpp_2m", "lms", "uni_pc", "dpm_adaptive", "euler_cfg_pp", "heunpp2", "dpmpp_sde"])
def test_multistep_samplers_are_refused_by_name(host, graph, name):
    stock_sampling(graph, name)
    with pytest.raises(GraphError, match="earlier noise levels"):
        host.run(graph)


def test_the_model_that_was_given_is_not_changed(host, graph):
    stock_sampling(graph, "euler", model="count")
    before = sampled(host, graph)
    stock_sampling(graph, "euler")
    sampled(host, graph)
    host.executor.reset()
    stock_sampling(graph, "euler", model="count")
    assert torch.equal(before, sampled(host, graph))


def test_driven_noise_differs_at_every_level(host, graph, monkeypatch):
    """Trap 8: a sampler driven one level at a time starts its noise anew with its seed."""
    import comfy.k_diffusion.sampling as stock

    noises, plain = [], stock.default_noise_sampler

    def recording(x, seed=None):
        draw = plain(x, seed=seed)

        def sampler(sigma, sigma_next):
            noises.append(draw(sigma, sigma_next))
            return noises[-1]

        return sampler

    monkeypatch.setattr(stock, "default_noise_sampler", recording)
    sampled(host, graph)
    assert len(noises) == 5
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])
    first = [n.clone() for n in noises]
    noises.clear()
    host.executor.reset()
    sampled(host, graph)
    assert all(torch.equal(a, b) for a, b in zip(first, noises, strict=True))


def test_the_seed_repeats_noise_without_the_guard(host):
    import comfy.k_diffusion.sampling as stock

    x = torch.zeros(1, 4, 2, 2)
    draws = [stock.default_noise_sampler(x, seed=5)(None, None) for _ in range(2)]
    assert torch.equal(*draws)


def test_step_numbers_and_previews_are_those_of_the_whole_run(host, graph, monkeypatch):
    import comfy.utils
    import latent_preview

    ticks = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda v, t, p=None, node_id=None: ticks.append((v, t, p)))
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    stock_sampling(graph, "heun")
    host.run(graph, "latent2rgb")
    previews = [(v, t) for v, t, p in ticks if p is not None]
    assert previews == [(i, 6) for i in range(1, 7)]


def test_advanced_start_and_end_step(host, graph):
    first = node(
        "KSamplerAdvanced", model=["constrained", 0], add_noise="enable", noise_seed=1, steps=6, cfg=1.0,
        sampler_name="euler", scheduler="simple", positive=["words", 0], negative=["words", 0],
        latent_image=["constraint", 1], start_at_step=0, end_at_step=3, return_with_leftover_noise="enable",
    )  # fmt: skip
    second = {"class_type": first["class_type"], "inputs": first["inputs"] | {
        "add_noise": "disable", "latent_image": ["first", 0], "start_at_step": 3, "end_at_step": 10000,
        "return_with_leftover_noise": "disable"}}  # fmt: skip
    stock_sampling(graph, "euler")
    whole = sampled(host, graph)
    graph |= {"first": first, "sample": second}
    # The latent between the two passes through the VAE's scale, which rounds it; values reach 12.
    assert torch.allclose(sampled(host, graph), whole, atol=0.01)


def test_our_sampler_on_a_constrained_model(host, graph):
    graph["sample"] = inpaint_graph(host)["sample"]
    expected = sampled(host, graph)
    del graph["sample"]["inputs"]["constraint"]
    graph["sample"]["inputs"]["model"] = ["constrained", 0]
    assert torch.equal(sampled(host, graph), expected)
    custom_sampling(graph, node("NewtonSampler"), ["constraint", 1])
    graph["sample"]["inputs"]["model"] = ["constrained", 0]
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)
    graph["sampler"] = node("NewtonSampler", constraint=["constraint", 0])
    with pytest.raises(GraphError, match="Combine Constraints"):
        host.run(graph)


def test_noise_mask_on_a_constrained_model_is_ignored(host, graph):
    expected = sampled(host, graph)
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    stock_sampling(graph, "euler_ancestral", latent="masked", slot=0)
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)


def combined(**b):
    defaults = {f"{k}_{n}": v for n in "ab" for k, v in (("weight", 1.0), ("start", 0.0), ("end", 1.0))}
    return node("NewtonCombineConstraints", constraint_a=["constraint", 0], **(defaults | b))


def test_combined_constraints_cost_no_further_calls(host, graph):
    """Left half from one node and top half from another: both are kept, at the same number of calls."""
    top = torch.ones(1, SIZE, SIZE)
    top[:, : SIZE // 2] = 0
    graph["top"] = give(host, "MASK", top)
    graph["other"] = node(
        "LatentMaskConstraint",
        image=["image", 0],
        mask=["top", 0],
        vae=["ckpt", 2],
        fill="none",
        erode=0,
        partial_cells=True,
    )
    graph["both"] = combined(constraint_b=["other", 0])
    sample = graph["sample"] = inpaint_graph(host)["sample"]
    sample["inputs"] |= {"constraint": ["both", 0], "steps": 20}
    out = sampled(host, graph)
    assert len(CountNode.batches) == 40
    known = encoded(host, graph)
    sample["inputs"]["constraint"] = ["constraint", 0]
    one = sampled(host, graph)
    corner = (slice(None), slice(None), slice(0, 7), slice(9, 16))  # known to the second constraint only
    graph["out"] = node("TestCapture", value=["other", 1])
    truth = sampled(host, graph)
    assert (out - truth)[corner].square().mean() < 0.5 * (one - truth)[corner].square().mean()
    assert known_error(out, known) < 2 * known_error(one, known)


def test_a_constraint_scheduled_away_does_nothing(host, graph):
    sample = graph["sample"] = inpaint_graph(host)["sample"]
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
        "LatentMaskConstraint",
        image=["inverted", 0],
        mask=["mask", 0],
        vae=["ckpt", 2],
        fill="extend",
        erode=0,
        partial_cells=True,
    )
    graph["both"] = combined(constraint_b=["other", 0])
    sample = graph["sample"] = inpaint_graph(host)["sample"]
    sample["inputs"]["constraint"] = ["both", 0]
    with caplog.at_level(logging.WARNING):
        sampled(host, graph)
    assert "keep different pictures in 128 latent cells" in caplog.text
