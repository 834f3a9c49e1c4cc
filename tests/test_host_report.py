"""Limits and the report in a real ComfyUI: what the user asks for, sees, and pays."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from graphs import custom_sampling, give, inpaint_graph, newton_steps
from host import CountNode, GraphError, node


@pytest.fixture
def graph(host):
    graph = inpaint_graph(host)
    graph["report"] = node("NewtonConstraintReport", report=["sample", 1])
    graph["out"] = node("TestCapture", value=["sample", 1])
    return graph


def test_report_says_what_the_network_was_asked(host, graph):
    graph["negative"] = node("WordConditioning", text="flags")
    graph["sample"]["inputs"] |= {"negative": ["negative", 0], "cfg": 3.0}
    graph["image"] = give(host, "IMAGE", host_pictures(2))
    newton_steps(graph, "sample")
    (report,) = host.run(graph)
    assert report.calls == 8 and report.network_evals == 16 == sum(CountNode.batches) / 2
    assert [level.corrections for level in report.levels] == [1] * 4
    assert all(len(level.residual[0]) == 2 for level in report.levels) and len(report.residual[0]) == 2
    assert "4 of 4 levels corrected in full" in report.summary()


def test_calls_are_counted_without_a_progress_bar(host, graph, monkeypatch):
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", False)
    (report,) = host.run(graph)
    assert report.calls == len(CountNode.batches) == 4 + 1


def host_pictures(count):
    from graphs import picture

    return torch.cat([picture()[0], 1 - picture()[0]])[:count]


def test_the_report_is_drawn_and_written(host, graph):
    graph["picture"] = node("TestCapture", value=["report", 0])
    graph["text"] = node("TestCapture", value=["report", 1])
    seen = host.run(graph)
    (picture,) = (s for s in seen if isinstance(s, torch.Tensor))
    (text,) = (s for s in seen if isinstance(s, str))
    (report,) = (s for s in seen if not isinstance(s, torch.Tensor | str))
    assert picture.ndim == 4 and picture.shape[-1] == 3 and 0 <= picture.min() < picture.max() <= 1
    assert text == report.table() and len(text.splitlines()) == 4 + 4
    assert "4 of 4 levels known values replaced" in text and report.residual[0][0] > 1e-3  # the model's own estimate


def test_the_drawing_shows_the_figures(host):
    """A residual ten times larger lies higher, an empty run is no error, and a target is drawn."""
    sampler, draw = host.module("sampler.report"), host.module("nodes.plot")

    def level(sigma, residual, stop):
        return sampler.LevelReport(sigma, ((residual,),), (1.0,), 1, False, stop)

    def drawn(sizes, target=0.0):
        levels = tuple(level(10.0 / (i + 1), r, "iterations") for i, r in enumerate(sizes))
        sheet = draw.draw_report(sampler.Report(levels, ("rms",), ((sizes[-1],),), 8, 8, 1.0, target))
        return torch.from_numpy(np.array(sheet))

    def marks(sheet):
        rows, columns = torch.where((sheet == torch.tensor([0x1F, 0x5F, 0xA8])).all(-1))
        inside = rows < draw.BOTTOM // draw.SMOOTH
        return rows[inside], columns[inside]

    rows, columns = marks(drawn([1.0, 0.1]))
    assert rows[columns < columns.float().mean()].float().mean() < rows[columns > columns.float().mean()].float().mean()
    assert (drawn([1.0, 0.1], 0.3) == torch.tensor([0xC0, 0x30, 0x30])).all(-1).any()
    never = sampler.Report((level(1.0, float("nan"), "silent"),), ("rms",), ((float("nan"),),))
    for report in (sampler.Report(), never):
        assert draw.draw_report(report).width == draw.WIDTH
    silent = (float("nan"),)
    levels = (sampler.LevelReport(1.0, (silent, silent), (0.0,), 0, False, "silent"),)
    two = sampler.Report(levels, ("rms", "rms"), (silent, silent))
    assert draw.draw_report(two).height > draw.draw_report(never).height and two.labels() == ["rms (1)", "rms (2)"]
    assert len(marks(drawn([0.5]))[0])
    assert set(draw.MARKS) == set(sampler.WHY) - {"silent"}


def test_a_run_that_diverged_is_drawn(host):
    sampler, draw = host.module("sampler.report"), host.module("nodes.plot")

    def sheet(*sizes):
        levels = tuple(
            sampler.LevelReport(10.0 / (i + 1), (pair,), (1.0,), 1, False, "iterations") for i, pair in enumerate(sizes)
        )
        return draw.draw_report(sampler.Report(levels, ("rms",), (sizes[-1],)))

    red = torch.tensor([0xC0, 0x30, 0x30])
    for last in ((float("inf"), 1.0), (0.5, float("nan"))):
        for sizes in (((1.0, 1.0), last), (last,)):
            assert (torch.from_numpy(np.array(sheet(*sizes))) == red).all(-1).any()
    assert not (torch.from_numpy(np.array(sheet((1.0, 1.0)))) == red).all(-1).any()


@pytest.mark.parametrize(("limit", "corrections"), [(4, 0), (6, 2), (7, 3), (100, 4)])
def test_max_calls(host, graph, limit, corrections):
    newton_steps(graph, "sample", max_calls=limit)
    (report,) = host.run(graph)
    assert len(CountNode.batches) == report.calls == 4 + corrections <= limit
    assert sum(level.corrections for level in report.levels) == corrections


@pytest.mark.parametrize("hold", [True, False])
def test_max_calls_below_the_steps(host, graph, hold):
    newton_steps(graph, "sample", max_calls=3, hold=hold)
    with pytest.raises(GraphError, match=r"(?s)at least 4 .*max_calls: 3 "):
        host.run(graph)
    assert not CountNode.batches


def test_residual_target(host, graph):
    newton_steps(graph, "sample")
    (free,) = host.run(graph)
    target = sorted(level.residual[0][0] for level in free.levels)[1] * 1.01
    newton_steps(graph, "sample", residual_target=target)
    (report,) = host.run(graph)
    assert len(CountNode.batches) == report.calls < free.calls
    for level in report.levels:
        assert level.corrections == (level.residual[0][0] > target)
    assert "stopped at the residual target" in report.summary()


@pytest.mark.parametrize("name", ["euler", "heun", "seeds_3"])
def test_max_calls_of_a_driven_sampler(host, graph, name):
    """The calls that the stock sampler makes itself are counted in."""
    del graph["report"]
    graph["out"] = node("TestCapture", value=["sample", 0])
    own = host.module("nodes.comfy_adapter").SINGLE_STEP[name]
    plain = 4 + 3 * own
    for limit, calls in ((plain, plain), (plain + 2, plain + 2), (0, plain + 4)):
        graph["constrained"] = node("NewtonConstrainModel", model=["count", 0], constraint=["constraint", 0])
        newton_steps(graph, "constrained", max_calls=limit)
        graph["sample"] = node(
            "KSampler", model=["constrained", 0], positive=["words", 0], negative=["words", 0], seed=1, steps=4,
            latent_image=["constraint", 1], cfg=1.0, sampler_name=name, scheduler="simple", denoise=1.0,
        )  # fmt: skip
        host.run(graph)
        assert len(CountNode.batches) == calls
    newton_steps(graph, "constrained", max_calls=plain - 1)
    with pytest.raises(GraphError, match="max_calls"):
        host.run(graph)


def test_one_line_in_the_log_for_every_run(host, graph, caplog):
    with caplog.at_level(logging.INFO, "newton_constrained_sampling"):
        (report,) = host.run(graph)
        del graph["report"]
        custom_sampling(graph, node("NewtonSampler", constraint=["constraint", 0]), ["constraint", 1])
        graph["out"] = node("TestCapture", value=["sample", 0])
        host.run(graph)
    lines = [r.getMessage() for r in caplog.records if r.name == "newton_constrained_sampling"]
    assert len(lines) == 2 and lines[0].endswith(report.summary())
    assert all("4 levels, 5 model calls, 5 network evaluations" in line for line in lines)


def test_without_any_level_there_is_a_report(host, graph):
    graph["sample"]["inputs"]["denoise"] = 0.0
    (report,) = host.run(graph)
    assert report.calls == 0 and "no level" in report.summary()


class OnMeta:
    """A network, and a constraint, on torch's meta device: no value exists there, so whatever reads one fails."""

    def __init__(self, host, patcher):
        guider = {"model_patcher": patcher, "loaded_models": [], "conds": {}, "model_options": patcher.model_options}
        self.inner_model, self.sigmas = SimpleNamespace(inner_model=patcher.model, **guider), None
        self.mask = host.module("sampler").LatentMask

    def __call__(self, x, sigma, **extra_args):
        return 0.5 * x

    def bind(self, space):
        return self.mask(torch.empty(space.shape, device="meta"), torch.empty(1, 1, *space.shape[2:], device="meta"))


@pytest.mark.parametrize("target", [0.0, 0.1])
def test_the_host_waits_for_the_device_at_the_end_only(host, graph, target, monkeypatch):
    """Nothing is read off the device between the checks of inputs and the report, unless there is a target."""
    monkeypatch.setattr(host.module("nodes.comfy_adapter.sampling"), "check_run", lambda *args: None)
    model = host.run({"ckpt": graph["ckpt"], "out": node("TestCapture", value=["ckpt", 0])})[0]
    network, calls, levels = OnMeta(host, model), [], []
    newton = host.module("nodes.comfy_adapter.sampling").newton_function
    chosen = host.module("sampler").NewtonSettings(residual_target=target)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta") as stopped:
        newton(
            network, torch.empty(2, 4, 16, 16, device="meta"), torch.linspace(10, 0, 6),
            {"model_options": {}, "denoise_mask": None, "seed": 1}, levels.append, True, network, chosen,
            lambda done, total: calls.append(done),
        )  # fmt: skip
    at_the_end = "report" in [entry.name for entry in stopped.traceback]
    assert (at_the_end, len(calls), len(levels)) == ((False, 1, 0) if target else (True, 10, 5))


@pytest.mark.parametrize(("size", "batch"), [(64, 1), (192, 1), (128, 3)])
def test_calls_depend_on_neither_size_nor_batch(host, graph, size, batch):
    picture = torch.nn.functional.interpolate(host_pictures(1).movedim(-1, 1), size=(size, size)).movedim(1, -1)
    mask = torch.zeros(1, size, size)
    mask[..., size // 2 :] = 1
    graph["image"] = give(host, "IMAGE", picture.expand(batch, -1, -1, -1))
    graph["mask"] = give(host, "MASK", mask)
    graph["sample"]["inputs"]["steps"] = 2
    (report,) = host.run(graph)
    assert report.calls == len(CountNode.batches) == 2 + 1
