"""What the pack ships is selectable as it is: nothing need be copied."""

import shutil

import torch
from host import CHECKPOINT, ROOT, node


def test_the_checkpoints_are_found_where_they_are(host):
    shipped = {f.name for f in (ROOT / "demo").glob("*.safetensors")}
    assert shipped <= set(host.nodes.CheckpointLoaderSimple.INPUT_TYPES()["required"]["ckpt_name"][0])
    graph = {"ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    assert host.run(graph | {"out": node("TestCapture", value=["ckpt", 0])})


def test_every_picture_is_what_load_image_gives(host):
    """To within a level: newer hosts read pictures through a video decoder, which rounds grey ones."""
    for file in (ROOT / "demo" / "images").iterdir():
        shutil.copy(file, host.base / "input")
        graph = {
            "ours": node("NewtonExamplePicture", image=file.name), "stock": node("LoadImage", image=file.name),
        }  # fmt: skip
        for out in (0, 1):
            ours, stock = (
                host.run(graph | {"out": node("TestCapture", value=[who, out])})[0] for who in ("ours", "stock")
            )
            if out == 0 or stock.shape[1:] != (64, 64):  # Load Image's mask of a picture without transparency
                torch.testing.assert_close(ours, stock, rtol=0, atol=1.01 / 255, msg=file.name)
            else:
                assert not ours.any() and not stock.any()


def test_without_the_demo_the_pack_loads(host, monkeypatch, tmp_path):
    """Users delete what they do not need; a route to a folder that is not there would stop the host."""
    extension = host.module("nodes.extension")
    monkeypatch.setattr(extension, "PICTURES", tmp_path / "gone")
    monkeypatch.setattr(extension, "serve_pictures", lambda folder: 1 / 0)
    nodes = host.loop.run_until_complete(extension.NewtonExtension().get_node_list())
    assert set(extension.NODES) - set(nodes) == {extension.ExamplePicture}


def test_what_a_file_manager_leaves_is_no_picture(host, monkeypatch, tmp_path):
    module = host.module("nodes.example_picture")
    for name in (".DS_Store", "Thumbs.db", "ncs_box.png"):
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "PICTURES", tmp_path)
    assert module.ExamplePicture.define_schema().inputs[0].options == ["ncs_box.png"]
