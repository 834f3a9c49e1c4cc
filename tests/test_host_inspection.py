"""Jacobian Probe and Direction Compare in a real ComfyUI: what they show, cost, and say."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from graphs import SIZE, give, picture
from host import CHECKPOINT, CountNode, GraphError, node
from newton_pack.sampler import jacobian

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import live_memory

FLOW = "ncs_emoji_flow.safetensors"
PROBE = {"cfg": 1.0, "noise_levels": "1", "x": 5, "y": 6, "derivative": "forward difference", "probes": 2, "seed": 0}


def base(host, file=CHECKPOINT):
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=file),
        "count": node("TestCount", model=["ckpt", 0]),
        "image": give(host, "IMAGE", picture()[0]),
        "mask": give(host, "MASK", picture()[1]),
        "words": node("WordConditioning", text="flags"),
        "none": node("WordConditioning", text=""),
    }


@pytest.fixture
def probe(host):
    return base(host) | {
        "node": node(
            "NewtonJacobianProbe", model=["count", 0], positive=["words", 0], negative=["none", 0], vae=["ckpt", 2],
            image=["image", 0], **PROBE,
        ),
        "picture": node("TestCapture", value=["node", 0]),
        "text": node("TestCapture", value=["node", 1]),
    }  # fmt: skip


@pytest.fixture
def compare(host):
    """The known part is a square of 16 pixels: four latent cells."""
    mask = torch.ones(1, SIZE, SIZE)
    mask[:, 48:64, 48:64] = 0
    return base(host) | {
        "mask": give(host, "MASK", mask),
        "settings": node(
            "NewtonSettings", preset="custom", iterations=2, rate_first=0.5, rate_last=0.5, delta=0.0, eta=1.0,
            carry=False, hold=False,
        ),
        "node": node(
            "NewtonDirectionCompare", model=["count", 0], positive=["words", 0], negative=["none", 0],
            vae=["ckpt", 2], image=["image", 0], mask=["mask", 0], settings=["settings", 0], cfg=1.0, noise=2.0, seed=0,
        ),
        "picture": node("TestCapture", value=["node", 0]),
        "text": node("TestCapture", value=["node", 1]),
    }  # fmt: skip


def run(host, graph):
    seen = host.run(graph)
    return next(s for s in seen if isinstance(s, torch.Tensor)), next(s for s in seen if isinstance(s, str))


def fails(host, graph, *words):
    with pytest.raises(GraphError) as error:
        host.run(graph)
    for word in words:
        assert word in str(error.value), str(error.value)


def inspected(host, file, method, cfg=1.0, shape=(1, 4, 16, 16)):
    """Run `method` on an Inspection of a shipped model."""
    graph = {k: v for k, v in base(host, file).items() if k in ("ckpt", "words", "none")}
    graph |= {"model": node("TestCapture", value=["ckpt", 0]), "positive": node("TestCapture", value=["words", 0])}
    seen = host.run(graph)
    model = next(s for s in seen if hasattr(s, "get_model_object"))
    words = next(s for s in seen if isinstance(s, list))
    found = []
    with torch.inference_mode():
        host.module("nodes.comfy_adapter").inspect_model(
            model, words, words, cfg, torch.Size(shape), 1, lambda inspection: found.append(method(inspection))
        )
    return found[0]


@pytest.mark.parametrize(("file", "channels", "cfg"), [(CHECKPOINT, 4, 1.0), (CHECKPOINT, 4, 4.0), (FLOW, 16, 1.0)])
def test_all_products_belong_to_one_jacobian(host, file, channels, cfg):
    """<u, J v> = <J^T u, v>; forward difference and forward mode agree; x0 is that of a plain call."""
    shape = (1, channels, 16, 16)

    def method(inspection):
        sigma = inspection.sigma_at("noise", 1.0)
        x, u, v = (torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in range(3))
        x0_at = inspection.at(sigma)
        plain = x0_at(x)
        exact = inspection.exact_product(x, sigma, v)
        difference = jacobian.difference_product(x0_at, x, plain, v, 0.005)
        x0, jtv = inspection.transposed(x, sigma)
        return plain, x0, exact, difference, (u * exact).sum().item(), (jtv(u) * v).sum().item()

    plain, x0, exact, difference, left, right = inspected(host, file, method, cfg, shape)
    assert torch.allclose(plain, x0, atol=1e-4)
    assert (exact - difference).norm() < 0.02 * exact.norm()
    assert left == pytest.approx(right, rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("file", [CHECKPOINT, FLOW])
def test_noise_over_signal_is_what_was_asked_for(host, file):
    def method(inspection):
        return [inspection.scales(inspection.sigma_at("noise", ratio)) for ratio in (0.3, 3.0)]

    shape = (1, 16 if file == FLOW else 4, 16, 16)
    found = inspected(host, file, method, shape=shape)
    assert [s.s / s.alpha for s in found] == pytest.approx([0.3, 3.0], rel=1e-4)


def test_probe_shows_a_row_a_level_and_tells_what_it_cost(host, probe, monkeypatch):
    import comfy.utils

    bars = []

    class Bar:
        def __init__(self, total, node_id=None):
            self.total, self.current = total, 0
            bars.append(self)

        def update(self, value):
            self.current += value

    monkeypatch.setattr(comfy.utils, "ProgressBar", Bar)
    probe["node"]["inputs"]["noise_levels"] = "0.5, 2"
    drawn, text = run(host, probe)
    assert drawn.shape[0] == 1 and drawn.shape[-1] == 3 and 0 <= drawn.min() < drawn.max() <= 1
    assert len(text.splitlines()) == 2 and text.startswith("noise 0.5 x signal (sigma 0.5)")
    bar = bars[-1]
    # x0, its graph, and for 4 channels and 2 probes J v and J^T v; two levels.
    assert bar.current == bar.total == 2 * (2 + 2 * (4 + 2))
    again = run(host, probe | {"image": give(host, "IMAGE", picture()[0])})  # not from the host's cache
    assert torch.equal(drawn, again[0]) and text == again[1]


def test_probe_takes_a_latent_without_a_vae(host, probe):
    z = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    probe["latent"] = give(host, "LATENT", {"samples": z})
    probe["node"]["inputs"] |= {"latent": ["latent", 0], "probes": 0}
    del probe["node"]["inputs"]["vae"], probe["node"]["inputs"]["image"]
    _, text = run(host, probe)
    assert "The first of 2 pictures was probed." in text and "unknown" in text  # no random probes


def test_exact_and_forward_difference_tell_the_same(host, probe):
    texts = [run(host, probe)[1]]
    probe["node"]["inputs"]["derivative"] = "exact"
    texts.append(run(host, probe)[1])
    first, second = ([float(n) for n in re.findall(r"\d+\.\d+", text)] for text in texts)
    assert len(first) >= 4 and first == pytest.approx(second, rel=0.05, abs=0.02)


@pytest.mark.parametrize("kind", ["probe", "compare"])
def test_a_model_too_large_for_autograd_still_gets_j_v(host, request, monkeypatch, kind):
    import comfy.model_management

    graph = request.getfixturevalue(kind)

    def free(device=None, torch_free_too=False):
        return (2**20, 2**20) if torch_free_too else 2**20

    monkeypatch.setattr(comfy.model_management, "get_free_memory", free)
    drawn, text = run(host, graph)
    assert "No J^T" in text and "0.0 GB are free; a smaller picture" in text
    assert drawn.std() > 0.01 and ("|J v| / |v| 0." in text or "J e | residual" in text)


def test_with_a_controlnet_there_is_j_v_alone_and_the_reason(host, probe):
    """Its weights are the host's own: inference tensors."""
    import folder_paths

    tiny.write_controlnet(host.base / "probe_controlnet.safetensors")
    folder_paths.add_model_folder_path("controlnet", str(host.base))
    probe |= {
        "net": node("ControlNetLoader", control_net_name="probe_controlnet.safetensors"),
        "controlled": node(
            "ControlNetApplyAdvanced", positive=["words", 0], negative=["none", 0], control_net=["net", 0],
            image=["image", 0], strength=0.5, start_percent=0.0, end_percent=1.0,
        ),
    }  # fmt: skip
    probe["node"]["inputs"] |= {"positive": ["controlled", 0], "negative": ["controlled", 1]}
    text = run(host, probe)[1]
    assert "No J^T v: Inference tensors cannot be saved for backward" in text and "|J v| / |v| 0." in text


def test_the_memory_of_the_gradient_is_known_beforehand(host):
    """What is asked for covers the bytes alive at the peak, and is not twice as much."""
    asked = []

    def method(inspection):
        room = inspection.make_room
        inspection.make_room = lambda needed, what: (asked.append(needed), room(needed, what))
        x = torch.zeros(1, 4, 32, 24)
        inspection.differentiable  # noqa: B018  # copies of the weights are counted by themselves
        with live_memory.LiveBytes() as live:
            inspection.transposed(x, 1.0)[1](x)
        return live.peak, sum(p.nbytes for p in inspection.network.parameters())

    peak, weights = inspected(host, CHECKPOINT, method, shape=(1, 4, 32, 24))
    assert asked[0] == weights
    assert peak < asked[1] < 2 * peak


def test_cancel_acts_within_one_call(host, probe):
    import comfy.model_management

    class Stop:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "stop", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",)}}

        def stop(self, model):
            def wrapper(executor, *args, **kwargs):
                if len(CountNode.batches) == 2:
                    comfy.model_management.interrupt_current_processing()
                return executor(*args, **kwargs)

            model = model.clone()
            model.add_wrapper_with_key("diffusion_model", "stop", wrapper)
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestStopProbe"] = Stop
    probe["stop"] = node("TestStopProbe", model=["count", 0])
    probe["node"]["inputs"]["model"] = ["stop", 0]
    fails(host, probe, "interrupted")
    assert len(CountNode.batches) == 2


def test_every_direction_lowers_the_residual_and_costs_what_it_says(host, compare):
    drawn, text = run(host, compare)
    for name in ("J e", "J^T e", "exact"):
        line = next(line for line in text.splitlines() if line.startswith(f"{name} | residual"))
        values = [float(v) for v in line.split("|")[2].split(",")]
        assert len(values) == 3 and values[2] < values[0]
    assert drawn.shape[-1] == 3
    again = run(host, compare | {"image": give(host, "IMAGE", picture()[0])})  # not from the host's cache
    assert torch.equal(drawn, again[0]) and text == again[1]


def test_the_exact_direction_is_left_out_where_it_takes_too_long(host, compare):
    compare["mask"] = give(host, "MASK", picture()[1])
    text = run(host, compare)[1]
    assert "No exact direction: the mask leaves 512 values" in text and "J^T e |" in text and "exact |" not in text


BAD_PROBES = {
    "point": ({"x": 16}, ("x, y:", "(16, 6)", "16 x 16 cells", "0 to 15")),
    "no noise": ({"noise_levels": "1, 0"}, ("noise_levels:", "0 is no noise level", "above 0")),
    "negative": ({"noise_levels": "-1"}, ("noise_levels:", "above 0")),
    "words": ({"noise_levels": "a lot"}, ("noise_levels:", "'a lot' is no number")),
    "nothing": ({"noise_levels": " , "}, ("noise_levels:", "empty")),
    "too much": ({"noise_levels": "1000"}, ("noise_levels:", "outside", "times the signal")),
}


@pytest.mark.parametrize("name", BAD_PROBES)
def test_probe_refuses_bad_numbers(host, probe, name):
    widgets, words = BAD_PROBES[name]
    probe["node"]["inputs"] |= widgets
    fails(host, probe, *words)


def test_probe_refuses_an_empty_mask(host, probe):
    probe["mask"] = give(host, "MASK", torch.zeros(1, SIZE, SIZE))
    probe["node"]["inputs"]["mask"] = ["mask", 0]
    fails(host, probe, "mask:", "empty", "Paint the cells")


def test_probe_refuses_a_picture_without_its_vae_and_nothing_at_all(host, probe):
    del probe["node"]["inputs"]["vae"]
    fails(host, probe, "vae:", "not connected")
    del probe["node"]["inputs"]["image"]
    fails(host, probe, "latent, image:", "neither is connected")


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 4, 3, 16, 16), ("latent:", "not at video")), ((1, 4, 256), ("latent:", "audio")),
     ((1, 16, 16, 16), ("latent:", "16 channels", "works on 4"))],
)  # fmt: skip
def test_probe_refuses_latents_of_another_kind(host, probe, shape, words):
    probe["latent"] = give(host, "LATENT", {"samples": torch.ones(shape)})
    probe["node"]["inputs"]["latent"] = ["latent", 0]
    fails(host, probe, *words)


def test_probe_refuses_a_latent_with_nan(host, probe):
    probe["latent"] = give(host, "LATENT", {"samples": torch.full((1, 4, 16, 16), torch.nan)})
    probe["node"]["inputs"]["latent"] = ["latent", 0]
    fails(host, probe, "latent:", "NaN")


@pytest.mark.parametrize("kind", ["probe", "compare"])
def test_models_of_unknown_scales_are_refused(host, request, kind):
    graph = request.getfixturevalue(kind)
    import comfy.model_sampling

    class Unknown(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.IMG_TO_IMG):
        pass

    class Patch:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",)}}

        def patch(self, model):
            model = model.clone()
            model.add_object_patch("model_sampling", Unknown(model.model.model_config))
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestUnknownScales"] = Patch
    graph["unknown"] = node("TestUnknownScales", model=["count", 0])
    graph["node"]["inputs"]["model"] = ["unknown", 0]
    fails(host, graph, "model:", "not supported")


@pytest.mark.parametrize(
    ("mask", "words"),
    [(torch.zeros(1, SIZE, SIZE), ("mask:", "empty")), (torch.ones(1, SIZE, SIZE), ("mask:", "no latent cell known"))],
)
def test_compare_refuses_masks_without_a_known_or_unknown_part(host, compare, mask, words):
    compare["mask"] = give(host, "MASK", mask)
    fails(host, compare, *words)


def test_compare_refuses_no_noise_and_a_start_of_another_size(host, compare):
    compare["start"] = give(host, "IMAGE", torch.ones(1, 64, SIZE, 3))
    good = dict(compare["node"]["inputs"])
    compare["node"]["inputs"] = good | {"start": ["start", 0]}
    fails(host, compare, "start:", "128x64", "Scale it first")
    compare["node"]["inputs"] = good | {"noise": 0.0}
    fails(host, compare, "noise:", "0 is no noise level")


def test_video_vaes_are_refused(host):
    vae = SimpleNamespace(latent_dim=3)
    with pytest.raises(ValueError, match="vae: it is a video"):
        host.module("nodes.inspected").encoded(vae, picture()[0])
