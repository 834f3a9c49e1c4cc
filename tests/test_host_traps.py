"""The host's traps: the failure without the guard, then the guard. And cancel, progress, preview."""

import logging
from dataclasses import dataclass

import pytest
import torch
from graphs import custom_sampling, encoded, give, inpaint_graph, sampled
from host import CountNode, GraphError, node


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def known_columns(x):
    return x[..., :7]


def test_mask_blending_would_hide_the_error(host, graph):
    """Trap 1: with the host's denoise_mask the known region of x0 is always right, so e = 0 everywhere."""
    import comfy.samplers

    adapter, seen = host.module("nodes.comfy_adapter"), []

    class Spy:
        def bind(self, space):
            return self

        def error(self, x0, sigma):
            seen.append(x0)
            return torch.zeros_like(x0)

    def unguarded(model_k, x, sigmas, extra_args, callback, disable):
        return model_k(x, sigmas[:1], **extra_args)

    known = encoded(host, graph)
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    custom_sampling(graph, give(host, "SAMPLER", comfy.samplers.KSAMPLER(unguarded)), ["masked", 0], steps=1)
    assert torch.allclose(known_columns(sampled(host, graph)), known_columns(known), atol=1e-4)
    graph["sampler"] = give(host, "SAMPLER", adapter.make_sampler(Spy(), host.module("sampler").NewtonSettings()))
    sampled(host, graph)
    assert not torch.allclose(known_columns(seen[0]), known_columns(known) * 0.18215, atol=0.1)


def test_thin_mask_lines_are_not_lost_by_our_node(host, graph):
    """Trap 1: the host's bilinear mask turns a one-pixel line into nothing; pooling keeps it."""
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 8] = 1  # first pixel column of latent column 1: bilinear sampling at cell centres misses it
    import comfy.sampler_helpers

    assert not comfy.sampler_helpers.prepare_mask(mask, (1, 4, 16, 16), "cpu").any()
    weights = host.module("sampler").known_weights(mask, 16, 16)
    assert torch.equal(weights[0, 0, 0], torch.tensor([1.0, 0.0] + [1.0] * 14))


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_cancel_acts_within_one_call(host, graph, stop_after):
    import comfy.model_management

    class Stop:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "stop", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",), "after": ("INT",)}}

        def stop(self, model, after):
            def wrapper(executor, *args, **kwargs):
                if len(CountNode.batches) == after:
                    comfy.model_management.interrupt_current_processing()
                return executor(*args, **kwargs)

            model = model.clone()
            model.add_wrapper_with_key("diffusion_model", "stop", wrapper)
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestStop"] = Stop
    graph["stop"] = node("TestStop", model=["count", 0], after=stop_after)
    graph["sample"]["inputs"]["model"] = ["stop", 0]
    with pytest.raises(GraphError, match="interrupted"):
        host.run(graph)
    assert len(CountNode.batches) == stop_after


def test_progress_per_call_and_preview_per_level(host, graph, monkeypatch):
    import comfy.utils
    import latent_preview

    ticks = []

    # Not the hook behind it: newer hosts pass on only some of the ticks.
    def update_absolute(bar, value, total=None, preview=None):
        bar.total, bar.current = total or bar.total, value
        ticks.append((value, bar.total, preview))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update_absolute)
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    host.run(graph, "latent2rgb")
    calls = [t for t in ticks if t[2] is None and t[1] == 8]
    previews = [t for t in ticks if t[2] is not None]
    assert [v for v, _, _ in calls] == list(range(1, 9))
    assert len(previews) == 4 and previews[0][2][1].size[0] > 0


def test_half_precision_perturbation_survives(host):
    """Trap 3: the perturbation that really reaches a network in half precision points where it should."""
    sampler = host.module("sampler")
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(1, 4, 32, 32, generator=generator)
    e = torch.randn(1, 4, 32, 32, generator=generator)

    def applied_cosine(delta, dtype):
        nu = 3 / 1.0
        step = delta * nu * e / e.abs().max()
        moved = ((x + step) / nu).to(dtype).double() - (x / nu).to(dtype).double()
        return torch.cosine_similarity(moved.flatten(), step.double().flatten(), 0).item()

    assert applied_cosine(0.005, torch.bfloat16) < 0.9
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert applied_cosine(sampler.NewtonSettings().delta_for(dtype), dtype) > 0.98


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

    custom_sampling(graph, give(host, "SAMPLER", comfy.samplers.KSAMPLER(unguarded)), ["constraint", 1])
    sampled(host, graph)
    return seen[0]


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_step_caches_are_bypassed(host, graph, cache, caplog):
    """Trap 2: such a cache answers x and x + delta e with the same residual, so J e collapses to e."""
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
class Nothing:
    """A constraint that always holds."""

    def bind(self, space):
        return self

    def error(self, x0, sigma):
        return torch.zeros_like(x0)


def test_momentum_counts_noise_levels_not_calls(host, graph, monkeypatch):
    """APG's running average moves on at every call: no error would still move x."""
    graph["flags"] = node("WordConditioning", text="flags")
    graph["nothing"] = give(host, "NEWTON_CONSTRAINT", Nothing())
    graph["apg"] = node("APG", model=["count", 0], eta=1.0, norm_threshold=0.0, momentum=-0.5)
    inputs = graph["sample"]["inputs"]
    inputs |= {"model": ["apg", 0], "positive": ["flags", 0], "cfg": 3.0}
    del inputs["constraint"]
    free = sampled(host, graph)
    inputs["constraint"] = ["nothing", 0]
    assert torch.equal(sampled(host, graph), free)
    memory = host.module("nodes.comfy_adapter.others").GuidanceMemory
    monkeypatch.setattr(memory, "before_call", lambda self, sigma: None)
    host.executor.reset()
    assert not torch.allclose(sampled(host, graph), free, atol=0.1)


def test_x_and_its_perturbation_are_evaluated_one_after_the_other(host, graph):
    """Trap 6: motion modules mix the samples of a batch, so a doubled batch would change both halves."""
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

    sampled(host, graph)
    graph["sample"]["inputs"]["seed"] = 2
    comfy.model_management.unload_all_models()
    cached = sampled(host, graph)
    host.executor.reset()
    assert torch.equal(sampled(host, graph), cached)


def test_inference_mode_needs_no_guard_on_the_forward_only_path(host, graph):
    """Trap 4: everything runs under inference mode, and nothing of ours asks for a gradient."""
    out = sampled(host, graph)
    assert out.is_inference() and not out.requires_grad


def test_interpolated_mask_counts_every_touched_cell_as_unknown(host, graph):
    """The SAMPLER door sees the host's interpolated mask only: any value above 0 is generated."""
    mask = torch.zeros(1, 128, 128)
    mask[..., 60:] = 1
    graph["mask"] = give(host, "MASK", mask)
    graph["constraint"]["inputs"]["partial_cells"] = False
    expected = sampled(host, graph)
    graph["masked"] = node("SetLatentNoiseMask", samples=["constraint", 1], mask=["mask", 0])
    custom_sampling(graph, node("NewtonSampler"), ["masked", 0])
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)
