"""Each model family's own architecture, from a small file that the stock loader detects."""

import pytest
import torch
from families import family_graph
from graphs import newton_steps, sampled
from host import CountNode, node

# Latents of pictures, of a batch, of video (B, C, T, H, W); steps; largest share of the unconstrained distance that
# Newton steps leave.
CASES = {
    "sd3": ((2, 16, 16, 16), 20, 0.6),
    "wan": ((1, 16, 3, 8, 8), 20, 0.6),
    "flux_dev": ((1, 16, 8, 8), 2, 0.9),
    "flux_schnell": ((1, 16, 8, 8), 2, 0.9),
    "cosmos": ((1, 16, 2, 8, 8), 2, 0.95),
    "cosmos_predict2": ((1, 16, 1, 8, 8), 2, 0.9),
}


RESAMPLED = {"sd3": 3, "wan": 2}  # of their steps: those where noise is 1.5 to 3 times the signal


def known_error(host, graph, out):
    shown = {"latent": graph["latent"], "out": node("TestCapture", value=["latent", 0])}
    known = sampled(host, shown)
    return (out - known)[..., : known.shape[-1] // 2].square().mean().sqrt().item()


@pytest.mark.parametrize("family", CASES)
def test_known_half_is_followed(host, family):
    if family == "cosmos_predict2" and "ModelNoiseScale" not in host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this host takes Cosmos 2 with 28 blocks only")
    shape, steps, share = CASES[family]
    graph = family_graph(host, family, shape, steps)
    held = sampled(host, graph)
    assert len(CountNode.batches) == steps + RESAMPLED.get(family, 0)
    newton_steps(graph, "sample")
    out = sampled(host, graph)
    assert len(CountNode.batches) == steps * 2
    assert held.shape == out.shape == shape and held.isfinite().all() and out.isfinite().all()
    constrained = known_error(host, graph, out)
    del graph["sample"]["inputs"]["constraint"]
    free = known_error(host, graph, sampled(host, graph))
    print(f"\n{family}: distance to the known half {constrained:.2f}, without constraint {free:.2f}")
    assert constrained < share * free and known_error(host, graph, held) < 1e-4 * free


def test_distilled_guidance_reaches_the_model(host):
    graph = family_graph(host, "flux_dev", CASES["flux_dev"][0], steps=1)
    graph["guided"] = node("FluxGuidance", conditioning=["words", 0], guidance=3.5)
    graph["sample"]["inputs"]["positive"] = ["guided", 0]
    first = sampled(host, graph)
    graph["guided"]["inputs"]["guidance"] = 30.0
    assert not torch.equal(first, sampled(host, graph))


@pytest.fixture(params=["sd3", "wan"])
def stock(host, request):
    """The stock KSampler (Advanced) on a constrained model of flow, on pictures and on video."""
    graph = family_graph(host, request.param, CASES[request.param][0])
    graph["constrained"] = node("NewtonConstrainModel", model=["count", 0], constraint=["known", 0])
    graph["sample"] = node(
        "KSamplerAdvanced", model=["constrained", 0], add_noise="enable", noise_seed=1, steps=6, cfg=1.0,
        sampler_name="euler", scheduler="simple", positive=["words", 0], negative=["words", 0],
        latent_image=["latent", 0], start_at_step=0, end_at_step=10000, return_with_leftover_noise="disable",
    )  # fmt: skip
    return graph


@pytest.mark.parametrize("sampler_name", ["euler", "euler_ancestral", "dpmpp_2s_ancestral"])
def test_stock_samplers_on_flow_models(host, stock, sampler_name):
    stock["sample"]["inputs"] |= {"sampler_name": sampler_name, "steps": 12}
    held = sampled(host, stock)
    host.executor.reset()
    assert torch.equal(held, sampled(host, stock))
    newton_steps(stock, "constrained")
    out = sampled(host, stock)
    constrained = known_error(host, stock, out)
    stock["sample"]["inputs"]["model"] = ["count", 0]
    free = known_error(host, stock, sampled(host, stock))
    print(f"\n{sampler_name}: distance to the known half {constrained:.2f}, without constraint {free:.2f}")
    assert constrained < 0.75 * free and known_error(host, stock, held) < 1e-4 * free


def test_two_passes_of_a_flow_model_are_one(host, stock):
    """Between them the latent is divided by 1 - sigma, which the start of the second pass takes back.

    Without resampling, whose noise follows the starting noise: the second pass has none.
    """
    newton_steps(stock, "constrained", hold=True, resample=False)
    whole = sampled(host, stock)
    first = {"class_type": "KSamplerAdvanced", "inputs": dict(stock["sample"]["inputs"])}
    first["inputs"] |= {"end_at_step": 3, "return_with_leftover_noise": "enable"}
    stock["first"] = first
    stock["sample"]["inputs"] |= {"add_noise": "disable", "latent_image": ["first", 0], "start_at_step": 3}
    assert torch.allclose(sampled(host, stock), whole, atol=1e-3)
