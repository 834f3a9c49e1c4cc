"""Graphs in a real ComfyUI with the shipped checkpoint."""

import pytest
import torch
from graphs import SIZE, custom_sampling, encoded, give, inpaint_graph, newton_steps, picture, sampled, without_mask
from host import CountNode, node


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def known_error(out, known, columns=slice(0, 8)):
    return (out - known)[..., columns].square().mean().sqrt().item()


def test_known_part_is_kept_exactly_at_one_call_a_step_and_one_more_at_the_middle_ones(host, graph):
    graph["sample"]["inputs"]["steps"] = 10
    out = sampled(host, graph)
    assert len(CountNode.batches) == 10 + 2
    known = encoded(host, graph)
    assert out.shape == (1, 4, 16, 16) and torch.allclose(out[..., :8], known[..., :8], atol=1e-4)
    del graph["sample"]["inputs"]["constraint"]
    without_mask(host, graph)
    free = sampled(host, graph)
    assert len(CountNode.batches) == 10
    assert not torch.allclose(out[..., 8:], free[..., 8:], atol=0.1)


def test_newton_steps_obey_and_cost_two_calls_a_step(host, graph):
    newton_steps(graph, "sample")
    graph["sample"]["inputs"]["steps"] = 10
    out = sampled(host, graph)
    assert len(CountNode.batches) == 10 * 2
    known = encoded(host, graph)
    del graph["sample"]["inputs"]["constraint"]
    without_mask(host, graph)
    free = sampled(host, graph)
    assert known_error(out, known) < 0.6 * known_error(free, known)


def test_paper_preset_counts(host, graph):
    graph["settings"] = node(
        "NewtonSettings", preset="paper", iterations=1, rate_first=0.5, rate_last=0.5, delta=0.0, eta=1.0, carry=True
    )
    graph["sample"]["inputs"] |= {"settings": ["settings", 0], "steps": 3}
    sampled(host, graph)
    assert len(CountNode.batches) == 3 * (1 + 2 * 5)


@pytest.mark.parametrize(
    ("hold", "resample", "calls"), [(False, True, 4 * 2 * 3), (True, False, 4), (True, True, 4 + 1)]
)
def test_custom_settings_reach_the_loop(host, graph, hold, resample, calls):
    newton_steps(graph, "sample", iterations=3, rate_last=0.1, delta=0.01, eta=0.5, hold=hold, resample=resample)
    sampled(host, graph)
    assert len(CountNode.batches) == calls


def test_the_order_of_the_step_reaches_the_loop_and_costs_nothing(host, graph):
    found = []
    for order in (1, 2):
        newton_steps(graph, "sample", hold=True, resample=False, order=order)
        found.append(sampled(host, graph))
        assert len(CountNode.batches) == 4
    assert not torch.equal(*found)


def test_cfg_evaluates_the_network_for_both_prompts(host, graph):
    graph["negative"] = node("WordConditioning", text="flags")
    graph["sample"]["inputs"] |= {"negative": ["negative", 0], "cfg": 3.0}
    sampled(host, graph)
    assert sum(CountNode.batches) == (4 + 1) * 2
    newton_steps(graph, "sample")
    sampled(host, graph)
    assert sum(CountNode.batches) == 4 * 2 * 2


def test_same_seed_same_bytes(host, graph):
    first = sampled(host, graph)
    graph["sample"]["inputs"]["seed"] = 2
    assert not torch.equal(first, sampled(host, graph))
    graph["sample"]["inputs"]["seed"] = 1
    host.executor.reset()
    assert torch.equal(first, sampled(host, graph))


def test_noise_mask_becomes_the_constraint(host, graph):
    """An existing inpainting graph with KSampler replaced by our node."""
    graph["encoded"] = node("VAEEncode", pixels=["constraint", 3], vae=["ckpt", 2])
    graph["masked"] = node("SetLatentNoiseMask", samples=["encoded", 0], mask=["mask", 0])
    graph["sample"]["inputs"]["latent_image"] = ["masked", 0]
    with_constraint = sampled(host, graph)
    assert len(CountNode.batches) == 4 + 1
    del graph["sample"]["inputs"]["constraint"]
    assert torch.allclose(with_constraint, sampled(host, graph), atol=1e-5)
    assert len(CountNode.batches) == 4 + 1


@pytest.mark.parametrize("door", ["noise_mask", "constraint", "both"])
def test_sampler_door_equals_the_node(host, graph, door):
    """SamplerCustom with our SAMPLER gives what the node gives, also where the host would blend the mask in."""
    expected = sampled(host, graph)
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    sampler = node("NewtonSampler", **({} if door == "noise_mask" else {"constraint": ["constraint", 0]}))
    custom_sampling(graph, sampler, ["constraint", 1] if door == "constraint" else ["masked", 0])
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)
    assert len(CountNode.batches) == 4 + 1


def test_advanced_custom_sampling(host, graph):
    expected = sampled(host, graph)
    custom_sampling(graph, node("NewtonSampler", constraint=["constraint", 0]), ["constraint", 1])
    graph |= {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("BasicGuider", model=["count", 0], conditioning=["words", 0]),
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
            sigmas=["sigmas", 0], latent_image=["constraint", 1],
        ),
    }  # fmt: skip
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)


def test_batch_with_one_mask_for_all(host, graph):
    graph["image"] = give(host, "IMAGE", picture()[0].expand(2, -1, -1, -1))
    assert sampled(host, graph).shape[0] == 2 and set(CountNode.batches) == {2}


def test_one_picture_with_a_mask_for_each_sample(host, graph):
    masks = torch.zeros(2, SIZE, SIZE)
    masks[0, :64], masks[1, :, 64:] = 1, 1
    graph["mask"] = give(host, "MASK", masks)
    out, known = sampled(host, graph), encoded(host, graph)
    assert out.shape[0] == known.shape[0] == 2


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_masks_of_any_rank(host, graph, rank):
    expected = sampled(host, graph)
    graph["mask"] = give(host, "MASK", picture()[1].reshape((1,) * (rank - 2) + (SIZE, SIZE)))
    assert torch.equal(sampled(host, graph), expected)


def test_full_mask_samples_freely(host, graph):
    graph["mask"] = give(host, "MASK", torch.ones(1, SIZE, SIZE))
    constrained = sampled(host, graph)
    assert len(CountNode.batches) == 4
    del graph["sample"]["inputs"]["constraint"]
    assert torch.allclose(constrained, sampled(host, graph), atol=1e-5)


def test_latent_mask_preview_is_dark_where_generated(host, graph):
    graph = {k: graph[k] for k in ("ckpt", "image", "mask", "constraint")}
    shown = host.run(graph | {"out": node("TestCapture", value=["constraint", 2])})[0]
    filled = host.run(graph | {"out": node("TestCapture", value=["constraint", 3])})[0]
    assert torch.equal(shown[:, :, :64], filled[:, :, :64])
    assert torch.allclose(shown[:, :, 64:], 0.25 * filled[:, :, 64:])
    assert torch.equal(filled[:, :, :64], picture()[0][:, :, :64])


def test_the_host_gives_the_published_levels(host, graph):
    """20 steps of `simple` on the SD schedule are the grid on which `paper` uses the authors' own noise."""
    graph["sigmas"] = node("BasicScheduler", model=["ckpt", 0], scheduler="simple", steps=20, denoise=1.0)
    graph["out"] = node("TestCapture", value=["sigmas", 0])
    authors_sigma_up = host.module("sampler.step").authors_sigma_up
    assert len(authors_sigma_up(host.run(graph)[0].tolist())) == 20
    graph["sigmas"]["inputs"]["steps"] = 19
    assert not authors_sigma_up(host.run(graph)[0].tolist())
