"""The real server with the real web UI in a headless Chromium, driven over the DevTools protocol."""

import asyncio
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
]  # fmt: skip
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium found"),
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set"),
]


def server_class() -> type:
    spec = importlib.util.spec_from_file_location("headless", ROOT / "tools" / "headless.py")
    sys.modules["headless"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Host


class Page:
    """One tab of a headless Chromium."""

    def __init__(self, profile: Path):
        self.loop, self.ids = asyncio.new_event_loop(), itertools.count()
        command, quiet = [BROWSER, *FLAGS, f"--user-data-dir={profile}"], subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        port, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not port.exists() or "\n" not in port.read_text():
            assert time.monotonic() < end and self.process.poll() is None, "Chromium does not start"
            time.sleep(0.1)
        self.loop.run_until_complete(self._connect(port.read_text().splitlines()[0]))

    async def _connect(self, port: str) -> None:
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(t for t in await answer.json(content_type=None) if t["type"] == "page")
        self.socket = await self.session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        await self.socket.send_json({"id": (number := next(self.ids)), "method": method, "params": params})
        while (answer := await self.socket.receive_json()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def call(self, method: str, seconds: float = 120, **params: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(asyncio.wait_for(self._call(method, params), seconds))

    def js(self, expression: str, **names: Any) -> Any:
        """The value of a JavaScript expression, awaited; keyword arguments are constants that it may use."""
        constants = "".join(f"const {k} = {json.dumps(v)};" for k, v in names.items())
        code = f"(async () => {{ {constants} return {expression} }})()"
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 120) -> Any:
        """The value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"still not true: {expression}"
            time.sleep(0.2)
        return value

    def close(self) -> None:
        self.loop.run_until_complete(self.session.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def server():
    with server_class()() as host:
        pictures = shutil.copytree(ROOT / "demo" / "images", host.base / "input", dirs_exist_ok=True)
        shutil.copy(pictures / "ncs_half.png", pictures / "example.png")  # every ComfyUI has one of this name
        (user := host.base / "user" / "default").mkdir(parents=True, exist_ok=True)
        # Else the tutorial's dialog covers the graph.
        (user / "comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")
        yield host


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("chromium"))
    page.call("Page.navigate", url=server.url)
    page.until("!!(window.app?.graph && window.app.extensionManager && window.LiteGraph)")
    yield page
    page.close()


def load(page: Page, file: Path) -> None:
    workflow = json.loads(file.read_text(encoding="utf-8"))
    page.js("await window.app.loadGraphData(workflow)", workflow=workflow)
    page.until(f"window.app.graph._nodes.length === {len(workflow['nodes'])}")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_loads_in_the_editor(page, file):
    load(page, file)
    assert page.js("window.app.graph._nodes.filter((n) => !LiteGraph.registered_node_types[n.type])") == []
    # Newer editors mark a loader whose model is missing; SD 1.5 is only offered as a download.
    wrong = "window.app.graph._nodes.filter((n) => n.has_errors && !n.properties.models).map((n) => n.type)"
    assert page.js(wrong) == []
    # A node that the editor had to enlarge would cover what lies below it.
    assert page.js("window.app.graph._nodes.filter((n) => n.computeSize()[1] > n.size[1]).map((n) => n.type)") == []
    graph = page.js("(await window.app.graphToPrompt()).output")
    expected = json.loads((file.parent / "api" / file.name).read_text(encoding="utf-8"))
    for entry in (*graph.values(), *expected.values()):
        entry.pop("_meta", None)  # titles
        if entry["class_type"] == "PreviewAny":
            entry["inputs"].pop("preview", None)  # the editor's own text box
    assert graph == expected


def test_demo_runs_from_the_editor(page):
    load(page, ROOT / "workflows" / "inpaint_demo.json")
    page.js("await window.app.queuePrompt(0)")
    (image,) = page.until("window.app.nodeOutputs['13']?.images")
    assert image["filename"].startswith("inpaint_demo")
    picture = "await createImageBitmap(await (await fetch(url)).blob())"
    assert page.js(f"({picture}).width", url=f"/view?filename={image['filename']}&type={image['type']}") == 128
    assert page.js("Object.keys(window.app.lastNodeErrors ?? {})") == []


def test_template_browser_and_help_pages_are_served(server, page):
    ((pack, names),) = server.get("/workflow_templates").items()
    assert sorted(names) == [file.stem for file in WORKFLOWS]
    urls = [f"/api/workflow_templates/{pack}/{name}.{kind}" for name in names for kind in ("json", "jpg")]
    urls += [f"/extensions/{pack}/docs/{file.name}" for file in (ROOT / "web" / "docs").glob("*.md")]
    for url in urls:
        assert page.js("(await fetch(url)).status", url=url) == 200, url
