"""The avatar data set: attributes of every picture, their words, and which pictures are held out.

`python demo/avatars.py --index DIR` writes DIR/avatars.jsonl, from which `demo/avatars.mjs` draws DIR/avatars.bin.
`python demo/avatars.py --heldout DIR` then writes the first held-out pictures to demo/heldout, with their prompts and
attributes in index.csv.
Nothing is random but by the hash of a picture's number, so that everybody gets the same pictures.
"""

import argparse
import csv
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
HELDOUT = Path(__file__).parent / "heldout"
# So many held-out pictures are in the repository, the first ones.
SHIPPED = 128
ATTRIBUTES = ("style", "hair", "hair_colour", "skin", "clothes", "clothes_colour", "back", "beard", "mouth", "eyes",
              "eyebrows", "glasses", "nose", "background", "pattern")  # fmt: skip
# Pictures of each split: held out by their combination of attributes, or by a part that no training picture shows.
COUNTS = {"train": 28000, "heldout": 320, "heldout_part": 80}
# Backgrounds without a figure, for training alone: what the lower layer of a picture is.
BACKDROPS = 1600
# Of 1000 combinations of style, hair, hair colour, skin and clothes, how many are held out.
HELDOUT_SHARE = 30
# So many kinds of hair are held out altogether, out of styles with more than six.
HELDOUT_PARTS = 3

HAIR = {"black": "2c1b18", "brown": "724133", "blond": "e8c15a", "ginger": "cb5a20", "silver": "c9ccd3",
        "pink": "f07ab0", "blue": "4a7fe0", "green": "3aa76d"}  # fmt: skip
SKIN = {"pale": "fbd9c6", "tan": "e3ab7e", "brown": "b0764c", "dark": "6b4027"}
CLOTHES = {"red": "d83a3a", "orange": "f2913d", "yellow": "f2cf3b", "green": "3f9b58", "teal": "35b5ac",
           "blue": "3465d9", "purple": "7d4fc0", "white": "f2f2f2", "grey": "5d6068"}  # fmt: skip
BACKGROUND = {"sky": ("bfe3f7", "94cdee"), "mint": ("c8f0d8", "99dfb8"), "lemon": ("fdf3c0", "f6e08b"),
              "peach": ("fddcc8", "f7bd9d"), "rose": ("fbd0dc", "f3a9bd"), "lilac": ("dcd0f5", "bfa9ea"),
              "stone": ("dedede", "c2c2c2"), "navy": ("4b5a83", "3a4669")}  # fmt: skip
PATTERNS = ("", "", "", "stripes", "dots", "checks")  # half of the pictures are plain

# What each generator can draw; `share` of the pictures, parts in its own names.
STYLES = {
    "toon": {
        "share": 36, "hair": ["sideComed", "undercut", "spiky", "bun"],
        "back": ["", "", "longStraight", "longWavy", "shoulderHigh", "neckHigh"],
        "clothes": ["turtleNeck", "openJacket", "dress", "shirt", "tShirt"],
        "beard": ["", "", "", "", "moustacheTwirl", "fullBeard", "chin", "chinMoustache"],
        "mouth": ["laugh", "angry", "agape", "smile", "sad"], "eyes": ["happy", "wide", "bow", "humble", "wink"],
        "eyebrows": ["raised", "angry", "happy", "sad", "neutral"],
    },
    "persona": {
        "share": 26,
        "hair": ["long", "sideShave", "shortCombover", "curlyHighTop", "bobCut", "curly", "pigtails", "curlyBun",
                 "buzzcut", "bobBangs", "cap", "bunUndercut", "fade", "beanie", "straightBun", "extraLong", "mohawk"],
        "clothes": ["squared", "rounded", "small", "checkered"],
        "beard": ["", "", "", "", "", "beardMustache", "goatee", "walrus"],
        "mouth": ["smile", "frown", "surprise", "bigSmile", "smirk", "lips"],
        "eyes": ["open", "sleep", "wink", "happy"], "glasses": ["", "", "glasses", "sunglasses"],
        "nose": ["mediumRound", "smallRound", "wrinkles"],
    },
    "micah": {
        "share": 24, "hair": ["fonze", "mrT", "dougFunny", "dannyPhantom", "full", "turban", "pixie"],
        "clothes": ["open", "crew", "collared"], "beard": ["", "", "", "", "beard", "scruff"],
        "mouth": ["surprised", "laughing", "nervous", "smile", "sad", "pucker", "frown", "smirk"],
        "eyes": ["eyes", "round", "smiling"], "eyebrows": ["up", "down", "eyelashesUp", "eyelashesDown"],
        "glasses": ["", "", "round", "square"], "nose": ["curve", "pointed", "tound"],
    },
    "bigsmile": {
        "share": 14,
        "hair": ["shortHair", "mohawk", "wavyBob", "bowlCutHair", "curlyBob", "straightHair", "braids", "bunHair",
                 "froBun", "bangs", "halfShavedHead", "curlyShortHair"],
        "mouth": ["openedSmile", "unimpressed", "gapSmile", "openSad", "teethSmile", "kawaii"],
        "eyes": ["cheery", "normal", "confused", "winking", "sleepy", "sad", "angry"],
        "glasses": ["", "", "glasses", "sunglasses"],
    },
}  # fmt: skip


def hashed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def picture(number: int) -> dict[str, str]:
    """Attributes of the picture of this number: independent choices, even over what its style can draw."""

    def choice(what: str, options: list[str]) -> str:
        return options[hashed(number, what) % len(options)]

    style = choice("style", [name for name, parts in STYLES.items() for _ in range(parts["share"])])
    parts = STYLES[style]
    row = {"style": style} | {what: choice(what, parts[what]) for what in parts if what != "share"}
    row |= {"hair_colour": choice("hair colour", list(HAIR)), "skin": choice("skin", list(SKIN))}
    if "clothes" in parts:
        row["clothes_colour"] = choice("clothes colour", list(CLOTHES))
    return row | {"background": choice("background", list(BACKGROUND)), "pattern": choice("pattern", list(PATTERNS))}


@cache
def heldout_parts() -> frozenset[tuple[str, str]]:
    """(style, hair) that no training picture shows: those of the smallest hashes."""
    parts = [(style, hair) for style, own in STYLES.items() for hair in own["hair"] if len(own["hair"]) > 6]
    return frozenset(sorted(parts, key=lambda part: hashed("part", *part))[:HELDOUT_PARTS])


def split_of(row: dict[str, str]) -> str:
    """By hair that is held out altogether, or by the combination of style, hair, hair colour, skin and clothes."""
    if (row["style"], row["hair"]) in heldout_parts():
        return "heldout_part"
    combination = tuple(row.get(k, "") for k in ("style", "hair", "hair_colour", "skin", "clothes"))
    return "heldout" if hashed("combination", *combination) % 1000 < HELDOUT_SHARE else "train"


def backdrop(number: int) -> dict[str, object]:
    """A background of the pictures, or every other time a scenery: turbulence, coloured by three curves."""
    background = list(BACKGROUND)[hashed("backdrop", number, 0) % len(BACKGROUND)]
    pattern = PATTERNS[hashed("backdrop", number, 1) % len(PATTERNS)]
    row = {"number": number, "split": "backdrop", "style": "empty", "background": background, "pattern": pattern}
    if number % 2:
        return row | {"words": f"empty {background}{pattern}"}
    draw = [hashed("scenery", number, i) % 1000 / 999 for i in range(19)]
    frequencies = [0.004 * 20**f for f in draw[:2]]
    # Four greys, each tinted a little.
    curves = [[round(grey + 0.5 * (tint - 0.5), 3) for grey, tint in zip(draw[3:7], draw[i : i + 4], strict=True)]
              for i in (7, 11, 15)]  # fmt: skip
    scenery = {"frequencies": frequencies, "octaves": 1 + round(4 * draw[2]), "curves": curves}
    return row | {"words": "empty scenery", "pattern": "scenery", "scenery": scenery}


def words_of(row: dict[str, str]) -> list[str]:
    """At most eight, as Word Conditioning takes: style, hair, colours, glasses, mouth, background."""
    words = [row["style"], row["hair"], f"{row['hair_colour']}hair", f"{row['skin']}skin"]
    if "clothes" in row:
        words.append(f"{row['clothes_colour']}{row['clothes']}")
    if row.get("glasses"):
        words.append("sunglasses" if row["glasses"] == "sunglasses" else "glasses")
    return [w.lower() for w in [*words, row["mouth"], row["background"] + row["pattern"]]]


def index() -> Iterator[dict[str, str]]:
    """The first pictures by number, until every split is full."""
    left, number = dict(COUNTS), 0
    while any(left.values()):
        row = picture(number)
        split = split_of(row)
        if left[split]:
            left[split] -= 1
            yield {"number": number, "split": split, "words": " ".join(words_of(row))} | row
        number += 1


def read_index(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "avatars.jsonl").read_text(encoding="utf-8").splitlines()]


def load_pictures(folder: Path) -> np.ndarray:
    """uint8 (N, 128, 128, 3), one for each row of the index, read as they are used."""
    return np.memmap(folder / "avatars.bin", np.uint8, "r").reshape(-1, SIZE, SIZE, 3)


def drawing(row: dict[str, str]) -> dict[str, object]:
    """What the drawing program is told: colours as hexadecimal numbers."""
    colours = {"hairHex": HAIR[row["hair_colour"]], "skinHex": SKIN[row["skin"]]}
    if "clothes_colour" in row:
        colours["clothesHex"] = CLOTHES[row["clothes_colour"]]
    return row | colours | {"paper": BACKGROUND[row["background"]]}


def write_index(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "avatars.jsonl").open("w", encoding="utf-8") as file:
        for entry in index():
            print(json.dumps(drawing(entry)), file=file)
        for number in range(BACKDROPS):
            entry = backdrop(number)
            print(json.dumps(entry | {"paper": BACKGROUND[entry["background"]]}), file=file)


def write_heldout(folder: Path) -> None:
    """The first pictures that are held out by their combination: NNN.png, and index.csv with file, prompt, attributes.

    Their opacity without the background goes to alpha/NNN.png.
    """
    rows, pictures = read_index(folder), load_pictures(folder)
    opacity = np.fromfile(folder / "alpha.bin", np.uint8).reshape(-1, SIZE, SIZE)
    held = [i for i, row in enumerate(rows) if row["split"] == "heldout"][:SHIPPED]
    (HELDOUT / "alpha").mkdir(parents=True, exist_ok=True)
    with (HELDOUT / "index.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "prompt", *ATTRIBUTES])
        for n, i in enumerate(held):
            Image.fromarray(pictures[i]).save(HELDOUT / f"{n:03}.png", optimize=True)
            Image.fromarray(opacity[n]).save(HELDOUT / "alpha" / f"{n:03}.png", optimize=True)
            table.writerow([f"{n:03}.png", rows[i]["words"], *(rows[i].get(a, "") for a in ATTRIBUTES)])


def read_heldout() -> list[dict[str, str]]:
    """The rows of demo/heldout/index.csv, in order: file, prompt, and attributes, "" where a style has none."""
    with (HELDOUT / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--index", type=Path, metavar="DIR", help="write avatars.jsonl here")
    task.add_argument("--heldout", type=Path, metavar="DIR", help="write demo/heldout from the pictures drawn here")
    opts = parser.parse_args()
    if opts.index:
        write_index(opts.index)
    else:
        write_heldout(opts.heldout)
