"""The host's traps: the failure without the guard, then the guard. And cancel, progress, preview."""

import pytest
import torch
from constraints import ByError
from graphs import custom_sampling, encoded, give, inpaint_graph, newton_steps, sampled
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

    class Spy(ByError):
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


def test_a_model_pushed_out_of_memory_comes_back(host, graph):
    """Trap 10: on a full card the VAE of a constraint evicts the model, whose weights would then be elsewhere."""
    import comfy.model_management
    from comfy.patcher_extension import WrappersMP

    there = []

    class Evict(ByError):
        def error(self, x0, sigma):
            comfy.model_management.unload_all_models()
            return x0

    class Watch:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "watch", "test"
        INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

        def watch(self, model):
            def wrapper(executor, *args, **kwargs):
                there.append(any(loaded is model for loaded in comfy.model_management.loaded_models()))
                return executor(*args, **kwargs)

            model = model.clone()
            model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", wrapper)
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestWatch"] = Watch
    graph["watch"] = node("TestWatch", model=["ckpt", 0])
    graph["evict"] = give(host, "NEWTON_CONSTRAINT", Evict())
    graph["sample"]["inputs"] |= {"model": ["watch", 0], "constraint": ["evict", 0], "steps": 1}
    sampled(host, graph)
    assert there == [True, True]


class Pushing(ByError):
    """A constraint that always asks for the same, and whose VAE pushes models out of memory first, in its own way."""

    def __init__(self, push):
        self.push = push

    def error(self, x0, sigma):
        self.push()
        return torch.ones_like(x0)


def partly(model):
    """Half of its weights leave the device: the host does so when it needs memory for something small."""

    def push():
        freed = model.partially_unload(model.offload_device, model.model_size() // 2)
        assert 0 < freed < model.model_size()

    return push


@pytest.mark.parametrize("how", ["all", "ControlNet", "half of the model"])
def test_what_was_pushed_out_of_memory_comes_back_as_the_host_loads_it(host, graph, how, monkeypatch):
    """ControlNets too, weights that were moved in part, and with the memory that the latent needs."""
    import comfy.model_management as management
    import tiny

    folder = host.base / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    tiny.write_controlnet(folder / "pushed.safetensors")
    net = host.run({
        "net": node("ControlNetLoader", control_net_name="pushed.safetensors"),
        "out": node("TestCapture", value=["net", 0]),
    })[0]  # fmt: skip
    model = host.run({"ckpt": graph["ckpt"], "out": node("TestCapture", value=["ckpt", 0])})[0].clone()
    control, there, asked = net.control_model_wrapped, [], []

    def watch(executor, *args, **kwargs):
        loaded = management.loaded_models()
        whole = [any(m is other for other in loaded) and m.loaded_size() == m.model_size() for m in (model, control)]
        there.append(whole)
        return executor(*args, **kwargs)

    def only_control():
        loaded = management.current_loaded_models
        loaded.pop(next(i for i, m in enumerate(loaded) if m.model is control)).model_unload()

    load = management.load_models_gpu

    def listening(models, memory_required=0, **more):
        asked.append((set(map(id, models)), memory_required))
        return load(models, memory_required, **more)

    monkeypatch.setattr(management, "load_models_gpu", listening)
    model.add_wrapper_with_key("diffusion_model", "watch", watch)
    push = {"all": management.unload_all_models, "ControlNet": only_control, "half of the model": partly(model)}[how]
    graph |= {
        "model": give(host, "MODEL", model),
        "net": give(host, "CONTROL_NET", net),
        "controlled": node(
            "ControlNetApplyAdvanced", positive=["words", 0], negative=["words", 0], control_net=["net", 0],
            image=["image", 0], strength=1.0, start_percent=0.0, end_percent=1.0,
        ),
        "pushing": give(host, "NEWTON_CONSTRAINT", Pushing(push)),
    }  # fmt: skip
    inputs = {"model": ["model", 0], "positive": ["controlled", 0], "constraint": ["pushing", 0], "steps": 2}
    graph["sample"]["inputs"] |= inputs
    sampled(host, graph)
    assert there == [[True, True]] * 4
    both = [request for request in asked if {id(model), id(control)} <= request[0]]
    assert len(both) == 1 + 2 and both[1] == both[0] and both[0][1] > 0  # at the start, and after each push


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
    newton_steps(graph, "sample")
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
    newton_steps(graph, "sample")
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
