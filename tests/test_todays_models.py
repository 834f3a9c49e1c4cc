"""The shipped graphs for today's models, run whole: the host's own networks, small and random, in place of weights."""

import zlib
from fractions import Fraction

import psutil
import pytest
import torch
import torch.nn.functional as F
from families import WIDTHS, write_model, write_video_vae
from graphs import give
from host import CHECKPOINT, CountNode, node, skip_without_its_pack
from test_workflows import API, read

SIZE = 64
FRAMES = 9
# The family of each graph's network.
FAMILIES = {
    "inpaint_flux2_klein": "flux2_klein",
    "inpaint_kontext": "flux_narrow",
    "inpaint_qwen_edit": "qwen_image",
    "inpaint_wan": "wan",
    "inpaint_z_image_turbo": "z_image",
}


class RandomWords:
    """In place of a text encoder, none of which is small: vectors that depend on the text and on the pictures."""

    def __init__(self, width):
        self.width = width

    def tokenize(self, text, images=(), **_):
        return f"{text} {[tuple(i.shape) for i in images]}"

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(zlib.crc32(tokens.encode()))
        pooled = {"pooled_output": torch.randn(1, 24, generator=generator)}
        return [[torch.randn(1, 4, self.width, generator=generator), pooled]]


class CellMeans:
    """In place of a picture VAE, which has to return what it encodes: each cell is its mean colour."""

    latent_dim = 2

    def __init__(self, channels, ratio):
        self.latent_channels, self.ratio = channels, ratio

    def spacial_compression_encode(self):
        return self.ratio

    def encode(self, pictures):
        cells = F.avg_pool2d(8 * pictures[..., :3].movedim(-1, 1) - 4, self.ratio)  # BHWC -> BCHW
        return F.pad(cells, (0, 0, 0, 0, 0, self.latent_channels - 3))

    def decode(self, latent):
        return (F.interpolate(latent[:, :3], scale_factor=self.ratio) / 8 + 0.5).clamp(0, 1).movedim(1, -1)


def write_picture(host, width, height, box):
    """example.png: colours, transparent in a box, as the mask editor leaves it."""
    from PIL import Image

    picture = Image.effect_noise((width, height), 64).convert("RGBA")
    picture.paste((0, 0, 0, 0), box)
    picture.save(host.base / "input" / "example.png")


def write_video(file, frames):
    """(N, H, W, 3) of 0 and 255 or between, as H.264 at 8 pictures a second."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        container.mux(stream.encode())


def write_clip(host):
    """Colours that change, and a box that moves to the right."""
    frames = torch.randint(0, 256, (FRAMES, SIZE // 8, SIZE // 8, 3), generator=torch.Generator().manual_seed(0))
    frames = frames.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    mask = torch.zeros_like(frames)
    for i, picture in enumerate(mask):
        picture[16:48, 4 * i : 4 * i + 24] = 255
    write_video(host.base / "input" / "clip.mp4", frames)
    write_video(host.base / "input" / "clip_mask.mp4", mask)


def small(host, name):
    """The shipped graph on a small canvas, with a count of the network's calls."""
    from comfyui_version import __version__

    graph, family = read(API, name), FAMILIES[name]
    if family.startswith("flux") and __version__ == "0.3.75":
        pytest.skip("ComfyUI 0.3.75 loads Flux at its own width only")
    if family == "z_image" and psutil.virtual_memory().available < 9 * 2**30:
        pytest.skip("the smallest Z-Image that loads takes 8 GB of memory")
    for number, entry in graph.items():
        inputs = entry["inputs"]
        if entry["class_type"] == "UNETLoader":
            inputs["unet_name"] = write_model(host, family)
        elif entry["class_type"] == "VAELoader":
            if family in ("qwen_image", "wan"):
                inputs["vae_name"] = write_video_vae(host)
            else:
                vae = CellMeans(128, 16) if family == "flux2_klein" else CellMeans(16, 8)
                graph[number] = give(host, "VAE", vae)
        elif entry["class_type"] in ("CLIPLoader", "DualCLIPLoader"):
            graph[number] = give(host, "CLIP", RandomWords(WIDTHS.get(family, 32)))
        elif entry["class_type"] == "FluxKontextImageScale":
            scaled = {"upscale_method": "lanczos", "width": SIZE, "height": SIZE, "crop": "center"}
            graph[number] = node("ImageScale", **inputs, **scaled)
        elif entry["class_type"] == "ImageScale":
            inputs |= {"width": SIZE, "height": SIZE}
        elif entry["class_type"] == "ImageFromBatch":
            inputs["length"] = FRAMES
    for entry in graph.values():
        entry["inputs"] = {k: ["count", 0] if v == ["1", 0] else v for k, v in entry["inputs"].items()}
    return graph | {"count": node("TestCount", model=["1", 0])}


def seen(host, graph, source):
    """What an output of the graph holds; what has been computed before is not computed again."""
    kept = {k: n for k, n in graph.items() if not n["class_type"].startswith("Save")}
    return host.run(kept | {"out": node("TestCapture", value=source)})[0]


def check_known_pixels(made, original, mask):
    known = mask == 0
    assert made.shape == original.shape and made.isfinite().all()
    assert known.any() and not known.all()
    assert torch.equal(made[known], original[known])
    assert (made[mask == 1] != original[mask == 1]).any(-1).float().mean() > 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_runs_and_keeps_what_is_known(host, name):
    write_picture(host, SIZE, SIZE, (SIZE // 2, 0, SIZE, SIZE))
    write_clip(host)
    graph = small(host, name)
    host.run(graph)  # as it is, to the saved file
    inputs, steps = graph["12"]["inputs"], graph["6"]["inputs"]["steps"]
    calls = len(CountNode.batches)
    print(f"\n{name}: {calls} calls in {steps} steps")
    assert steps <= calls <= 1.3 * steps
    made, original, mask = (seen(host, graph, source) for source in (["12", 0], inputs["original"], inputs["mask"]))
    check_known_pixels(made, original, mask)
    latent, start = (seen(host, graph, source) for source in (["6", 0], ["5", 1]))
    kept = (start["noise_mask"] == 0).expand_as(start["samples"])
    assert latent["samples"].shape == start["samples"].shape and kept.any() and not kept.all()
    assert torch.allclose(latent["samples"][kept], start["samples"][kept], atol=1e-3)
    assert list((host.base / "output").glob(f"{graph['13']['inputs']['filename_prefix']}_*"))


@pytest.mark.parametrize("name", ["inpaint_kontext", "inpaint_qwen_edit"])
def test_the_picture_to_edit_reaches_the_network(host, name):
    """Another picture under the mask, which the constraint does not see, changes the result."""
    graph = small(host, name)
    graph["6"]["inputs"]["steps"] = 2
    graph["5"]["inputs"]["fill"] = "grey"
    write_picture(host, SIZE, SIZE, (SIZE // 2, 0, SIZE, SIZE))
    first = seen(host, graph, ["6", 0])["samples"]
    graph["18"]["inputs"]["pixels"] = ["5", 3]
    assert not torch.equal(first, seen(host, graph, ["6", 0])["samples"])


def test_kontext_scales_picture_and_mask_together(host):
    """To a size that the model was trained on; a hard mask stays hard away from its border."""
    write_picture(host, 900, 700, (450, 0, 900, 700))
    graph = {k: n for k, n in read(API, "inpaint_kontext").items() if k in ("2", "15", "16", "17")}
    image, mask = (seen(host, graph, ["17", i]) for i in (0, 1))
    assert image.shape[:3] == mask.shape and 0.9 < mask.numel() / 2**20 < 1.1
    middle = mask.shape[2] // 2
    assert (mask[..., : middle - 8] == 0).all() and (mask[..., middle + 8 :] == 1).all()


def test_a_small_region_is_cropped_and_stitched(host):
    """With the small checkpoint of this pack, whose text encoder is Word Conditioning."""
    skip_without_its_pack("inpaint_crop_stitch")
    graph = read(API, "inpaint_crop_stitch")
    write_picture(host, 400, 300, (200, 100, 260, 150))
    graph["1"]["inputs"]["ckpt_name"] = CHECKPOINT
    graph |= {words: node("WordConditioning", text="") for words in ("3", "4")}
    graph["10"]["inputs"] |= {"output_target_width": 128, "output_target_height": 128}
    graph["6"]["inputs"] |= {"steps": 4, "cfg": 1.0}
    host.run(graph)
    assert seen(host, graph, ["6", 0])["samples"].shape[-2:] == (16, 16)
    check_known_pixels(*(seen(host, graph, source) for source in (["12", 0], ["2", 0], ["2", 1])))
