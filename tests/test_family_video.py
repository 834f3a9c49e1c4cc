"""Video latents (B, C, T, H, W): masks of frames, and pictures through a video VAE of Wan's architecture."""

import pytest
import torch
from families import family_graph, write_video_vae
from graphs import give, sampled
from host import CountNode, GraphError, node
from newton_pack.sampler import frame_weights


def test_weights_of_a_latent_frame_are_the_least_of_its_pictures():
    weights = torch.rand(9, 1, 2, 2)
    out = frame_weights(weights, 3)
    assert out.shape == (1, 1, 3, 2, 2)
    assert torch.equal(out[:, :, 0], weights[:1])
    assert torch.equal(out[0, :, 1], weights[1:5].amin(0)) and torch.equal(out[0, :, 2], weights[5:].amin(0))
    assert torch.equal(frame_weights(weights[:3], 3)[0, 0], weights[:3, 0])
    assert torch.equal(frame_weights(weights[:1], 3), weights[:1].unsqueeze(2).expand(-1, -1, 3, -1, -1))
    with pytest.raises(ValueError, match="2 masks do not suffice for a video of 3 latent frames"):
        frame_weights(weights[:2], 3)


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
