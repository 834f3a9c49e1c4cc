"""The nodes of pixel constraints in a real ComfyUI: operators, targets, the decoder's gradient, tiles, mistakes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graphs import SIZE, give, inpaint_graph, picture
from host import CHECKPOINT, GraphError, node

OPERATOR = {"radius": 2.0, "length": 9.0, "angle": 30.0, "quality": 10, "matrix": "0.5 0.5 0; 0 0 1", "noise": 0.0}


def outputs(host, constraint, sockets, count=1):
    """The first outputs of the constraint node: spec, latent, picture; `sockets` are objects by input name."""
    graph = {name: give(host, kind, value) for name, (kind, value) in sockets.items()}
    constraint["inputs"] |= {name: [name, 0] for name in sockets}
    graph["constraint"] = constraint
    graph |= {f"out{k}": node("TestCapture", value=["constraint", k]) for k in range(count)}
    return sorted(host.run(graph), key=lambda value: (isinstance(value, torch.Tensor), isinstance(value, dict)))


def operator(name, **inputs):
    return node("PixelOperatorConstraint", operator=name, **(OPERATOR | inputs))


def shrunk(image):
    return F.interpolate(image.movedim(-1, 1), scale_factor=0.25, mode="area").movedim(1, -1)


def blurred(image, kernel=None):
    """Beyond the frame the picture goes on as its edge does."""
    from newton_pack.sampler.operators.blur import Blur, gaussian_kernel

    blur = Blur.of(gaussian_kernel(2.0) if kernel is None else kernel)
    p, q = blur.frame
    return blur.A(F.pad(image.movedim(-1, 1), (q, q, p, p), "replicate")).movedim(1, -1)


def moved(image):
    from newton_pack.sampler.operators.blur import motion_kernel

    return blurred(image, motion_kernel(OPERATOR["length"], OPERATOR["angle"]))


def compressed(image):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((255 * image[0]).round().byte().numpy()).save(file, "JPEG", quality=10)
    return torch.from_numpy(np.array(Image.open(file)) / 255).float()[None]


def random_mask():
    return (torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.8).float()


GIVEN = {
    "gaussian blur": (blurred, {}),
    "motion blur": (moved, {}),
    "kernel": (lambda image: blurred(image, torch.ones(5, 3)), {"kernel": ("IMAGE", torch.ones(1, 5, 3, 3))}),
    "grey": (lambda image: image, {}),
    "pixel mask": (lambda image: image, {"mask": ("MASK", random_mask())}),
    "channel mix": (lambda image: image, {}),
    "jpeg": (compressed, {}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_closing_projection_brings_every_operator_back(host, vae, name):
    """From the picture at 80 % of its contrast, where no white is left."""
    make, sockets = GIVEN[name]
    image = make(picture()[0])
    spec, _, start = outputs(host, operator(name), sockets | {"image": ("IMAGE", image), "vae": ("VAE", vae)}, 3)
    assert start.shape == image.shape
    graph = {"image": give(host, "IMAGE", 0.1 + 0.8 * image), "spec": give(host, "NEWTON_CONSTRAINT", spec)}
    graph["project"] = node("NewtonBackProjectPixels", image=["image", 0], constraint=["spec", 0])
    graph["out"] = node("TestCapture", value=["project", 1])
    before, projected, saved = (float(line.split("mean ")[1].split(",")[0]) for line in host.run(graph)[0].splitlines())
    assert before > 3 and projected < 0.25 * before
    assert saved < {"grey": 0.5, "pixel mask": 0.5, "channel mix": 0.5}.get(name, 3)


def test_pixel_mask_and_channel_mix_hide_what_they_say(host, vae):
    """LATENT and start must not contain what is unknown."""
    image, mask = picture()[0], random_mask()
    other = torch.where(mask.unsqueeze(-1) > 0, torch.rand(1, SIZE, SIZE, 3), image)
    for name, sockets, changed in (
        ("pixel mask", {"mask": ("MASK", mask)}, other),
        ("channel mix", {}, image + torch.tensor([0.1, -0.1, 0.0])),
        ("grey", {}, image + torch.tensor([0.1, 0.0, -0.1 * 0.299 / 0.114])),
    ):
        shown = [outputs(host, operator(name), sockets | {"image": ("IMAGE", i), "vae": ("VAE", vae)}, 3)[2]
                 for i in (image, changed)]  # fmt: skip
        assert torch.allclose(*shown, atol=1e-5), name


def test_pixel_art_of_a_palette(host, vae):
    palette = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.2, 0.2], [1.0, 1.0, 1.0]]).reshape(1, 1, 3, 3)
    target = node("PixelTargetConstraint", target="pixel art", cell=8, colours=4)
    spec = outputs(host, target, {"palette": ("IMAGE", palette), "vae": ("VAE", vae)})[0]
    graph = {"image": give(host, "IMAGE", picture()[0]), "spec": give(host, "NEWTON_CONSTRAINT", spec)}
    graph["project"] = node("NewtonBackProjectPixels", image=["image", 0], constraint=["spec", 0])
    graph["out"] = node("TestCapture", value=["project", 0])
    made = host.run(graph)[0]
    assert torch.equal(made, made[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2))
    colours = made.reshape(-1, 3).unique(dim=0)
    assert 2 <= len(colours) <= 3 and torch.cdist(colours, palette.reshape(-1, 3)).amin(1).max() < 1e-6


def misfit(host, constraint, sockets, constrained=True):
    """Mean misfit of a sampled picture in 8-bit levels, with or without obeying the constraint; and the spec."""
    graph = inpaint_graph(host)
    del graph["mask"]
    graph |= {name: give(host, kind, value) for name, (kind, value) in sockets.items()}
    constraint["inputs"] |= {"vae": ["ckpt", 2], **{name: [name, 0] for name in sockets}}
    graph["constraint"], graph["sample"]["inputs"]["steps"] = constraint, 6
    graph["empty"] = node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1)
    graph["sample"]["inputs"]["latent_image"] = ["empty", 0]
    if not constrained:
        del graph["sample"]["inputs"]["constraint"]
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2])
    graph |= {"spec": node("TestCapture", value=["constraint", 0]), "out": node("TestCapture", value=["decode", 0])}
    spec, made = sorted(host.run(graph), key=lambda value: isinstance(value, torch.Tensor))
    return 255 * spec.measurement.data_residual(made.movedim(-1, 1)).abs().mean().item(), spec


def test_the_decoders_gradient_works_under_inference_mode(host):
    """Its run comes nearer than a free one, and leaves the VAE's own weights without gradients."""
    low = {"image": ("IMAGE", shrunk(picture()[0]))}
    constraint = {"factor": 4, "filter": "area", "noise": 0.0, "direction": "decoder gradient"}
    ours, spec = misfit(host, node("PixelSRConstraint", **constraint), low)
    free, _ = misfit(host, node("PixelSRConstraint", **constraint), low, constrained=False)
    assert ours < 0.6 * free
    assert all(p.grad is None for p in spec.vae.first_stage_model.parameters())


def test_a_python_function_as_target(host):
    """A picture that is its own mirror image, from a socket any pack can fill."""
    mirror = {"function": ("NEWTON_TARGET", lambda image: (image + image.flip(2)) / 2)}
    target = {"target": "function", "cell": 8, "colours": 4}
    ours, _ = misfit(host, node("PixelTargetConstraint", **target), mirror)
    free, _ = misfit(host, node("PixelTargetConstraint", **target), mirror, constrained=False)
    assert ours < 0.5 * free


def test_a_function_that_returns_no_picture_is_named(host):
    target = {"target": "function", "cell": 8, "colours": 4}
    for function, found in ((lambda image: None, "NoneType"), (lambda image: image[:, ::2], "64, 128")):
        with pytest.raises(GraphError, match=f"function: it returned .*{found}"):
            misfit(host, node("PixelTargetConstraint", **target), {"function": ("NEWTON_TARGET", function)})


def test_cells_that_do_not_fit_are_named(host):
    with pytest.raises(GraphError, match="cell: 7 does not divide the picture's 128x128"):
        misfit(host, node("PixelTargetConstraint", target="pixel art", cell=7, colours=4), {})


def test_tiles_leave_no_seams(host, vae):
    """Decoded in tiles of 64 pixels: nowhere off by more than a few levels, least of all at their borders."""
    codec = host.module("nodes.comfy_adapter.codec").PixelCodec
    with torch.inference_mode():
        z = codec(vae).encode(picture()[0].movedim(-1, 1).tile(1, 1, 2, 2))
        off = 255 * (codec(vae, 128).decode(z) - codec(vae).decode(z)).abs()
    assert off.mean() < 0.5 and off.amax(1).quantile(0.999) < 12


MISTAKES = {
    "RGBA": (
        node("PixelSRConstraint"),
        {"image": torch.rand(1, 16, 16, 4)},
        r"SplitImage(.|\n)*image: .* alpha",
    ),
    "one channel": (node("PixelSRConstraint"), {"image": torch.rand(1, 16, 16, 1)}, "image: .* 1 channel.*RGB"),
    "ratio": (node("PixelSRConstraint", width=132, height=128), {}, "width, height: .*132x128.*multiple of 8"),
    "ratio of a factor": (node("PixelSRConstraint", factor=3), {"image": torch.rand(1, 9, 9, 3)}, "factor: 3.*27x27"),
    "smaller target": (node("PixelSRConstraint", width=8, height=8), {}, "low-resolution image: .*larger than the tar"),
    "same size": (node("PixelSRConstraint", width=16, height=16), {}, "low-resolution image: .*already the target"),
    "factor 1": (node("PixelSRConstraint", factor=1), {}, "smaller than min of 2.*factor"),
    "NaN": (node("PixelSRConstraint"), {"image": torch.full((1, 16, 16, 3), torch.nan)}, "image: .*NaN"),
    "even kernel": (operator("kernel"), {"kernel": torch.ones(1, 4, 5, 3)}, "kernel: its size 4×5 .*odd"),
    "zero kernel": (operator("kernel"), {"kernel": torch.zeros(1, 5, 5, 3)}, "kernel: its values sum to 0"),
    "two kernels": (operator("kernel"), {"kernel": torch.ones(2, 5, 5, 3)}, "kernel: there are 2 pictures"),
    "no kernel": (operator("kernel"), {}, "kernel: nothing is connected"),
    "no mask": (operator("pixel mask"), {}, "mask: nothing is connected"),
    "empty mask": (operator("pixel mask"), {"mask": torch.zeros(1, 16, 16)}, "mask: it is empty"),
    "matrix": (operator("channel mix", matrix="1 2; a b c"), {}, "matrix: '1 2; a b c' is not rows of three"),
    "zero matrix": (operator("channel mix", matrix="0 0 0"), {}, r"not all zero(.|\n)*matrix: "),
    "odd picture": (operator("grey"), {"image": torch.rand(1, 20, 16, 3)}, "image: .*16x20.*multiple of 8"),
    "wide blur": (operator("gaussian blur", radius=9.0), {}, "image: 16×16 .*smaller kernel"),
    "no function": (node("PixelTargetConstraint", target="function"), {}, "function: nothing is connected"),
    "palette": (
        node("PixelTargetConstraint"),
        {"palette": torch.rand(1, 64, 64, 3)},
        r"Give (.|\n)*palette: .* colour",
    ),
}
DEFAULTS = {
    "PixelSRConstraint": {"factor": 4, "filter": "area", "noise": 0.0},
    "PixelOperatorConstraint": OPERATOR,
    "PixelTargetConstraint": {"target": "pixel art", "cell": 8, "colours": 4},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_remedy(host, vae, mistake):
    given, tensors, message = MISTAKES[mistake]
    kind = given["class_type"]
    sockets = {"vae": ("VAE", vae)} | {k: ("MASK" if k == "mask" else "IMAGE", v) for k, v in tensors.items()}
    if kind != "PixelTargetConstraint":
        sockets.setdefault("image", ("IMAGE", torch.rand(1, 16, 16, 3)))
    with pytest.raises(GraphError, match=message):
        outputs(host, node(kind, **(DEFAULTS[kind] | given["inputs"])), sockets)


def tiny_vae(**parts):
    """A VAE of the host from the given halves of the shipped one."""
    import comfy.sd
    from comfy.utils import load_torch_file
    from host import ROOT

    prefix = "first_stage_model."
    weights = load_torch_file(str(ROOT / "demo" / CHECKPOINT))
    weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return comfy.sd.VAE(sd={k: v for k, v in weights.items() if not any(p in k for p in parts.get("without", ()))})


def test_a_graph_with_the_retired_widget_runs(host, vae):
    constraint = node("PixelSRConstraint", image=["image", 0], vae=["vae", 0], factor=4, filter="area", noise=0.0,
                      perturbation=0.1)  # fmt: skip
    graph = {"image": give(host, "IMAGE", shrunk(picture()[0])), "vae": give(host, "VAE", vae), "sr": constraint}
    (spec,) = host.run(graph | {"out": node("TestCapture", value=["sr", 0])})
    assert spec.measurement.operator.A(picture()[0].movedim(-1, 1)).shape[-1] == SIZE // 4


def test_a_vae_without_encoder_serves_the_gradient_only(host):
    vae = tiny_vae(without=("taesd_encoder",))
    sockets = {"vae": ("VAE", vae), "image": ("IMAGE", torch.rand(1, 16, 16, 3))}
    with pytest.raises(GraphError, match=r"(?s)decoder gradient.*vae: .*no encoder"):
        outputs(host, node("PixelSRConstraint", **DEFAULTS["PixelSRConstraint"]), dict(sockets))
    way = {"direction": "decoder gradient"}
    _, latent = outputs(host, node("PixelSRConstraint", **DEFAULTS["PixelSRConstraint"], **way), sockets, 2)
    assert latent["samples"].shape == (1, 4, 8, 8)


def test_a_target_without_the_way_there_is_refused(host):
    """It would run, leave the picture as it is and report success."""
    graph = {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "vae": give(host, "VAE", tiny_vae(without=("taesd_encoder",))),
        "words": node("WordConditioning", text=""),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "target": node("PixelTargetConstraint", vae=["vae", 0], target="posterise", cell=8, colours=2),
        "sample": node(
            "NewtonConstrainedSampler", model=["ckpt", 0], positive=["words", 0], negative=["words", 0],
            latent_image=["empty", 0], constraint=["target", 0], seed=1, steps=1, cfg=1.0, scheduler="simple",
            denoise=1.0,
        ),
        "out": node("TestCapture", value=["sample", 0]),
    }  # fmt: skip
    with pytest.raises(GraphError, match=r"(?s)decoder gradient.*vae: .*no encoder"):
        host.run(graph)
    graph["target"]["inputs"]["direction"] = "decoder gradient"
    assert host.run(graph)[0]["samples"].shape == (1, 4, 8, 8)
