"""The mission on held-out pictures in list order, ours beside the stock ways; `python dev.py demo` starts this.

Everything runs through the HTTP API of a headless ComfyUI. Stock replacement has the seed, cfg, scheduler and number of
model calls of ours. Leaves sheet.jpg, one sheet per task, index.html to look at in a browser, and summary.json.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from demo_pictures import heldout
from demo_tasks import TASKS, Case, Task
from headless import ROOT, Graph, Host, HostError
from page import write_page
from run_graph import GraphError, change
from sheet import draw_sheets
from tqdm import tqdm

CHECKPOINT = ROOT / "demo" / "ncs_avatars.safetensors"
GROUPS = list(dict.fromkeys(task.group for task in TASKS))


def versions_of(host: Host) -> dict[str, str]:
    """What the numbers depend on."""
    system = host.stats["system"]
    return {
        "comfyui": system["comfyui_version"],
        "torch": system["pytorch_version"],
        "python": system["python_version"].split()[0],
        "checkpoint_sha256": hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest(),
    }


def summary_table(cases: dict[Task, list[Case]]) -> str:
    """Mean of each measure per task and method."""
    lines = []
    for task, of in cases.items():
        rows = [row for case in of for row in case.rows]
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            names = [k for k in own[0] if k not in ("image", "seed", "method")]
            means = "  ".join(f"{k} {np.mean([row[k] for row in own]):.3f}".rstrip("0").rstrip(".") for k in names)
            lines.append(f"{task.title:20} {method:8} {means}")
    return "\n".join(lines)


def run_all(out: Path, groups: list[str], pictures: int, changes: list[str]) -> None:
    def change_all(graph: Graph) -> None:
        for setting in changes:
            change(graph, setting)

    tasks, avatars = [task for task in TASKS if task.group in groups], heldout(pictures)
    cases: dict[Task, list[Case]] = {task: [] for task in tasks}
    print("starting ComfyUI ...", flush=True)
    with Host(ROOT / "tools" / "random_encoder") as host, tqdm(total=len(tasks) * len(avatars), unit="picture") as bar:
        versions = versions_of(host)
        for task in tasks:
            bar.set_description(task.title)
            for avatar in avatars:
                cases[task].append(task.run(host, avatar, change_all))
                bar.update()
    draw_sheets(out, cases)
    write_page(out, cases, versions)
    rows = [{"task": task.name} | row for task, of in cases.items() for case in of for row in case.rows]
    text = json.dumps({"versions": versions, "changes": changes, "cases": rows}, indent=1)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    print(f"\n{summary_table(cases)}\n\n{out / 'sheet.jpg'}\n{out / 'index.html'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="these groups of tasks")
    parser.add_argument("--pictures", type=int, default=6, help="of the held-out list, from its start")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="change the graphs")
    opts = parser.parse_args()
    if not CHECKPOINT.exists():
        raise HostError(f"{CHECKPOINT} is missing (python dev.py train --model avatars makes one)")
    opts.out.mkdir(parents=True, exist_ok=True)
    run_all(opts.out, opts.only, opts.pictures, opts.set)


if __name__ == "__main__":
    try:
        main()
    except (GraphError, HostError) as e:
        sys.exit(f"error: {e}")
