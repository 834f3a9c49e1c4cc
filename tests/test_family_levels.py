"""Every noise family of the host, by a graph whose result is known exactly.

A network that predicts zero gives x0 = c(sigma) x, so J is c times the identity and the whole run follows from alpha,
s and c as published for the family: a loop written out independently has to give the same latent.
"""

import itertools
import math

import pytest
import torch
from families import family_graph
from graphs import newton_steps, sampled
from host import CountNode, GraphError, node

LAMBDA = 0.5


def v(sigma):
    return 1 / (sigma**2 + 1)


def edm(sigma):
    return 0.25 / (sigma**2 + 0.25)


def patch(name, **inputs):
    return node(name, model=["model", 0], **inputs)


def discrete(sampling, zsnr=False):
    return patch("ModelSamplingDiscrete", sampling=sampling, zsnr=zsnr)


def continuous(sampling, sigma_max):
    return patch("ModelSamplingContinuousEDM", sampling=sampling, sigma_max=sigma_max, sigma_min=0.002)


# Node that makes the model one of the family, c(sigma), and where it is not 1 the standard deviation of the data.
EXPLODING = {
    "eps": (discrete("eps"), lambda s: 1.0),
    "v": (discrete("v_prediction"), v),
    "v_zsnr": (discrete("v_prediction", zsnr=True), v),
    "v_continuous": (patch("ModelSamplingContinuousV", sampling="v_prediction", sigma_max=500.0, sigma_min=0.03), v),
    "x0": (discrete("x0"), lambda s: 0.0),
    "lcm": (discrete("lcm"), lambda s: 1.0),  # its boundary scalings add up to 1 within 1e-5
    "edm": (continuous("edm", 80.0), edm, 0.5),
    "cosmos": (continuous("cosmos_rflow", 80.0), lambda s: 1 / (1 + s)),
}
# Node, and scale of the noise.
FLOW = {
    "sd3": (patch("ModelSamplingSD3", shift=3.0), 1.0),
    "aura": (patch("ModelSamplingAuraFlow", shift=1.73), 1.0),
    "flux": (patch("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=128, height=128), 1.0),
    "noise_scale": (patch("ModelNoiseScale", noise_scale=8.0), 8.0),
}


@pytest.fixture
def graph(host):
    graph = family_graph(host, "sd3", (1, 16, 16, 16), silent=True)
    graph["count"]["inputs"]["model"] = ["family", 0]
    return graph


def host_levels(host, graph, family):
    """The noise levels, and the target, the start and the fresh noises in turn in the sampler's coordinates."""
    import comfy.latent_formats
    import comfy.sample

    schedule = node("BasicScheduler", model=["family", 0], scheduler="simple", steps=4, denoise=1.0)
    shown = {"model": graph["model"], "family": family, "sigmas": schedule}
    sigmas = host.run(shown | {"out": node("TestCapture", value=["sigmas", 0])})[0].double().tolist()
    raw = host.run({"latent": graph["latent"], "out": node("TestCapture", value=["latent", 0])})[0]["samples"]
    y = comfy.latent_formats.SD3().process_in(raw.double())
    noise = comfy.sample.prepare_noise(raw, 1).double()
    noise_of = host.module("sampler.noise")
    numbers_of = host.module("nodes.comfy_adapter.sampling").numbers_of
    generators = noise_of.sample_generators(1, numbers_of(noise))
    return sigmas, y, noise, [noise_of.noise_like(y, generators) for _ in range(8)]


def by_hand(hold, x, y, noises, sigmas, alpha, s, c, data=1.0):
    """A run on x0 = c x with the left half known, held or by one Newton step a level.

    Returns the latent, each level's residual and the number of calls.
    """
    known, residuals, calls, noises = torch.zeros(1, 1, 16, 16), [], 0, iter(noises)
    known[..., :8] = 1
    before = None
    for here, there in itertools.pairwise(sigmas):
        nu = ((alpha(here) * data) ** 2 + s(here) ** 2) ** 0.5
        fresh = s(there) * (1 - (s(there) * alpha(here) / (s(here) * alpha(there))) ** 2) ** 0.5
        if hold and 1.5 * alpha(here) * data < s(here) < 3 * alpha(here) * data:
            e = known * (y - c(here) * x)
            moved, x0 = x + min(LAMBDA / e.abs().max(), 2 / data) * nu * e, c(here) * x + e
            x, calls = torch.where(known > 0, moved, alpha(here) * x0 + s(here) * next(noises)), calls + 1
        x0 = c(here) * x
        e = known * (y - x0)
        residuals.append(e[..., :8].square().mean().sqrt().item())
        if hold:
            x, x0, calls = x + min(LAMBDA / e.abs().max(), 2 / data) * nu * e, x0 + e, calls + 1
            fresh, ahead = fresh * (1 - known), x0
            if before and alpha(before[1]) > 0 and there > 0:
                last, step = (
                    math.log(alpha(b) * s(a) / (s(b) * alpha(a))) for a, b in ((before[1], here), (here, there))
                )
                ahead = x0 + (1 - known) * min(step / last, 1) / 2 * (x0 - before[0])
            before, x0 = (x0, here), ahead
        else:
            calls += 2
            je = c(here) * e
            d = je / je.abs().max() if je.any() else je
            x, x0 = x + LAMBDA * nu * d, x0 + LAMBDA * data * d
        x = alpha(there) * x0 + (s(there) ** 2 - fresh**2) ** 0.5 * (x - alpha(here) * x0) / s(here)
        x = x + fresh * next(noises)
    return x, residuals, calls


def check(host, graph, *run):
    import comfy.latent_formats

    for hold in (True, False):
        if not hold:
            newton_steps(graph, "sample")
        expected, residuals, calls = by_hand(hold, *run)
        out = sampled(host, graph).double()
        assert len(CountNode.batches) == calls
        (report,) = host.run(graph | {"out": node("TestCapture", value=["sample", 1])})
        assert [level.residual[0][0] for level in report.levels] == pytest.approx(residuals, rel=1e-3)
        expected = comfy.latent_formats.SD3().process_out(expected)
        error = (out - expected).abs().max() / expected.abs().max()
        print(f"\nlargest deviation from the run by hand: {error:.1e} of {expected.abs().max():.1f}, held: {hold}")
        assert error < 1e-4


@pytest.mark.parametrize("name", EXPLODING)
def test_variance_exploding_families(host, graph, name):
    graph["family"], c, *data = EXPLODING[name]
    sigmas, y, noise, noises = host_levels(host, graph, graph["family"])
    # At the highest level the host gives the noise the variance of noise and picture together, but not for Cosmos.
    start = y + noise * (sigmas[0] if name == "cosmos" else (1 + sigmas[0] ** 2) ** 0.5)
    check(host, graph, start, y, noises, sigmas, lambda s: 1.0, lambda s: s, c, *data)


@pytest.mark.parametrize("name", FLOW)
def test_flow_families(host, graph, name):
    graph["family"], scale = FLOW[name]
    if graph["family"]["class_type"] not in host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this host has no ModelNoiseScale")
    sigmas, y, noise, noises = host_levels(host, graph, graph["family"])
    start = (1 - sigmas[0]) * y + scale * sigmas[0] * noise
    check(host, graph, start, y, noises, sigmas, lambda s: 1 - s, lambda s: scale * s, lambda s: 1.0)


@pytest.mark.parametrize("sampling", ["img_to_img", "img_to_img_flow"])
def test_picture_to_picture_models_are_refused_by_name(host, graph, sampling):
    graph["family"] = discrete(sampling)
    if sampling not in host.nodes.NODE_CLASS_MAPPINGS["ModelSamplingDiscrete"].INPUT_TYPES()["required"]["sampling"][0]:
        pytest.skip(f"this host has no {sampling}")
    with pytest.raises(GraphError, match="turns one picture into another"):
        host.run(graph)
    assert not CountNode.batches


def test_raw_input_v_prediction_is_refused_by_name(host):
    import comfy.model_sampling

    if not hasattr(comfy.model_sampling, "V_PREDICTION_DDPM"):
        pytest.skip("this host has no CogVideoX")
    graph = family_graph(host, "cogvideox", (1, 16, 3, 8, 8))
    with pytest.raises(GraphError, match="CogVideoX"):
        host.run(graph)
    assert not CountNode.batches
