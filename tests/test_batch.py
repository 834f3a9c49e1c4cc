"""`dev.py batch`: runs on running servers and on Ray's workers, what goes wrong there, and what is refused."""

import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from batches import GRAPH, ROOT, batch, command, content, results, save, save_six
from browser import running_server
from client import Client, HostError
from PIL import Image
from run_graph import read_graph

needs_comfyui = pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is installed by `dev.py batch`")


@pytest.fixture
def pictures(tmp_path):
    return save_six(tmp_path / "pictures")


@pytest.fixture(scope="module")
def url():
    """A running server."""
    with running_server(ROOT / "tests" / "small_nodes") as host:
        yield host.url


@pytest.fixture(scope="module")
def by_server(url, tmp_path_factory):
    """Six rows and a broken one, run one after the other by a server: what every other way has to give too."""
    folder = tmp_path_factory.mktemp("batch")
    save_six(folder / "pictures")
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    done = batch(folder / "pictures", folder / "server", "--servers", url)
    return SimpleNamespace(
        pictures=folder / "pictures", out=folder / "server", done=done,
        content=content(folder / "server"), results=results(folder / "server"),
    )  # fmt: skip


@needs_comfyui
def test_a_failing_row_is_told_and_does_not_stop_the_rest(by_server):
    said, rows = by_server.done, by_server.results
    assert said.returncode == 1 and "Traceback" not in said.stderr
    assert "6 of 7 rows are there" in said.stdout and "1 failed" in said.stdout
    assert re.search(r"7/7 .*(row/s|s/row), failures=1\]", said.stderr)
    assert [r["name"] for r in rows] == ["broken", *(f"p{k}" for k in range(6))]
    assert rows[0]["error"] and not rows[0]["files"]
    for row in rows[1:]:
        assert row["seed"] == "1" and row["calls"] == "2" and float(row["residual"]) > 0 and float(row["seconds"]) > 0
        assert Image.open(by_server.out / row["files"]).size == (64, 64)
    assert len(by_server.content) == 6


@needs_comfyui
def test_a_batch_goes_on_from_what_is_on_disk(by_server, url, tmp_path):
    """Rows that are there stay; one whose picture or file is gone or changed runs again, and so do failed ones."""
    pictures = shutil.copytree(by_server.pictures, tmp_path / "pictures")
    out = shutil.copytree(by_server.out, tmp_path / "out")
    (first,) = (out / r["files"] for r in results(out) if r["name"] == "p0")
    first.unlink()
    save(pictures / "broken.png", 250)
    stamp = {r["name"]: r["seconds"] for r in results(out)}
    done = batch(pictures, out, "--servers", url)
    assert done.returncode == 0 and "7 of 7 rows are there, 5 from before" in done.stdout
    after = {r["name"]: r["seconds"] for r in results(out)}
    assert [name for name in stamp if after[name] == stamp[name]] == [f"p{k}" for k in range(1, 6)]
    assert {k: v for k, v in content(out).items() if not k.startswith("broken")} == by_server.content


@needs_comfyui
def test_an_interrupted_batch_goes_on(by_server, url, tmp_path):
    driver = subprocess.Popen(
        command(by_server.pictures, tmp_path, "--servers", url),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(tmp_path.glob("rows/p*.json")) and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(signal.SIGINT)
    said, error = driver.communicate()
    assert driver.returncode and error.splitlines()[-1] == "error: interrupted; starting again resumes"
    there = len(list(tmp_path.glob("rows/p*.json")))
    assert 0 < there < 6 and f"{there} of 7 rows are there" in said and f"{6 - there} left" in said
    assert f"6 of 7 rows are there, {there} from before" in batch(by_server.pictures, tmp_path, "--servers", url).stdout
    assert content(tmp_path) == by_server.content


@needs_comfyui
def test_a_server_that_goes_away_gives_its_row_to_the_others(by_server, url, tmp_path):
    with running_server() as second, (tmp_path / "log.txt").open("w+") as log:
        driver = subprocess.Popen(
            command(by_server.pictures, tmp_path, "--servers", f"{url},{second.url}"), stdout=log, stderr=log
        )
        while not second.get("/queue")["queue_running"] and driver.poll() is None:
            time.sleep(0.01)
        second.process.kill()
        driver.wait()
        log.seek(0)
        said = log.read()
    assert f"{second.url} does not answer" in said and "the others go on without it" in said
    assert "6 of 7 rows are there" in said and content(tmp_path) == by_server.content


@needs_comfyui
def test_a_cleared_queue_is_not_waited_for(by_server, url):
    """A graph behind another that runs, taken out by somebody at the server's page."""
    server, graph = Client(url), read_graph(GRAPH)
    server.upload("p0.png", (by_server.pictures / "p0.png").read_bytes())
    graph["2"]["inputs"]["image"] = "p0.png"
    graph["6"]["inputs"]["steps"] = 200
    running = json.loads(server.open("/prompt", json.dumps({"prompt": graph}).encode()))["prompt_id"]
    graph["6"]["inputs"]["seed"] = 2

    def clear():
        server.open("/queue", json.dumps({"clear": True}).encode())

    with pytest.raises(HostError, match="its queue was cleared"):
        server.run(graph, clear)
    server.open("/interrupt", b"{}")
    while running not in server.get("/history"):
        time.sleep(0.1)


@needs_comfyui
def test_rows_that_a_server_refuses_and_what_has_no_memory_are_one_sentence_each(tmp_path, url):
    graph = read_graph(GRAPH)
    graph["16"] = {"class_type": "OutOfMemory", "inputs": {"image": ["2", 0]}}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    (tmp_path / "rows.csv").write_text('name,12.image,1.ckpt_name\nfull,"[""16"", 0]",\nwrong,,none\ngood,,\n')
    done = batch(tmp_path / "rows.csv", tmp_path / "out", "--servers", url, graph=tmp_path / "graph.json")
    assert "1 of 3 rows are there" in done.stdout, done.stderr
    errors = {r["name"]: r["error"] for r in results(tmp_path / "out")}
    assert errors["full"] == (
        "node 16 (OutOfMemory): out of memory; fewer workers on a GPU (--workers, --gpus) leave more to each"
    )
    assert errors["wrong"].startswith("ComfyUI refuses the graph: ")
    assert "; node 1 (CheckpointLoaderSimple): Value not in list: " in errors["wrong"]
    assert not errors["good"] and not any("\n" in error for error in errors.values())


def task_processes(driver: subprocess.Popen) -> list[int]:
    """Worker processes of Ray that are running a row of this driver."""
    import psutil

    try:
        children = psutil.Process(driver.pid).children(recursive=True)
        return [p.pid for p in children if "ray::run_row" in " ".join(p.cmdline())]
    except psutil.Error:  # one ended meanwhile
        return []


@needs_comfyui
@needs_ray
def test_two_workers_of_which_one_is_killed(by_server, tmp_path):
    """The row of a worker that dies runs again, and all results are those of one server, byte for byte."""
    limit = time.monotonic() + 500
    with (tmp_path / "log.txt").open("w+") as log:
        driver = subprocess.Popen(
            command(by_server.pictures, tmp_path, "--workers", 2), stdout=log, stderr=log, start_new_session=True
        )
        while not (victims := task_processes(driver)) and driver.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert victims and len(content(tmp_path)) < 6, "no row was running any more"
        os.kill(victims[0], signal.SIGKILL)
        driver.wait(500)
        log.seek(0)
        said = log.read()
    assert "6 of 7 rows are there" in said, said
    assert [r["name"] for r in results(tmp_path) if r["error"]] == ["broken"]
    assert content(tmp_path) == by_server.content
    columns = ("name", "seed", "calls", "residual", "files")
    assert [[r[c] for c in columns] for r in results(tmp_path)] == [[r[c] for c in columns] for r in by_server.results]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--servers", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer"),
        (["--servers", "nonsense"], "nonsense does not answer"),
        (["--inputs", "nowhere"], "there is no such folder"),
        (["--set", "6.nothing=1"], "has no input 'nothing'"),
        (["--workers", "0"], "invalid int above 0 value: '0'"),
    ],
)
def test_what_a_batch_refuses(pictures, tmp_path, options, said):
    done = batch(pictures, tmp_path / "out", *options)
    assert done.returncode and "Traceback" not in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]


@needs_comfyui
@needs_ray
def test_more_workers_than_there_are_cores_are_refused(pictures, tmp_path):
    done = batch(pictures, tmp_path / "out", "--workers", 1000)
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: --workers 1000: they need 1000 cores and 0 GPUs, Ray has ") and done.returncode


@pytest.mark.parametrize("answer", ["404", "no JSON"])
def test_a_server_that_is_no_comfyui_is_refused(pictures, tmp_path, answer):
    if answer == "no JSON":
        (tmp_path / "system_stats").write_text("hello")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = batch(pictures, tmp_path / "out", "--servers", url)
        server.shutdown()
    said = {
        "404": f"{url} refuses /system_stats: 404",
        "no JSON": f"{url} is no ComfyUI: /system_stats answers no JSON",
    }
    assert done.returncode and f"error: {said[answer]}" in done.stderr.strip().splitlines()[-1]


def test_a_graph_of_the_editor_is_refused(pictures, tmp_path):
    editor = ROOT / "workflows" / "Demo 01 - Inpaint a picture.json"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "batch.py", editor, "--inputs", pictures, "--out", tmp_path / "out"],
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode and done.stderr.strip().splitlines()[-1].endswith("save it with File > Export (API)")
