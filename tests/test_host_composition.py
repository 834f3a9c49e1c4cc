"""Beside other nodes: each test would fail if the other node were ignored, or if ours were."""

import pytest
import tiny
import torch
from graphs import SIZE, custom_sampling, encoded, give, inpaint_graph, newton_steps, sampled, without_mask
from host import node

LORA, CONTROLNET = "tiny_lora.safetensors", "tiny_controlnet.safetensors"


@pytest.fixture(scope="module")
def files(host):
    """The host finds a LoRA and a ControlNet."""
    import folder_paths

    for kind, name, write in (("loras", LORA, tiny.write_lora), ("controlnet", CONTROLNET, tiny.write_controlnet)):
        write(host.base / name)
        folder_paths.add_model_folder_path(kind, str(host.base))


@pytest.fixture(params=["held", "newton"])
def graph(host, files, request):
    """The standard graph with a second prompt, in three steps; its mask held or followed by Newton steps."""
    graph = inpaint_graph(host)
    graph["flags"] = node("WordConditioning", text="flags")
    graph["sample"]["inputs"] |= {"positive": ["flags", 0], "steps": 3}
    if request.param == "newton":
        newton_steps(graph, "sample")
    return graph


def on_model(kind, make=None, cfg=1.0, **widgets):
    """A node that patches a model: the shipped one, or one that `make` makes."""

    def put(host, graph):
        graph["other"] = node(kind, model=["count", 0], **widgets)
        graph["sample"]["inputs"]["model"] = ["other", 0]

    return pytest.param(put, make, cfg, id=kind)


def on_words(name, nodes):
    """Nodes that change the positive prompt; the last is called `other`."""

    def put(host, graph):
        graph |= nodes
        graph["sample"]["inputs"]["positive"] = ["other", 0]

    return pytest.param(put, None, 1.0, id=name)


CONTROLLED = {
    "net": node("ControlNetLoader", control_net_name=CONTROLNET),
    "other": node(
        "ControlNetApplyAdvanced", positive=["flags", 0], negative=["words", 0], control_net=["net", 0],
        image=["image", 0], strength=0.5, start_percent=0.0, end_percent=0.8,
    ),
}  # fmt: skip

# One prompt left, another right, along the border of the mask.
REGIONS = {
    "right": node("ConditioningSetMask", conditioning=["flags", 0], mask=["mask", 0], strength=1.0,
                  set_cond_area="default"),
    "inverse": node("InvertMask", mask=["mask", 0]),
    "left": node("ConditioningSetMask", conditioning=["words", 0], mask=["inverse", 0], strength=1.0,
                 set_cond_area="default"),
    "other": node("ConditioningCombine", conditioning_1=["left", 0], conditioning_2=["right", 0]),
}  # fmt: skip

EARLY_AND_LATE = {
    "early": node("ConditioningSetTimestepRange", conditioning=["words", 0], start=0.0, end=0.4),
    "late": node("ConditioningSetTimestepRange", conditioning=["flags", 0], start=0.4, end=1.0),
    "other": node("ConditioningCombine", conditioning_1=["early", 0], conditioning_2=["late", 0]),
}

# A LoRA that comes in with the second keyframe, on one prompt.
HOOKED = {
    "lora": node("CreateHookLoraModelOnly", lora_name=LORA, strength_model=1.0),
    "first": node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0),
    "second": node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.3, prev_hook_kf=["first", 0]),
    "hooks": node("SetHookKeyframes", hooks=["lora", 0], hook_kf=["second", 0]),
    "other": node("ConditioningSetProperties", cond_NEW=["flags", 0], strength=1.0, set_cond_area="default",
                  hooks=["hooks", 0]),
}  # fmt: skip

OTHERS = [
    on_model("LoraLoaderModelOnly", lora_name=LORA, strength_model=1.0),
    on_model("ModelSamplingDiscrete", sampling="lcm", zsnr=False),
    on_model("RescaleCFG", cfg=3.0, multiplier=1.0),
    on_model("APG", cfg=3.0, eta=1.0, norm_threshold=0.0, momentum=-0.5),
    on_model("FreeU_V2", tiny.unet, b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    on_model("PerturbedAttentionGuidance", tiny.unet, scale=3.0),
    on_model("SkipLayerGuidanceDiT", tiny.mmdit, double_layers="1", single_layers="", scale=10.0, start_percent=0.0,
             end_percent=1.0, rescaling_scale=0.0),
    on_words("ControlNet", CONTROLLED),
    on_words("ConditioningSetMask", REGIONS),
    on_words("ConditioningSetTimestepRange", EARLY_AND_LATE),
    on_words("hooks", HOOKED),
]  # fmt: skip


def newton(graph):
    return "settings" in graph


def check_obeys(graph, both, other_alone, known):
    """Held values are exact, Newton steps bring them nearer."""
    ours, free = ((t - known)[..., :8].square().mean().sqrt().item() for t in (both, other_alone))
    print(f"\ndistance to the known half {ours:.3f}, without constraint {free:.3f}")
    assert ours < (0.9 if newton(graph) else 1e-4) * free


@pytest.fixture(scope="module")
def without():
    """Constrained results without another node, by model and guidance and whether by Newton steps."""
    return {}


def give_model(host, graph, make):
    graph["small"] = give(host, "MODEL", make())
    graph["count"]["inputs"]["model"] = ["small", 0]
    # Its x0 is little more than x: it has to start near the picture's own scale.
    graph["blank"] = node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1)
    graph["sample"]["inputs"] |= {"latent_image": ["blank", 0], "steps": 6, "denoise": 0.3}
    for i, words in enumerate(("words", "flags")):
        pooled = {"pooled_output": torch.zeros(1, 8)}  # SD3's
        graph[words] = give(host, "CONDITIONING", [[torch.full((1, 4, 768), float(i)), pooled]])


@pytest.mark.parametrize("put, make, cfg", OTHERS)
def test_both_act(host, graph, without, put, make, cfg):
    known = encoded(host, graph)
    if make:
        give_model(host, graph, make)
    graph["sample"]["inputs"]["cfg"] = cfg
    key = make, cfg, newton(graph)
    if key not in without:
        without[key] = sampled(host, graph)
    put(host, graph)
    both = sampled(host, graph)
    assert (both - without[key]).abs().max() > 0.05
    del graph["sample"]["inputs"]["constraint"]
    if not make:
        without_mask(host, graph)
    check_obeys(graph, both, sampled(host, graph), known)


def guided(graph, guider):
    """The standard graph with SamplerCustomAdvanced, our SAMPLER and a guider."""
    custom_sampling(graph, node("NewtonSampler", constraint=["constraint", 0]), ["constraint", 1], steps=3)
    if newton(graph):
        newton_steps(graph, "sampler")
    graph |= {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": guider,
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
            sigmas=["sigmas", 0], latent_image=["constraint", 1],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("guider", [
    node("PerpNegGuider", model=["count", 0], positive=["flags", 0], negative=["faces", 0],
         empty_conditioning=["words", 0], cfg=3.0, neg_scale=1.0),
    node("DualCFGGuider", model=["count", 0], cond1=["flags", 0], cond2=["faces", 0], negative=["words", 0],
         cfg_conds=2.0, cfg_cond2_negative=2.0, style="regular"),
], ids=lambda guider: guider["class_type"])  # fmt: skip
def test_guiders(host, graph, without, guider):
    known = encoded(host, graph)
    graph["faces"] = node("WordConditioning", text="faces")
    key = "CFGGuider", newton(graph)
    if key not in without:
        stock = node("CFGGuider", model=["count", 0], positive=["flags", 0], negative=["faces", 0], cfg=3.0)
        guided(graph, stock)
        without[key] = sampled(host, graph)
    guided(graph, guider)
    both = sampled(host, graph)
    assert (both - without[key]).abs().max() > 0.05
    del graph["sampler"]["inputs"]["constraint"]
    without_mask(host, graph)
    check_obeys(graph, both, sampled(host, graph), known)


@pytest.mark.parametrize("graph", ["newton"], indirect=True)
def test_compiled_model(host, graph):
    """Any backend shares the host's path; this one needs no compiler."""
    import torch._dynamo

    known = encoded(host, graph)
    give_model(host, graph, tiny.mmdit)
    expected = sampled(host, graph)
    torch._dynamo.utils.counters.clear()
    graph["other"] = node("TorchCompileModel", model=["count", 0], backend="cudagraphs")
    graph["sample"]["inputs"]["model"] = ["other", 0]
    both = sampled(host, graph)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert torch.allclose(both, expected, atol=1e-3)
    del graph["sample"]["inputs"]["constraint"]
    check_obeys(graph, both, sampled(host, graph), known)
