"""What a user does in the editor: find nodes, see only widgets that act, watch, cancel and queue runs."""

import json

import pytest
from browser import ROOT, TITLES, finished, load_workflow, needs_browser, open_editor

pytestmark = needs_browser
LOOKED_FOR = {
    "super resolution": "Super-Resolution Constraint", "upscale": "Super-Resolution Constraint",
    "inpaint": "Inpaint Constraint", "outpaint": "Inpaint Constraint", "colorize": "Deblur and Colorize Constraint",
    "deblur": "Deblur and Colorize Constraint", "layers": "Split into Layers", "ksampler": "Newton KSampler",
    "pixel art": "Pixel Art Constraint", "style": "Style Constraint", "composite": "Composite Inside Mask",
}  # fmt: skip
BY_ALIAS = ("outpaint", "upscale")  # not in the name: found by hosts that know search aliases


@pytest.fixture(scope="module")
def aliases(server):
    return "search_aliases" in server.get("/object_info/LatentMaskConstraint")["LatentMaskConstraint"]


def found(page, words, name):
    """Whether the search dialog offers the node; a busy editor loses clicks and keys, so it is asked again."""
    option = page.get_by_role("option").filter(has_text=name).first
    page.evaluate("app.graph.clear()")
    for _ in range(10):
        page.keyboard.press("Escape")
        page.mouse.dblclick(700, 450)
        page.wait_for_timeout(2000)
        if page.evaluate("document.activeElement.tagName") != "INPUT":
            continue
        page.keyboard.type(words)
        try:
            option.wait_for(timeout=15_000)
        except Exception as e:  # Playwright's own, which a run without browsers does not import
            assert "Timeout" in str(e)
            continue
        page.keyboard.press("Escape")
        return True
    return False


@pytest.mark.parametrize("words", LOOKED_FOR)
def test_nodes_are_found_by_what_people_look_for(page, aliases, words):
    if words in BY_ALIAS and not aliases:
        pytest.skip("this host knows no search aliases")
    assert found(page, words, LOOKED_FOR[words])


def add(page, kind):
    """A new node; never one with the id of another, whose values newer editors remember."""
    page.evaluate("(kind) => { window.tried = LiteGraph.createNode(kind); app.graph.add(window.tried) }", kind)


def choose(page, name, value):
    """As a click on the widget does."""
    page.evaluate(
        "([name, value]) => { const w = tried.widgets.find((w) => w.name === name); w.value = value;"
        " w.callback(value) }",
        [name, value],
    )


def shown(page):
    return page.evaluate("tried.widgets.filter((w) => tried.isWidgetVisible(w)).map((w) => w.name)")


EVERY = ["preset", "max_calls", "residual_target", "conditional_only", "restarts"]
CUSTOM = ["iterations", "rate_first", "rate_last", "delta", "eta", "carry"]
VAE = ["noise", "tile"]
LIVE = [
    ("NewtonSettings", {}, EVERY),
    ("NewtonSettings", {"preset": "paper"}, EVERY),
    ("NewtonSettings", {"restarts": 1}, [*EVERY, "restart_from"]),
    ("NewtonSettings", {"preset": "custom"}, [EVERY[0], *CUSTOM, *EVERY[1:4], "hold", "resample", "order", EVERY[4]]),
    ("NewtonSettings", {"preset": "custom", "hold": False}, [EVERY[0], *CUSTOM, *EVERY[1:4], "hold", EVERY[4]]),
    ("PixelOperatorConstraint", {}, ["operator", "radius", *VAE]),
    ("PixelOperatorConstraint", {"operator": "motion blur"}, ["operator", "length", "angle", *VAE]),
    ("PixelOperatorConstraint", {"operator": "grey"}, ["operator", *VAE]),
    ("PixelOperatorConstraint", {"operator": "jpeg"}, ["operator", "quality", *VAE]),
    ("PixelTargetConstraint", {"target": "posterise"}, ["target", "colours", "tile"]),
    ("PixelTargetConstraint", {"target": "function"}, ["target", "tile"]),
    ("NewtonCombineConstraints", {}, ["weight_a", "start_a", "end_a"]),
]


@pytest.mark.parametrize(("kind", "values", "live"), LIVE, ids=str)
def test_only_widgets_that_act_are_shown(page, kind, values, live):
    add(page, kind)
    for name, value in values.items():
        choose(page, name, value)
    # What hosts fold away as advanced is no matter of ours.
    assert [name for name in shown(page) if name != "direction"] == live
    assert page.evaluate("tried.size[1] >= tried.computeSize()[1]")


def test_a_widget_comes_back_with_its_value(page):
    add(page, "NewtonSettings")
    choose(page, "preset", "custom")
    choose(page, "iterations", 7)
    choose(page, "preset", "fast")
    assert "iterations" not in shown(page)
    choose(page, "preset", "custom")
    assert "iterations" in shown(page)
    assert page.evaluate("tried.widgets.find((w) => w.name === 'iterations').value") == 7


def test_a_connected_constraint_shows_its_widgets(page):
    add(page, "NewtonCombineConstraints")
    connect = "() => { const c = LiteGraph.createNode('StyleConstraint'); app.graph.add(c); c.connect(0, tried, %d) }"
    slot = page.evaluate("tried.inputs.findIndex((i) => i.name === 'constraint_b')")
    page.evaluate(connect % slot)
    assert {"weight_b", "start_b", "end_b"} <= set(shown(page))
    page.evaluate("(slot) => tried.disconnectInput(slot)", slot)
    assert not {"weight_b", "start_b", "end_b"} & set(shown(page))


def test_old_graphs_load_unchanged(page):
    """Sizes, and the values of hidden widgets, are those of the file."""
    file = TITLES["superres_demo"]
    load_workflow(page, file)
    saved = {n["id"]: n for n in json.loads(file.read_text(encoding="utf-8"))["nodes"]}
    again = {n["id"]: n for n in page.evaluate("app.graph.serialize()")["nodes"]}
    assert saved.keys() == again.keys()
    for number, n in saved.items():
        assert again[number].get("widgets_values", []) == n.get("widgets_values", []), n["type"]
        size = again[number]["size"]
        assert [round(size[0]), round(size[1])] == n["size"], n["type"]


@pytest.mark.parametrize("size", [None, {"0": 300, "1": 400}], ids=str)
def test_nodes_of_files_that_scripts_have_written_load(page, size):
    """Without a size, or with one that is no list, as stock nodes do."""
    node = {"id": 1, "type": "NewtonSettings", "pos": [0, 0], "widgets_values": ["paper"]} | (
        {"size": size} if size else {}
    )
    other = {"id": 2, "type": "VAEDecode", "pos": [600, 0], "size": [200, 50]}
    page.evaluate(
        "(nodes) => window.app.loadGraphData({version: 0.4, last_node_id: 2, last_link_id: 0, links: [], nodes})",
        [node, other],
    )
    page.wait_for_function("app.graph._nodes.length === 2 && app.graph.getNodeById(1)?.widgets")
    assert page.evaluate("app.graph.getNodeById(1).widgets[0].value") == "paper"
    if size:
        assert page.evaluate("[...app.graph.getNodeById(1).size]") == [300, 400]


def text_of(page, number):
    """What a node says below its widgets."""
    return page.evaluate(
        "(id) => app.graph.getNodeById(id).widgets.filter((w) => w.name.includes('text-preview')).map((w) => w.value)"
        ".join('')", number,
    )  # fmt: skip


def start(page, steps):
    """Queue the loaded inpainting graph, short."""
    page.evaluate(
        "(steps) => { const n = app.graph.getNodeById(6); n.widgets.find((w) => w.name === 'steps').value = steps;"
        " app.queuePrompt(0) }",
        steps,
    )


def done(server, known):
    """Waits for one more finished run; its id and status."""
    key = finished(server, known)
    return key, server.get(f"/history/{key}")[key]["status"]


def test_a_run_says_calls_and_hints(page, server):
    load_workflow(page, TITLES["inpaint_demo"])
    page.evaluate("app.graph.getNodeById(6).widgets.find((w) => w.name === 'cfg').value = 8")
    known = set(server.get("/history"))
    start(page, 2)
    page.wait_for_function(
        "app.graph.getNodeById(6).widgets.some((w) => String(w.value).includes('Try a cfg of 4 or less'))"
    )
    assert "model calls" in text_of(page, 6)
    done(server, known)


def test_cancel_then_queue_twice_then_change_a_widget(page, server):
    load_workflow(page, TITLES["inpaint_demo"])
    known = set(server.get("/history"))
    start(page, 9000)
    page.wait_for_function("app.graph.getNodeById(6).widgets.some((w) => / of \\d{4,} model calls/.test(w.value))")
    page.evaluate("api = app.api ?? window.comfyAPI.api.api; api.interrupt()")
    key, status = done(server, known)
    assert status["status_str"] == "error" and "execution_interrupted" in json.dumps(status["messages"])
    known.add(key)
    start(page, 2)
    key, status = done(server, known)
    assert status["status_str"] == "success"
    known.add(key)
    start(page, 2)  # nothing has changed: all of it is cached
    key, status = done(server, known)
    cached = next(m[1]["nodes"] for m in status["messages"] if m[0] == "execution_cached")
    assert status["status_str"] == "success" and "6" in cached
    known.add(key)
    start(page, 3)
    key, status = done(server, known)
    cached = next(m[1]["nodes"] for m in status["messages"] if m[0] == "execution_cached")
    assert status["status_str"] == "success" and "6" not in cached and "5" in cached


def set_language(page, server, language):
    page.request.post(f"{server.url}/api/settings/Comfy.Locale", data=json.dumps(language))


@pytest.mark.parametrize("language", ["zh", "fr", "de"])
def test_names_are_shown_translated_and_fit(page, server, aliases, language):
    """In the templates' width."""
    if (language == "de") == aliases:
        pytest.skip("newer hosts have no German; those of 2025 drop a pack's texts in languages of their own")
    names = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    templates = [json.loads(file.read_text(encoding="utf-8"))["nodes"] for file in TITLES.values()]
    untitled = {n["type"]: n["size"][0] for nodes in templates for n in nodes if "title" not in n}
    set_language(page, server, language)
    other = page.context.browser.new_page()
    other.set_default_timeout(600_000)
    try:
        open_editor(other, server.url)
        for kind, texts in names.items():
            title, width = other.evaluate(
                "(kind) => { const n = LiteGraph.createNode(kind); app.canvas.ctx.font = n.titleFontStyle;"
                " return [n.title, app.canvas.ctx.measureText(n.title).width] }",
                kind,
            )
            assert title == texts["display_name"]
            assert width + 50 < untitled.get(kind, 1e9), title  # 50: the bar's own signs
    finally:
        set_language(page, server, "en")
        other.close()
