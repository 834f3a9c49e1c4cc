"""What users do wrong with Jacobian Probe: each gets an error that names the input and the remedy."""

import probes
import pytest
import torch
from graphs import SIZE, give
from host import node
from probes import fails


@pytest.fixture
def probe(host):
    return probes.probe_graph(host)


@pytest.fixture
def compare(host):
    return probes.compare_graph(host)


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


def test_models_of_video_are_refused(host, probe):
    import comfy.latent_formats

    class Patch:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",)}}

        def patch(self, model):
            model = model.clone()
            model.add_object_patch("latent_format", comfy.latent_formats.Wan21())
            return (model,)

    host.nodes.NODE_CLASS_MAPPINGS["TestVideoFormat"] = Patch
    probe["video"] = node("TestVideoFormat", model=["count", 0])
    probe["node"]["inputs"]["model"] = ["video", 0]
    fails(host, probe, "model:", "looks at pictures")
