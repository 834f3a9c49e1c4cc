"""Jacobian Probe in a real ComfyUI, and the products of J behind it: what they show, cost, and say."""

import re
import sys
from pathlib import Path

import probes
import pytest
import tiny
import torch
from graphs import give, picture
from host import CHECKPOINT, CountNode, node
from newton_pack.sampler import jacobian
from probes import base, fails, run

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import live_memory

FLOW = "ncs_avatars.safetensors"


@pytest.fixture
def probe(host):
    return probes.probe_graph(host)


@pytest.fixture
def compare(host):
    return probes.compare_graph(host)


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
    bars = probes.bars(monkeypatch)
    probe["node"]["inputs"]["noise_levels"] = "0.5, 2"
    drawn, text = run(host, probe)
    assert drawn.shape[0] == 1 and drawn.shape[-1] == 3 and 0 <= drawn.min() < drawn.max() <= 1
    assert len(text.splitlines()) == 2 and text.startswith("noise 0.5 x signal (sigma 0.5)")
    # x0, its graph, and for 4 channels and 2 probes J v and J^T v; two levels.
    assert bars[-1].current == bars[-1].total == 2 * (2 + 2 * (4 + 2))
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
