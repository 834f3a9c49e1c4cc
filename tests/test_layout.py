"""How the templates look in a window of 1400 x 850, the demos after a run, when all previews have arrived."""

import pytest
from browser import TITLES, finished, load_workflow, needs_browser
from host import skip_without_its_pack

pytestmark = needs_browser
# Nodes whose pictures a run makes or changes the size of.
SHOWING = ["LoadImage", "NewtonExamplePicture", "SaveImage", "PreviewImage", "LatentMaskConstraint", "LayerDecompose"]
IN_SIGHT = ["MarkdownNote", "LoadImage", "NewtonExamplePicture", "LoadVideo", "SaveImage", "PreviewImage", "SaveWEBM"]
ARRIVED = """(kinds) => app.graph._nodes.filter((n) => kinds.includes(n.type) && !n.flags.collapsed)
  .every((n) => n.imgs?.length && n.imgs.every((i) => i.complete && i.naturalWidth))"""
# [title, left, top, right, bottom] with title bars, as drawn.
BOXES = """(kinds) => app.graph._nodes.filter((n) => !kinds || kinds.includes(n.type)).map((n) => {
  const [x, y, width, height] = n.getBounding(); return [n.title, x, y, x + width, y + height] })"""
FRAMES = """() => app.graph._groups.map((g) => {
  const [x, y, width, height] = g._bounding; return [g.title, x, y, x + width, y + height] })"""
# What lies at a point of the graph: the graph itself, one of its texts, or something of the editor's that covers it.
COVERED = """([x, y]) => {
  const { scale, offset } = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect()
  const at = document.elementFromPoint((x + offset[0]) * scale + canvas.x, (y + offset[1]) * scale + canvas.y)
  return !(at === app.canvas.canvas || at?.closest(".dom-widget"))
}"""


def inside(box, frame):
    return box[1] >= frame[1] and box[2] >= frame[2] and box[3] <= frame[3] and box[4] <= frame[4]


def overlap(a, b):
    return a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]


@pytest.mark.parametrize("name", TITLES)
def test_nothing_overlaps_and_the_result_is_in_sight(page, server, name):
    skip_without_its_pack(name)
    page.request.post(f"{server.url}/free", data={"free_memory": True})  # what is cached sends no previews
    load_workflow(page, TITLES[name])
    if name.endswith("_demo"):
        page.wait_for_function(ARRIVED, arg=["NewtonExamplePicture"])
        known = set(server.get("/history"))
        page.evaluate("() => { app.queuePrompt(0) }")
        finished(server, known)
        page.wait_for_function(ARRIVED, arg=SHOWING)
    page.wait_for_timeout(1000)  # drawn frames: it is drawing that makes nodes grow
    boxes, frames = page.evaluate(BOXES), page.evaluate(FRAMES)
    assert not [(a[0], b[0]) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if overlap(a, b)]
    notes = page.evaluate(BOXES, ["MarkdownNote"])
    assert [b[0] for b in boxes if b not in notes and not any(inside(b, f) for f in frames)] == []
    seen = page.evaluate(BOXES, IN_SIGHT)
    assert len(seen) >= 3
    for title, left, top, right, bottom in seen:
        for x in (left + 5, right - 5):
            for y in (top + 5, bottom - 5):
                assert not page.evaluate(COVERED, [x, y]), title
    # Where the note is longer than its node, the editor hides the rest.
    assert page.evaluate("[...document.querySelectorAll('.dom-widget .comfy-markdown-content')].every("
                         "(e) => e.clientHeight && e.scrollHeight <= e.clientHeight)")  # fmt: skip
