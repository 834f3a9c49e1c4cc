"""Video latents (B, C, T, H, W): masks of frames, and pictures through a video VAE of Wan's architecture."""

from types import SimpleNamespace

import pytest
import torch
from families import family_graph, write_video_vae
from graphs import give, sampled
from host import CountNode, GraphError, node
from newton_pack.sampler import frame_weights


def test_weights_of_a_latent_frame_are_the_least_of_its_pictures():
    weights = torch.rand(9, 1, 2, 2)
    out = frame_weights(weights, 3, 4)
    assert out.shape == (1, 1, 3, 2, 2)
    assert torch.equal(out[:, :, 0], weights[:1])
    assert torch.equal(out[0, :, 1], weights[1:5].amin(0)) and torch.equal(out[0, :, 2], weights[5:].amin(0))
    assert torch.equal(frame_weights(weights[:3], 3, 4)[0, 0], weights[:3, 0])
    assert torch.equal(frame_weights(weights[:1], 3, 4), weights[:1].unsqueeze(2).expand(-1, -1, 3, -1, -1))
    more = torch.cat([weights, torch.zeros(3, 1, 2, 2)])  # what fills no group is not encoded
    assert torch.equal(frame_weights(more, 3, 4), out)
    assert torch.equal(frame_weights(more[:5], 1, 8), weights[:1].unsqueeze(0))
    with pytest.raises(ValueError, match=r"one for each of its 9 pictures"):
        frame_weights(weights[:7], 3, 4)
    with pytest.raises(ValueError, match="2 masks do not suffice for a video of 3 latent frames"):
        frame_weights(weights[:2], 3, 4)


@pytest.fixture
def graph(host):
    """Nine pictures of 64x64, three latent frames; the right half of all of them is hidden."""
    graph = family_graph(host, "wan", (1, 16, 3, 8, 8), steps=12)
    frames = torch.linspace(0, 1, 64).expand(9, 3, 64, 64).movedim(1, -1) * torch.linspace(0.2, 1, 9).reshape(
        -1, 1, 1, 1
    )
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    graph |= {
        "vae": node("VAELoader", vae_name=write_video_vae(host)),
        "image": give(host, "IMAGE", frames),
        "mask": give(host, "MASK", mask),
        "known": node(
            "LatentMaskConstraint", image=["image", 0], mask=["mask", 0], vae=["vae", 0], fill="extend", erode=0,
            partial_cells=True,
        ),
    }  # fmt: skip
    graph["sample"]["inputs"]["latent_image"] = ["known", 1]
    return graph


def check_kept(host, graph, where):
    """The encoded video stays exactly where it is known and nowhere else, at one call a step and one a resampling."""
    out = sampled(host, graph)
    assert len(CountNode.batches) == 12 + 2
    graph["out"]["inputs"]["value"] = ["known", 1]
    known = sampled(host, graph)
    kept = torch.zeros_like(known, dtype=torch.bool)
    kept[where] = True
    assert torch.allclose(out[kept], known[kept], atol=1e-4)
    assert torch.isclose(out, known)[~kept].float().mean() < 0.01


def test_video_through_a_video_vae(host, graph):
    check_kept(host, graph, (..., slice(0, 4)))


def test_a_mask_for_each_picture(host, graph):
    """The last four pictures, one latent frame, are hidden altogether: the others are kept whole."""
    masks = torch.zeros(9, 64, 64)
    masks[5:] = 1
    graph["mask"] = give(host, "MASK", masks)
    check_kept(host, graph, (slice(None), slice(None), slice(0, 2)))


@pytest.mark.parametrize("pictures", [9, 10, 11, 12, 13])
@pytest.mark.parametrize("hidden", [0, 1, 4, 5, 8])
def test_a_hidden_picture_frees_the_latent_frame_that_it_is_in(host, graph, pictures, hidden):
    """Whatever the number of pictures; the VAE tells by the first latent frame that changes with the picture."""
    generator = torch.Generator().manual_seed(pictures)
    image = torch.rand(pictures, 64, 64, 3, generator=generator)
    masks = torch.zeros(pictures, 64, 64)
    masks[hidden, :, 32:] = 1
    graph |= {"image": give(host, "IMAGE", image), "mask": give(host, "MASK", masks)}
    graph["known"]["inputs"]["fill"] = "none"
    graph["out"]["inputs"]["value"] = ["known", 1]
    before = host.run(graph)[0]
    changed = image.clone()
    changed[hidden] = 1 - changed[hidden]
    after = host.run(graph | {"image": give(host, "IMAGE", changed)})[0]["samples"]
    moved = (after - before["samples"]).abs().amax((0, 1, 3, 4)) > 1e-6
    free = before["noise_mask"].amax((0, 1, 3, 4)) > 0
    assert free.nonzero().flatten().tolist() == [moved.nonzero()[0].item()]


def test_a_noise_mask_for_each_picture_of_a_video(host):
    """Where the host does not say how many pictures the model's VAE packs, the usual number that fits."""
    noise_mask = host.module("nodes.comfy_adapter.noise_mask")
    for pictures, frames, ratio in ((12, 3, 4), (9, 2, 8), (16, 2, 8), (13, 3, 6), (3, 1, 4)):
        mask = torch.zeros(pictures, 8, 8)
        mask[ratio * (frames - 1)] = 1  # the last one that is encoded
        weights = noise_mask.raw_weights(mask, torch.Size((1, 16, frames, 1, 1)), None)
        assert weights.flatten().tolist() == [1.0] * (frames - 1) + [0.0]
    told = SimpleNamespace(temporal_downscale_ratio=5)
    weights = noise_mask.raw_weights(torch.eye(12)[:, :, None].expand(-1, -1, 8), torch.Size((1, 16, 3, 12, 1)), told)
    assert (1 - weights)[0, 0, :, :, 0].argmax(1).tolist() == [0, 1, 6]


def test_noise_mask_of_a_video(host, graph):
    """A noise mask for each latent frame is the same constraint."""
    masks = torch.zeros(9, 64, 64)
    masks[5:] = 1
    graph["mask"] = give(host, "MASK", masks)
    expected = sampled(host, graph)
    graph["frames"] = give(host, "MASK", masks[::4])
    graph["masked"] = node("SetLatentNoiseMask", samples=["known", 1], mask=["frames", 0])
    graph["sample"]["inputs"]["latent_image"] = ["masked", 0]
    del graph["sample"]["inputs"]["constraint"]
    assert torch.allclose(sampled(host, graph), expected, atol=1e-5)


def test_pixel_constraints_refuse_video(host, graph):
    graph["known"] = node("PixelSRConstraint", image=["image", 0], vae=["vae", 0], factor=2, filter="area", noise=0.0)
    with pytest.raises(GraphError, match="video"):
        host.run(graph)
