"""The blueprints: the host lists them, the editor expands each to a graph, and the graph runs."""

import json
from pathlib import Path

import pytest
from browser import ROOT, needs_browser, running_server
from host import CHECKPOINT

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
pytestmark = needs_browser
# Connects every socket of the blueprint's node to a loader, saves its first output, and gives the API format.
CONNECT = """async ([words, few]) => {
  const graph = app.graph, blueprint = graph._nodes[0]
  const add = (type) => { const node = LiteGraph.createNode(type); graph.add(node); return node }
  const loader = add("CheckpointLoaderSimple"), picture = add("LoadImage"), prompt = add("WordConditioning")
  const set = (node, name, value) => { node.widgets.find((w) => w.name === name).value = value }
  set(loader, "ckpt_name", words.checkpoint); set(picture, "image", words.picture); set(prompt, "text", "face")
  const sources = { MODEL: [0, loader], VAE: [2, loader], IMAGE: [0, picture], MASK: [1, picture],
                    CONDITIONING: [0, prompt] }
  if (blueprint.inputs.some((i) => i.type === "CLIP_VISION")) {
    sources.CLIP_VISION = [0, add("SmallClipVision")]
  }
  blueprint.inputs.forEach((i, slot) => {
    if (sources[i.type]) sources[i.type][1].connect(sources[i.type][0], blueprint, slot)
  })
  const short = (w) => w.name.split(": ").at(-1) // older editors put the inner node's id before it
  const names = blueprint.widgets.map(short)
  for (const w of blueprint.widgets) if (short(w) in few) w.value = few[short(w)]
  const save = add("SaveImage"); blueprint.connect(0, save, 0)
  return [names, (await app.graphToPrompt()).output, blueprint.inputs.map((i) => i.name)]
}"""
FEW = {"steps": 2, "rounds": 1, "samples": 1, "width": 128, "height": 128, "right": 64, "factor": 2, "seed": 7}


@pytest.fixture(scope="module")
def server():
    """With a node that gives a small image encoder."""
    with running_server(ROOT / "tests" / "small_nodes") as host:
        yield host


def exposed(file: Path) -> list[str]:
    return [i["name"] for i in json.loads(file.read_text(encoding="utf-8"))["nodes"][0]["inputs"]]


def test_the_host_lists_them(server):
    listed = server.get("/global_subgraphs")
    ours = {key: entry for key, entry in listed.items() if entry["source"] == "custom_node"}
    assert sorted(e["name"] for e in ours.values()) == [f.stem for f in BLUEPRINTS]
    for key, entry in ours.items():
        file = ROOT / "subgraphs" / f"{entry['name']}.json"
        assert server.get(f"/global_subgraphs/{key}")["data"] == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", BLUEPRINTS, ids=lambda file: file.stem)
def test_it_expands_to_a_graph_that_runs(page, server, file):
    data = json.loads(file.read_text(encoding="utf-8"))
    page.evaluate("(workflow) => app.loadGraphData(workflow)", data)
    page.wait_for_function("app.graph._nodes.length === 1")
    words = {"checkpoint": CHECKPOINT, "picture": "ncs_half.png"}
    widgets, graph, inputs = page.evaluate(CONNECT, [words, FEW])
    assert inputs == exposed(file)
    inner = {entry["class_type"]: entry["inputs"] for entry in graph.values()}
    kept = data["definitions"]["subgraphs"][0]["nodes"]
    assert {n["type"] for n in kept} <= inner.keys()
    values = [i for n in kept for i in [inner[n["type"]]]]
    assert set(widgets) == {i["name"] for i in data["nodes"][0]["inputs"] if "widget" in i}
    for name in FEW.keys() & set(widgets):
        assert any(v.get(name) == FEW[name] for v in values), name
    assert server.run(graph).files
