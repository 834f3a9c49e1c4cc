"""The MODEL and SAMPLER doors: other samplers driven under a constraint."""

import pytest
import torch
from graphs import custom_sampling, encoded, give, inpaint_graph, newton_steps, sampled, without_mask
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


@pytest.mark.parametrize(
    "name",
    ["euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "ddpm", "lcm", "seeds_2",
     "seeds_3"],
)  # fmt: skip
def test_stock_samplers_obey(host, graph, name):
    import comfy.samplers

    stock_sampling(graph, name)
    known, out = encoded(host, graph), sampled(host, graph)
    calls = len(CountNode.batches)
    assert torch.isfinite(out).all() and torch.allclose(out[..., :8], known[..., :8], atol=1e-4)
    graph["free"] = give(host, "LATENT", {"samples": known, "noise_mask": torch.ones(1, 16, 16)})
    stock_sampling(graph, name, latent="free", slot=0)
    del graph["constrained"]["inputs"]["constraint"]
    assert not torch.allclose(out[..., 8:], sampled(host, graph)[..., 8:], atol=0.1)  # the other half follows
    stock_sampling(graph, name, model="count")
    sampled(host, graph)
    plain = len(CountNode.batches)
    # The first call of its own at each level is already known; on top comes one at each of the middle levels, of which
    # there is one less where the host leaves a level out.
    assert calls == plain + (1 if name in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS else 2)
    assert plain == 6 + 5 * host.module("nodes.comfy_adapter").SINGLE_STEP[name]


def test_the_list_of_supported_samplers_is_the_tested_one(host):
    tested = test_stock_samplers_obey.pytestmark[0].args[1]
    assert list(host.module("nodes.comfy_adapter").SINGLE_STEP) == tested


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_sde", "euler_ancestral_cfg_pp", "uni_pc"])
def test_samplers_that_run_on_obey(host, graph, name):
    """Those that remember earlier levels, or give way; under guidance, which CFG++ asks for at every call."""
    stock_sampling(graph, name)
    graph["sample"]["inputs"]["cfg"] = 2.0
    known, out = encoded(host, graph), sampled(host, graph)
    calls = len(CountNode.batches)
    assert torch.isfinite(out).all() and torch.allclose(out[..., :8], known[..., :8], atol=1e-4)
    assert calls == {"dpmpp_sde": 6 + 5 + 2, "uni_pc": 6 + 1}.get(name, 6 + 2)
    host.executor.reset()
    assert torch.equal(out, sampled(host, graph))


def test_options_of_a_driven_sampler_are_kept(host, graph):
    """euler_ancestral without fresh noise is euler."""
    stock_sampling(graph, "euler")
    expected = sampled(host, graph)
    graph["own"] = node("SamplerEulerAncestral", eta=0.0, s_noise=1.0)
    graph["ours"] = node("NewtonConstrainSampler", sampler=["own", 0], constraint=["constraint", 0])
    advanced(graph, "count", "ours")
    assert torch.allclose(sampled(host, graph), expected, atol=1e-3)


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
    newton_steps(graph, "constrained", hold=True, resample=False)  # else the second half would draw as the first did
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


def advanced(graph, model, sampler):
    """SamplerCustomAdvanced in place of KSampler."""
    graph |= {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("BasicGuider", model=[model, 0], conditioning=["words", 0]),
        "sigmas": node("BasicScheduler", model=["ckpt", 0], scheduler="simple", steps=6, denoise=1.0),
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=[sampler, 0],
            sigmas=["sigmas", 0], latent_image=["constraint", 1],
        ),
    }  # fmt: skip


def test_constrained_model_and_constrained_sampler_agree(host, graph):
    """And a cached SAMPLER is left as it is."""
    expected = sampled(host, graph)
    graph["stock"] = node("KSamplerSelect", sampler_name="euler_ancestral")
    advanced(graph, "count", "stock")
    free = sampled(host, graph)
    advanced(graph, "constrained", "stock")
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)
    graph["ours"] = node("NewtonConstrainSampler", sampler=["stock", 0], constraint=["constraint", 0])
    advanced(graph, "count", "ours")
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)
    advanced(graph, "constrained", "ours")
    with pytest.raises(GraphError, match="Combine Constraints"):
        host.run(graph)
    advanced(graph, "count", "stock")
    graph["noise"]["inputs"]["noise_seed"] = 2
    sampled(host, graph)
    graph["noise"]["inputs"]["noise_seed"] = 1
    assert torch.equal(sampled(host, graph), free)


def test_wrappers_of_others_run_before_and_after_ours(host, graph):
    """Trap 8: the chain goes on, each wrapper once, the later ones with our sampler."""
    seen = []

    class Another:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "wrap", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",), "key": ("STRING",)}}

        def wrap(self, model, key):
            def wrapper(executor, *args, **kwargs):
                seen.append((key, executor.class_obj.sampler_function.__name__))
                return executor(*args, **kwargs)

            model = model.clone()
            model.add_wrapper_with_key("sampler_sample", key, wrapper)
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestAnother"] = Another
    expected = sampled(host, graph)
    graph["before"] = node("TestAnother", model=["count", 0], key="before")
    graph["constrained"]["inputs"]["model"] = ["before", 0]
    graph["after"] = node("TestAnother", model=["constrained", 0], key="after")
    graph["sample"]["inputs"]["model"] = ["after", 0]
    assert torch.equal(sampled(host, graph), expected)
    assert seen == [("before", "sample_euler_ancestral"), ("after", "newton_function")]


def test_without_constraint_and_mask_the_stock_sampler_runs_as_it_is(host, graph):
    del graph["constrained"]["inputs"]["constraint"]
    without_mask(host, graph)
    ours = sampled(host, graph)
    stock_sampling(graph, "euler_ancestral", model="count", latent="unmasked", slot=0)
    assert torch.equal(ours, sampled(host, graph))


def two_in_a_row(host):
    """The left half is kept by the first Constrain Model, the top half by the second."""
    top = torch.ones(1, 128, 128)
    top[:, :64] = 0
    return {
        "top": give(host, "MASK", top),
        "other": node(
            "LatentMaskConstraint", image=["image", 0], mask=["top", 0], vae=["ckpt", 2], fill="none", erode=0,
            partial_cells=True,
        ),
        "twice": node("NewtonConstrainModel", model=["constrained", 0], constraint=["other", 0]),
    }  # fmt: skip


def test_a_model_constrained_twice_obeys_both(host, graph):
    graph |= two_in_a_row(host)
    stock_sampling(graph, "euler_ancestral", model="twice")
    out, left = sampled(host, graph), encoded(host, graph)
    top = sampled(host, graph | {"out": node("TestCapture", value=["other", 1])})
    assert torch.allclose(out[..., 8:, :8], left[..., 8:, :8], atol=1e-4)
    assert torch.allclose(out[..., :8, 8:], top[..., :8, 8:], atol=1e-4)
    del graph["twice"]["inputs"]["constraint"]  # of the latent's mask: a constraint has precedence, before and after
    once = sampled(host, graph)
    stock_sampling(graph, "euler_ancestral")
    assert torch.equal(once, sampled(host, graph))


def test_a_model_constrained_twice_needs_one_way_of_doing_it(host, graph):
    graph |= two_in_a_row(host)
    newton_steps(graph, "twice")
    stock_sampling(graph, "euler_ancestral", model="twice")
    with pytest.raises(GraphError, match=r"same Newton Settings .*\nsettings: "):
        host.run(graph)
