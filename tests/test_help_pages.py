"""The help pages: picture, sections, inputs, graph, templates and errors of each."""

import ast
import json
import re

import pytest
from host import ROOT

DOCS = ROOT / "web" / "docs"
PAGES = {f.stem: f.read_text(encoding="utf-8") for f in sorted(DOCS.glob("*.md"))}
each_page = pytest.mark.parametrize("kind", PAGES)
LARGEST, ALL = 25_000, 500_000  # bytes
GRAPH, WRONG = "Minimal graph", "What can go wrong"


def section(kind, title):
    return PAGES[kind].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def tools(monkeypatch):
    for folder in ("bench", "tools"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@each_page
def test_sections(kind):
    titles = re.findall(r"^## (.+)$", PAGES[kind], re.M)
    assert titles[0] == GRAPH and titles[-1] == WRONG and {"Inputs", "Outputs"} < set(titles)
    assert len(re.findall(r"^- [*`]", section(kind, WRONG), re.M)) > 1


@each_page
def test_the_picture_is_there_and_small(kind):
    from PIL import Image

    ((told, name),) = re.findall(r"^!\[(.+)\]\((.+)\)$", PAGES[kind].partition("\n## ")[0], re.M)
    assert name == f"pictures/{kind}.jpg" and len(told) > 20
    with Image.open(DOCS / name) as picture:
        assert picture.format == "JPEG" and picture.width >= 300
        assert picture.convert("L").getextrema()[0] + 50 < picture.convert("L").getextrema()[1]
    assert (DOCS / name).stat().st_size <= LARGEST


def test_one_program_makes_all_pictures(tools):
    import help_pictures

    files = list((DOCS / "pictures").iterdir())
    assert {f.stem for f in files} == help_pictures.PICTURES.keys() == PAGES.keys()
    assert sum(f.stat().st_size for f in files) <= ALL


def test_every_node_of_the_pack_has_a_help_page(host):
    module = f"custom_nodes.{ROOT.name}"
    ours = {k for k, c in host.nodes.NODE_CLASS_MAPPINGS.items() if getattr(c, "RELATIVE_PYTHON_MODULE", "") == module}
    assert ours == PAGES.keys()
    for kind in ours:
        groups = host.nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
        names = [*groups.get("required", {}), *groups.get("optional", {})]
        missing = [name for name in names if f"`{name}`" not in section(kind, "Inputs")]
        assert not missing, f"web/docs/{kind}.md says nothing about {missing}"


def graph_places(kind):
    """(node's name, its inputs) of every node in a page's graph, as they are written: A → B (`x`, `y`)."""
    for line in re.findall(r"^- (.+→.+)$", section(kind, GRAPH), re.M):
        for place in line.split(" → "):
            names, _, inputs = place.partition(" (")
            for name in names.split(", "):
                yield name, re.findall("`(.+?)`", inputs)


@each_page
def test_the_graph_has_nodes_and_inputs_of_the_host(host, kind):
    shown = host.nodes.NODE_DISPLAY_NAME_MAPPINGS
    classes = host.nodes.NODE_CLASS_MAPPINGS
    places = list(graph_places(kind))
    for name, inputs in places:
        # The host's names go on in brackets: CLIP Text Encode (Prompt).
        called = [k for k in classes if name == k or re.fullmatch(rf"{re.escape(name)}( \(.+\))?", shown.get(k, k))]
        known = [n for k in called for group in classes[k].INPUT_TYPES().values() for n in group]
        assert called and set(inputs) <= set(known), (name, inputs)
    assert any(name in shown[kind] for name, _ in places)


@each_page
def test_the_templates_named_show_the_node(kind):
    for line in re.findall(r"^Templates?: (.+)$", section(kind, GRAPH), re.M):
        for title in re.findall(r"\*(.+?)\*", line):
            workflow = json.loads((ROOT / "workflows" / f"{title}.json").read_text(encoding="utf-8"))
            assert kind in {n["type"] for n in workflow["nodes"]}, title


def raised():
    """What the pack's errors say is wrong, without the remedy, as patterns: values may be anything."""
    from newton_pack.nodes.checks import REMEDY

    for file in [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "sampler").rglob("*.py")]:
        for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(n, ast.Constant | ast.JoinedStr):
                parts = n.values if isinstance(n, ast.JoinedStr) else [n]
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "\0" for p in parts)
                problem, *remedy = REMEDY.split(text, maxsplit=1)
                if remedy:
                    yield re.escape(f"{problem}.").replace("\0", ".+")


@each_page
def test_errors_read_as_the_nodes_say_them(kind):
    errors, patterns = re.findall(r"^- `(.+?)`", section(kind, WRONG), re.M), list(raised())
    unknown = [error for error in errors if not any(re.fullmatch(p, error) for p in patterns)]
    assert not unknown


def test_settings_say_what_each_preset_does():
    from newton_pack.sampler import PRESETS

    for name, preset in PRESETS.items():
        assert preset.about and f"- **{name}**: {preset.about}\n" in PAGES["NewtonSettings"]
