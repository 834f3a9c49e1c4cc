"""Video latents (B, C, T, H, W): masks of frames, and pictures through a video VAE of Wan's architecture."""

from types import SimpleNamespace

import pytest
import tiny
import torch
import torch.nn.functional as F
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


def test_a_noise_mask_for_each_of_several_pictures_with_a_frame_axis(host):
    """As of image models with video latents, such as Qwen-Image."""
    masks = torch.eye(2)[:, :, None].expand(-1, -1, 2)
    weights = host.module("nodes.comfy_adapter.noise_mask").raw_weights(masks, torch.Size((2, 16, 1, 2, 2)), None)
    assert weights.shape == (2, 1, 1, 2, 2) and torch.equal(weights[:, 0, 0], 1 - masks)


def video_model():
    """Wan 2.2 5B's kind, which takes known frames without noise, with random weights."""
    import comfy.supported_models

    config = comfy.supported_models.WAN22_T2V({
        "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "out_dim": 48, "in_dim": 48, "num_heads": 1,
        "ffn_dim": 128, "num_layers": 1, "patch_size": (1, 2, 2), "freq_dim": 64, "window_size": (-1, -1),
        "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "text_dim": 32, "text_len": 8, "dtype": torch.float32,
    })  # fmt: skip
    base = config.get_model({}, "")
    tiny.random_weights(base.diffusion_model)
    for p in base.diffusion_model.parameters():
        torch.nn.init.normal_(p, std=0.02)
    return tiny.patcher(base)


@pytest.mark.parametrize("door", ["ours", "model"])
def test_models_that_take_known_frames_clean_are_told_how_noisy_x_is(host, graph, door):
    """A noise mask would make them believe that its frames have no noise, which here they have."""
    seen, model = [], video_model()

    def watch(executor, x, t, *args, **kwargs):
        seen.append((t.unique().tolist(), x[:, :, 0].std().item(), x[:, :, 1:].std().item()))
        return executor(x, t, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "watch", watch)
    y = 0.1 * torch.randn(1, 48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 3, 8, 8)
    mask[:, :, 0] = 0
    graph["model"] = give(host, "MODEL", model)
    graph["latent"] = give(host, "LATENT", {"samples": y, "noise_mask": mask})
    graph["words"] = give(host, "CONDITIONING", [[torch.zeros(1, 4, 32), {}]])
    inputs = {k: v for k, v in graph["sample"]["inputs"].items() if k != "constraint"}
    inputs |= {"latent_image": ["latent", 0], "model": ["model", 0], "steps": 3}
    stock = node("KSampler", **inputs, sampler_name="euler_ancestral")
    sampled(host, graph | {"sample": stock})
    assert seen[0][0] == [0.0, 1000.0] and seen[0][1] < 0.5 < seen[0][2]  # the host's way
    seen.clear()
    if door == "ours":
        out = sampled(host, graph | {"sample": node("NewtonConstrainedSampler", **inputs)})
    else:
        graph["constrained"] = node("NewtonConstrainModel", model=["model", 0])
        stock["inputs"]["model"] = ["constrained", 0]
        out = sampled(host, graph | {"sample": stock})
    assert all(len(levels) == 1 for levels, _, _ in seen) and 0.5 < seen[0][1] < 2 and 0.5 < seen[0][2] < 2
    assert torch.allclose(out[:, :, 0], y[:, :, 0], atol=1e-4)


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


class GroupVae:
    """A video VAE known exactly: the first picture alone, then groups of four, each cell their mean colour times 32."""

    latent_channels, latent_dim, vae_dtype, device = 16, 3, torch.float32, torch.device("cpu")
    downscale_ratio = (lambda n: max(0, (n + 3) // 4), 8, 8)
    upscale_ratio = (lambda n: max(0, 4 * n - 3), 8, 8)

    def spacial_compression_encode(self):
        return 8

    def encode(self, pictures):
        """(N, H, W, 3) to (1, 16, T, h, w), as the host's wrapper does."""
        groups = [g for g in (pictures[:1], *pictures[1:].split(4)) if len(g)]
        cells = [32 * F.avg_pool2d(g.movedim(-1, 1) - 0.5, 8).mean(0) for g in groups]
        return F.pad(torch.stack(cells, 1), (0, 0, 0, 0, 0, 0, 0, 13))[None]

    def decode(self, latent):
        """To (B, N, H, W, 3)."""
        pictures = [
            latent[:, :3, :1],
            *(latent[:, :3, t : t + 1].expand(-1, -1, 4, -1, -1) for t in range(1, latent.shape[2])),
        ]
        whole = F.interpolate(torch.cat(pictures, 2), scale_factor=(1, 8, 8)) / 32 + 0.5
        return whole.clamp(0, 1).movedim(1, -1)


@pytest.fixture
def video(host, graph):
    """The same graph with that VAE, and what it can show: nine pictures that change from group to group."""
    shades = torch.tensor([0.2, 0.5, 0.5, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8])
    ramp = torch.linspace(0.5, 1, 8).expand(8, 8)[None, :, :, None] * torch.tensor([1.0, 0.8, 0.6])
    graph["vae"] = give(host, "VAE", GroupVae())
    graph["image"] = give(host, "IMAGE", shades.reshape(-1, 1, 1, 1) * ramp)
    graph["known"] = node("PixelSRConstraint", image=["image", 0], vae=["vae", 0], factor=8, filter="area", noise=0.0)
    graph["sample"]["inputs"] |= {"latent_image": ["known", 1], "constraint": ["known", 0]}
    graph["decoded"] = node("VAEDecode", samples=["sample", 0], vae=["vae", 0])
    graph["out"]["inputs"]["value"] = ["decoded", 0]
    return graph


def given(host, graph):
    return host.run({k: graph[k] for k in ("image",)} | {"out": node("TestCapture", value=["image", 0])})[0]


@pytest.mark.parametrize("tile", [0, 32])
def test_super_resolution_of_a_video(host, video, tile):
    """All pictures, shrunk, are the given ones; two calls a step as for pictures."""
    video["known"]["inputs"]["tile"] = tile
    pictures = host.run(video)[0]
    assert pictures.shape == (9, 64, 64, 3) and len(CountNode.batches) == 2 * 12
    low = F.avg_pool2d(pictures.movedim(-1, 1), 8).movedim(1, -1)
    assert (low - given(host, video)).abs().max() < 0.02


def test_colours_of_a_grey_video(host, video):
    whole = 0.3 + 0.4 * F.interpolate(given(host, video).movedim(-1, 1), scale_factor=8).movedim(1, -1)
    video["image"] = give(host, "IMAGE", whole)
    video["known"] = node(
        "PixelOperatorConstraint", image=["image", 0], vae=["vae", 0], operator="grey", radius=2.0, length=15.0,
        angle=0.0, quality=20, matrix="", noise=0.0,
    )  # fmt: skip
    pictures = host.run(video)[0]
    weights = torch.tensor([0.299, 0.587, 0.114])
    assert ((pictures - whole) @ weights).abs().max() < 0.02
    assert (pictures - whole).abs().max() > 0.02  # grey alone does not say the colours


def test_pictures_that_fill_no_latent_frame_are_refused(host, video):
    video["image"] = give(host, "IMAGE", torch.rand(8, 8, 8, 3))
    with pytest.raises(GraphError, match=r"Give 5 or 9\.\nimage: 8 pictures are no whole number"):
        host.run(video)


def test_a_video_of_another_length_is_refused(host, video):
    video["sample"]["inputs"]["latent_image"] = ["latent", 0]
    video["latent"] = give(host, "LATENT", {"samples": torch.zeros(1, 16, 2, 8, 8)})
    with pytest.raises(GraphError, match="a latent of 8x8 and 3 frames, but the one being sampled is 8x8x2"):
        host.run(video)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"direction": "decoder gradient"}, "direction: 'decoder gradient' is for pictures"),
        ({"class_type": "PixelOperatorConstraint", "operator": "jpeg"}, "vae: it is a video VAE"),
    ],
)
def test_what_works_on_pictures_alone_is_refused(host, video, changes, said):
    kind = changes.pop("class_type", "PixelSRConstraint")
    if kind != "PixelSRConstraint":
        video["image"] = give(host, "IMAGE", torch.rand(9, 64, 64, 3))
        widgets = {"radius": 2.0, "length": 15.0, "angle": 0.0, "quality": 20, "matrix": "", "noise": 0.0}
        video["known"] = node(kind, image=["image", 0], vae=["vae", 0], **widgets, **changes)
    else:
        video["known"]["inputs"] |= changes
    with pytest.raises(GraphError, match=said):
        host.run(video)


def test_a_video_vae_that_does_not_return_what_it_encodes_is_refused(host, graph):
    """Forward passes find the way to the latent through the encoder; random weights lead nowhere."""
    graph["known"] = node("PixelSRConstraint", image=["image", 0], vae=["vae", 0], factor=2, filter="area", noise=0.0)
    with pytest.raises(GraphError, match="vae: what it encodes does not come back"):
        host.run(graph)
