"""The StyleConstraint node in a real ComfyUI: image encoders of the host, and what a user can do wrong."""

import clip_models
import pytest
import torch
from graphs import SIZE, give
from host import ROOT, CountNode, GraphError, node
from styles import REFERENCE, STEPS, constrained, face_graph, free


@pytest.fixture
def node_graph(host, tmp_path):
    """The node with a small CLIP of random weights."""
    graph = face_graph(host)
    graph["images"] = give(host, "IMAGE", REFERENCE)
    graph["clip"] = give(host, "CLIP_VISION", clip_models.make(clip_models.CLIP, tmp_path))
    graph["style"] = node(
        "StyleConstraint", images=["images", 0], clip_vision=["clip", 0], vae=["ckpt", 2], block=2,
        normalisation="none", direction="forward only", tile=0,
    )  # fmt: skip
    return graph


def own_distance(host, spec, made):
    """As the constraint itself sees it."""
    sampler = host.module("sampler")
    features = spec.load(torch.device("cpu"))
    reference = sampler.reference_gram(features, spec.pictures)
    return sampler.style_distance(features(made.movedim(-1, 1).clone()), reference).item()


@pytest.mark.parametrize("references", [(1, 128, 128), (1, 96, 144), (2, 200, 90)])
def test_the_node_with_an_image_encoder_of_the_host(host, node_graph, references):
    images = torch.nn.functional.interpolate(REFERENCE.movedim(-1, 1), references[1:]).movedim(1, -1)
    node_graph["images"] = give(host, "IMAGE", images.expand(references[0], -1, -1, -1))
    plain, styled = free(host, node_graph), constrained(host, node_graph)
    assert len(CountNode.batches) == 2 * STEPS
    kept = {k: v for k, v in node_graph.items() if k in ("ckpt", "images", "clip", "style")}
    spec = host.run(kept | {"out": node("TestCapture", value=["style", 0])})[0]
    assert own_distance(host, spec, styled) < 0.95 * own_distance(host, spec, plain)


def fails(host, graph, *words):
    with pytest.raises(GraphError) as error:
        constrained(host, graph)
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize(("images", "words"), [
    (torch.full((1, 64, 64, 3), 0.4), ("images:", "reference 1", "one colour")),
    (torch.cat([REFERENCE, torch.ones(1, SIZE, SIZE, 3)]), ("images:", "reference 2", "one colour")),
    (torch.zeros(0, 64, 64, 3), ("images:", "no picture")),
    (torch.rand(1, 64, 64, 1), ("images:", "1 channel", "RGB")),
    (torch.full((1, 64, 64, 3), torch.nan), ("images:", "NaN")),
])  # fmt: skip
def test_references_without_a_style(host, node_graph, images, words):
    node_graph["images"] = give(host, "IMAGE", images)
    fails(host, node_graph, *words)


def test_a_block_that_is_not_there(host, node_graph):
    node_graph["style"]["inputs"]["block"] = 4
    fails(host, node_graph, "block:", "no block 4", "0 to 3")


def test_an_encoder_that_cannot_be_stopped_at_a_block(host, node_graph, tmp_path):
    """DINOv3 and variable-size SigLIP 2, which newer hosts load, by what they lack."""
    variable = clip_models.make(clip_models.SIGLIP, tmp_path)
    variable.image_size = -1
    node_graph["clip"] = give(host, "CLIP_VISION", variable)
    fails(host, node_graph, "clip_vision:", "size -1", "CLIP ViT-L")
    blockless = clip_models.make(clip_models.CLIP, tmp_path)
    blockless.model = torch.nn.Sequential()
    node_graph["clip"] = give(host, "CLIP_VISION", blockless)
    fails(host, node_graph, "clip_vision:", "Sequential", "DINOv3")


@pytest.mark.parametrize("direction", ["forward only", "decoder gradient"])
def test_a_vae_without_encoder_will_do(host, node_graph, direction):
    """Its encoder's weights are what the file left unset."""
    import comfy.sd
    from safetensors.torch import load_file

    prefix = "first_stage_model."
    weights = load_file(ROOT / "demo" / "ncs_emoji.safetensors")
    weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix) and "encoder" not in k}
    node_graph["vae"] = give(host, "VAE", comfy.sd.VAE(weights))
    node_graph["style"]["inputs"]["vae"] = ["vae", 0]
    node_graph["style"]["inputs"]["direction"] = direction
    assert constrained(host, node_graph).isfinite().all()


def test_a_vae_of_another_model(host, node_graph):
    node_graph["latent"] = give(host, "LATENT", {"samples": torch.zeros(1, 4, 16, 16)})
    spec = host.module("nodes.style").StyleSpec
    space = host.module("nodes.constraint_spec").LatentSpace((1, 16, 16, 16), torch.device("cpu"), None, None, None)

    class Vae:
        latent_channels = 4

    with pytest.raises(ValueError, match="vae: its latents have 4 channels"):
        spec(REFERENCE, None, Vae()).bind(space)
    with pytest.raises(ValueError, match="video"):
        spec(REFERENCE, None, Vae()).bind(space.__class__((1, 4, 3, 16, 16), torch.device("cpu"), None, None, None))
