"""What users do wrong: each gets an error that names the input and the remedy."""

import logging

import pytest
import torch
from graphs import SIZE, give, inpaint_graph, picture, sampled
from host import CountNode, GraphError, node


@pytest.fixture
def graph(host):
    return inpaint_graph(host)


def fails(host, graph, *words):
    with pytest.raises(GraphError) as error:
        host.run(graph)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_empty_mask(host, graph):
    graph["mask"] = give(host, "MASK", torch.zeros(1, SIZE, SIZE))
    fails(host, graph, "mask:", "empty", "Paint the region")


def test_empty_mask_of_a_picture_without_transparency(host, graph):
    """LoadImage gives a 64x64 mask of zeros then: the message must be about emptiness, not size."""
    graph["mask"] = give(host, "MASK", torch.zeros(1, 64, 64))
    fails(host, graph, "mask:", "empty")


def test_mask_of_another_size_is_resized_with_a_notice(host, graph, caplog):
    expected = sampled(host, graph)
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    graph["mask"] = give(host, "MASK", mask)
    with caplog.at_level(logging.WARNING):
        resized = sampled(host, graph)
    assert "64x64 differs from the picture's 128x128" in caplog.text
    assert resized.shape == expected.shape


def test_nan_in_the_picture(host, graph):
    image = picture()[0].clone()
    image[0, 3, 3, 0] = torch.nan
    graph["image"] = give(host, "IMAGE", image)
    fails(host, graph, "image:", "NaN")


def test_single_channel_picture(host, graph):
    graph["image"] = give(host, "IMAGE", picture()[0][..., :1])
    fails(host, graph, "image:", "RGB")


def test_transparent_picture_loses_its_alpha(host, graph):
    image = picture()[0]
    expected = sampled(host, graph)
    graph["image"] = give(host, "IMAGE", torch.cat([image, image[..., :1]], -1))
    assert torch.equal(sampled(host, graph), expected)


def test_picture_that_does_not_fit_the_vae(host, graph):
    graph["image"] = give(host, "IMAGE", picture()[0][:, :100, :126])
    fails(host, graph, "image:", "126x100", "multiple of 8", "120x96")


def test_constraint_of_another_size(host, graph):
    graph["latent"] = node("EmptyLatentImage", width=64, height=SIZE, batch_size=1)
    graph["sample"]["inputs"]["latent_image"] = ["latent", 0]
    fails(host, graph, "constraint:", "16x16", "8x16")


def test_vae_of_another_model(host, graph):
    """16 channels against 4, seen when the constraint meets the model."""
    spec = host.module("nodes.latent_mask").LatentMaskSpec(torch.ones(1, 16, 16, 16), torch.ones(1, 1, 16, 16))
    graph["other"] = give(host, "NEWTON_CONSTRAINT", spec)
    graph["sample"]["inputs"]["constraint"] = ["other", 0]
    fails(host, graph, "constraint:", "16 channels", "VAE that belongs to the model")


def test_vae_of_the_same_shape_from_another_model_warns(host, graph, caplog):
    spec = host.module("nodes.latent_mask").LatentMaskSpec(torch.full((1, 4, 16, 16), 200.0), torch.ones(1, 1, 16, 16))
    graph["other"] = give(host, "NEWTON_CONSTRAINT", spec)
    graph["sample"]["inputs"]["constraint"] = ["other", 0]
    with caplog.at_level(logging.WARNING):
        sampled(host, graph)
    assert "VAE probably belongs to another model" in caplog.text


def test_latent_of_the_wrong_channel_count(host, graph):
    graph["latent"] = give(host, "LATENT", {"samples": torch.ones(1, 16, 16, 16)})
    graph["sample"]["inputs"]["latent_image"] = ["latent", 0]
    fails(host, graph, "latent_image:", "16 channels")


def through_the_model_door(graph):
    graph["constrained"] = node("NewtonConstrainModel", model=["count", 0], constraint=["constraint", 0])
    inputs = graph["sample"]["inputs"]
    kept = {
        k: inputs[k] for k in ("positive", "negative", "latent_image", "seed", "steps", "cfg", "scheduler", "denoise")
    }
    graph["sample"] = node("KSampler", model=["constrained", 0], sampler_name="euler", **kept)


@pytest.mark.parametrize("door", [lambda graph: None, through_the_model_door])
@pytest.mark.parametrize("kind", ["waveform", "packed", "spectrum"])
def test_audio(host, graph, kind, door):
    """Audio alone, audio and video together, and audio that looks like a picture (ACE-Step)."""
    import comfy.latent_formats
    import comfy.nested_tensor

    waveform, video = torch.ones(1, 4, 256), torch.ones(1, 4, 16, 16)
    latent = {"waveform": waveform, "packed": comfy.nested_tensor.NestedTensor([video, waveform]), "spectrum": video}
    graph["latent"] = give(host, "LATENT", {"samples": latent[kind]})
    graph["sample"]["inputs"]["latent_image"] = ["latent", 0]
    if kind == "spectrum":

        class Patch:
            RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

            @classmethod
            def INPUT_TYPES(cls):
                return {"required": {"model": ("MODEL",)}}

            def patch(self, model):
                model = model.clone()
                model.add_object_patch("latent_format", comfy.latent_formats.ACEAudio())
                return (model,)

        host.nodes.NODE_CLASS_MAPPINGS["TestAudioFormat"] = Patch
        graph["audio"] = node("TestAudioFormat", model=["ckpt", 0])
        graph["count"]["inputs"]["model"] = ["audio", 0]
    door(graph)
    fails(host, graph, "latent_image:", "audio")
    assert not CountNode.batches


def test_zero_steps_are_refused_before_anything_runs(host, graph):
    graph["sample"]["inputs"]["steps"] = 0
    fails(host, graph, "steps", "smaller than min")


def test_denoise_zero_gives_the_latent_back(host, graph):
    graph["sample"]["inputs"]["denoise"] = 0.0
    out = sampled(host, graph)
    graph["out"] = node("TestCapture", value=["constraint", 1])
    assert torch.equal(out, sampled(host, graph))


def test_model_without_a_noise_schedule(host):
    import comfy.model_sampling
    from newton_pack.nodes.comfy_adapter import measured_scales

    class NoNoise(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
        def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
            return latent_image

    with pytest.raises(ValueError, match="adds no noise"):
        measured_scales(NoNoise())(1.0)
