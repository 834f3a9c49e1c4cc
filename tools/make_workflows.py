"""Build workflows/TITLE.json (editor format) and workflows/TITLE.jpg from every workflows/api/NAME.json and its note,
workflows/api/NAME.md, whose heading is the title.

    COMFYUI_PATH=.cache/comfyui-0.3.75 .cache/venv-0.3.75/bin/python tools/make_workflows.py [TASK ...]

A TASK is what a graph's name begins with, such as superres or inpaint_sd; without one, all graphs are built.
Slots, widgets and their order come from the node definitions of a running ComfyUI, thumbnails from running the demo
graphs in it. Start it again whenever a graph, a node or the demo checkpoint has changed. One graph has nodes of
another pack: it is built where github.com/lquesada/ComfyUI-Inpaint-CropAndStitch lies in .cache, under its own name.
"""

import json
import sys
import uuid
from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import Any

from demo_pictures import heldout
from demo_tasks import style
from headless import PACK, ROOT, Graph, Host, HostError
from layout import COLLAPSED, EXTRA, WIDE, WIDTH, Node, fit, lay_out, make_note
from PIL import Image
from run_graph import read_graph
from thumbnails import SHOWN, Shown, on_picture, run, thumbnail

API = ROOT / "workflows" / "api"
CROP_AND_STITCH = ROOT / ".cache" / "ComfyUI-Inpaint-CropAndStitch"
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def hub(repository: str, folder: str = "") -> str:
    return f"https://huggingface.co/{repository}/resolve/main/{folder}"


WAN = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
# Where the editor offers to fetch a model from, and the folder of `models` that it belongs in.
DOWNLOADS = {
    "v1-5-pruned-emaonly-fp16.safetensors": (hub("Comfy-Org/stable-diffusion-v1-5-archive"), "checkpoints"),
    "sd_xl_base_1.0.safetensors": (hub("stabilityai/stable-diffusion-xl-base-1.0"), "checkpoints"),
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors": (hub("Comfy-Org/stable-diffusion-3.5-fp8"), "checkpoints"),
    "flux1-dev-fp8.safetensors": (hub("Comfy-Org/flux1-dev"), "checkpoints"),
    "control_v11p_sd15_canny_fp16.safetensors": (
        hub("comfyanonymous/ControlNet-v1-1_fp16_safetensors"), "controlnet",
    ),
    "clip_vision_h.safetensors": (hub(WAN, "split_files/clip_vision/"), "clip_vision"),
    "wan2.1_t2v_1.3B_fp16.safetensors": (hub(WAN, "split_files/diffusion_models/"), "diffusion_models"),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (hub(WAN, "split_files/text_encoders/"), "text_encoders"),
    "wan_2.1_vae.safetensors": (hub(WAN, "split_files/vae/"), "vae"),
    "qwen_image_edit_2509_fp8_e4m3fn.safetensors": (
        hub("Comfy-Org/Qwen-Image-Edit_ComfyUI", "split_files/diffusion_models/"), "diffusion_models",
    ),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": (
        hub("Comfy-Org/Qwen-Image_ComfyUI", "split_files/text_encoders/"), "text_encoders",
    ),
    "qwen_image_vae.safetensors": (hub("Comfy-Org/Qwen-Image_ComfyUI", "split_files/vae/"), "vae"),
    "flux1-dev-kontext_fp8_scaled.safetensors": (
        hub("Comfy-Org/flux1-kontext-dev_ComfyUI", "split_files/diffusion_models/"), "diffusion_models",
    ),
    "clip_l.safetensors": (hub("comfyanonymous/flux_text_encoders"), "text_encoders"),
    "t5xxl_fp8_e4m3fn_scaled.safetensors": (hub("comfyanonymous/flux_text_encoders"), "text_encoders"),
    "z_image_turbo_bf16.safetensors": (
        hub("Comfy-Org/z_image_turbo", "split_files/diffusion_models/"), "diffusion_models",
    ),
    "qwen_3_4b.safetensors": (hub("Comfy-Org/z_image_turbo", "split_files/text_encoders/"), "text_encoders"),
    "ae.safetensors": (hub("Comfy-Org/z_image_turbo", "split_files/vae/"), "vae"),
    "flux-2-klein-4b.safetensors": (
        hub("Comfy-Org/Flux-2-Klein-4B", "split_files/diffusion_models/"), "diffusion_models",
    ),
    "flux2-vae.safetensors": (hub("Comfy-Org/flux2-dev", "split_files/vae/"), "vae"),
}  # fmt: skip
Definitions = dict[str, dict[str, Any]]


def inputs_of(definition: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    """(name, type, options, optional) of a node's inputs in the order of its definition."""
    for group in ("required", "optional"):
        for name, spec in definition["input"].get(group, {}).items():
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            yield name, kind, spec[1] if len(spec) > 1 else {}, group == "optional"


def fields(definition: dict[str, Any], given: dict[str, Any]) -> tuple[list[Node], list[Any]]:
    """A node's input slots as the editor orders them, first sockets, then widgets; and its widgets' values."""
    sockets, widgets, values = [], [], []
    for name, kind, options, optional in inputs_of(definition):
        if kind not in WIDGET_TYPES or options.get("forceInput"):
            sockets.append({"name": name, "type": kind, "link": None} | ({"shape": 7} if optional else {}))
            continue
        widgets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
        values.append(options["default"] if isinstance(given[name], list) else given[name])
        if kind == "INT" and (options.get("control_after_generate") or name in ("seed", "noise_seed")):
            values.append("fixed")
        if options.get("image_upload") or options.get("video_upload"):
            widgets.append({"name": "upload", "type": "IMAGEUPLOAD", "widget": {"name": "upload"}, "link": None})
            values.append("image")
    if unknown := given.keys() - {slot["name"] for slot in sockets + widgets}:
        raise HostError(f"{definition['name']} has no input {', '.join(sorted(unknown))}")
    return sockets + widgets, values


def hidden_widgets(definition: dict[str, Any], given: dict[str, Any]) -> int:
    """How many widgets of a node web/js/live_widgets.js hides."""
    rules = [options.get("dead_if", {}) for _, _, options, _ in inputs_of(definition)]
    return sum(any(given.get(other) in dead for other, dead in rule.items()) for rule in rules)


def make_node(number: str, entry: dict[str, Any], definitions: Definitions) -> Node:
    """An editor node without position and links."""
    kind, title = entry["class_type"], entry.get("_meta", {}).get("title")
    definition = definitions[kind]
    slots, values = fields(definition, entry["inputs"])
    outputs = [
        {"name": name, "type": output, "links": []}
        for name, output in zip(definition["output_name"], definition["output"], strict=True)
    ]
    sockets = sum("widget" not in slot for slot in slots)
    rows = len(values) - hidden_widgets(definition, entry["inputs"])
    height = 20 * max(sockets, len(outputs)) + 6 + (24 * rows + 8 if rows else 0) + EXTRA.get(kind, 0)
    source, _, pack = definition["python_module"].partition(".")
    registered = pack.lower() if source == "custom_nodes" else "comfy-core"
    properties: Node = {"Node name for S&R": kind, "cnr_id": registered}
    if models := [value for value in values if value in DOWNLOADS]:
        properties["models"] = [
            {"name": m, "url": f"{folder}{m}", "directory": directory}
            for m in models
            for folder, directory in [DOWNLOADS[m]]
        ]
    node = {
        "id": int(number), "type": kind, "pos": [0, 0], "size": [WIDE.get(kind, WIDTH), height],
        "flags": {"collapsed": True} if kind in COLLAPSED or title in COLLAPSED else {}, "order": 0, "mode": 0,
        "inputs": slots, "outputs": outputs, "properties": properties, "widgets_values": values,
    }  # fmt: skip
    if title:
        node["title"] = title
    return node


def connect(graph: Graph, nodes: dict[str, Node]) -> list[list[Any]]:
    """Fill both ends of every link, and the order of execution; returns the links."""
    links = []
    for number, entry in graph.items():
        for slot, target in enumerate(nodes[number]["inputs"]):
            if isinstance(source := entry["inputs"].get(target["name"]), list):
                output = nodes[source[0]]["outputs"][source[1]]
                link = len(links) + 1
                target["link"] = link
                output["links"].append(link)
                links.append([link, int(source[0]), source[1], int(number), slot, output["type"]])
    needs = {n: {v[0] for v in entry["inputs"].values() if isinstance(v, list)} for n, entry in graph.items()}
    for order, number in enumerate(TopologicalSorter(needs).static_order()):
        nodes[number]["order"] = order
    return links


def title_of(name: str) -> str:
    """Of a graph: the heading of its note, by which template browsers show it."""
    return (API / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def with_examples(graph: Graph) -> Graph:
    """Load Image of a shipped picture becomes Example Picture, so that users need copy nothing."""
    shipped = {file.name for file in (ROOT / "demo" / "images").glob("ncs_*.png")}
    return {
        number: entry | {"class_type": "NewtonExamplePicture"}
        if entry["class_type"] == "LoadImage" and entry["inputs"]["image"] in shipped
        else entry
        for number, entry in graph.items()
    }


def build(name: str, graph: Graph, definitions: Definitions) -> dict[str, Any]:
    """The editor's form of a graph in API format."""
    graph = with_examples(graph)
    nodes = {number: make_node(number, entry, definitions) for number, entry in graph.items()}
    links = connect(graph, nodes)
    note = make_note(max(map(int, graph)) + 1, (API / f"{name}.md").read_text(encoding="utf-8"))
    note["order"] = len(nodes)
    groups = lay_out(list(nodes.values()), note)
    scale, offset = fit(groups)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{name}")), "revision": 0, "last_node_id": note["id"],
        "last_link_id": len(links), "nodes": [*nodes.values(), note], "links": links, "groups": groups, "config": {},
        "extra": {"ds": {"scale": scale, "offset": offset}}, "version": 0.4,
    }  # fmt: skip


def styled(number: int) -> tuple[Image.Image, Image.Image]:
    """Reference and result of the demo's style task: no shipped graph has its image encoder."""
    with Host(ROOT / "tools" / "random_encoder") as host:
        pictures = style(host, heldout(number + 1)[number], lambda graph: None).pictures
    return Image.fromarray(pictures["reference"]), Image.fromarray(pictures["ours"])


def main() -> None:
    with Host(CROP_AND_STITCH if CROP_AND_STITCH.is_dir() else None) as host:
        definitions = host.get("/object_info")

        tasks = tuple(sys.argv[1:]) or ("",)
        for file in sorted(f for f in API.glob("*.json") if f.stem.startswith(tasks)):
            shipped = ROOT / "workflows" / f"{title_of(file.stem)}.json"
            graph = read_graph(file)
            if missing := {entry["class_type"] for entry in graph.values()} - definitions.keys():
                print(f"{shipped.relative_to(ROOT)} left as it is: no node {', '.join(sorted(missing))}")
                continue
            text = json.dumps(build(file.stem, graph, definitions), indent=1, ensure_ascii=False)
            shipped.write_text(text + "\n", encoding="utf-8")
            shown = SHOWN.get(file.stem, Shown(demo=file.stem))
            if shown.demo:
                graph = read_graph(API / f"{shown.demo}.json")
                if shown.number:
                    graph = on_picture(graph, shown, host.base / "input")
                pictures = run(host, graph, shown)
            else:
                pictures = styled(shown.number)
            thumbnail(*pictures, shown).save(shipped.with_suffix(".jpg"), quality=90)
            print(f"{shipped.relative_to(ROOT)} and .jpg", flush=True)


if __name__ == "__main__":
    try:
        main()
    except HostError as e:
        sys.exit(f"error: {e}")
