"""How the model is called for J e: the traps between two close calls, and what the next level goes on from."""

import logging
from dataclasses import dataclass

import pytest
import tiny
import torch
from constraints import ByError
from graphs import custom_sampling, give, inpaint_graph, newton_steps, sampled, without_mask
from host import CountNode, node


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def collapse(host, graph):
    """Cosine between e and the unguarded x0(x + delta e) - x0(x), at the second level of a run."""
    import comfy.samplers

    seen = []

    def unguarded(model_k, x, sigmas, extra_args, callback, disable):
        e = torch.zeros_like(x)
        e[:, 0, :, :8] = 1
        for sigma in sigmas[:2]:
            level, here = sigma.expand(x.shape[0]), x * sigma / sigmas[0]
            x0 = model_k(here, level, **extra_args)
            difference = model_k(here + 0.005 * sigma * e, level, **extra_args) - x0
        seen.append(torch.cosine_similarity(difference.flatten(), e.flatten(), 0).item())
        return x0

    custom_sampling(graph, give(host, "SAMPLER", comfy.samplers.KSAMPLER(unguarded)), ["unmasked", 0])
    sampled(host, graph)
    return seen[0]


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_step_caches_are_bypassed(host, graph, cache, caplog):
    """Trap 2: such a cache answers x and x + delta e with the same residual, so J e collapses to e."""
    newton_steps(graph, "sample")
    without_mask(host, graph)
    expected = sampled(host, graph)
    assert collapse(host, dict(graph)) < 0.98
    graph["cache"] = node(
        cache, model=["ckpt", 0], reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False
    )
    graph["count"]["inputs"]["model"] = ["cache", 0]
    assert collapse(host, dict(graph)) > 0.9999
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sampled(host, graph), expected)
    assert len(CountNode.batches) == 4 * 2
    assert f"{cache} is bypassed" in caplog.text
    del graph["sample"]["inputs"]["constraint"]
    with caplog.at_level(logging.INFO):
        sampled(host, graph)
    assert f"{cache} - skipped 2/4 steps" in caplog.text  # without a constraint it does its work


@dataclass(frozen=True)
class Nothing(ByError):
    """A constraint that always holds."""

    def error(self, x0, sigma):
        return torch.zeros_like(x0)


def test_momentum_counts_noise_levels_not_calls(host, graph, monkeypatch):
    """APG's running average moves on at every call: no error would still move x."""
    graph["small"] = give(host, "MODEL", tiny.unet())
    graph["count"]["inputs"]["model"] = ["small", 0]
    graph["flags"] = node("WordConditioning", text="flags")
    graph["nothing"] = give(host, "NEWTON_CONSTRAINT", Nothing())
    graph["apg"] = node("APG", model=["count", 0], eta=1.0, norm_threshold=0.0, momentum=-0.5)
    without_mask(host, graph)
    inputs = graph["sample"]["inputs"]
    inputs |= {"model": ["apg", 0], "positive": ["flags", 0], "cfg": 3.0}
    del inputs["constraint"]
    free = sampled(host, graph)
    newton_steps(graph, "sample")  # guided at every level
    inputs["constraint"] = ["nothing", 0]
    assert torch.equal(sampled(host, graph), free)
    memory = host.module("nodes.comfy_adapter.guidance_state").GuidanceState
    monkeypatch.setattr(memory, "before_call", lambda self, sigma: None)
    host.executor.reset()
    assert not torch.allclose(sampled(host, graph), free, atol=0.1)


def test_x_and_its_perturbation_are_evaluated_one_after_the_other(host, graph):
    """Trap 6: motion modules mix the samples of a batch, so a doubled batch would change both halves."""
    newton_steps(graph, "sample")
    import comfy.samplers

    def mixing(executor, x, *args, **kwargs):
        out = executor(x, *args, **kwargs)
        return out + out.mean(0)

    class Mix:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "mix", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",)}}

        def mix(self, model):
            model = model.clone()
            model.add_wrapper_with_key("diffusion_model", "mix", mixing)
            return (model,)

    def doubled(model_k, x, sigmas, extra_args, callback, disable):
        alone = model_k(x, sigmas[:1], **extra_args)
        both = model_k(torch.cat([x, x + 1]), sigmas[:1].expand(2), **extra_args)
        assert not torch.allclose(both[:1], alone, atol=0.1)
        return alone

    host.nodes.NODE_CLASS_MAPPINGS["TestMix"] = Mix
    graph["mix"] = node("TestMix", model=["ckpt", 0])
    graph["count"]["inputs"]["model"] = ["mix", 0]
    sampled(host, graph)
    assert CountNode.batches == [1] * 8
    custom_sampling(graph, give(host, "SAMPLER", comfy.samplers.KSAMPLER(doubled)), ["constraint", 1], steps=1)
    sampled(host, graph)


def test_driven_sampler_goes_on_from_the_corrected_x(host, graph):
    """Trap 7: what reaches the network at the next level is euler's step from the moved x and x0, not from the old."""
    seen = []

    class Record:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "record", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",)}}

        def record(self, model):
            def wrapper(executor, x, sigma, *args, **kwargs):
                seen.append((x, sigma[0], executor(x, sigma, *args, **kwargs)))
                return seen[-1][2]

            model = model.clone()
            model.add_wrapper_with_key("predict_noise", "record", wrapper)
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestRecord"] = Record
    graph["record"] = node("TestRecord", model=["count", 0])
    graph["euler"] = node("KSamplerSelect", sampler_name="euler")
    sampler = node("NewtonConstrainSampler", sampler=["euler", 0], constraint=["constraint", 0])
    custom_sampling(graph, sampler, ["constraint", 1])
    newton_steps(graph, "sampler")
    graph["sample"]["inputs"]["model"] = ["record", 0]
    sampled(host, graph)
    assert len(seen) == 8
    (x, sigma, x0), (_, _, perturbed), (there, sigma_next, _) = seen[:3]
    difference = perturbed - x0
    d = difference / difference.abs().max()
    moved, moved_x0 = x + 0.5 * (1 + sigma**2).sqrt() * d, x0 + 0.5 * d
    step = (sigma_next - sigma) / sigma
    assert torch.allclose(there, moved + (moved - moved_x0) * step, atol=1e-3)
    assert not torch.allclose(there, x + (x - x0) * step, atol=0.1)


def test_models_may_be_unloaded_between_runs(host, graph):
    """Trap 10: constraint and sampler come from the cache of the first run and hold no weights."""
    import comfy.model_management

    graph["sample"]["inputs"]["steps"] = 2
    sampled(host, graph)
    graph["sample"]["inputs"]["seed"] = 2
    comfy.model_management.unload_all_models()
    cached = sampled(host, graph)
    host.executor.reset()
    assert torch.equal(sampled(host, graph), cached)
