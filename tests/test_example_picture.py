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
