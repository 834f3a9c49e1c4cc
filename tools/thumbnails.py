"""Thumbnails of the shipped graphs: what a run in ComfyUI made, and small in its corner what was given."""

import copy
import io
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

from demo_pictures import heldout, masked, shrunk
from headless import ROOT, Graph, Host
from PIL import Image, ImageDraw, ImageFont, ImageOps
from run_graph import take_images

# What the thumbnail shows as given is the picture that enters one of these.
GIVEN = (
    "LatentMaskConstraint",
    "PixelSRConstraint",
    "PixelOperatorConstraint",
    "PixelTargetConstraint",
    "LayerDecompose",
    "NewtonJacobianProbe",
)


class Shown(NamedTuple):
    """What a thumbnail shows in place of its own graph as it is.

    Attributes:
        label: the model, where it is not shipped.
        demo: the graph that is run in its place; "" is the style task of the demo.
        mask, number: of another held-out picture, so that no two thumbnails are alike.
        given: whether the corner shows what was given.
        panels: three outputs (node, slot) whose pictures stand beside the given one, in place of the result.
    """

    label: str = ""
    demo: str = "inpaint_demo"
    mask: str = ""
    number: int = 0
    given: bool = True
    panels: tuple[tuple[str, int], ...] = ()


# The mask, the first layer cut out, the second whole.
TWO_LAYERS = (("10", 0), ("7", 0), ("6", 1))
SHOWN = {
    "outpaint_demo": Shown(demo="outpaint_demo", number=17),
    "jacobian_demo": Shown(demo="jacobian_demo", given=False),
    "inpaint_model_patch_demo": Shown(demo="inpaint_model_patch_demo", mask="strokes", number=8),
    "inpaint_custom_sampler_demo": Shown(demo="inpaint_custom_sampler_demo", mask="box", number=9),
    "controlnet_plus_constraint_sd15": Shown("512 px, SD 1.5, ControlNet", mask="box", number=10),
    "inpaint_crop_stitch": Shown("any size, SDXL", mask="half", number=18),
    "inpaint_flux": Shown("1024 px, Flux dev", mask="half", number=11),
    "inpaint_flux2_klein": Shown("1024 px, Flux.2 klein", mask="half", number=19),
    "inpaint_kontext": Shown("Flux Kontext", mask="box", number=20),
    "inpaint_qwen_edit": Shown("Qwen-Image-Edit", mask="box", number=21),
    "inpaint_sd15": Shown("512 px, SD 1.5", mask="half", number=12),
    "inpaint_sd35": Shown("1024 px, SD 3.5", mask="half", number=13),
    "inpaint_sdxl": Shown("1024 px, SDXL", mask="box", number=14),
    "inpaint_wan": Shown("video, Wan 2.1", mask="half", number=22),
    "inpaint_z_image_turbo": Shown("1024 px, Z-Image Turbo", mask="strokes", number=23),
    "layers_demo": Shown(demo="layers_demo", panels=TWO_LAYERS),
    "layers_sd15": Shown("512 px, SD 1.5", "layers_demo", number=15, panels=TWO_LAYERS),
    "layers_three_demo": Shown(demo="layers_three_demo", panels=(("6", 0), ("15", 0), ("15", 1))),
    "style_sd15": Shown("512 px, SD 1.5", demo="", number=5),
    "superres_sd15_x8": Shown("512 px, SD 1.5", "superres_demo", "small", 16),
}
THUMBNAIL, INSET, EDGE, SQUARE = 512, 180, 6, 8  # pixels


def node_of(graph: Graph, *class_types: str) -> str:
    """The first node of these types."""
    return next(n for n, entry in graph.items() if entry["class_type"] in class_types)


def run(host: Host, graph: Graph, shown: Shown) -> tuple[Image.Image, Image.Image]:
    """Run a graph: the given picture, with what is to be generated as squares, and the result, or all panels.

    Given is the picture that enters the constraint, or the loaded one where none does.
    """
    graph = copy.deepcopy(graph)
    for name, file in take_images(graph, [ROOT / "demo" / "images", host.base / "input"]).items():
        shutil.copyfile(file, host.base / "input" / name)
    seen = graph[node_of(graph, *GIVEN)]["inputs"]
    saved = node_of(graph, "SaveImage")
    # A name of its own for each graph: what another one has saved under the same name would not be saved again.
    name = graph[saved]["inputs"]["filename_prefix"]
    given = seen["image"] if "image" in seen else [node_of(graph, "LoadImage"), 0]
    panels = {f"panel {i}": list(place) for i, place in enumerate(shown.panels)}
    looks = {"seen": given} | panels
    if "mask" in seen:
        graph["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": seen["mask"]}}
        looks["hidden"] = ["mask", 0]
    for look, place in looks.items():
        graph[look] = {"class_type": "SaveImage", "inputs": {"images": place, "filename_prefix": f"{name}_{look}"}}
    result = host.run(graph, show_progress=True)
    picture, made, *beside = (on_squares(Image.open(io.BytesIO(result.file(n)))) for n in ("seen", saved, *panels))
    if panels:
        return picture, in_fours([picture, *beside])
    if "mask" not in seen:
        size = (made.width, picture.height * made.width // picture.width)
        return picture.resize(size, Image.Resampling.NEAREST), made
    hidden = Image.open(io.BytesIO(result.file("hidden"))).convert("L").point(lambda v: 255 * (v > 0))
    return Image.composite(squares(picture.size), picture, hidden), made


def in_fours(pictures: list[Image.Image]) -> Image.Image:
    """Two rows of two of one size."""
    side = (THUMBNAIL - EDGE) // 2
    sheet = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    for i, picture in enumerate(pictures):
        left, top = (place * (side + EDGE) for place in (i % 2, i // 2))
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return sheet


def on_picture(graph: Graph, shown: Shown, folder: Path) -> Graph:
    """The graph on another held-out picture, with that one's words; the picture is written to `folder`."""
    avatar = heldout(shown.number + 1)[-1]
    truth, name = avatar.truth, f"shown_{shown.number:03}.png"
    given = {"": Image.fromarray, "small": partial(shrunk, factor=4)}.get(shown.mask, partial(masked, mask=shown.mask))
    given(truth).save(folder / name)
    graph = copy.deepcopy(graph)
    graph[node_of(graph, "LoadImage")]["inputs"]["image"] = name
    say(graph, avatar.prompt)
    return graph


def say(graph: Graph, prompt: str) -> None:
    """An avatar's words as the prompt of a graph; of two layers the second is told its background, without a figure.

    The first is told another background, or it would explain the whole picture.
    """
    if splits := [entry["inputs"] for entry in graph.values() if entry["class_type"] == "LayerDecompose"]:
        first, second = (splits[0][f"layer_{i}"][0] for i in (1, 2))
        prompt, background = prompt.rsplit(" ", 1)
        prompt += " lemon" if background.startswith("sky") else " sky"
        graph[second]["inputs"]["text"] = f"empty {background}"
    else:
        first = node_of(graph, "WordConditioning")
    graph[first]["inputs"]["text"] = prompt


def on_squares(picture: Image.Image) -> Image.Image:
    """A picture as RGB, its transparent part as squares."""
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(squares(rgba.size).convert("RGBA"), rgba).convert("RGB")


def squares(size: tuple[int, int]) -> Image.Image:
    drawn = Image.new("RGB", size, "#ffffff")
    pen = ImageDraw.Draw(drawn)
    for y in range(0, drawn.height, SQUARE):
        for x in range(y // SQUARE % 2 * SQUARE, drawn.width, 2 * SQUARE):
            pen.rectangle((x, y, x + SQUARE - 1, y + SQUARE - 1), fill="#b0b0b0")
    return drawn


def thumbnail(before: Image.Image, after: Image.Image, shown: Shown) -> Image.Image:
    """A square with the result, in its corner what was given, below it a strip of text where there is a label."""
    label = f"{shown.label} (shown: the small demo model)" if shown.label else ""
    sheet = ImageOps.pad(after, (THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, "white")
    strip = 36 if label else 0
    if shown.given and not shown.panels:
        inset = ImageOps.pad(before, (INSET, INSET), Image.Resampling.LANCZOS, "white")
        framed = ImageOps.expand(inset, EDGE, "white")
        sheet.paste(framed, (EDGE, THUMBNAIL - strip - framed.height - EDGE))
    pen = ImageDraw.Draw(sheet)
    if label:
        pen.rectangle((0, THUMBNAIL - strip, THUMBNAIL, THUMBNAIL), fill="#202020")
    pen.text((THUMBNAIL // 2, THUMBNAIL - strip // 2), label, "white", ImageFont.load_default(18), "mm")
    return sheet
