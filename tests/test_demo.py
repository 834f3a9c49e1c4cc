"""The demo's pictures, sheets and page, without a ComfyUI, and its figures with one."""

import os
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / folder) for folder in ("tools", "demo", "bench")]

import avatars
import demo_pictures
from demo_tasks import TASKS, Case, completion
from masks import MASKS
from metrics import seam
from page import write_page
from sheet import draw_sheets


def test_every_held_out_picture_is_there_with_its_opacity():
    found = demo_pictures.heldout(avatars.SHIPPED)
    assert [a.number for a in found] == list(range(avatars.SHIPPED))
    assert all(a.truth.shape == (128, 128, 3) and a.alpha.shape == (128, 128) for a in found)
    # Where an avatar leaves the paper bare, a plain background shows.
    plain = [a for a, r in zip(found, avatars.read_heldout(), strict=True) if not r["pattern"]]
    assert plain and all(np.ptp(a.truth[a.alpha == 0], axis=0).max() == 0 for a in plain)


@pytest.mark.parametrize("name", demo_pictures.INPUTS)
def test_inputs_of_the_graphs_are_what_the_command_makes(name):
    numbers, make = demo_pictures.INPUTS[name]
    made = make(*(demo_pictures.heldout(8)[n].truth for n in numbers))
    with Image.open(ROOT / "demo" / "images" / f"ncs_{name}.png") as shipped:
        assert shipped.mode == made.mode and (np.asarray(shipped) == np.asarray(made)).all()
        if made.mode == "RGBA":
            hidden = np.asarray(shipped)[..., 3] == 0
            assert hidden.any() and (np.asarray(shipped)[hidden][:, :3] == 128).all()


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.sources, self.figures, self.loaded = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.figures += tag == "figure"
        self.sources += [found[k] for k in ("src", "data-src") if k in found]
        self.loaded += [tag] if tag in ("link", "iframe", "object") or (tag == "script" and "src" in found) else []


def test_the_page_needs_nothing_but_the_pictures_beside_it(tmp_path):
    avatar = demo_pictures.heldout(1)[0]
    pictures = {"given": 255 - avatar.truth, "ours": avatar.truth, "truth": avatar.truth}
    cases = {task: [Case(avatar, pictures, [], "20 calls")] for task in TASKS}
    write_page(tmp_path, cases, {"torch": "<2>"})
    draw_sheets(tmp_path, cases)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.figures == len(TASKS) and not page.loaded
    assert page.sources and all((tmp_path / source).is_file() for source in page.sources)
    assert "url(" not in text and "&lt;2&gt;" in text
    assert all((tmp_path / f"sheet_{task.name}.png").is_file() for task in TASKS) and (tmp_path / "sheet.jpg").is_file()


@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")
def test_seams_are_those_of_a_hard_composite_however_far_the_picture_fades_in(server):
    (avatar,) = demo_pictures.heldout(1)
    cases = {}
    for feather in (0, 64):

        def change(graph, feather=feather):
            graph["6"]["inputs"]["steps"] = 2
            graph["12"]["inputs"]["feather"] = feather

        cases[feather] = completion("half", server, avatar, change)
    hidden = MASKS["half"](128)
    for i, row in enumerate(cases[64].rows):
        hard, faded = (seam(case.pictures[row["method"]] / 255, hidden) for case in cases.values())
        assert row["seam"] == cases[0].rows[i]["seam"] == pytest.approx(hard) and faded < hard / 2
