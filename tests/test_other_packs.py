"""What other packs' nodes, and rarer ones of the host, put beside ours: it works, or an error says what to do."""

import gc
import weakref

import pytest
import tiny
import torch
from graphs import custom_sampling, encoded, give, inpaint_graph, newton_steps, picture, sampled, without_mask
from host import GraphError, node

INF = float("inf")


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def left_half(out):
    return out[..., : out.shape[-1] // 2]


def test_masks_that_overshoot_are_masks(host, graph):
    """What bicubic resizing leaves, at every door, and what packs make of booleans."""
    soft = torch.linspace(-0.04, 1.04, 128).expand(1, 128, 128).contiguous()
    known = encoded(host, graph)
    samplers = {"ours": None, "sampler": node("NewtonSampler")}
    for name, sampler in samplers.items():
        here = dict(graph)
        for mask, key in ((soft, "over"), (soft.clamp(0, 1), "within")):
            here[key] = give(host, "LATENT", {"samples": known, "noise_mask": mask})
        found = []
        for key in ("over", "within"):
            run = {k: dict(v, inputs=dict(v["inputs"])) for k, v in here.items()}
            run["sample"]["inputs"].pop("constraint")
            run["sample"]["inputs"]["latent_image"] = [key, 0]
            if sampler:
                custom_sampling(run, sampler, [key, 0])
            found.append(sampled(host, run))
        assert torch.equal(*found) and found[0].isfinite().all(), name
    graph["flags"] = give(host, "LATENT", {"samples": known, "noise_mask": picture()[1] > 0})
    del graph["sample"]["inputs"]["constraint"]
    graph["sample"]["inputs"]["latent_image"] = ["flags", 0]
    assert torch.allclose(left_half(sampled(host, graph)), left_half(known), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("fill", ["extend", "grey", "none"])
def test_pictures_of_any_precision_are_filled(host, graph, fill, dtype):
    graph["constraint"]["inputs"]["fill"] = fill
    expected = encoded(host, graph)
    graph["image"] = give(host, "IMAGE", picture()[0].to(dtype))
    assert torch.allclose(encoded(host, graph), expected, atol=0.02)


class Anything:
    """A constraint that fits every run: the estimate should be 1."""

    unit, spatial = "rms", False

    def bind(self, space):
        return self

    def update(self, x0, sigma):
        import newton_pack.sampler as sampler

        return sampler.Update(1 - x0, self.residual(x0, sigma))

    def residual(self, x0, sigma):
        return (1 - x0).square().flatten(1).mean(1).sqrt()


@pytest.mark.parametrize("conditional_only", [False, True])
@pytest.mark.parametrize("attention", ["SelfAttentionGuidance", "PerturbedAttentionGuidance"])
def test_guidance_of_attention_where_one_prompt_alone_is_evaluated(host, graph, attention, conditional_only):
    """It needs both estimates, or calls the network by itself: left out there, and back where both are evaluated."""
    graph["unet"] = give(host, "MODEL", tiny.unet())
    widgets = {"scale": 0.5, "blur_sigma": 2.0} if attention == "SelfAttentionGuidance" else {"scale": 3.0}
    graph["guided"] = node(attention, model=["unet", 0], **widgets)
    graph["flags"] = node("WordConditioning", text="flags")
    graph["anything"] = give(host, "NEWTON_CONSTRAINT", Anything())
    graph["settings"] = node(
        "NewtonSettings", preset="fast", conditional_only=conditional_only,
        **{k: v for k, v in WIDGETS.items() if k != "preset"},
    )  # fmt: skip
    without_mask(host, graph)
    inputs = graph["sample"]["inputs"]
    inputs |= {"model": ["guided", 0], "positive": ["flags", 0], "cfg": 3.0, "settings": ["settings", 0]}
    inputs["constraint"] = ["anything", 0]
    first = sampled(host, graph)
    assert first.isfinite().all()
    inputs["model"] = ["unet", 0]
    assert not torch.allclose(first, sampled(host, graph), atol=1e-3)  # it acts in the later steps


WIDGETS = {"iterations": 1, "rate_first": 0.5, "rate_last": 0.5, "delta": 0.0, "eta": 1.0, "carry": True}


class Wrapping:
    """A SAMPLER as packs make it that change sigma: the model is handed on as a function with two attributes."""

    @staticmethod
    def around(sampler):
        import comfy.samplers

        def function(model_k, x, sigmas, **kwargs):
            def wrapped(x, sigma, **extra):
                return model_k(x, sigma, **extra)

            wrapped.inner_model, wrapped.sigmas = model_k.inner_model, sigmas
            return sampler.sampler_function(wrapped, x, sigmas, **kwargs, **sampler.extra_options)

        return comfy.samplers.KSAMPLER(function)


def test_samplers_that_wrap_ours(host, graph):
    """The constraint acts inside them; a noise mask alone cannot, and that is said."""
    latent = sampled(host, {k: v for k, v in graph.items() if k in ("ckpt", "image", "mask", "constraint")}
                     | {"out": node("TestCapture", value=["constraint", 1])})  # fmt: skip
    graph["ours"] = node("NewtonSampler", constraint=["constraint", 0])
    (ours,) = host.run({k: graph[k] for k in ("ckpt", "image", "mask", "constraint", "ours")}
                       | {"out": node("TestCapture", value=["ours", 0])})  # fmt: skip
    custom_sampling(graph, give(host, "SAMPLER", Wrapping.around(ours)), ["constraint", 1])
    assert torch.allclose(left_half(sampled(host, graph)), left_half(latent), atol=1e-4)
    graph["sigmas"]["inputs"]["denoise"] = 0.6
    assert torch.allclose(left_half(sampled(host, graph)), left_half(latent), atol=1e-4)
    (alone,) = host.run({"ours": node("NewtonSampler"), "out": node("TestCapture", value=["ours", 0])})
    graph["sampler"] = give(host, "SAMPLER", Wrapping.around(alone))
    with pytest.raises(GraphError, match="Connect an Inpaint Constraint"):
        host.run(graph)


@pytest.mark.parametrize("kind", ["layers", "probe", "compare"])
def test_a_constrained_model_in_nodes_that_call_it_themselves(host, graph, kind, caplog):
    graph["constrained"] = node("NewtonConstrainModel", model=["count", 0], constraint=["constraint", 0])
    words = {"positive": ["words", 0], "negative": ["words", 0], "cfg": 1.0}
    nodes = {
        "layers": ("LayerDecompose", {
            "image": ["image", 0], "vae": ["ckpt", 2], "layer_1": ["words", 0], "layer_2": ["words", 0],
            "negative": ["words", 0], "seed": 1, "steps": 2, "cfg": 1.0, "rounds": 1, "samples": 1,
            "exact": True}),
        "probe": ("NewtonJacobianProbe", words | {
            "image": ["image", 0], "vae": ["ckpt", 2], "noise_levels": "1", "x": 3, "y": 3,
            "derivative": "forward difference", "probes": 1, "seed": 0}),
        "compare": ("NewtonDirectionCompare", words | {
            "image": ["image", 0], "mask": ["mask", 0], "vae": ["ckpt", 2], "noise": 1.0, "seed": 0}),
    }  # fmt: skip
    class_type, inputs = nodes[kind]
    found = []
    for model in ("count", "constrained"):
        graph["sample"] = node(class_type, model=[model, 0], **inputs)
        found.append(host.run(graph)[0])
    assert torch.equal(*found) and "does not act in this node" in caplog.text


def test_attention_masks_may_hold_minus_infinity(host, graph):
    """As the host's own node for style models makes them; an embedding may not."""
    mask = torch.zeros(1, 8, 8)
    mask[..., 4:] = -INF
    for extra in (mask, mask == 0):
        graph["words"] = give(host, "CONDITIONING", [[torch.zeros(1, 8, 768), {"attention_mask": extra}]])
        assert sampled(host, graph).isfinite().all()
    for broken in ({"attention_mask": INF - mask}, {"pooled_output": mask[0]}):
        graph["words"] = give(host, "CONDITIONING", [[torch.zeros(1, 8, 768), broken]])
        with pytest.raises(GraphError, match="NaN or infinite"):
            host.run(graph)


def test_guiders_with_a_cfg_for_each_step(host, graph):
    import comfy.samplers

    class Scheduled(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            given, self.cfg = self.cfg, self.cfg[0]
            try:
                return super().predict_noise(x, timestep, model_options or {}, seed)
            finally:
                self.cfg = given

    (model,) = host.run({"ckpt": graph["ckpt"], "out": node("TestCapture", value=["ckpt", 0])})
    (words,) = host.run({"words": graph["words"], "out": node("TestCapture", value=["words", 0])})
    guider = Scheduled(model)
    guider.set_conds(words, words)
    guider.set_cfg([1.0, 2.0])
    custom_sampling(graph, node("NewtonSampler", constraint=["constraint", 0]), ["constraint", 1])
    graph["noise"], graph["guider"] = node("RandomNoise", noise_seed=1), give(host, "GUIDER", guider)
    known = encoded(host, graph)
    graph["sample"] = node(
        "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
        sigmas=["sigmas", 0], latent_image=["constraint", 1],
    )  # fmt: skip
    assert torch.allclose(left_half(sampled(host, graph)), left_half(known), atol=1e-4)


@pytest.mark.parametrize("conditional_only", [False, True])
def test_nothing_of_a_run_waits_for_garbage_collection(host, graph, conditional_only, monkeypatch):
    """A cycle would keep the model's clone alive until it is collected, under the host's hands."""
    import comfy.samplers

    newton_steps(graph, "sample", conditional_only=conditional_only)
    graph["unet"] = give(host, "MODEL", tiny.unet())
    graph["sample"]["inputs"] |= {"model": ["unet", 0], "cfg": 2.0}
    seen, sample = [], comfy.samplers.CFGGuider.sample

    def watched(self, *args, **kwargs):
        seen.append(weakref.ref(self))
        return sample(self, *args, **kwargs)

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", watched)
    gc.collect()
    gc.disable()
    try:
        host.run(graph)
        assert [guider() for guider in seen] == [None]
    finally:
        gc.enable()
