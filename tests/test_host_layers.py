"""Split into Layers in a real ComfyUI with the shipped checkpoint."""

import pytest
import torch
from graphs import give, picture
from host import CHECKPOINT, CountNode, GraphError, node

OUTPUTS = ("layer_1", "layer_2", "mask", "mask_2", "recomposition", "rounds")


@pytest.fixture
def graph(host):
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "count": node("TestCount", model=["ckpt", 0]),
        "image": give(host, "IMAGE", picture()[0]),
        "one": node("WordConditioning", text="cat face animals"),
        "two": node("WordConditioning", text="flags"),
        "none": node("WordConditioning", text=""),
        "layers": node(
            "LayerDecompose", image=["image", 0], model=["count", 0], vae=["ckpt", 2], layer_1=["one", 0],
            layer_2=["two", 0], negative=["none", 0], seed=1, cfg=1.0, rounds=2, samples=2, steps=2, exact=True,
        ),
        **{name: node("TestCapture", value=["layers", i]) for i, name in enumerate(OUTPUTS)},
    }  # fmt: skip


def run(host, graph):
    """The node's outputs by name; its captures run in no fixed order, so each is asked for alone."""
    out = {}
    for name in OUTPUTS:
        (out[name],) = host.run({k: v for k, v in graph.items() if k not in OUTPUTS or k == name})
        if name == OUTPUTS[0]:
            calls = list(CountNode.batches)  # the later runs find the node in the cache
    return out, calls


def fails(host, graph, *words):
    with pytest.raises(GraphError) as error:
        host.run(graph)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_outputs_cost_and_exact_recomposition(host, graph):
    out, calls = run(host, graph)
    given = picture()[0]
    # 2 rounds x 2 layers of both samples at once, each with one Newton step; 2 steps x 2 layers of one, held.
    assert sorted(calls) == [1] * 4 + [2] * 8
    assert out["layer_1"].shape == out["layer_2"].shape == out["recomposition"].shape == given.shape
    assert out["mask"].shape == given.shape[:3] and torch.equal(out["mask_2"], 1 - out["mask"])
    assert out["rounds"].shape == (1, 128, 2 * 128 + 8, 3)
    m = out["mask"].unsqueeze(-1)
    for layers in ((out["layer_1"], out["layer_2"]), [(255 * out[n]).round() / 255 for n in ("layer_1", "layer_2")]):
        assert all(((layer >= 0) & (layer <= 1)).all() for layer in layers)
        put_together = (255 * (m * layers[0] + (1 - m) * layers[1])).round()
        assert (put_together - (255 * given).round()).abs().max() <= 1


def test_same_seed_same_bytes_and_cfg_guides_the_painting_alone(host, graph):
    first, _ = run(host, graph)
    graph["layers"]["inputs"] |= {"seed": 2}
    assert not torch.equal(first["rounds"], run(host, graph)[0]["rounds"])
    graph["layers"]["inputs"] |= {"seed": 1}
    host.executor.reset()
    again, calls = run(host, graph)
    assert all(torch.equal(first[n], again[n]) for n in OUTPUTS)
    graph["layers"]["inputs"] |= {"cfg": 3.0}
    guided, guided_calls = run(host, graph)
    assert sum(guided_calls) == sum(calls) + 2 * 2  # the negative prompt in 2 steps of 2 layers
    assert torch.equal(first["rounds"], guided["rounds"]) and not torch.equal(first["layer_1"], guided["layer_1"])


def test_samples_come_in_turns_where_memory_is_short(host, graph, monkeypatch):
    import comfy.model_management

    whole, _ = run(host, graph)
    host.executor.reset()
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *a, **k: 0)
    parts, calls = run(host, graph)
    assert calls == [1] * 20
    assert (whole["mask"] - parts["mask"]).abs().mean() < 0.01


@pytest.mark.parametrize("size", [(128, 128), (100, 77), (72, 136)])
def test_any_size_and_batches(host, graph, size):
    given = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    graph["image"] = give(host, "IMAGE", given)
    out, _ = run(host, graph)
    assert all(out[n].shape == given.shape for n in ("layer_1", "layer_2", "recomposition"))
    assert out["mask"].shape == given.shape[:3]
    assert (255 * (out["recomposition"] - given)).abs().max() <= 0.01


def test_fixed_pixels_and_starting_masks(host, graph):
    first, second, start = (torch.zeros(1, 128, 128) for _ in range(3))
    first[:, 10:12, 3:60], second[:, 100:, :], start[:, :64] = 1, 1, 1
    for name, mask in (("fixed_1", first), ("fixed_2", second), ("mask", start)):
        graph[f"give_{name}"] = give(host, "MASK", mask)
        graph["layers"]["inputs"][name] = [f"give_{name}", 0]
    m = run(host, graph)[0]["mask"]
    assert (m[first == 1] == 1).all() and (m[second == 1] == 0).all()


def test_a_mask_that_says_nothing(host, graph):
    graph["give"] = give(host, "MASK", torch.zeros(1, 64, 64))
    graph["layers"]["inputs"]["mask"] = ["give", 0]
    fails(host, graph, "mask:", "all black", "disconnect")


@pytest.mark.parametrize(
    ("masks", "pictures", "taken"), [(1, 3, [0, 0, 0]), (3, 1, [0]), (2, 3, [0, 1, 0]), (4, 2, [0, 1])]
)
def test_masks_are_repeated_or_cut_to_the_pictures(host, masks, pictures, taken):
    """As the host does with noise masks."""
    import comfy.utils

    mask = torch.rand(masks, 8, 8, generator=torch.Generator().manual_seed(0))
    fitted = host.module("nodes.layers").fit_optional(mask, torch.zeros(pictures, 3, 8, 8))
    assert torch.equal(fitted, mask[taken].unsqueeze(1))
    assert torch.equal(fitted, comfy.utils.repeat_to_batch_size(mask.unsqueeze(1), pictures))


def test_more_masks_than_pictures(host, graph):
    graph["give"] = give(host, "MASK", torch.eye(64).repeat(3, 1, 1))
    graph["layers"]["inputs"] |= {"fixed_1": ["give", 0]}
    assert run(host, graph)[0]["mask"].shape == (1, 128, 128)


def test_a_pixel_cannot_be_in_both_layers(host, graph):
    graph["give"] = give(host, "MASK", torch.ones(1, 64, 64))
    graph["layers"]["inputs"] |= {"fixed_1": ["give", 0], "fixed_2": ["give", 0]}
    fails(host, graph, "fixed_1, fixed_2:", "white in both")


def test_step_caches_are_bypassed(host, graph):
    plain, calls = run(host, graph)
    graph["cache"] = node(
        "EasyCache", model=["count", 0], reuse_threshold=1.0, start_percent=0.0, end_percent=1.0, verbose=False
    )
    graph["layers"]["inputs"]["model"] = ["cache", 0]
    cached, again = run(host, graph)
    assert len(again) == len(calls) and torch.allclose(plain["mask"], cached["mask"])


def test_progress_is_announced_and_the_mask_shown_each_round(host, graph, monkeypatch):
    import comfy.utils

    ticks = []

    def update_absolute(bar, value, total=None, preview=None):
        bar.total, bar.current = total or bar.total, value
        ticks.append((value, bar.total, preview, len(CountNode.batches)))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update_absolute)
    host.run({k: v for k, v in graph.items() if k not in OUTPUTS[1:]})
    ticks = [t for t in ticks if t[1] == 12]  # other nodes tick too
    assert ticks[0] == (0, 12, None, 0)
    assert [t[0] for t in ticks if t[2] is None] == list(range(13))
    previews = [(done, preview[1].size) for done, _, preview, _ in ticks if preview is not None]
    assert previews == [(4, (256, 256)), (8, (256, 256))]


@pytest.mark.parametrize("stop_after", [1, 5, 10])
def test_cancel_acts_within_one_call(host, graph, stop_after, monkeypatch):
    import comfy.model_management

    real = comfy.model_management.throw_exception_if_processing_interrupted

    def interrupted():
        if len(CountNode.batches) == stop_after:
            comfy.model_management.interrupt_current_processing()
        real()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupted)
    fails(host, graph, "interrupted")
    assert len(CountNode.batches) == stop_after


def test_a_prompt_brings_its_own_patches(host, graph):
    """A LoRA hook on a layer's prompt acts: the run is the host's own."""
    import comfy.hooks

    plain, _ = run(host, graph)
    weights = {"diffusion_model.out.2.weight": (torch.full((4, 320, 3, 3), 0.05),)}
    hooks = comfy.hooks.create_hook_lora(lora={}, strength_model=1.0, strength_clip=0.0)
    for hook in hooks.hooks:
        hook.weights, hook.need_weight_init = weights, False
    graph["hooks"] = give(host, "HOOKS", hooks)
    graph["hooked"] = node("ConditioningSetProperties", cond_NEW=["one", 0], strength=1.0, set_cond_area="default",
                           hooks=["hooks", 0])  # fmt: skip
    graph["layers"]["inputs"]["layer_1"] = ["hooked", 0]
    patched, _ = run(host, graph)
    assert not torch.allclose(plain["layer_1"], patched["layer_1"], atol=0.01)
