"""Thumbnails of the shipped graphs: what was given beside what a run in ComfyUI made of it."""

import copy
import io
import shutil

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
# Graphs whose model is not shipped: what their thumbnail says, and the demo whose pictures it borrows, if there is one;
# else the thumbnail stays as it is.
BORROWED = {
    "controlnet_plus_constraint_sd15": ("512 px, SD 1.5, ControlNet", "inpaint_demo"),
    "inpaint_flux": ("1024 px, Flux dev", "inpaint_demo"),
    "inpaint_sd15": ("512 px, SD 1.5", "inpaint_demo"),
    "inpaint_sd35": ("1024 px, SD 3.5", "inpaint_demo"),
    "inpaint_sdxl": ("1024 px, SDXL", "inpaint_demo"),
    "layers_sd15": ("512 px, SD 1.5", "layers_demo"),
    "style_sd15": ("512 px, SD 1.5", ""),
    "superres_sd15_x8": ("512 px, SD 1.5", "superres_demo"),
}
THUMBNAIL, SQUARE = 512, 8  # pixels


def node_of(graph: Graph, *class_types: str) -> str:
    """The first node of these types."""
    return next(n for n, entry in graph.items() if entry["class_type"] in class_types)


def run(host: Host, graph: Graph) -> tuple[Image.Image, Image.Image]:
    """Run a graph: the given picture, with what is to be generated as squares, and the result.

    Given is the picture that enters the constraint, or the loaded one where none does.
    """
    graph = copy.deepcopy(graph)
    for name, file in take_images(graph, [ROOT / "demo" / "images"]).items():
        shutil.copyfile(file, host.base / "input" / name)
    seen = graph[node_of(graph, *GIVEN)]["inputs"]
    saved = node_of(graph, "SaveImage")
    # A name of its own for each graph: what another one has saved under the same name would not be saved again.
    name = graph[saved]["inputs"]["filename_prefix"]
    given = seen["image"] if "image" in seen else [node_of(graph, "LoadImage"), 0]
    graph["seen"] = {"class_type": "SaveImage", "inputs": {"images": given, "filename_prefix": f"{name}_seen"}}
    if "mask" in seen:
        graph["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": seen["mask"]}}
        graph["hidden"] = {
            "class_type": "SaveImage", "inputs": {"images": ["mask", 0], "filename_prefix": f"{name}_hidden"},
        }  # fmt: skip
    result = host.run(graph, show_progress=True)
    picture, made = (on_squares(Image.open(io.BytesIO(result.file(n)))) for n in ("seen", saved))
    if "mask" not in seen:
        size = (made.width, picture.height * made.width // picture.width)
        return picture.resize(size, Image.Resampling.NEAREST), made
    hidden = Image.open(io.BytesIO(result.file("hidden"))).convert("L").point(lambda v: 255 * (v > 0))
    return Image.composite(squares(picture.size), picture, hidden), made


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


def thumbnail(before: Image.Image, after: Image.Image, label: str = "") -> Image.Image:
    """Two pictures side by side, with a strip of text below where there is a label."""
    half = (THUMBNAIL - SQUARE) // 2
    height = before.height * half // before.width
    sheet = Image.new("RGB", (THUMBNAIL, height + (32 if label else 0)), "#202020")
    for i, picture in enumerate((before, after)):
        fitted = ImageOps.pad(picture, (half, height), Image.Resampling.LANCZOS, "white")
        sheet.paste(fitted, (i * (half + SQUARE), 0))
    font = ImageFont.load_default(18)
    ImageDraw.Draw(sheet).text((THUMBNAIL // 2, height + 16), label, "white", font, "mm")
    return sheet
