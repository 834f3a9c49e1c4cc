"""Where the nodes of a shipped graph stand: stages in columns beside the note, all pictures in one row below them."""

import math
from typing import Any

from headless import HostError

Node = dict[str, Any]
# Pixels of a window of 1400 x 850 that the editor's bars leave free.
LEFT, TOP, VIEW = 75, 100, (1310, 735)
STAGES = {
    "Model": (
        "CheckpointLoaderSimple",
        "UNETLoader",
        "CLIPLoader",
        "DualCLIPLoader",
        "VAELoader",
        "ControlNetLoader",
        "CLIPVisionLoader",
        "ModelSamplingAuraFlow",
        "ModelSamplingSD3",
    ),
    "Prompt": (
        "WordConditioning",
        "CLIPTextEncode",
        "TextEncodeQwenImageEditPlus",
        "ReferenceLatent",
        "FluxGuidance",
    ),
    "Layers": ("LayerDecompose",),
    "Clips": ("GetVideoComponents", "ImageFromBatch"),
    "Canvas": (
        "InpaintCropImproved",
        "ImageCrop",
        "ImagePadForOutpaint",
        "JoinImageWithAlpha",
        "ImageScale",
        "FluxKontextImageScale",
        "SplitImageWithAlpha",
        "ImageToMask",
        "ThresholdMask",
        "VAEEncode",
        "EmptyLatentImage",
        "EmptyImage",
        "ImageColorToMask",
        "ImageCompositeMasked",
    ),
    "Box": ("SolidMask", "MaskComposite"),
    "Constraint": (
        "LatentMaskConstraint",
        "PixelSRConstraint",
        "PixelOperatorConstraint",
        "PixelTargetConstraint",
        "StyleConstraint",
    ),
    "Settings": ("NewtonSettings",),
    "ControlNet": ("Canny", "ControlNetApplyAdvanced"),
    "What the sampler takes": ("RandomNoise", "BasicGuider", "NewtonSampler", "BasicScheduler"),
    "Sampling": (
        "NewtonConstrainModel",
        "NewtonConstrainedSampler",
        "KSampler",
        "SamplerCustomAdvanced",
        "VAEDecode",
        "NewtonConstraintReport",
    ),
    "Inside": ("NewtonJacobianProbe", "NewtonDirectionCompare"),
    "Composite": (
        "MaskToImage",
        "InpaintStitchImproved",
        "NewtonCompositeInsideMask",
        "NewtonBackProjectPixels",
        "PreviewAny",
        "ImageStitch",
        "ImageScaleBy",
    ),
}
TALL = ("Layers", "Inside")  # stages of which every node has its own frame
SIDE_BY_SIDE = "Given and result"
GIVEN, MADE = ("LoadImage", "NewtonExamplePicture", "LoadVideo"), ("SaveImage", "SaveWEBM", "PreviewImage")
WIDTH, NOTE, TITLE, GAP, PAD, BADGE = 270, 360, 30, 20, 12, 24
# Room for the picture or the text that a node shows below its widgets.
EXTRA = {"NewtonConstrainedSampler": 40, "LatentMaskConstraint": 220, "CLIPTextEncode": 50,
         "TextEncodeQwenImageEditPlus": 50, "GetVideoComponents": 40, "PreviewAny": 130, "LayerDecompose": 270,
         "NewtonConstraintReport": 240, "NewtonJacobianProbe": 230, "NewtonDirectionCompare": 230}  # fmt: skip
WIDE = {"InpaintCropImproved": 312}  # what the editor would enlarge to this
# For those who ask: kinds and titles.
COLLAPSED = ("NewtonConstraintReport", "JoinImageWithAlpha", "SplitImageWithAlpha", "ImageStitch", "ImageScaleBy",
             "Fill the hidden part")  # fmt: skip


def height(node: Node) -> float:
    """With its title bar."""
    return TITLE + (0 if node["flags"].get("collapsed") else node["size"][1])


def frame(title: str, left: float, top: float, right: float, bottom: float) -> Node:
    look = {"color": "#3f789e", "font_size": 24, "flags": {}}
    return {"title": title, "bounding": [left, top, right - left, bottom - top]} | look


def place_stages(nodes: list[Node], limit: float) -> list[Node]:
    """From left to right beside the note, one stage below another down to `limit`; returns their frames."""
    stages = [(title, [n for kind in kinds for n in nodes if n["type"] == kind]) for title, kinds in STAGES.items()]
    split = [(t, part) for t, stage in stages for part in ([[n] for n in stage] if t in TALL else [stage]) if part]
    left, top, widest, frames = NOTE + GAP, 0.0, 0, []
    for title, stage in split:
        whole = TITLE + BADGE + sum(height(n) + BADGE for n in stage)
        if top and top + whole > limit:
            left, top, widest = left + widest + 2 * PAD + GAP, 0.0, 0
        below = top + TITLE + BADGE
        for node in stage:
            node["pos"] = [left + PAD, below + TITLE]
            below += height(node) + BADGE
        wide = max(n["size"][0] for n in stage)
        widest = max(widest, wide)
        frames.append(frame(title, left, top, left + wide + 2 * PAD, top + whole))
        top += whole + GAP
    return frames


def place_pictures(nodes: list[Node], top: float) -> Node:
    """What is given, at its right what is made of it; returns their frame."""
    nodes = sorted(nodes, key=lambda n: (n["type"] not in GIVEN, n["type"] not in ("SaveImage", "SaveWEBM")))
    side, left = 280 if len(nodes) < 4 else 220, PAD
    tall = max(side + 60, 330)  # below that the editor enlarges Load Image
    for node in nodes:
        node["size"] = [side if node.get("title") != SIDE_BY_SIDE else 2 * side, tall]
        node["pos"] = [left, top + 2 * TITLE + PAD]
        left += node["size"][0] + PAD
    return frame("Pictures", 0, top, left, top + 2 * TITLE + tall + 2 * PAD)


def extent(frames: list[Node], axis: int) -> float:
    return max(f["bounding"][axis] + f["bounding"][2 + axis] for f in frames)


def lay_out(nodes: list[Node], note: Node) -> list[Node]:
    """Place all nodes so that the window shows them as large as it can; returns their frames."""
    placed = {*GIVEN, *MADE}.union(*STAGES.values())
    if lost := {n["type"] for n in nodes} - placed:
        raise HostError(f"no stage in STAGES for {', '.join(sorted(lost))}")
    pictures = [n for n in nodes if n["type"] in GIVEN + MADE]
    text = note["size"][1]

    def placed_down_to(limit: float) -> list[Node]:
        frames = place_stages(nodes, limit)
        bottom = max(extent(frames, 1), text + TITLE)
        note["pos"], note["size"] = [0, TITLE], [NOTE, bottom - TITLE]
        return [*frames, place_pictures(pictures, bottom + GAP)]

    best = max(range(300, 1200, 10), key=lambda limit: fit(placed_down_to(limit))[0])
    return [{"id": i, **f} for i, f in enumerate(placed_down_to(best), 1)]


def fit(frames: list[Node]) -> tuple[float, list[int]]:
    """Scale and offset at which the window holds all frames."""
    scale = min(VIEW[0] / extent(frames, 0), VIEW[1] / extent(frames, 1), 1)
    scale = math.floor(100 * scale) / 100
    return scale, [round(LEFT / scale), round(TOP / scale)]


def make_note(number: int, text: str) -> Node:
    lines = sum(1 + len(line) // 60 for line in text.splitlines())
    return {
        "id": number, "type": "MarkdownNote", "pos": [0, 0], "size": [NOTE, 13 * lines + 60], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "title": "About this workflow", "properties": {},
        "widgets_values": [text], "color": "#432", "bgcolor": "#653",
    }  # fmt: skip
