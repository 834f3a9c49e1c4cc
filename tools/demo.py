"""Inpaint held-out pictures with the shipped graph and the stock way; `python dev.py demo` starts this.

Both run through the HTTP API of a headless ComfyUI at the same seed, cfg, scheduler and number of model calls, which is
the stock way's number of steps. Leaves one contact sheet per mask, all of them together in sheet.png, and summary.json.
`--inputs` instead rewrites demo/images.
"""

import argparse
import copy
import csv
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
from headless import ROOT, Graph, Host, HostError
from PIL import Image
from run_graph import change
from scipy.ndimage import gaussian_filter
from sheet import draw_sheet, side_by_side
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "bench"))
from masks import MASKS, masked_input
from metrics import composite, mse, psnr, seam

GRAPH = ROOT / "workflows" / "api" / "inpaint_demo.json"
CHECKPOINT = ROOT / "demo" / "ncs_emoji.safetensors"
HELDOUT = ROOT / "demo" / "heldout"
IMAGES = (
    "lion_face_animals_nature",
    "slightly_frowning_face_smileys",
    "oncoming_taxi_travel_places",
    "teacup_without_handle_food",
    "grey_heart_smileys_emotion",
    "thinking_face_smileys_emotion",
    "man_judge_people_body",
    "eyeglasses_objects",
)
# The pictures in demo/images that the shipped graphs load: masked, and measured otherwise.
SHIPPED = {"half": IMAGES[1], "box": IMAGES[2], "strokes": IMAGES[0]}
MEASURED = {
    "plain": (IMAGES[0], Image.fromarray),
    "small": (IMAGES[0], lambda truth: Image.fromarray(truth).resize((32, 32), Image.Resampling.BOX)),
    "grey": (IMAGES[2], lambda truth: Image.fromarray(truth).convert("L")),
    "blurred": (IMAGES[5], lambda truth: Image.fromarray(gaussian_filter(truth, (3, 3, 0), mode="nearest"))),
}
# Emoji of these sizes and places, from below to above: pictures to be split again.
LAYERED = {
    "layers": (("large_purple_square_symbols", 128, 0, 0), ("lion_face_animals_nature", 96, 16, 16)),
    "three_layers": (
        ("large_green_square_symbols", 128, 0, 0),
        ("rose_animals_nature", 64, 8, 32),
        ("lion_face_animals_nature", 60, 60, 34),
    ),
}


def node_of(graph: Graph, class_type: str) -> str:
    """The id of a graph's only node of a class."""
    (node,) = (i for i, n in graph.items() if n["class_type"] == class_type)
    return node


def prompt_of(name: str) -> str:
    """The words of an emoji's name and category; its picture is named by the first four."""
    with (ROOT / "demo" / "emoji.csv").open(encoding="utf-8", newline="") as f:
        return next(r["words"] for r in csv.DictReader(f) if "_".join(r["words"].split()[:4]) == name)


def seed_of(name: str) -> int:
    """Every picture has noise of its own, the same for both methods and all masks."""
    return IMAGES.index(name)


def ours(graph: Graph, picture: str, name: str) -> Graph:
    """The shipped graph on a picture; one more node saves what is decoded before compositing."""
    graph = copy.deepcopy(graph)
    graph[node_of(graph, "WordConditioning")]["inputs"]["text"] = prompt_of(name)
    graph[node_of(graph, "LoadImage")]["inputs"]["image"] = picture
    graph[node_of(graph, "NewtonConstrainedSampler")]["inputs"]["seed"] = seed_of(name)
    decoded = [node_of(graph, "VAEDecode"), 0]
    graph["raw"] = {"class_type": "SaveImage", "inputs": {"images": decoded, "filename_prefix": "raw"}}
    return graph


def stock(graph: Graph, picture: str, name: str) -> Graph:
    """The same with SetLatentNoiseMask and the stock KSampler in place of our sampler, which alone gives a report."""
    graph = ours(graph, picture, name)
    report = node_of(graph, "NewtonConstraintReport")
    graph = {k: v for k, v in graph.items() if k != report and [report, 0] not in v["inputs"].values()}
    sampler = graph[node_of(graph, "NewtonConstrainedSampler")]
    shared = ("model", "positive", "negative", "seed", "steps", "cfg", "scheduler", "denoise")
    filled = [node_of(graph, "LatentMaskConstraint"), 3]
    mask = [node_of(graph, "LoadImage"), 1]
    encode = {"pixels": filled, "vae": [node_of(graph, "CheckpointLoaderSimple"), 2]}
    graph["encode"] = {"class_type": "VAEEncode", "inputs": encode}
    graph["masked"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["encode", 0], "mask": mask}}
    inputs = {k: sampler["inputs"][k] for k in shared}
    sampler["class_type"] = "KSampler"
    sampler["inputs"] = inputs | {"sampler_name": "euler_ancestral", "latent_image": ["masked", 0]}
    return graph


METHODS = {"ours": ours, "replacement": stock}


def read_png(source: Path | bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source).convert("RGB"))


def measure(truth: np.ndarray, decoded: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """The numbers of one row, from uint8 pictures."""
    truth, decoded = truth / 255, decoded / 255
    pasted = composite(truth, decoded, hidden)
    return {
        "known_psnr": psnr(decoded, truth, ~hidden),
        "hidden_pixel_mse": mse(decoded, truth, hidden),
        "seam": seam(pasted, hidden),
        "seam_truth": seam(truth, hidden),
    }


def calls_of(host: Host) -> int:
    """Model calls of the last constrained run, as the sampler logged them."""
    return int(re.findall(r"(\d+) model calls", host.log.read_text(encoding="utf-8", errors="replace"))[-1])


def run_case(host: Host, graph: Graph, name: str, mask: str) -> tuple[list[dict], list[np.ndarray]]:
    """Both methods on one picture and mask: result rows, and pictures for the sheet."""
    truth = read_png(HELDOUT / f"{name}.png")
    hidden = MASKS[mask](len(truth))
    given = masked_input(truth, hidden)
    picture = f"{mask}_{name}.png"
    Image.fromarray(given).save(host.base / "input" / picture)
    rows, pictures, graph = [], [truth, given[..., :3]], copy.deepcopy(graph)
    widgets = graph[node_of(graph, "NewtonConstrainedSampler")]["inputs"]
    for method, build in METHODS.items():
        result = host.run(build(graph, picture, name))
        case = {"task": "inpaint", "model": CHECKPOINT.name, "method": method, "mask": mask, "image": name}
        case |= {"seed": seed_of(name), "split": "heldout", "levels": widgets["steps"]}
        if method == "ours":
            widgets["steps"] = calls_of(host)
        case["calls"] = widgets["steps"]
        rows.append(case | measure(truth, read_png(result.file("raw")), hidden))
        pictures.append(read_png(result.file(node_of(graph, "SaveImage"))))
    return rows, pictures


def captions(rows: list[dict]) -> list[str]:
    """What stands under the pictures of one case."""
    ours, stock = rows
    return [f"seam {ours['seam_truth']:.3f}", "", f"seam {ours['seam']:.3f}", f"seam {stock['seam']:.3f}"]


def summary_table(cases: list[dict]) -> str:
    """Mean seam per mask."""
    lines = ["mean seam  ours   stock  truth"]
    for mask in MASKS:
        of = {m: [c for c in cases if c["mask"] == mask and c["method"] == m] for m in METHODS}
        means = [np.mean([c["seam"] for c in of[m]]) for m in METHODS]
        means.append(np.mean([c["seam_truth"] for c in of["ours"]]))
        lines.append(f"{mask:9}  " + "  ".join(f"{m:.3f}" for m in means))
    return "\n".join(lines)


def versions_of(host: Host) -> dict[str, str]:
    """What the numbers depend on."""
    system = host.stats["system"]
    return {
        "comfyui": system["comfyui_version"],
        "torch": system["pytorch_version"],
        "python": system["python_version"].split()[0],
        "checkpoint_sha256": hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest(),
    }


def run_all(out: Path, changes: list[str]) -> None:
    graph = json.loads(GRAPH.read_text(encoding="utf-8"))
    for setting in changes:
        change(graph, setting)
    out.mkdir(parents=True, exist_ok=True)
    todo = [(mask, name) for mask in MASKS for name in IMAGES]
    cases, sheets = [], {mask: [] for mask in MASKS}
    print("starting ComfyUI ...", flush=True)
    with Host() as host, tqdm(todo, desc="inpainting", unit="case") as bar:
        versions = versions_of(host)
        for mask, name in bar:
            rows, pictures = run_case(host, graph, name, mask)
            cases += rows
            sheets[mask].append((name.replace("_", " "), pictures, captions(rows)))
    columns = ["truth", "input", "ours", "stock replacement"]
    drawn = {mask: draw_sheet(f"mask: {mask}", columns, rows) for mask, rows in sheets.items()}
    for mask, sheet in drawn.items():
        sheet.save(out / f"sheet_{mask}.png")
    side_by_side(list(drawn.values())).save(out / "sheet.png")
    text = json.dumps({"versions": versions, "changes": changes, "cases": cases}, indent=1)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    print(f"\n{summary_table(cases)}\n\n{out / 'sheet.png'}")


def stacked(layers: tuple[tuple[str, int, int, int], ...]) -> Image.Image:
    """Held-out emoji over one another, each as (name, side, left, top); white around them is left out."""
    whole = Image.new("RGB", (128, 128), "white")
    for name, side, left, top in layers:
        emoji = Image.open(HELDOUT / f"{name}.png").convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        alpha = (4 * (255 - np.asarray(emoji).min(-1).astype(int))).clip(0, 255).astype(np.uint8)
        whole.paste(emoji, (left, top), Image.fromarray(alpha))
    return whole


def write_inputs() -> None:
    """The pictures that the shipped graphs load."""
    folder = ROOT / "demo" / "images"
    folder.mkdir(exist_ok=True)
    for mask, name in SHIPPED.items():
        truth = read_png(HELDOUT / f"{name}.png")
        picture = masked_input(truth, MASKS[mask](len(truth)))
        Image.fromarray(picture).save(folder / f"ncs_{mask}.png", optimize=True)
    for measured, (name, measure_picture) in MEASURED.items():
        measure_picture(read_png(HELDOUT / f"{name}.png")).save(folder / f"ncs_{measured}.png", optimize=True)
    for name, layers in LAYERED.items():
        stacked(layers).save(folder / f"ncs_{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path)
    task.add_argument("--inputs", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="change the graph")
    opts = parser.parse_args()
    if opts.inputs:
        write_inputs()
    elif not CHECKPOINT.exists():
        raise HostError(f"{CHECKPOINT} is missing (python dev.py train makes one)")
    else:
        run_all(opts.out, opts.set)


if __name__ == "__main__":
    try:
        main()
    except HostError as e:
        sys.exit(f"error: {e}")
