"""Where the nodes of a shipped graph stand."""

from typing import Any

from headless import HostError

Node = dict[str, Any]
VIEW = 1400, 850  # pixels of a window in which a graph opens as a whole
COLUMNS = {
    "Model, picture and prompt": (
        "CheckpointLoaderSimple",
        "UNETLoader",
        "CLIPLoader",
        "DualCLIPLoader",
        "VAELoader",
        "ControlNetLoader",
        "CLIPVisionLoader",
        "LoadImage",
        "NewtonExamplePicture",
        "LoadVideo",
        "WordConditioning",
        "CLIPTextEncode",
        "FluxGuidance",
    ),
    "Layers": ("LayerDecompose",),
    "Canvas": (
        "GetVideoComponents",
        "ImageFromBatch",
        "InpaintCropImproved",
        "ImageCrop",
        "ImagePadForOutpaint",
        "JoinImageWithAlpha",
        "ImageScale",
        "FluxKontextImageScale",
        "SplitImageWithAlpha",
        "ImageToMask",
        "ThresholdMask",
        "TextEncodeQwenImageEditPlus",
        "VAEEncode",
        "ReferenceLatent",
        "EmptyLatentImage",
        "EmptyImage",
    ),
    "Constraint": (
        "LatentMaskConstraint",
        "PixelSRConstraint",
        "PixelOperatorConstraint",
        "PixelTargetConstraint",
        "StyleConstraint",
        "NewtonSettings",
        "PreviewImage",
    ),
    "ControlNet": ("Canny", "ControlNetApplyAdvanced"),
    "Sampling": (
        "ModelSamplingAuraFlow",
        "ModelSamplingSD3",
        "RandomNoise",
        "BasicGuider",
        "NewtonSampler",
        "BasicScheduler",
        "NewtonConstrainModel",
        "NewtonConstrainedSampler",
        "KSampler",
        "SamplerCustomAdvanced",
        "VAEDecode",
        "NewtonConstraintReport",
    ),
    "Box": ("SolidMask", "MaskComposite"),
    "Inside": ("NewtonJacobianProbe", "NewtonDirectionCompare"),
    "Composite": (
        "MaskToImage",
        "InpaintStitchImproved",
        "NewtonCompositeInsideMask",
        "ImageCompositeMasked",
        "NewtonBackProjectPixels",
        "PreviewAny",
        "SaveImage",
        "SaveWEBM",
    ),
}
WIDTH, TITLE, GAP, PAD = 315, 30, 40, 20
# Room for the picture or the text that a node shows below its widgets.
EXTRA = {"NewtonConstrainedSampler": 40, "LoadImage": 240, "NewtonExamplePicture": 240,
         "LatentMaskConstraint": 240, "PreviewImage": 240, "SaveImage": 280, "SaveWEBM": 280, "CLIPTextEncode": 90,
         "TextEncodeQwenImageEditPlus": 90, "LoadVideo": 160, "GetVideoComponents": 40, "PreviewAny": 90,
         "NewtonConstraintReport": 240, "LayerDecompose": 120,
         "NewtonJacobianProbe": 240, "NewtonDirectionCompare": 240}  # fmt: skip
COLLAPSED = ("NewtonConstraintReport",)  # for those who ask


def lay_out(nodes: list[Node], note: Node) -> list[Node]:
    """Place nodes in columns from left to right, the note first; returns one frame per column."""
    if lost := {n["type"] for n in nodes} - {kind for kinds in COLUMNS.values() for kind in kinds}:
        raise HostError(f"no column in COLUMNS for {', '.join(sorted(lost))}")
    left, groups = note["size"][0] + 2 * GAP, []
    for title, kinds in COLUMNS.items():
        column = [n for kind in kinds for n in nodes if n["type"] == kind]
        if not column:
            continue
        top = 0
        for node in column:
            node["pos"] = [left, top]
            top += node["size"][1] + TITLE + GAP
        # From above the first node's title bar, with room for the frame's own title, to below the last node.
        bounding = [left - PAD, -2 * TITLE - PAD, WIDTH + 2 * PAD, top - GAP + TITLE + 2 * PAD]
        look = {"color": "#3f789e", "font_size": 24, "flags": {}}
        groups.append({"id": len(groups) + 1, "title": title, "bounding": bounding} | look)
        left += WIDTH + 2 * GAP
    return groups


def fit(nodes: list[Node]) -> tuple[float, list[int]]:
    """Scale and offset at which VIEW holds all nodes, with the editor's bars above and on the left."""
    right = max(n["pos"][0] + n["size"][0] for n in nodes)
    bottom = max(n["pos"][1] + n["size"][1] for n in nodes)
    scale = round(min((VIEW[0] - 120) / right, (VIEW[1] - 180) / (bottom + 3 * TITLE), 1), 2)
    return scale, [round(90 / scale), round(90 / scale) + 3 * TITLE]


def make_note(number: int, text: str) -> Node:
    lines = sum(1 + len(line) // 50 for line in text.splitlines())
    return {
        "id": number, "type": "MarkdownNote", "pos": [0, 0], "size": [360, 15 * lines + 50], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "title": "About this workflow", "properties": {},
        "widgets_values": [text], "color": "#432", "bgcolor": "#653",
    }  # fmt: skip
