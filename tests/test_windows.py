"""Window Conditioning: the model sees its own size, the constraint the whole picture."""

import pytest
import torch
from graphs import give, inpaint_graph, sampled
from host import GraphError, node

CELLS = 40


class Pointwise(torch.nn.Module):
    """A network that looks at one cell at a time; notes the sizes that it is given."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, timesteps, **_):
        self.seen.append(tuple(x.shape))
        return torch.tanh(0.7 * x)


class Averaging(Pointwise):
    """One that looks at all of what it is given."""

    def forward(self, x, timesteps, **_):
        return super().forward(x, timesteps) + 0.3 * x.mean((-2, -1), keepdim=True)


def patcher(network):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15({"disable_unet_model_creation": True, "context_dim": 768})
    config.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.BaseModel(config)
    base.diffusion_model = network
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


def graph_of(host, network, window=None, cfg=1.0):
    """A picture of 40 x 40 cells whose right half is to be generated."""
    graph = inpaint_graph(host)
    known = torch.randn(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 8 * CELLS, 8 * CELLS)
    mask[..., 4 * CELLS :] = 1
    graph["latent"] = give(host, "LATENT", {"samples": known, "noise_mask": mask})
    graph["count"] = give(host, "MODEL", patcher(network))
    sample = graph["sample"]["inputs"]
    del sample["constraint"]
    sample |= {"latent_image": ["latent", 0], "cfg": cfg}
    if window:
        graph["windows"] = node(
            "WindowConditioning", positive=["words", 0], negative=["words", 0], latent_image=["latent", 0],
            window=window, overlap=window // 2,
        )  # fmt: skip
        sample |= {"positive": ["windows", 0], "negative": ["windows", 1]}
    return graph, known


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_of_a_network_that_sees_single_cells_windows_leave_no_trace(host, cfg):
    whole, _ = graph_of(host, Pointwise(), cfg=cfg)
    parts, _ = graph_of(host, network := Pointwise(), window=16, cfg=cfg)
    assert torch.allclose(sampled(host, parts), sampled(host, whole), atol=1e-4)
    assert {shape[-2:] for shape in network.seen} == {(16, 16)}


def test_the_constraint_holds_over_all_windows(host):
    """Known cells are exact, and the windows' averages differ from what one look at everything gives."""
    graph, known = graph_of(host, Averaging(), window=16)
    out = sampled(host, graph)
    assert torch.allclose(out[..., : CELLS // 2], known[..., : CELLS // 2], atol=1e-4)
    whole, _ = graph_of(host, Averaging())
    assert not torch.allclose(out, sampled(host, whole), atol=1e-2)


def test_windows_cover_the_picture_and_overlap(host):
    graph, _ = graph_of(host, Pointwise(), window=16)
    graph = {k: graph[k] for k in ("words", "latent", "windows")} | {"out": node("TestCapture", value=["windows", 0])}
    areas = [options["area"] for _, options in host.run(graph)[0]]
    covered = torch.zeros(CELLS, CELLS)
    for h, w, top, left in areas:
        assert (h, w) == (16, 16)
        covered[top : top + h, left : left + w] += 1
    assert covered.shape == (CELLS, CELLS) and covered.min() == 1 and covered[CELLS // 2, CELLS // 2] == 4


def test_a_small_picture_is_one_window(host):
    graph, _ = graph_of(host, network := Pointwise(), window=CELLS)
    sampled(host, graph)
    assert {shape[-2:] for shape in network.seen} == {(CELLS, CELLS)}


@pytest.mark.parametrize(("key", "what"), [("area", "an area of its own"), ("control", "a ControlNet")])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_what_windows_cannot_show_is_refused(host, name, key, what):
    graph, _ = graph_of(host, Pointwise(), window=16)
    graph["own"] = give(host, "CONDITIONING", [[torch.zeros(1, 8, 768), {key: (16, 16, 0, 0)}]])
    graph["windows"]["inputs"][name] = ["own", 0]
    with pytest.raises(GraphError, match=rf"(?s)Give a prompt.*{name}: it has {what}"):
        host.run(graph)


def test_an_overlap_as_large_as_the_window_is_refused(host):
    graph, _ = graph_of(host, Pointwise(), window=16)
    graph["windows"]["inputs"]["overlap"] = 16
    with pytest.raises(GraphError, match="overlap: it is 16"):
        host.run(graph)


def test_context_windows_of_the_host_serve_wide_pictures(host):
    """The host's own node cuts one axis: the same law for it, along the width (dimension 3)."""
    whole, _ = graph_of(host, Pointwise())
    parts, _ = graph_of(host, network := Pointwise())
    # Newer hosts ask for more: the defaults, but no frame before a window, which is meant for video.
    asked = host.nodes.NODE_CLASS_MAPPINGS["ContextWindowsManual"].INPUT_TYPES()["required"]
    widgets = {name: more[0]["default"] for name, (_, *more) in asked.items() if more and "default" in more[0]}
    widgets |= {"context_length": 16, "context_overlap": 8, "context_schedule": "standard_static", "dim": 3}
    widgets |= {name: False for name in ("causal_window_fix",) if name in asked}
    parts["context"] = node("ContextWindowsManual", model=["count", 0], **widgets)
    parts["sample"]["inputs"]["model"] = ["context", 0]
    assert torch.allclose(sampled(host, parts), sampled(host, whole), atol=1e-4)
    assert {shape[-2:] for shape in network.seen} == {(CELLS, 16)}
