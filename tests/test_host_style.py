"""Style in a real ComfyUI with the shipped checkpoint; EfficientNet-Lite0 is the feature network with real weights."""

import sys

import pytest
import torch
from graphs import SIZE, give, inpaint_graph, picture
from host import ROOT, CountNode, GraphError, node

sys.path.insert(0, str(ROOT / "bench"))

import clip_models
from efficientnet import load_network, patch_tokens

pytest.importorskip("efficientnet_lite_pytorch", reason="EfficientNet-Lite0 is named in tools/requirements-dev.txt")
STEPS, BLOCK, OTHER_BLOCK = 8, 0, 2


@pytest.fixture(scope="module")
def network():
    return load_network()


def heldout(name):
    import numpy as np
    from PIL import Image

    image = Image.open(ROOT / "demo" / "heldout" / f"{name}.png").convert("RGB")
    return torch.from_numpy(np.array(image) / 255).float()[None]


REFERENCE = heldout("peacock_animals_nature")


class Network:
    """The feature network as a StyleSpec takes it, with its passes counted."""

    def __init__(self, network):
        self.network, self.backward = network, 0

    def load(self, device):
        def features(pictures):
            self.backward += torch.is_grad_enabled()
            return patch_tokens(self.network, BLOCK, pictures)

        return features


@pytest.fixture
def style(host, network):
    """Makes the node that hands out a style constraint of EfficientNet-Lite0."""

    def make(direction="encoder difference"):
        vae = host.run({"ckpt": node("CheckpointLoaderSimple", ckpt_name="ncs_emoji.safetensors"),
                        "out": node("TestCapture", value=["ckpt", 2])})[0]  # fmt: skip
        counted = Network(network)
        spec = host.module("nodes.style").StyleSpec(REFERENCE.movedim(-1, 1), counted.load, vae, direction=direction)
        return give(host, "NEWTON_CONSTRAINT", spec), counted

    return make


@pytest.fixture
def graph(host):
    """Free sampling of a face at cfg 3; `style` is to be added."""
    graph = inpaint_graph(host)
    graph["words"] = node("WordConditioning", text="smiling face")
    graph["negative"] = node("WordConditioning", text="")
    graph["latent"] = node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1)
    graph["sample"]["inputs"] |= {"latent_image": ["latent", 0], "negative": ["negative", 0], "cfg": 3.0,
                                  "steps": STEPS}  # fmt: skip
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2])
    graph["out"] = node("TestCapture", value=["decode", 0])
    return graph


def free(host, graph):
    inputs = {k: v for k, v in graph["sample"]["inputs"].items() if k not in ("constraint", "settings")}
    return host.run(graph | {"sample": node("NewtonConstrainedSampler", **inputs)})[0]


def constrained(host, graph, constraint="style"):
    graph["sample"]["inputs"]["constraint"] = [constraint, 0]
    return host.run(graph)[0]


def distance(host, network, made, block=BLOCK, columns=slice(None)):
    def features(pictures):
        return patch_tokens(network, block, pictures)

    sampler = host.module("sampler")
    reference = sampler.reference_gram(features, REFERENCE.movedim(-1, 1))
    return sampler.style_distance(features(made.movedim(-1, 1)[..., columns]), reference).item()


@pytest.mark.parametrize("direction", ["encoder difference", "decoder gradient"])
def test_the_style_comes_nearer(host, graph, style, network, direction):
    """At two model calls and one backward pass a step; seen by a layer too that no one optimised."""
    graph["style"], counted = style(direction)
    plain = free(host, graph)
    styled = constrained(host, graph)
    assert len(CountNode.batches) == 2 * STEPS and counted.backward == STEPS
    assert sum(CountNode.batches) == 2 * 2 * STEPS
    assert distance(host, network, styled) < 0.7 * distance(host, network, plain)
    assert distance(host, network, styled, OTHER_BLOCK) < distance(host, network, plain, OTHER_BLOCK)


def test_the_conditional_branch_alone_takes_one_evaluation_less(host, graph, style, network):
    graph["style"], _ = style()
    plain = free(host, graph)
    graph["settings"] = node(
        "NewtonSettings", preset="fast", iterations=1, rate_first=0.5, rate_last=0.5, delta=0.0, eta=1.0, carry=True,
        conditional_only=True,
    )  # fmt: skip
    graph["sample"]["inputs"]["settings"] = ["settings", 0]
    styled = constrained(host, graph)
    assert len(CountNode.batches) == 2 * STEPS and sum(CountNode.batches) == 3 * STEPS
    assert distance(host, network, styled) < 0.7 * distance(host, network, plain)


def test_without_guidance_the_conditional_branch_is_the_model(host, graph, style):
    graph["style"], _ = style()
    graph["sample"]["inputs"] |= {"cfg": 1.0, "steps": 3}
    expected = constrained(host, graph)
    graph["settings"] = node(
        "NewtonSettings", preset="fast", iterations=1, rate_first=0.5, rate_last=0.5, delta=0.0, eta=1.0, carry=True,
        conditional_only=True,
    )  # fmt: skip
    graph["sample"]["inputs"]["settings"] = ["settings", 0]
    assert torch.allclose(constrained(host, graph), expected, atol=1e-4)


def test_restyle_a_region_and_keep_the_rest(host, graph, style, network):
    """The mask keeps the left half as well as it does alone; the right half takes the style on."""
    graph["style"], _ = style()
    graph["sample"]["inputs"]["latent_image"] = ["constraint", 1]
    graph["both"] = combined("constraint", "style")
    image, left, right = picture()[0], slice(0, 56), slice(64, 128)
    masked, both = constrained(host, graph, "constraint"), constrained(host, graph, "both")
    assert len(CountNode.batches) == 2 * STEPS

    def known_error(made):
        return (made - image)[:, :, left].square().mean().sqrt().item()

    assert known_error(both) < 1.1 * known_error(masked)
    assert distance(host, network, both, columns=right) < 0.8 * distance(host, network, masked, columns=right)


@pytest.mark.parametrize("factor", [4, 8])
def test_style_and_super_resolution(host, graph, style, network, factor):
    """Together: about as near to the small picture as the enlargement alone, and nearer to the style."""
    import torch.nn.functional as F

    def shrunk(made):
        return F.interpolate(made.movedim(-1, 1), scale_factor=1 / factor, mode="area")

    low = shrunk(picture()[0])
    graph["low"] = give(host, "IMAGE", low.movedim(1, -1))
    graph["pixels"] = node(
        "PixelSRConstraint", image=["low", 0], vae=["ckpt", 2], factor=factor, filter="area", noise=0.0
    )
    graph["style"], _ = style()
    graph["both"] = combined("pixels", "style")
    enlarged, both = constrained(host, graph, "pixels"), constrained(host, graph, "both")
    assert len(CountNode.batches) == 2 * STEPS

    def off(made):
        return (shrunk(made) - low).abs().mean().item()

    assert off(both) < 1.5 * off(enlarged)
    assert distance(host, network, both) < distance(host, network, enlarged)


def combined(a, b):
    return node(
        "NewtonCombineConstraints", constraint_a=[a, 0], constraint_b=[b, 0], weight_a=1.0, weight_b=1.0, start_a=0.0,
        start_b=0.0, end_a=1.0, end_b=1.0,
    )  # fmt: skip


@pytest.fixture
def node_graph(host, graph, tmp_path):
    """The StyleConstraint node with a small CLIP of random weights."""
    graph["images"] = give(host, "IMAGE", REFERENCE)
    graph["clip"] = give(host, "CLIP_VISION", clip_models.make(clip_models.CLIP, tmp_path))
    graph["style"] = node(
        "StyleConstraint", images=["images", 0], clip_vision=["clip", 0], vae=["ckpt", 2], block=2,
        normalisation="none", direction="encoder difference", tile=0,
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


def test_a_vae_without_encoder(host, node_graph):
    """Its encoder's weights are what the file left unset; the decoder's gradient does without."""
    import comfy.sd
    from safetensors.torch import load_file

    prefix = "first_stage_model."
    weights = load_file(ROOT / "demo" / "ncs_emoji.safetensors")
    weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix) and "encoder" not in k}
    node_graph["vae"] = give(host, "VAE", comfy.sd.VAE(weights))
    node_graph["style"]["inputs"]["vae"] = ["vae", 0]
    fails(host, node_graph, "vae:", "no encoder", "decoder gradient")
    node_graph["style"]["inputs"]["direction"] = "decoder gradient"
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
