"""Write locales/en/nodeDefs.json, the texts of all nodes as their schemas have them; the other languages follow it.

    COMFYUI_PATH=.cache/comfyui-0.3.75 .cache/venv-0.3.75/bin/python tools/make_locales.py

Says which keys the other languages lack, and which of theirs are no longer there. Start it again whenever a text of a
node has changed.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from headless import PACK, ROOT, Host, HostError
from make_workflows import inputs_of

LOCALES = ROOT / "locales"
# What the editor's translations would take for its own syntax.
SPECIAL = str.maketrans({c: f"{{'{c}'}}" for c in "@{}|"})


def texts(definition: dict[str, Any]) -> dict[str, Any]:
    """Name, description, inputs and outputs of a node as the editor looks them up."""
    inputs = {
        name: {"name": name, "tooltip": options["tooltip"].translate(SPECIAL)}
        for name, _, options, _ in inputs_of(definition)
    }
    outputs = {
        str(i): {"name": name, "tooltip": tooltip.translate(SPECIAL)}
        for i, (name, tooltip) in enumerate(zip(definition["output_name"], definition["output_tooltips"], strict=True))
    }
    return {
        "display_name": definition["display_name"], "description": definition["description"].translate(SPECIAL),
        "inputs": inputs, "outputs": outputs,
    }  # fmt: skip


def keys(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths to all texts."""
    if isinstance(tree, str):
        yield path
    else:
        for key, value in tree.items():
            yield from keys(value, (*path, key))


def main() -> None:
    with Host() as host:
        ours = {k: d for k, d in host.get("/object_info").items() if d["python_module"].endswith(PACK)}
    english = {kind: texts(definition) for kind, definition in sorted(ours.items())}
    text = json.dumps(english, indent=2, ensure_ascii=False)
    (LOCALES / "en" / "nodeDefs.json").write_text(text + "\n", encoding="utf-8")
    expected = set(keys(english))
    for folder in sorted(p for p in LOCALES.iterdir() if p.name != "en"):
        there = set(keys(json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))))
        for what, found in (("lacks", expected - there), ("is too much", there - expected)):
            for path in sorted(found):
                print(f"{folder.name}: {what}: {'.'.join(path)}")


if __name__ == "__main__":
    try:
        main()
    except HostError as e:
        sys.exit(f"error: {e}")
