"""What the demo does with a picture: the shipped graphs, and beside them the stock ways at as many model calls."""

import copy
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from demo_pictures import Avatar, blurred, grey, heldout, read_rgb, shrunk
from headless import ROOT, Graph, Host, Result
from masks import ALL_MASKS, masked_input
from metrics import composite, psnr, seam
from PIL import Image
from thumbnails import node_of, on_squares, say

GRAPHS = ROOT / "workflows" / "api"
EVERYWHERE = np.ones((128, 128), bool)


@dataclass
class Case:
    """A task on one picture: pictures by their names, of which one is the result, and rows of numbers."""

    avatar: Avatar
    pictures: dict[str, np.ndarray]
    rows: list[dict[str, Any]]
    caption: str
    result: str = "ours"


@dataclass(frozen=True)
class Task:
    """Attributes:
    name: of files.
    group: what `--only` names.
    title, text: for people.
    run: makes the case of a picture.
    """

    name: str
    group: str
    title: str
    text: str
    run: Callable[[Host, Avatar, "Changes"], Case] = field(repr=False)


Changes = Callable[[Graph], None]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def shipped(name: str, avatar: Avatar, picture: Image.Image, host: Host) -> Graph:
    """A shipped graph on another picture, with that one's words and the seed of its number."""
    file = f"{name}_{avatar.number:03}.png"
    picture.save(host.base / "input" / file)
    graph = json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))
    graph[node_of(graph, "LoadImage")]["inputs"]["image"] = file
    say(graph, avatar.prompt)
    graph[node_of(graph, "NewtonConstrainedSampler", "LayerDecompose")]["inputs"]["seed"] = avatar.number
    return graph


def saved(result: Result, graph: Graph) -> np.ndarray:
    """The picture of a graph's Save Image, what is transparent on squares."""
    return np.asarray(on_squares(Image.open(io.BytesIO(result.file(node_of(graph, "SaveImage"))))))


def calls_of(host: Host) -> int:
    """Model calls of the last constrained run, as the sampler logged them."""
    return int(re.findall(r"(\d+) model calls", host.log.read_text(encoding="utf-8", errors="replace"))[-1])


def row(avatar: Avatar, method: str, calls: int, **measured: float) -> dict[str, Any]:
    return {"image": f"{avatar.number:03}", "seed": avatar.number, "method": method, "calls": calls} | measured


def stock(graph: Graph, calls: int) -> Graph:
    """Set Latent Noise Mask and the stock KSampler in place of our sampler, which alone gives a report."""
    graph = copy.deepcopy(graph)
    report = node_of(graph, "NewtonConstraintReport")
    graph = {k: v for k, v in graph.items() if k != report and [report, 0] not in v["inputs"].values()}
    sampler = graph[node_of(graph, "NewtonConstrainedSampler")]
    filled = [node_of(graph, "LatentMaskConstraint"), 3]
    mask = [node_of(graph, "LoadImage"), 1]
    graph["encode"] = node("VAEEncode", pixels=filled, vae=[node_of(graph, "CheckpointLoaderSimple"), 2])
    graph["masked"] = node("SetLatentNoiseMask", samples=["encode", 0], mask=mask)
    shared = ("model", "positive", "negative", "seed", "cfg", "scheduler", "denoise")
    kept = {k: sampler["inputs"][k] for k in shared}
    given = {"steps": calls, "sampler_name": "euler_ancestral", "latent_image": ["masked", 0]}
    sampler |= node("KSampler", **kept, **given)
    return graph


def completion(mask: str, host: Host, avatar: Avatar, change: Changes) -> Case:
    truth, hidden = avatar.truth, ALL_MASKS[mask](len(avatar.truth))
    given = masked_input(truth, hidden)
    graph = shipped("inpaint_demo", avatar, Image.fromarray(given), host)
    # The seam is measured before Composite Inside Mask, which fades any border away.
    graph["decoded"] = node("PreviewImage", images=[node_of(graph, "VAEDecode"), 0])
    change(graph)
    results = {"ours": host.run(graph)}
    calls = calls_of(host)
    results["stock"] = host.run(stock(graph, calls))
    pictures = {"given": np.asarray(on_squares(Image.fromarray(given)))}
    pictures |= {m: saved(result, graph) for m, result in results.items()} | {"truth": truth}
    decoded = {m: read_rgb(io.BytesIO(result.file("decoded"))) for m, result in results.items()}
    seams = {m: seam(composite(truth / 255, d / 255, hidden), hidden) for m, d in decoded.items()}
    true = seam(truth / 255, hidden)
    rows = [row(avatar, m, calls, seam=s, seam_truth=true) for m, s in seams.items()]
    caption = f"{calls} calls · seam {seams['ours']:.3f}, stock {seams['stock']:.3f}, truth {true:.3f}"
    return Case(avatar, pictures, rows, caption)


def decibels(avatar: Avatar, picture: np.ndarray) -> float:
    return psnr(picture / 255, avatar.truth / 255, EVERYWHERE)


def enlarged(picture: Image.Image, size: int, filter: Image.Resampling) -> np.ndarray:
    return np.asarray(picture.convert("RGB").resize((size, size), filter))


def superres(factor: int, host: Host, avatar: Avatar, change: Changes) -> Case:
    small = shrunk(avatar.truth, factor)
    graph = shipped("superres_demo", avatar, small, host)
    graph[node_of(graph, "PixelSRConstraint")]["inputs"]["factor"] = factor
    change(graph)
    ours = saved(host.run(graph), graph)
    calls, size = calls_of(host), len(avatar.truth)
    pictures = {"given": enlarged(small, size, Image.Resampling.NEAREST), "ours": ours}
    pictures |= {"bicubic": enlarged(small, size, Image.Resampling.BICUBIC), "truth": avatar.truth}
    found = {m: decibels(avatar, pictures[m]) for m in ("ours", "bicubic")}
    rows = [row(avatar, "ours", calls, psnr=found["ours"]), row(avatar, "bicubic", 0, psnr=found["bicubic"])]
    caption = f"{calls} calls · {found['ours']:.1f} dB, bicubic {found['bicubic']:.1f}"
    return Case(avatar, pictures, rows, caption)


def measured(name: str, measure: Callable[[np.ndarray], Image.Image], host: Host, avatar: Avatar,
             change: Changes) -> Case:  # fmt: skip
    """A picture of which a measurement is given: without colours, blurred, or whole."""
    given = measure(avatar.truth)
    graph = shipped(name, avatar, given, host)
    change(graph)
    pictures = {"given": np.asarray(given.convert("RGB")), "ours": saved(host.run(graph), graph), "truth": avatar.truth}
    calls = calls_of(host)
    found = decibels(avatar, pictures["ours"])
    return Case(avatar, pictures, [row(avatar, "ours", calls, psnr=found)], f"{calls} calls · {found:.1f} dB")


def free_graph(text: str, seed: int) -> Graph:
    """Sampling by the words alone."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name="ncs_avatars.safetensors"),
        "words": node("WordConditioning", text=text),
        "none": node("WordConditioning", text=""),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sample": node(
            "KSampler", model=["ckpt", 0], positive=["words", 0], negative=["none", 0], latent_image=["empty", 0],
            seed=seed, steps=20, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="prompt"),
    }  # fmt: skip


def style_graph(host: Host, text: str, seed: int, reference: Avatar) -> Graph:
    """The same under the style of a reference."""
    file = f"style_{reference.number:03}.png"
    Image.fromarray(reference.truth).save(host.base / "input" / file)
    graph = free_graph(text, seed)
    graph["image"] = node("LoadImage", image=file)
    graph["encoder"] = node("RandomImageEncoder")
    graph["style"] = node(
        "StyleConstraint", images=["image", 0], clip_vision=["encoder", 0], vae=["ckpt", 2], block=0,
        normalisation="none",
    )  # fmt: skip
    widgets = {k: v for k, v in graph["sample"]["inputs"].items() if k != "sampler_name"}
    graph["settings"] = node(
        "NewtonSettings", preset="fast", iterations=1, rate_first=0.5, rate_last=0.5, delta=0.0, eta=1.0, carry=True,
        residual_target=0.4,
    )  # fmt: skip
    graph["sample"] = node("NewtonConstrainedSampler", **widgets, constraint=["style", 0], settings=["settings", 0])
    return graph


def style(host: Host, avatar: Avatar, change: Changes) -> Case:
    """Words that every style knows, and the look of the next picture of another style."""
    own, _, *words = avatar.prompt.split()
    text = " ".join(words[:2])
    reference = next(a for a in heldout()[avatar.number :] if a.prompt.split()[0] != own)
    plain, graph = free_graph(text, avatar.number), style_graph(host, text, avatar.number, reference)
    change(graph)
    pictures = {"without": saved(host.run(plain), plain), "ours": saved(host.run(graph), graph)}
    calls = calls_of(host)
    pictures = {"reference": reference.truth} | pictures
    return Case(avatar, pictures, [row(avatar, "ours", calls)], f"{calls} calls · “{text}”")


def prompt(host: Host, avatar: Avatar, change: Changes) -> Case:
    graph = free_graph(avatar.prompt, avatar.number)
    change(graph)
    pictures = {"sampled": saved(host.run(graph), graph), "truth": avatar.truth}
    return Case(avatar, pictures, [row(avatar, "free", 20)], "20 steps, cfg 3", "sampled")


def layers(host: Host, avatar: Avatar, change: Changes) -> Case:
    """The avatar cut from its background; the words but the last are the avatar's, the last is the background's."""
    graph = shipped("layers_demo", avatar, Image.fromarray(avatar.truth), host)
    change(graph)
    result = host.run(graph)
    mask = np.asarray(Image.open(io.BytesIO(result.file("11"))).convert("L"))
    found, true = mask > 127, avatar.alpha > 127
    overlap = (found & true).sum() / (found | true).sum()
    pictures = {"given": avatar.truth, "ours": saved(result, graph), "mask": np.stack([mask] * 3, -1)}
    pictures["true mask"] = np.stack([avatar.alpha] * 3, -1)
    return Case(avatar, pictures, [row(avatar, "ours", 116, iou=float(overlap))], f"116 calls · overlap {overlap:.2f}")


STOCK = (
    "Stock: KSampler with Set Latent Noise Mask, at the same model, words, seed, scheduler and number of model calls. "
    "Seam: mean jump across the border before the result is faded in; best is the truth's."
)
BACK = "The result, {}, is the given picture again, to within rounding."
TASKS = [
    Task("half", "inpaint", "Complete a half", f"The right half is hidden. {STOCK}", partial(completion, "half")),
    Task("box", "inpaint", "Fill a box", f"The middle is hidden. {STOCK}", partial(completion, "box")),
    Task("strokes", "inpaint", "Remove strokes", f"What lies under brush strokes is hidden. {STOCK}",
         partial(completion, "strokes")),
    Task("outpaint", "inpaint", "Outpaint", f"Only the middle is given. {STOCK}", partial(completion, "outpaint")),
    Task("x4", "superres", "Super-resolution x4", "32 x 32 pixels become 128 x 128. " + BACK.format("shrunk"),
         partial(superres, 4)),
    Task("x8", "superres", "Super-resolution x8", "16 x 16 pixels become 128 x 128. " + BACK.format("shrunk"),
         partial(superres, 8)),
    Task("colour", "restore", "Colouring", "Light and shade are given, the colours are the model's, as the words say. "
         + BACK.format("made grey"), partial(measured, "colorize_demo", grey)),
    Task("deblur", "restore", "Deblurring", "Given is the picture under a known Gaussian blur of 3 pixels. "
         + BACK.format("blurred"), partial(measured, "deblur_demo", blurred)),
    Task("pixelart", "restore", "Pixel art", "Redrawn until it is what a function makes of it: cells of 4 pixels, 16 "
         "colours. No gradient passes through that function.", partial(measured, "pixelart_demo", Image.fromarray)),
    Task("style", "style", "Style by a reference", "Words for hair and skin, and the look of another picture. The "
         "image encoder of this demo has random weights and sees colours and edges; CLIP sees more. It stops at a "
         "distance to the style of .4 (residual_target), so that figures stay whole.", style),
    Task("layers", "layers", "Two layers", "A picture and two prompts, one for the avatar and one for its background; "
         "no segmentation model. Overlap: intersection over union with the true mask.", layers),
    Task("prompts", "prompts", "Words alone", "What the model draws by the words of a picture, without a constraint.",
         prompt),
]  # fmt: skip
