"""The real server with the real web UI in the system's Chromium, driven by Playwright."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
API = ROOT / "workflows" / "api"
# The editor's form of each graph, by its name in the API folder.
TITLES = {f.stem: ROOT / "workflows" / f"{f.read_text(encoding='utf-8').partition(chr(10))[0][3:]}.json"
          for f in API.glob("*.md")}  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ON_CI = bool(os.environ.get("CI"))
# On CI a missing browser is an error, never a reason to skip.
needs_browser = [
    pytest.mark.skipif(CHROMIUM is None and not ON_CI, reason="no Chromium found"),
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set"),
]


def server_class() -> type:
    sys.path.append(str(ROOT / "tools"))
    from headless import Host

    return Host


@contextmanager
def running_server(extra_nodes: Path | None = None) -> Iterator[Any]:
    """A ComfyUI with the pack, the demo's pictures as inputs, and neither tutorial nor dialog over the graph."""
    with server_class()(extra_nodes) as host:
        pictures = shutil.copytree(ROOT / "demo" / "images", host.base / "input", dirs_exist_ok=True)
        shutil.copy(pictures / "ncs_half.png", pictures / "example.png")  # every ComfyUI has one of this name
        for name in ("clip.mp4", "clip_mask.mp4"):  # what the video graph asks for
            (pictures / name).touch()
        (user := host.base / "user" / "default").mkdir(parents=True, exist_ok=True)
        unasked = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False}
        (user / "comfy.settings.json").write_text(json.dumps(unasked), encoding="utf-8")
        yield host


def open_editor(page: Any, url: str) -> None:
    page.add_init_script("localStorage.vueNodesBannerDismissed = 'true'")  # 2025: covers what lies at the top
    page.goto(url)
    page.wait_for_function("window.app?.graph && window.app.extensionManager && window.LiteGraph")


@contextmanager
def editor_page(url: str) -> Iterator[Any]:
    """A Playwright page with the editor ready at 1400 x 850."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium found"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1400, "height": 850})
        page.set_default_timeout(600_000)  # a busy machine without a GPU
        open_editor(page, url)
        yield page
        chromium.close()


def finished(server: Any, known: set[str]) -> str:
    """Waits for the one run that ends beside those known; its id."""
    end = time.monotonic() + 600
    while not (new := server.get("/history").keys() - known):
        assert time.monotonic() < end, "no run has ended for ten minutes"
        time.sleep(0.2)
    (key,) = new
    return key


def load_workflow(page: Any, file: Path) -> None:
    """Open a workflow file in the editor."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    page.evaluate("(workflow) => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_function("(count) => window.app.graph._nodes.length === count", arg=len(workflow["nodes"]))
