"""Direction Compare in a real ComfyUI: what it shows, and what it refuses."""

from types import SimpleNamespace

import probes
import pytest
import torch
from graphs import SIZE, give, picture
from probes import fails, run


@pytest.fixture
def compare(host):
    return probes.compare_graph(host)


def test_every_direction_lowers_the_residual_and_costs_what_it_says(host, compare, monkeypatch):
    bars = probes.bars(monkeypatch)
    drawn, text = run(host, compare)
    for name in ("J e", "J^T e", "exact"):
        line = next(line for line in text.splitlines() if line.startswith(f"{name} | residual"))
        values = [float(v) for v in line.split("|")[2].split(",")]
        assert len(values) == 3 and values[2] < values[0]
    assert drawn.shape[-1] == 3
    # x0 of each; in two steps J e and x0; a graph, J^T e and x0; a graph, 16 rows and x0.
    assert bars[-1].current == bars[-1].total == 3 + 2 * (2 + 3 + 18)
    again = run(host, compare | {"image": give(host, "IMAGE", picture()[0])})  # not from the host's cache
    assert torch.equal(drawn, again[0]) and text == again[1]


def test_the_exact_direction_is_left_out_where_it_takes_too_long(host, compare, monkeypatch):
    bars = probes.bars(monkeypatch)
    compare["mask"] = give(host, "MASK", picture()[1])
    text = run(host, compare)[1]
    assert "No exact direction: the mask leaves 512 values" in text and "J^T e |" in text and "exact |" not in text
    assert bars[-1].current == bars[-1].total


@pytest.mark.parametrize(
    ("mask", "words"),
    [(torch.zeros(1, SIZE, SIZE), ("mask:", "empty")), (torch.ones(1, SIZE, SIZE), ("mask:", "no latent cell known"))],
)
def test_compare_refuses_masks_without_a_known_or_unknown_part(host, compare, mask, words):
    compare["mask"] = give(host, "MASK", mask)
    fails(host, compare, *words)


def test_compare_refuses_no_noise_and_a_start_of_another_size(host, compare):
    compare["start"] = give(host, "IMAGE", torch.ones(1, 64, SIZE, 3))
    good = dict(compare["node"]["inputs"])
    compare["node"]["inputs"] = good | {"start": ["start", 0]}
    fails(host, compare, "start:", "128x64", "Scale it first")
    compare["node"]["inputs"] = good | {"noise": 0.0}
    fails(host, compare, "noise:", "0 is no noise level")


def test_video_vaes_are_refused(host):
    vae = SimpleNamespace(latent_dim=3)
    with pytest.raises(ValueError, match="vae: it is a video"):
        host.module("nodes.inspected").encoded(vae, picture()[0])
