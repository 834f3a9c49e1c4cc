"""How avatars are measured: the held-out pictures, the classifier, cut-outs and intervals."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import judge
import layer_cases
import layers
import metrics
import torch
import vgg
from avatars import ATTRIBUTES, HELDOUT, SHIPPED, index, read_heldout
from masks import bench_mask
from PIL import Image

ROWS = read_heldout()
PICTURES = np.stack([np.asarray(Image.open(HELDOUT / r["file"]), np.float32) / 255 for r in ROWS])
RIGHT = np.tile(bench_mask("half", 128, 0), (len(ROWS), 1, 1))


def test_the_heldout_pictures_are_the_first_of_the_list():
    first = list(itertools.islice((r for r in index() if r["split"] == "heldout"), SHIPPED))
    told = [{"prompt": r["words"]} | {name: r.get(name, "") for name in ATTRIBUTES} for r in first]
    assert [{k: v for k, v in r.items() if k != "file"} for r in ROWS] == told
    assert [r["file"] for r in ROWS] == [f"{n:03}.png" for n in range(SHIPPED)]


@pytest.mark.parametrize("name", [n for n in judge.ATTRIBUTES if n != "hair"])
def test_the_classifier_is_right_on_what_it_never_saw(name):
    read = judge.shared_judge().read(PICTURES)
    right = np.nanmean([judge.hit(name, r, judge.attributes(row)) for r, row in zip(read, ROWS, strict=True)])
    assert right >= 0.97


def test_true_pictures_are_whole_and_glued_ones_are_not():
    glued = PICTURES.copy()
    other = [next(k for k, r in enumerate(ROWS) if r["style"] != row["style"]) for row in ROWS]
    glued[RIGHT] = PICTURES[other][RIGHT]
    assert judge.shared_judge().whole(PICTURES).mean() >= 0.95
    assert judge.shared_judge().whole(glued).mean() <= 0.1


def test_a_half_is_judged_without_the_other_half():
    greyed = np.where(RIGHT[..., None], PICTURES, np.float32(0.3))
    whole, part = (judge.agreement(judge.shared_judge(), ROWS, p, RIGHT) for p in (PICTURES, greyed))
    assert np.array_equal(whole, part, equal_nan=True) and np.nanmean(whole) > 0.95
    other = judge.agreement(judge.shared_judge(), ROWS, PICTURES[::-1].copy(), RIGHT)
    assert np.nanmean(other) < 0.4
    clothes = judge.KEPT.index("clothes_colour")
    assert [bool(r["clothes_colour"]) for r in ROWS] == (~np.isnan(whole[:, clothes])).tolist()


def test_a_figure_is_cut_out_of_its_plain_background():
    y, x = np.mgrid[:64, :64] + 0.5
    alpha = np.clip(20.5 - np.hypot(y - 30, x - 34), 0, 1)
    figure, ground = np.array([0.8, 0.2, 0.1]), np.array([0.7, 0.9, 1.0])
    picture = alpha[..., None] * figure + (1 - alpha[..., None]) * ground
    found, colours = layer_cases.cut_out(picture)
    assert abs(found - alpha).max() < 0.05
    assert abs(found[..., None] * colours + (1 - found[..., None]) * ground - picture).max() < 0.02


@pytest.mark.parametrize("kind", ["pattern", "half"])
def test_composites_show_the_layers_where_the_mask_says(kind):
    cases = layer_cases.avatar_composites(kind, ROWS, PICTURES, 4)
    assert [c.name for c in cases] == [f"{kind}_{i:02}" for i in range(4)]
    for case in cases:
        opaque, clear = case.mask == 1, case.mask == 0
        assert opaque.any() and clear.any() and case.words[0] and case.words[1]
        assert (case.image[opaque] == case.first[opaque]).all() and (case.image[clear] == case.second[clear]).all()


def test_the_given_box_holds_the_mask():
    mask = np.zeros((32, 32))
    mask[5:9, 20:32] = 1
    assert layer_cases.box_of(mask) == (20, 5, 11, 4)  # the frame's last column is left out


def test_wilson_is_inside_0_and_1_and_known():
    assert metrics.wilson(10, 10)[0] == pytest.approx(0.7225, abs=1e-3) and metrics.wilson(10, 10)[1] <= 1 + 1e-9
    assert metrics.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_bootstrap_covers_as_student_does():
    values = np.random.default_rng(1).normal(size=200)
    low, high = metrics.bootstrap(values, np.mean)
    mean, half = metrics.paired_interval(values, 0 * values)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)


def test_distance_of_sets_is_zero_only_for_the_same():
    points = np.random.default_rng(2).normal(size=(40, 3)) + np.arange(40)[:, None] // 20
    d, a, b = metrics.distances(points, points), np.arange(20), np.arange(20, 40)
    assert metrics.set_distance(d, a, a) == pytest.approx(0, abs=1e-12)
    assert metrics.set_distance(d, a, b) > 0.5


def test_the_boxes_that_layers_are_told():
    mask = np.zeros((32, 32))
    mask[8:24, 8:20] = 1
    case = layer_cases.Composite("", np.zeros((32, 32, 3)), np.zeros((32, 32, 3)), mask)
    prior = layers.box_prior([case], torch.Size((4, 4)))
    expected = torch.zeros(1, 1, 4, 4)
    expected[..., 1:3, 1], expected[..., 1:3, 2] = 0.9, 0.45  # the box ends in the middle of the third column
    torch.testing.assert_close(prior, expected)


def test_the_second_features_are_unit_vectors_of_a_plain_convolutional_network(monkeypatch):
    """The same network of PyTorch's modules."""
    widths, net, weights = (3, 4, 5, 6, 7, 8), [], []
    for i, count in enumerate(vgg.CONVOLUTIONS):
        net += [torch.nn.MaxPool2d(2)] if i else []
        sizes = [widths[i], *[widths[i + 1]] * count]
        convolutions = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)]
        net.append(torch.nn.Sequential(*(m for c in convolutions for m in (c, torch.nn.ReLU()))))
        weights.append([(c.weight, c.bias) for c in convolutions])
    x = torch.rand(2, 3, 64, 64)
    out = torch.from_numpy(vgg.features(weights, x.movedim(1, -1).numpy()))
    monkeypatch.setattr(vgg, "load", lambda: weights)
    style = vgg.style_distances(x[1:].movedim(1, -1).numpy(), x[0].movedim(0, -1).numpy())
    expected, y = 0.0, 255 * x[:, [2, 1, 0]] - torch.tensor(vgg.MEAN).view(3, 1, 1)
    for module in net:
        y = module(y)
        if isinstance(module, torch.nn.Sequential):
            part, out = out[:, : 16 * y.shape[1]], out[:, 16 * y.shape[1] :]
            unit = y / y.norm(dim=1, keepdim=True).clamp(min=1e-12)
            patches = unit.unfold(2, y.shape[2] // 4, y.shape[2] // 4).unfold(3, y.shape[3] // 4, y.shape[3] // 4)
            torch.testing.assert_close(part, patches.mean((4, 5)).flatten(1) / 4)
            reference, other = (torch.einsum("ihw,jhw->ij", z, z) / z[0].numel() for z in y)
            expected += ((other - reference).norm() / reference.norm()).item() ** 2 / 5
    assert out.shape[1] == 0
    assert style["vgg_distance"][0] == pytest.approx(expected, rel=1e-4)


def test_the_style_of_a_picture_of_another_size_is_that_of_its_average_place(monkeypatch):
    """One convolution that sees single pixels knows nothing of size; borders count for others."""
    weights = [[(torch.rand(4, 3, 1, 1).mul(0.01).repeat(1, 1, 3, 3) * torch.eye(3)[1] * torch.eye(3)[1][:, None],
                 torch.rand(4))]]  # fmt: skip
    monkeypatch.setattr(vgg, "load", lambda: weights)
    reference, other = torch.rand(2, 16, 16, 3).numpy()
    twice = np.tile(other[None], (1, 2, 2, 1))
    assert vgg.style_distances(twice, reference)["vgg_distance"] == pytest.approx(
        vgg.style_distances(other[None], reference)["vgg_distance"], rel=1e-4
    )
