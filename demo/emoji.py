"""The emoji data set: words, families, split, and pictures drawn from the Noto Color Emoji font.

`emoji.csv` is committed and decides the split; `python demo/emoji.py --index emoji.json` rebuilds it
from the index of the npm package emoji-datasource-google 16.0.0. `--heldout demo/heldout` draws the
held-out pictures that demo and benchmarks use.
"""

import argparse
import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

HERE = Path(__file__).parent
INDEX = HERE / "emoji.csv"
SIZE = 128
HELDOUT_FAMILIES = 100
FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
)

SKIN_TONES = {f"1F3F{c}" for c in "BCDEF"}
MODIFIERS = SKIN_TONES | {"2640", "2642", "FE0F", "200D", "1F9B0", "1F9B1", "1F9B2", "1F9B3"}
PERSONS = {"1F468", "1F469", "1F9D1"}
CLOCKS = {f"{c:X}" for c in range(0x1F550, 0x1F568)}
MOONS = {f"{c:X}" for c in range(0x1F311, 0x1F31F)}
# Mirroring changes what these say.
NO_FLIP = {"Flags", "Symbols"}


def words_of(name: str, category: str) -> list[str]:
    """Lower-case words of an emoji's name and category, in order, without repetition."""
    text = f"{name} {category}".lower().replace("&", " ")
    return list(dict.fromkeys(re.findall(r"[a-z0-9]+", text)))


def family_of(codepoints: str) -> str:
    """Code points that identify what is shown, whoever shows it: no skin tone, gender, hair or selector."""
    parts = [p for p in codepoints.split("-") if p not in MODIFIERS]
    parts = ["person" if p in PERSONS else "clock" if p in CLOCKS else "moon" if p in MOONS else p for p in parts]
    return "-".join(parts) or codepoints


def build_index(source: Path) -> list[dict[str, str]]:
    """Rows of `emoji.csv`: one per base emoji, held out by family."""
    rows = [
        {
            "codepoints": e["unified"],
            "words": " ".join(words_of(e["name"], e["category"])),
            "category": e["category"],
            "family": family_of(e["unified"]),
        }
        for e in json.loads(source.read_text(encoding="utf-8"))
        if e["has_img_google"]
    ]
    # A fixed order that no one chose: the hash of the family's code points.
    families = sorted({r["family"] for r in rows}, key=lambda f: hashlib.sha256(f.encode()).hexdigest())
    heldout = set(families[:HELDOUT_FAMILIES])
    for row in rows:
        row["split"] = "heldout" if row["family"] in heldout else "train"
    return rows


def read_index() -> list[dict[str, str]]:
    with INDEX.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def find_font(font: str | None) -> Path:
    for candidate in [font] if font else FONTS:
        if Path(candidate).is_file():
            return Path(candidate)
    raise SystemExit(
        "No NotoColorEmoji.ttf with 128 px bitmaps found. Install your system's Noto Color Emoji font "
        "(Debian: fonts-noto-color-emoji) or give its path with --font."
    )


def draw(codepoints: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji as an RGBA picture of 128 x 128 pixels."""
    text = "".join(chr(int(c, 16)) for c in codepoints.split("-"))
    canvas = Image.new("RGBA", (136, SIZE), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((0, 0), text, font=font, embedded_color=True)
    return canvas.crop((4, 0, 4 + SIZE, SIZE))


def draw_all(rows: list[dict[str, str]], font_path: Path) -> np.ndarray:
    """All rows as uint8 (N, 128, 128, 4), alpha last, not premultiplied."""
    font = ImageFont.truetype(str(font_path), 109, layout_engine=ImageFont.Layout.RAQM)
    return np.stack([np.asarray(draw(r["codepoints"], font)) for r in tqdm(rows, desc="drawing emoji", unit="img")])


def write_index(source: Path) -> None:
    rows = build_index(source)
    with INDEX.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} emoji, {sum(r['split'] == 'heldout' for r in rows)} of them held out, to {INDEX}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True, help="emoji.json of emoji-datasource-google")
    write_index(parser.parse_args().index)
