"""`dev.py batch`: the rows of folders and tables, and the records that a batch leaves."""

import json
import runpy
from pathlib import Path

import pytest
from batches import GRAPH, save, save_six
from client import File, Result
from rows import read_job, read_rows
from run_graph import GraphError, change, find_images, read_graph
from run_graph import save as save_results
from table import ask_for_reports, reported


@pytest.fixture
def pictures(tmp_path):
    return save_six(tmp_path / "pictures")


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


def test_text_stays_text_and_the_rest_is_json():
    graph = {
        "3": {"class_type": "WordConditioning", "inputs": {"text": "face", "steps": 2, "on": False, "from": ["1", 0]}}
    }
    for setting in ("text=true", "text=1.50", 'text="b"', "text=[1, 2]", "text=a=b"):
        change(graph, f"3.{setting}")
        assert graph["3"]["inputs"]["text"] == setting.partition("=")[2]
    for setting in ("steps=7", "on=true", 'from=["2", 1]'):
        change(graph, f"3.{setting}")
    assert graph["3"]["inputs"] == {"text": "a=b", "steps": 7, "on": True, "from": ["2", 1]}


def test_results_of_one_name_are_all_kept(tmp_path):
    """Two nodes that save to folders of their own."""
    files = [File(node, "x_00001_.png", node.encode(), True) for node in ("7", "5:2")]
    saved = save_results(Result(files), tmp_path / "out")
    assert [(node, path.name) for node, path in saved] == [("7", "x_00001_.png"), ("5:2", "5_2_x_00001_.png")]
    assert [path.read_bytes() for _, path in saved] == [b"7", b"5:2"]


def test_pictures_of_the_mask_editor_are_found(tmp_path):
    """The graph names the server's folder for them; the file lies beside the graph."""
    file = save(tmp_path / "clipspace-painted-masked-1.png", 0)
    named = {"inputs": {"image": "clipspace/clipspace-painted-masked-1.png [input]"}}
    assert find_images({"2": named}, ["2"], [tmp_path]) == {"2": file}


def test_folders_may_have_an_equals_sign(tmp_path, two_loaders, monkeypatch):
    from_dev = runpy.run_path(str(GRAPH.parents[2] / "dev.py"))["place_of_inputs"]
    folder = tmp_path / "date=2024" / "p"
    save_six(folder)
    monkeypatch.chdir(tmp_path)
    assert from_dev("date=2024/p") == f"date={Path('2024/p').absolute()}"  # a node by that name
    for text in (str(folder), "./date=2024/p"):
        assert len(read_rows(read_graph(GRAPH), [from_dev(text)])) == 6
    assert len(read_rows(two_loaders, [from_dev(f"2={folder}"), from_dev("20=./date=2024/p")])) == 6


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


def test_records_are_read_as_they_were_written(tmp_path):
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
