"""A mask drawn in ComfyUI's own mask editor arrives as it was drawn, and only there does the picture change."""

import io

import numpy as np
from browser import ROOT, TITLES, load_workflow, needs_browser
from PIL import Image

pytestmark = needs_browser
PICTURE = "ncs_plain.png"
LEFT, RIGHT, MIDDLE = 30, 100, 70  # pixels: the ends and the height of a stroke
# Load Image in place of Example Picture, selected.
LOAD = """(name) => {
  const example = app.graph._nodes.find((n) => n.type === "NewtonExamplePicture")
  window.load = LiteGraph.createNode("LoadImage")
  app.graph.add(load)
  example.outputs.forEach((output, slot) => output.links?.slice().forEach((id) => {
    const link = app.graph.links[id] ?? app.graph.links.get(id)
    load.connect(slot, app.graph.getNodeById(link.target_id), link.target_slot)
  }))
  app.graph.remove(example)
  const widget = load.widgets.find((w) => w.name === "image")
  widget.value = name
  widget.callback(name)
  app.canvas.selectNode(load)
}"""
EDITED = "() => app.canvas && [...document.querySelectorAll('canvas')].filter((c) => c.width === 128).length >= 3"
AREA = """() => { const canvas = [...document.querySelectorAll('canvas')].filter((c) => c.width === 128).at(0)
  const { x, y, width } = canvas.getBoundingClientRect(); return [x, y, width / 128] }"""


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_a_drawn_mask_arrives_and_only_there_the_picture_changes(page, server):
    load_workflow(page, TITLES["inpaint_demo"])
    page.evaluate(LOAD, PICTURE)
    page.wait_for_function("load.imgs?.length && load.imgs[0].complete")
    page.evaluate("() => { app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor') }")
    page.wait_for_function(EDITED)
    page.wait_for_timeout(2000)  # it fits the picture into its window
    x, y, scale = page.evaluate(AREA)
    page.mouse.move(x + scale * LEFT, y + scale * MIDDLE)
    page.mouse.down()
    page.mouse.move(x + scale * RIGHT, y + scale * MIDDLE, steps=30)
    page.mouse.up()
    page.get_by_role("button", name="Save").last.click()
    page.wait_for_function("(name) => load.widgets.find((w) => w.name === 'image').value !== name", arg=PICTURE)

    graph = page.evaluate("async () => (await app.graphToPrompt()).output")
    (loader,) = (key for key, n in graph.items() if n["class_type"] == "LoadImage")
    graph["6"]["inputs"]["steps"] = 4
    graph["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": [loader, 1]}}
    for key, source in (("seen", "mask"), ("given", loader)):
        graph[key] = {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": key}}
    run = server.run(graph)
    mask, given, made = (pixels(run.file(key)) for key in ("seen", "given", "13"))
    drawn = mask[..., 0] > 0
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    radius = np.ptp(rows) / 2
    assert 4 < radius < 25 and abs(rows.mean() - MIDDLE) < 2
    assert (mask[MIDDLE, LEFT:RIGHT] == 255).all()  # whatever the brush's opacity; edges are smooth
    assert np.allclose([columns[0], columns[-1]], [LEFT - radius, RIGHT + radius], atol=2)
    assert (given == pixels((ROOT / "demo" / "images" / PICTURE).read_bytes())).all()
    changed = (made != given).any(-1)
    assert not changed[~drawn].any() and changed[drawn].mean() > 0.5
