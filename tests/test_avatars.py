"""The avatar data set: the same for everybody, split so that nothing held out was seen; and laws of its training."""

import itertools
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
sys.path.append(str(Path(__file__).parent.parent / "nodes"))

import avatars
import flow
import train

ROWS = [avatars.picture(i) for i in range(6000)]
KEYS = ("style", "hair", "hair_colour", "skin", "clothes")


def combination(row):
    return tuple(row.get(k, "") for k in KEYS)


def test_a_picture_is_the_same_for_everybody():
    assert avatars.words_of(avatars.picture(0)) == ["toon", "sidecomed", "greenhair", "tanskin", "tealtshirt", "smile",
                                                    "lilac"]  # fmt: skip
    assert avatars.picture(7) == avatars.picture(7) != avatars.picture(8)


def test_no_held_out_combination_or_part_is_trained_on():
    splits = {name: [r for r in ROWS if avatars.split_of(r) == name] for name in avatars.COUNTS}
    trained = {combination(r) for r in splits["train"]}
    assert all(splits.values())
    assert not trained & {combination(r) for r in splits["heldout"] + splits["heldout_part"]}
    hair = {(r["style"], r["hair"]) for r in splits["train"]}
    assert not hair & {(r["style"], r["hair"]) for r in splits["heldout_part"]}
    assert len(avatars.heldout_parts()) == avatars.HELDOUT_PARTS


def test_words_fit_word_conditioning_and_tell_pictures_apart():
    words = [tuple(avatars.words_of(r)) for r in ROWS]
    assert all(3 < len(w) <= 8 and all(part.isalnum() and part == part.lower() for part in w) for w in words)
    assert len(set(words)) > 0.95 * len(words)


def test_the_index_fills_every_split_in_order(monkeypatch):
    monkeypatch.setattr(avatars, "COUNTS", {"train": 40, "heldout": 3, "heldout_part": 2})
    rows = list(avatars.index())
    assert {s: sum(r["split"] == s for r in rows) for s in avatars.COUNTS} == avatars.COUNTS
    assert all(a["number"] < b["number"] for a, b in itertools.pairwise(rows))


def test_backdrops_are_empty_the_same_for_everybody_and_of_both_kinds():
    made = [avatars.backdrop(n) for n in range(200)]
    assert made == [avatars.backdrop(n) for n in range(200)]
    assert all(row["split"] == "backdrop" and row["words"].split()[0] == "empty" for row in made)
    scenery = [row for row in made if row["pattern"] == "scenery"]
    assert len(scenery) == 100 and len({str(row["scenery"]) for row in scenery}) == 100
    assert {row["background"] + row["pattern"] for row in made} > {"sky", "navystripes", "mintdots"}


@pytest.mark.parametrize("style", avatars.STYLES)
def test_the_drawing_program_is_told_colours(style):
    row = next(r for r in ROWS if r["style"] == style)
    told = avatars.drawing(row)
    assert told["hairHex"] == avatars.HAIR[row["hair_colour"]] and len(told["paper"]) == 2
    assert ("clothesHex" in told) == ("clothes" in row)


def test_the_help_page_lists_the_words():
    page = (Path(__file__).parent.parent / "web" / "docs" / "WordConditioning.md").read_text(encoding="utf-8")
    said = set(re.findall(r"`([a-z]+)`", page[page.index("## Words") : page.index("## What can")]))
    rows = [r for r in ROWS if avatars.split_of(r) != "heldout_part"]
    clothes = {part.lower() for style in avatars.STYLES.values() for part in style.get("clothes", [])}
    rest = {w for n in range(avatars.BACKDROPS) for w in avatars.backdrop(n)["words"].split()}
    words = {w for r in rows for w in avatars.words_of(r)} | rest | clothes | {*avatars.CLOTHES, *avatars.PATTERNS}
    composed = {c + part for c in avatars.CLOTHES for part in clothes} | {
        b + p for b in avatars.BACKGROUND for p in avatars.PATTERNS if p
    }
    assert words - composed - {""} <= said <= words | composed


def test_renewed_latents_return_where_the_network_knows_them():
    """The exact velocity towards one latent is (x - z) / s, along a straight line."""
    z = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0)).half()

    class Exact(torch.nn.Module):
        def forward(self, x, t, context):
            assert x.shape[0] == len(t) == len(context) and (50 <= t.max() <= 500)
            return (x - z.to(x)) / (t / 1000).view(-1, 1, 1, 1).to(x)

    pick = torch.zeros(40, dtype=torch.long)
    made = flow.renew(Exact(), z, flow.Prompts(["toon redhair"]), pick)
    assert made.shape == (40, 16, 4, 4)
    torch.testing.assert_close(made, z.expand_as(made), atol=0.1, rtol=0)  # bfloat16


def test_a_texture_costs_more_than_the_same_error_without_one():
    image = torch.full((2, 3, 16, 16), 0.5)
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    flat, texture = (train.picture_loss(image + error / 255, image) for error in (1.0, checks))
    torch.testing.assert_close(flat[0], texture[0])
    assert texture[1] > 2 * flat[1] + 1e-3
