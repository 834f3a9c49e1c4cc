"""Every workflow in the real editor; a run from there; what the template browser and the help pages fetch."""

import json
from urllib.parse import quote

import pytest
from browser import API, ROOT, TITLES, load_workflow, needs_browser
from host import skip_without_its_pack

pytestmark = needs_browser


@pytest.mark.parametrize("name", TITLES)
def test_workflow_loads_in_the_editor(page, name):
    skip_without_its_pack(name)
    load_workflow(page, TITLES[name])
    assert page.evaluate("window.app.graph._nodes.filter((n) => !LiteGraph.registered_node_types[n.type])") == []
    # Newer editors mark a loader whose model is missing; SD 1.5 is only offered as a download.
    wrong = "window.app.graph._nodes.filter((n) => n.has_errors && !n.properties.models).map((n) => n.type)"
    assert page.evaluate(wrong) == []
    # A node that the editor had to enlarge would cover what lies below it.
    small = "window.app.graph._nodes.filter((n) => n.computeSize()[1] > n.size[1]).map((n) => n.type)"
    assert page.evaluate(small) == []
    graph = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    expected = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    for entry in (*graph.values(), *expected.values()):
        entry.pop("_meta", None)  # titles
        if entry["class_type"] == "NewtonExamplePicture":
            entry["class_type"] = "LoadImage"  # which the API format keeps
        if entry["class_type"] == "PreviewAny":
            entry["inputs"].pop("preview", None)  # the editor's own text box
    assert graph == expected


def test_demo_runs_from_the_editor(page):
    load_workflow(page, TITLES["inpaint_demo"])
    page.evaluate("() => window.app.queuePrompt(0)")
    (image,) = page.wait_for_function("window.app.nodeOutputs['13']?.images").json_value()
    assert image["filename"].startswith("inpaint_demo")
    width = "async (url) => (await createImageBitmap(await (await fetch(url)).blob())).width"
    assert page.evaluate(width, f"/view?filename={image['filename']}&type={image['type']}") == 128
    assert page.evaluate("Object.keys(window.app.lastNodeErrors ?? {})") == []


def test_template_browser_and_help_pages_are_served(server, page):
    pack = "newton-constrained-sampling"
    names = server.get("/workflow_templates")[pack]
    assert sorted(names) == sorted(file.stem for file in TITLES.values())
    urls = [f"/api/workflow_templates/{pack}/{quote(name)}.{kind}" for name in names for kind in ("json", "jpg")]
    urls += [f"/extensions/{pack}/docs/{file.name}" for file in (ROOT / "web" / "docs").glob("*.md")]
    for url in urls:
        assert page.request.get(server.url + url).status == 200, url


def press_node_info(page, kind):
    """As a user does with a new node, clear of the side panel; a busy editor loses clicks, so it is clicked again."""
    page.evaluate(
        """(kind) => {
            app.graph.clear(); app.canvas.ds.reset()
            const n = LiteGraph.createNode(kind); n.pos = [800, 300]; app.graph.add(n)
        }""",
        kind,
    )
    button = page.get_by_test_id("info-button")
    for _ in range(10):
        page.wait_for_timeout(2000)
        page.mouse.click(*page.evaluate("app.canvasPosToClientPos([860, 285])"))
        try:
            return button.click(timeout=15_000)
        except Exception as e:  # Playwright's own, which a run without browsers does not import
            assert "Timeout" in str(e)
    raise AssertionError("the editor shows no Node Info")


@pytest.mark.parametrize("kind", ["LatentMaskConstraint", "NewtonSettings"])
def test_the_help_panel_shows_the_picture(page, kind):
    press_node_info(page, kind)
    picture = page.locator(f".node-help-content img[src$='/docs/pictures/{kind}.jpg']")
    picture.wait_for()
    page.wait_for_function("(img) => img.complete", arg=picture.element_handle())
    assert picture.evaluate("(img) => img.naturalWidth") > 0


def test_a_picture_that_arrives_late_does_not_replace_the_one_named(page):
    """On a busy server the picture of Example Picture's default value can arrive last."""
    held = []
    page.route("**/newton_constrained_sampling/pictures/*", lambda r: r.continue_() if held else held.append(r))
    page.evaluate(
        """() => {
            app.graph.clear()
            const node = LiteGraph.createNode("NewtonExamplePicture"); app.graph.add(node)
            const widget = node.widgets.find((w) => w.name === "image")
            widget.value = widget.options.values.at(-1); widget.callback(widget.value)
        }"""
    )
    shown = "app.graph._nodes[0].imgs?.[0].src"
    named = page.wait_for_function(shown).json_value()
    with page.expect_response(held[0].request.url):
        held[0].continue_()
    page.wait_for_timeout(1000)
    page.unroute_all()
    assert named != held[0].request.url and page.evaluate(shown) == named


def test_example_picture_shows_its_picture_in_nodes_2(page):
    """Where the editor draws nodes as HTML, if it can."""
    setting = "Comfy.VueNodes.Enabled"
    page.evaluate(f"app.ui.settings.setSettingValue('{setting}', true)")
    try:
        page.wait_for_timeout(2000)
        if not page.evaluate("LiteGraph.vueNodesMode"):
            pytest.skip("this editor draws nodes on a canvas alone")
        page.evaluate(
            "() => { app.graph.clear(); window.tried = LiteGraph.createNode('NewtonExamplePicture');"
            " app.graph.add(tried) }"
        )
        shown = page.locator("[data-node-id] img[src*='/newton_constrained_sampling/pictures/']")
        shown.wait_for()
        assert page.evaluate("tried.serialize().widgets_values.length") == 1
        page.evaluate("() => { const w = tried.widgets[0]; w.value = 'ncs_box.png'; w.callback(w.value) }")
        page.locator("[data-node-id] img[src*='ncs_box.png']").wait_for()
    finally:
        page.evaluate(f"app.ui.settings.setSettingValue('{setting}', false)")
