"""`dev.py batch`: rows from folders and tables, and runs on Ray's workers and on a running server."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from browser import running_server
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

from rows import read_job, read_rows
from run_graph import GraphError, read_graph
from table import ask_for_reports, reported

GRAPH = ROOT / "workflows" / "api" / "inpaint_demo.json"
needs_comfyui = pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")


def save(file: Path, shade: int) -> Path:
    """A picture of 64 x 64 whose right half is to be generated."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((64, 64, 4), shade, np.uint8)
    pixels[:, :32, 3], pixels[:, 32:, 3] = 255, 0
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def pictures(tmp_path):
    for k in range(6):
        save(tmp_path / "pictures" / f"p{k}.png", 40 * k)
    return tmp_path / "pictures"


@pytest.fixture
def two_loaders():
    graph = read_graph(GRAPH)
    return graph | {"20": {"class_type": "LoadImageMask", "inputs": {"image": "m.png", "channel": "red"}}}


def test_a_row_for_each_picture(pictures):
    rows = read_rows(read_graph(GRAPH), [str(pictures)])
    assert [row.name for row in rows] == [f"p{k}" for k in range(6)]
    job = read_job(rows[1], {})
    (name,) = job.pictures
    assert job.graph["2"]["inputs"]["image"] == name and job.pictures[name] == (pictures / "p1.png").read_bytes()


def test_pairs_by_name_and_those_that_have_none(pictures, tmp_path, two_loaders):
    for k in (1, 2, 9):
        save(tmp_path / "masks" / f"p{k}.png", k)
    rows = read_rows(two_loaders, [f"2={pictures}", f"20={tmp_path / 'masks'}"])
    whole = [row for row in rows if not row.problem]
    assert [row.name for row in whole] == ["p1", "p2"]
    assert all({f.stem for f in row.pictures.values()} == {row.name} for row in whole)
    assert {row.name: row.problem for row in rows}["p9"] == f"no picture p9 in {pictures}"
    assert len(rows) == 7


def test_a_table_of_values(pictures):
    table = pictures.parent / "rows.csv"
    table.write_text(
        "2.image,6.seed,3.text,name\npictures/p0.png,7,a cat,cat\npictures/p0.png,8,,\npictures/none.png,9,,\n"
    )
    first, second, third = read_rows(read_graph(GRAPH), [str(table)])
    assert first.name == "cat" and second.name == "2_p0"
    assert first.graph["6"]["inputs"]["seed"] == 7 and first.graph["3"]["inputs"]["text"] == "a cat"
    assert second.graph["3"]["inputs"]["text"] == read_graph(GRAPH)["3"]["inputs"]["text"]
    assert third.problem.startswith("no picture") and not second.problem
    assert read_job(first, {}).digest != read_job(second, {}).digest


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["2=none"], "there is no such folder"),
        (["2=empty"], "there is no picture in it"),
        (["2=twins"], "a.jpg and a.png have the same name"),
        (["5=pictures"], "'5' is no node that loads a picture; there are 2 (LoadImage), 20 (LoadImageMask)"),
        (["pictures"], "2 nodes that load a picture: 2 (LoadImage), 20 (LoadImageMask); say which"),
        (["2=pictures", "20=others"], "no picture has its pair"),
        (["none.csv"], "cannot be read"),
        (["empty.csv"], "no row below its heading"),
        (["node.csv"], "no node '99'"),
        (["input.csv"], "has no input 'nothing'"),
        (["cells.csv"], "row 1 has more cells than the heading"),
        (["names.csv"], "two rows have the name a"),
        (["path.csv"], "'../a' is no file name"),
    ],
)
def test_bad_inputs_are_one_sentence(pictures, two_loaders, monkeypatch, inputs, said):
    monkeypatch.chdir(pictures.parent)
    Path("empty").mkdir()
    for file in ("twins/a.png", "twins/a.jpg", "others/z.png"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    texts = {"empty": "6.seed\n", "node": "99.seed\n1\n", "input": "6.nothing\n1\n", "cells": "6.seed\n1,2\n",
             "names": "name,6.seed\na,1\na,2\n", "path": "name,6.seed\n../a,1\n"}  # fmt: skip
    for name, text in texts.items():
        Path(f"{name}.csv").write_text(text)
    with pytest.raises(GraphError) as error:
        read_rows(two_loaders, inputs)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_a_report_says():
    """The words are those of `Report.summary`; several samplers add up, and each term keeps its own residual."""
    from newton_pack.sampler import Report
    from newton_pack.sampler.report import LevelReport

    level = LevelReport(1.0, ((0.5,), (0.25,)), (0.0,), 1, False, "iterations")
    report = Report((level,), ("rms in the latent", "rms in pixels"), ((0.0312,), (0.004,)), calls=24, network_evals=24)
    assert reported([report.table()]) == (24, ["0.0312", "0.0040"])
    assert reported([report.table(), report.table()]) == (48, ["0.0312", "0.0040"] * 2)
    assert reported([]) == (None, [])


def test_a_report_is_asked_for_where_the_graph_has_none():
    graph = read_graph(GRAPH)
    ask_for_reports(graph)
    assert graph["batch_report_text_6"]["inputs"]["source"] == ["15", 1]
    del graph["15"], graph["batch_report_text_6"]
    ask_for_reports(graph)
    assert graph["batch_report_6"]["inputs"]["report"] == ["6", 1]
    assert graph["batch_report_text_6"]["inputs"]["source"] == ["batch_report_6", 1]


def command(pictures: Path, out: Path, *options: object) -> list[str]:
    fixed = [GRAPH, "--inputs", pictures, "--out", out, "--set", "6.steps=2", *options]
    return [sys.executable, str(ROOT / "tools" / "batch.py"), *map(str, fixed)]


def batch(pictures: Path, out: Path, *options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(pictures, out, *options), text=True, capture_output=True)


def content(out: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in out.glob("*.png")}


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def url():
    """A running server."""
    with running_server() as host:
        yield host.url


@pytest.fixture(scope="module")
def by_server(url, tmp_path_factory):
    """Six rows and a broken one, run one after the other by a server: what every other way has to give too."""
    folder = tmp_path_factory.mktemp("batch")
    for k in range(6):
        save(folder / "pictures" / f"p{k}.png", 40 * k)
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    return folder, batch(folder / "pictures", folder / "server", "--servers", url)


@needs_comfyui
def test_a_failing_row_is_told_and_does_not_stop_the_rest(by_server):
    folder, done = by_server
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "6 of 7 rows are there" in done.stdout and "1 failed" in done.stdout
    rows = results(folder / "server")
    assert [r["name"] for r in rows] == ["broken", *(f"p{k}" for k in range(6))]
    assert rows[0]["error"] and not rows[0]["files"]
    for row in rows[1:]:
        assert row["seed"] == "1" and row["calls"] == "2" and float(row["residual"]) > 0 and float(row["seconds"]) > 0
        assert Image.open(folder / "server" / row["files"]).size == (64, 64)
    assert len(content(folder / "server")) == 6


@needs_comfyui
def test_a_batch_goes_on_from_what_is_on_disk(by_server, url):
    """Rows that are there stay; one whose picture or file is gone or changed runs again, and so do failed ones."""
    folder, _ = by_server
    expected, out = content(folder / "server"), folder / "server"
    (first,) = (out / r["files"] for r in results(out) if r["name"] == "p0")
    first.unlink()
    save(folder / "pictures" / "broken.png", 250)
    stamp = {r["name"]: r["seconds"] for r in results(out)}
    done = batch(folder / "pictures", out, "--servers", url)
    assert done.returncode == 0 and "7 of 7 rows are there, 5 from before" in done.stdout
    after = {r["name"]: r["seconds"] for r in results(out)}
    assert [name for name in stamp if after[name] == stamp[name]] == [f"p{k}" for k in range(1, 6)]
    assert {k: v for k, v in content(out).items() if not k.startswith("broken")} == expected
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")


def task_processes(driver: subprocess.Popen) -> list[int]:
    """Worker processes of Ray that are running a row of this driver."""
    import psutil

    try:
        children = psutil.Process(driver.pid).children(recursive=True)
        return [p.pid for p in children if "ray::run_row" in " ".join(p.cmdline())]
    except psutil.Error:  # one ended meanwhile
        return []


@needs_comfyui
def test_two_workers_of_which_one_is_killed(by_server):
    """The row of a worker that dies runs again, and all results are those of one server, byte for byte."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is installed by `dev.py batch`")
    folder, _ = by_server
    out, limit = folder / "workers", time.monotonic() + 500
    with (folder / "log.txt").open("w+") as log:
        driver = subprocess.Popen(
            command(folder / "pictures", out, "--workers", 2), stdout=log, stderr=log, start_new_session=True
        )
        while not list(out.glob("rows/p*.json")) and driver.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        while not (victims := task_processes(driver)) and driver.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert victims and len(content(out)) < 6, "no row was running any more"
        os.kill(victims[0], signal.SIGKILL)
        driver.wait(500)
        log.seek(0)
        said = log.read()
    assert "6 of 7 rows are there" in said, said
    assert [r["name"] for r in results(out) if r["error"]] == ["broken"]
    assert content(out) == content(folder / "server")
    columns = ("name", "seed", "calls", "residual", "files")
    assert [[r[c] for c in columns] for r in results(out)] == [
        [r[c] for c in columns] for r in results(folder / "server")
    ]


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


def test_a_graph_of_the_editor_is_refused(pictures, tmp_path):
    editor = ROOT / "workflows" / "Demo 01 - Inpaint a picture.json"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "batch.py", editor, "--inputs", pictures, "--out", tmp_path / "out"],
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode and done.stderr.strip().splitlines()[-1].endswith("save it with File > Export (API)")


def test_records_are_read_as_they_were_written(tmp_path):
    from client import File, Result
    from rows import Job
    from table import Table

    job, table = Job("a", {"1": {"class_type": "X", "inputs": {"seed": 3}}}, {}), Table(tmp_path)
    assert not table.has(job)
    table.finish(job, Result([File("1", "x_00001_.png", b"x", True), File("2", "shown.png", b"", False)], [], 1.0))
    again = Table(tmp_path)
    assert again.has(job) and again.records["a"].files == ["a_1_1.png"] and again.records["a"].seed == "3"
    assert not again.has(Job("a", {"1": {"class_type": "X", "inputs": {"seed": 4}}}, {}))
    (tmp_path / "rows" / "a.json").write_text(json.dumps({"name": "a"})[:-2])
    assert not Table(tmp_path).has(job)
