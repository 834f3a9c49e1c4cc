"""The shipped workflows: the editor's form, its twin in API format, thumbnail, and what they promise."""

import json
import shutil

import pytest
from host import ROOT, node, skip_without_its_pack

API = ROOT / "workflows" / "api"
NAMES = sorted(p.stem for p in API.glob("*.json"))
TITLES = {name: (API / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0][3:] for name in NAMES}
EDITOR_ONLY = {"MarkdownNote"}
DIRECTORIES = {
    "CheckpointLoaderSimple": "checkpoints", "ControlNetLoader": "controlnet", "CLIPVisionLoader": "clip_vision",
    "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders", "DualCLIPLoader": "text_encoders",
    "VAELoader": "vae",
}  # fmt: skip
SIDES = {
    "given": ("LoadImage", "NewtonExamplePicture", "LoadVideo"), "made": ("SaveImage", "PreviewImage", "SaveWEBM"),
}  # fmt: skip
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def read_shipped(name):
    return read(ROOT / "workflows", TITLES[name])


def ui_nodes(name):
    return [n for n in read_shipped(name)["nodes"] if n["type"] not in EDITOR_ONLY]


def inputs_of(host, kind):
    """(name, type, options) of a node's visible inputs in the order of its definition."""
    groups = host.nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    for name, (kind, *options) in (groups.get("required", {}) | groups.get("optional", {})).items():
        yield name, "COMBO" if isinstance(kind, list) else kind, options[0] if options else {}


def widget_names(host, n):
    """What each of a node's widget values is, in the editor's order."""
    for name, kind, options in inputs_of(host, n["type"]):
        if kind in WIDGETS:
            yield name
            if options.get("control_after_generate"):
                yield "control_after_generate"
            if options.get("image_upload") or options.get("video_upload"):
                yield "upload"


@pytest.mark.parametrize("name", NAMES)
def test_has_a_thumbnail(name):
    from PIL import Image

    with Image.open(ROOT / "workflows" / f"{TITLES[name]}.jpg") as picture:
        assert picture.format == "JPEG" and picture.width == 512


def test_every_api_graph_has_an_editor_form():
    assert sorted(p.stem for p in (ROOT / "workflows").glob("*.json")) == sorted(TITLES.values())


def box(n):
    """Left, top with the title bar, right, bottom."""
    (x, y), (width, height) = n["pos"], n["size"]
    return x, y - 30, x + width, y + (0 if n["flags"].get("collapsed") else height)


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_is_in_view_when_it_opens(name):
    """In a window of 1400 x 850: note, inputs and result."""
    workflow = read_shipped(name)
    scale, (x, y) = workflow["extra"]["ds"]["scale"], workflow["extra"]["ds"]["offset"]
    for left, top, right, bottom in map(box, workflow["nodes"]):
        assert scale * (left + x) >= 0 and scale * (right + x) <= 1400
        assert scale * (top + y) >= 0 and scale * (bottom + y) <= 850
    assert scale > 8 / 14  # the editor draws no text, and no note, where its 14 pixels come below 8


def test_given_and_result_stand_side_by_side():
    """Equally high, at the same height, the given one on the left."""
    for name in NAMES:
        nodes = {kind: [n for n in ui_nodes(name) if n["type"] in kinds] for kind, kinds in SIDES.items()}
        assert len({(n["pos"][1], n["size"][1]) for n in (*nodes["given"], *nodes["made"])}) == 1
        assert max(n["pos"][0] for n in nodes["given"]) < min(n["pos"][0] for n in nodes["made"])


@pytest.mark.parametrize("name", NAMES)
def test_slots_are_those_of_the_host(host, name):
    skip_without_its_pack(name)
    for n in ui_nodes(name):
        cls = host.nodes.NODE_CLASS_MAPPINGS[n["type"]]
        shown = {i["name"]: i["type"] for i in n["inputs"] if i["type"] != "IMAGEUPLOAD"}
        assert shown == {name: kind for name, kind, _ in inputs_of(host, n["type"])}
        # Newer hosts have given some nodes more outputs, behind the others.
        assert [o["type"] for o in n["outputs"]] == list(cls.RETURN_TYPES)[: len(n["outputs"])]


@pytest.mark.parametrize("name", NAMES)
def test_links_hold_on_both_ends(name):
    workflow = read_shipped(name)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    ids = [link[0] for link in workflow["links"]]
    for link, source, output, target, slot, kind in workflow["links"]:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][slot]
        assert link in out["links"] and into["link"] == link
        assert out["type"] == kind and into["type"] in (kind, "*")
    used = [link for n in nodes.values() for o in n.get("outputs", []) for link in o["links"]]
    ends = [i["link"] for n in nodes.values() for i in n["inputs"] if i["link"] is not None]
    assert sorted(used) == sorted(ends) == sorted(ids)
    assert len(set(ids)) == len(ids) and workflow["last_link_id"] == max(ids)
    assert workflow["last_node_id"] == max(nodes)


@pytest.mark.parametrize("name", NAMES)
def test_editor_form_and_api_format_say_the_same(host, name):
    """But for the shipped pictures, which users of the editor need not copy to where Load Image looks."""
    skip_without_its_pack(name)
    sources = {link[0]: [str(link[1]), link[2]] for link in read_shipped(name)["links"]}
    graph = {}
    for n in ui_nodes(name):
        names = list(widget_names(host, n))
        assert len(names) == len(n["widgets_values"]), n["type"]
        values = dict(zip(names, n["widgets_values"], strict=True))
        values = {k: v for k, v in values.items() if k not in ("control_after_generate", "upload")}
        linked = {i["name"]: sources[i["link"]] for i in n["inputs"] if i["link"] is not None}
        kind = "LoadImage" if n["type"] == "NewtonExamplePicture" else n["type"]
        entry = {"class_type": kind, "inputs": values | linked}
        graph[str(n["id"])] = entry | ({"_meta": {"title": n["title"]}} if "title" in n else {})
    assert graph == read(API, name)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps(name):
    boxes = [box(n) for n in read_shipped(name)["nodes"]]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for left2, top2, right2, bottom2 in boxes[i + 1 :]:
            assert right < left2 or right2 < left or bottom < top2 or bottom2 < top


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_demo")])
def test_nothing_lacks_but_the_models(host, name):
    from PIL import Image

    skip_without_its_pack(name)
    Image.new("RGB", (8, 8)).save(host.base / "input" / "example.png")
    for file in ("clip.mp4", "clip_mask.mp4"):
        (host.base / "input" / file).touch()
    graph = read(API, name)
    _, _, _, errors = host.loop.run_until_complete(host.execution.validate_prompt("id", graph, None))
    found = {(number, e["type"]) for number, what in errors.items() for e in what["errors"]}
    loaders = {str(n["id"]): n["properties"]["models"] for n in ui_nodes(name) if "Loader" in n["type"]}
    assert found == {(number, "value_not_in_list") for number in loaders}
    for number, models in loaders.items():
        named = [v for v in graph[number]["inputs"].values() if v.endswith(".safetensors")]
        assert named == [model["name"] for model in models]
        for model in models:
            assert "/resolve/main/" in model["url"] and model["url"].endswith(f"/{model['name']}")
            assert model["directory"] == DIRECTORIES[graph[number]["class_type"]]


def test_sd15_scales_picture_and_mask_together(host):
    """A hard mask stays hard away from its border, so that known pixels stay known."""
    from PIL import Image

    picture = Image.new("RGBA", (768, 600), (200, 100, 50, 255))
    picture.paste((0, 0, 0, 0), (384, 0, 768, 600))
    picture.save(host.base / "input" / "scaled.png")
    graph = read(API, "inpaint_sd15")
    graph = {k: graph[k] for k in ("2", "15", "16", "17")}
    graph["2"]["inputs"]["image"] = "scaled.png"
    graph |= {"image": node("TestCapture", value=["17", 0]), "mask": node("TestCapture", value=["17", 1])}
    image, mask = sorted(host.run(graph), key=lambda t: -t.ndim)
    assert image.shape == (1, 512, 512, 3) and mask.shape == (1, 512, 512)
    assert (mask[..., :250] == 0).all() and (mask[..., 262:] == 1).all()


def result_of(host, graph, given):
    """The given and the saved picture of a demo graph at two steps."""
    import numpy as np
    from PIL import Image

    shutil.copy(ROOT / "demo" / "images" / given, host.base / "input")
    graph["6"]["inputs"]["steps"] = 2
    prefix = graph["13"]["inputs"]["filename_prefix"] = f"two_steps_{len(list((host.base / 'output').iterdir()))}"
    host.run(graph)
    (file,) = (host.base / "output").glob(f"{prefix}_*.png")
    return (np.asarray(Image.open(p)).astype(float) for p in (ROOT / "demo" / "images" / given, file))


def test_the_enlarged_picture_shrinks_to_the_given_one(host):
    given, made = result_of(host, read(API, "superres_demo"), "ncs_small.png")
    assert made.shape == (128, 128, 3)
    off = abs(made.reshape(32, 4, 32, 4, 3).mean((1, 3)) - given)
    # Save Image cuts fractions of a level off: half of one on average, were any left.
    assert off.mean() < 0.15 and off.max() < 0.6


@pytest.mark.parametrize(
    "name",
    [
        "inpaint_demo",
        "inpaint_filled_demo",
        "inpaint_model_patch_demo",
        "inpaint_custom_sampler_demo",
        "outpaint_demo",
    ],
)
def test_known_pixels_are_untouched(host, name):
    graph = read(API, name)
    given, made = result_of(host, graph, "ncs_half.png")
    known = given[..., 3] == 255
    if name == "outpaint_demo":
        crop = graph["15"]["inputs"]
        known[:, crop["width"] :] = known[crop["height"] :] = False
    assert made.shape == (128, 128, 3) and known.sum() >= 64 * 96
    assert (made[known] == given[..., :3][known]).all()
    assert (made[~known] != given[..., :3][~known]).any()


def test_nine_calls_are_nine(host):
    """And they fill the hidden half with something else than the fill."""
    graph = read(API, "inpaint_filled_demo")
    shutil.copy(ROOT / "demo" / "images" / "ncs_half.png", host.base / "input")
    places = {"report": ["6", 1], "filled": ["4", 3], "made": ["12", 0]}
    graph |= {name: node("TestCapture", value=place) for name, place in places.items()}
    captured = host.run(graph)
    (report,) = (value for value in captured if hasattr(value, "calls"))
    pictures = [value for value in captured if value is not report]
    assert report.calls == 9
    assert (pictures[0] - pictures[1])[:, :, 64:].abs().mean() > 0.02


@pytest.fixture
def tools(monkeypatch):
    for folder in ("bench", "tools"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


def test_the_prompt_of_a_demo_is_that_of_its_picture(tools):
    import demo_pictures

    avatars = demo_pictures.heldout(8)
    for name in [name for name in NAMES if name.endswith("_demo")]:
        graph = read(API, name).values()
        (picture,) = (n["inputs"]["image"] for n in graph if n["class_type"] == "LoadImage")
        numbers, _ = demo_pictures.INPUTS[picture.removeprefix("ncs_").removesuffix(".png")]
        words = {w for number in numbers for w in avatars[number].prompt.split()}
        if name == "layers_demo":  # another background for the avatar, and its own without a figure
            words |= {"empty", "sky"}
        said = {w for n in graph if n["class_type"] == "WordConditioning" for w in n["inputs"]["text"].split()}
        assert said <= words and (said or name == "jacobian_demo")


@pytest.mark.parametrize("method", ["ours", "stock", "free"])
def test_the_demo_runs_on_the_shipped_graph(host, tools, method):
    """What `dev.py demo` compares are graphs that the host accepts."""
    import demo_pictures
    import demo_tasks
    from PIL import Image

    (avatar,) = demo_pictures.heldout(1)
    graph = demo_tasks.shipped("inpaint_demo", avatar, Image.fromarray(avatar.truth), host)
    made = {"ours": graph, "stock": demo_tasks.stock(graph, 30), "free": demo_tasks.free_graph(avatar.prompt, 0)}
    graph = made[method]
    valid, error, _, errors = host.loop.run_until_complete(host.execution.validate_prompt("id", graph, None))
    assert valid and not errors, (error, errors)


@pytest.mark.parametrize("name, splits", [("layers_demo", 1), ("layers_three_demo", 2)])
def test_layers_give_the_picture_again(host, name, splits):
    """Short runs of the shipped graphs: each split's layers, put together by its mask, are what it was given."""
    for picture in ("ncs_layers.png", "ncs_three_layers.png"):
        shutil.copy(ROOT / "demo" / "images" / picture, host.base / "input")
    graph = read(API, name)
    nodes = [number for number, n in graph.items() if n["class_type"] == "LayerDecompose"]
    assert len(nodes) == splits
    for number in nodes:
        inputs = graph[number]["inputs"]
        inputs |= {"rounds": 1, "samples": 1, "steps": 1}
        for label, source in (("given", inputs["image"]), ("again", [number, 4])):
            graph[f"{label}{number}"] = node("TestCapture", value=source)
    seen = host.run(graph)
    # Captures run in no fixed order: every picture must have an equal.
    pictures = [(255 * t).round() for t in seen]
    for i, p in enumerate(pictures):
        assert any((p - q).abs().max() <= 1 for j, q in enumerate(pictures) if j != i)


@pytest.mark.parametrize("name", NAMES)
def test_the_note_is_the_text_beside_the_graph(name):
    notes = [n["widgets_values"] for n in read_shipped(name)["nodes"] if n["type"] == "MarkdownNote"]
    assert notes == [[(API / f"{name}.md").read_text(encoding="utf-8")]]
