"""Build subgraphs/*.json: the blueprints that newer hosts show beside their own in the node library.

    COMFYUI_PATH=.cache/comfyui-0.3.75 .cache/venv-0.3.75/bin/python tools/make_subgraphs.py

Slots, widgets and defaults come from the node definitions of a running ComfyUI. Start it again whenever a node of a
blueprint has changed.
"""

import copy
import json
import sys
import uuid
from dataclasses import dataclass
from typing import Any

from headless import PACK, ROOT, Graph, Host, HostError
from layout import GAP, TITLE, WIDTH, Node
from make_workflows import Definitions, connect, inputs_of, make_node

INPUTS, OUTPUTS = "-10", "-20"  # the ids that the editor gives to a subgraph's own two ends
WIDE, PAD = 120, 40


@dataclass(frozen=True)
class Blueprint:
    """A subgraph.

    Attributes:
        about: what it does, in one sentence.
        graph: nodes in API format; widgets that are left out keep their defaults.
        inputs: name of each input, and the inputs of inner nodes, as "ID.name", that it feeds.
        outputs: name of each output and where it comes from.
    """

    about: str
    graph: Graph
    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, int]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


SAMPLING = {name: (f"2.{name}",) for name in ("model", "positive", "negative")}
RUN = {name: (f"2.{name}",) for name in ("seed", "steps", "cfg")}
COMPLETION = {
    "1": node("LatentMaskConstraint"),
    "2": node("NewtonConstrainedSampler", constraint=["1", 0], latent_image=["1", 1], cfg=4.0),
    "3": node("VAEDecode", samples=["2", 0]),
    "4": node("NewtonCompositeInsideMask", image=["3", 0]),
}
BLUEPRINTS = {
    "Inpaint (Newton)": Blueprint(
        "Generates what the mask marks so that it fits the rest of the picture, which stays as it is, bit by bit.",
        COMPLETION,
        {
            **SAMPLING, "vae": ("1.vae", "3.vae"), "image": ("1.image", "4.original"), "mask": ("1.mask", "4.mask"),
            **RUN, "feather": ("4.feather",), "match_colour": ("4.match_colour",),
        },
        {"IMAGE": ("4", 0)},
    ),
    "Outpaint (Newton)": Blueprint(
        "Continues a picture beyond its borders; the picture itself stays as it is, bit by bit.",
        COMPLETION
        | {
            "1": node("LatentMaskConstraint", image=["5", 0], mask=["5", 1]),
            "4": node("NewtonCompositeInsideMask", image=["3", 0], original=["5", 0], mask=["5", 1]),
            "5": node("ImagePadForOutpaint", right=128, feathering=0),
        },
        {
            **SAMPLING, "vae": ("1.vae", "3.vae"), "image": ("5.image",),
            **{side: (f"5.{side}",) for side in ("left", "top", "right", "bottom")}, **RUN, "feather": ("4.feather",),
        },
        {"IMAGE": ("4", 0)},
    ),
    "Super-Resolution (Newton)": Blueprint(
        "Enlarges a picture: the result, shrunk again, is the given one.",
        {
            "1": node("PixelSRConstraint"),
            "2": node(
                "NewtonConstrainedSampler", constraint=["1", 0], latent_image=["1", 1], settings=["5", 0], steps=6,
                cfg=2.0, denoise=0.6,
            ),
            "3": node("VAEDecode", samples=["2", 0]),
            "4": node("NewtonBackProjectPixels", image=["3", 0], constraint=["1", 0]),
            "5": node("NewtonSettings", preset="thorough"),
        },
        {
            **SAMPLING, "vae": ("1.vae", "3.vae"), "image": ("1.image",), "factor": ("1.factor",),
            "filter": ("1.filter",), "tile": ("1.tile",), **RUN, "denoise": ("2.denoise",),
        },
        {"IMAGE": ("4", 0)},
    ),
    "Match Style (Newton)": Blueprint(
        "Paints the prompt's content with the colours and textures of reference pictures.",
        {
            "1": node("StyleConstraint"),
            "2": node("NewtonConstrainedSampler", constraint=["1", 0], latent_image=["5", 0], cfg=3.0),
            "3": node("VAEDecode", samples=["2", 0]),
            "5": node("EmptyLatentImage"),
        },
        {
            **SAMPLING, "vae": ("1.vae", "3.vae"), "clip_vision": ("1.clip_vision",), "references": ("1.images",),
            "width": ("5.width",), "height": ("5.height",), **RUN,
        },
        {"IMAGE": ("3", 0)},
    ),
    "Split Layers (Newton)": Blueprint(
        "Splits a picture into two layers, each described by a prompt: RGBA pictures that give the picture again.",
        {
            "2": node("LayerDecompose"),
            "3": node("JoinImageWithAlpha", image=["2", 0], alpha=["2", 3]),
            "4": node("JoinImageWithAlpha", image=["2", 1], alpha=["2", 2]),
        },
        {
            **{n: (f"2.{n}",) for n in ("model", "vae", "layer_1", "layer_2", "negative", "image")},
            **{n: (f"2.{n}",) for n in ("seed", "cfg", "rounds", "samples", "steps")},
        },
        {"layer_1": ("3", 0), "layer_2": ("4", 0), "mask": ("2", 2), "recomposition": ("2", 4)},
    ),
}  # fmt: skip


def with_defaults(entry: dict[str, Any], definition: dict[str, Any]) -> dict[str, Any]:
    """A node whose every widget has a value."""
    defaults = {}
    for name, kind, options, _ in inputs_of(definition):
        choices = options.get("options") or definition["input"].get("required", {}).get(name, [[]])[0]
        defaults[name] = options.get("default", choices[0] if kind == "COMBO" else None)
    given = {name: value for name, value in defaults.items() if value is not None}
    return entry | {"inputs": given | entry["inputs"]}


def slot(nodes: dict[str, Node], place: str) -> Node:
    number, name = place.split(".")
    return next(i for i in nodes[number]["inputs"] if i["name"] == name)


def place_nodes(nodes: dict[str, Node], graph: Graph) -> int:
    """From left to right as the links go; returns where the last column ends."""
    depth: dict[str, int] = {INPUTS: -1}
    for number in sorted(nodes, key=lambda n: nodes[n]["order"]):
        if number != INPUTS:
            sources = [v[0] for v in graph[number]["inputs"].values() if isinstance(v, list)]
            depth[number] = 1 + max((depth[s] for s in sources), default=-1)
    bottoms: dict[int, int] = {}
    for number, column in depth.items():
        if number not in (INPUTS, OUTPUTS):
            nodes[number]["pos"] = [column * (WIDTH + 2 * GAP), bottoms.get(column, 0)]
            bottoms[column] = bottoms.get(column, 0) + nodes[number]["size"][1] + TITLE + GAP
    return (max(bottoms) + 1) * (WIDTH + 2 * GAP)


def ends(names: list[str], types: list[str], links: list[list[int]], key: str, x: float) -> list[dict[str, Any]]:
    """The entries of a subgraph's inputs or outputs."""
    return [
        {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{key}/{name}")), "name": name, "type": kind, "linkIds": ids,
         "pos": [x, 20 + 20 * i]}
        for i, (name, kind, ids) in enumerate(zip(names, types, links, strict=True))
    ]  # fmt: skip


def build(name: str, blueprint: Blueprint, definitions: Definitions) -> dict[str, Any]:
    """The editor's form of a blueprint: one node, and the subgraph that it stands for."""
    key, graph = f"subgraphs/{name}", copy.deepcopy(blueprint.graph)
    graph = {n: with_defaults(entry, definitions[entry["class_type"]]) for n, entry in graph.items()}
    nodes = {n: make_node(n, entry, definitions) for n, entry in graph.items()}
    firsts = [slot(nodes, places[0]) for places in blueprint.inputs.values()]
    types = [first["type"] for first in firsts]
    out_types = [nodes[n]["outputs"][i]["type"] for n, i in blueprint.outputs.values()]
    nodes[INPUTS] = {"outputs": [{"type": kind, "links": []} for kind in types], "order": 0}
    nodes[OUTPUTS] = {"inputs": [{"name": n, "link": None} for n in blueprint.outputs], "order": 0}
    for i, places in enumerate(blueprint.inputs.values()):
        for number, input_name in (place.split(".") for place in places):
            graph[number]["inputs"][input_name] = [INPUTS, i]
    graph[OUTPUTS] = {"inputs": {n: list(source) for n, source in blueprint.outputs.items()}}
    links = connect(graph, nodes)
    right = place_nodes(nodes, graph)
    entered, left = nodes.pop(INPUTS), nodes.pop(OUTPUTS)
    sub = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{key}"))
    definition = {
        "id": sub, "version": 1, "revision": 0, "config": {}, "name": name,
        "state": {"lastGroupId": 0, "lastNodeId": max(map(int, nodes)), "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": int(INPUTS), "bounding": [-2 * WIDE, 0, WIDE, 20 * len(types) + PAD]},
        "outputNode": {"id": int(OUTPUTS), "bounding": [right, 0, WIDE, 20 * len(out_types) + PAD]},
        "inputs": ends([*blueprint.inputs], types, [o["links"] for o in entered["outputs"]], key, -2 * WIDE),
        "outputs": ends([*blueprint.outputs], out_types, [[i["link"]] for i in left["inputs"]], key, right),
        "widgets": [], "nodes": [*nodes.values()], "groups": [],
        "links": [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
            for link in links
        ],
        "extra": {}, "category": "sampling/newton constrained", "description": blueprint.about,
    }  # fmt: skip
    widgets = [(n, places[0].split("."), f) for (n, places), f in zip(blueprint.inputs.items(), firsts, strict=True)]
    inputs = [
        {"name": n, "type": f["type"], "link": None} | ({"widget": {"name": n}} if "widget" in f else {})
        for n, _, f in widgets
    ]
    shown = [place for _, place, f in widgets if "widget" in f]
    instance = {
        "id": max(map(int, nodes)) + 1, "type": sub, "pos": [0, 0], "size": [WIDTH, 26 * len(inputs) + TITLE],
        "flags": {}, "order": 0, "mode": 0, "inputs": inputs,
        "outputs": [{"name": n, "type": t, "links": []} for n, t in zip(blueprint.outputs, out_types, strict=True)],
        "properties": {"proxyWidgets": shown, "cnr_id": PACK}, "widgets_values": [], "title": name,
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": instance["id"], "last_link_id": 0, "nodes": [instance], "links": [],
        "version": 0.4, "definitions": {"subgraphs": [definition]}, "extra": {},
    }  # fmt: skip


def main() -> None:
    with Host() as host:
        definitions = host.get("/object_info")
    for name, blueprint in BLUEPRINTS.items():
        text = json.dumps(build(name, blueprint, definitions), indent=1, ensure_ascii=False)
        (ROOT / "subgraphs" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"subgraphs/{name}.json")


if __name__ == "__main__":
    try:
        main()
    except HostError as e:
        sys.exit(f"error: {e}")
