"""Every kind of bad input at every node: an error that names the input and the remedy, before any model call.

The cases are made from the nodes' own schemas, so that a new input is tested too. What is fine is listed.
"""

import re
from types import SimpleNamespace

import clip_models
import pytest
import tiny
import torch
from graphs import give, inpaint_graph
from host import CountNode, GraphError, node

SIDE = 32
NAN, INF = float("nan"), float("inf")
PICTURE = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE).movedim(1, -1).contiguous()
MASK = (torch.arange(SIDE) >= SIDE // 2).float().expand(1, SIDE, SIDE).contiguous()
LATENT = torch.zeros(1, 4, SIDE // 8, SIDE // 8)
VERBS = (
    "Connect Look Give Scale Use Set Choose Load Convert Write Mend Put Cut Paint Sample Encode Return Allow "
    "choose give use"
)
REMEDY = re.compile(rf"[.;,] ({VERBS.replace(' ', '|')})\b")


def spoilt(t, value):
    t = t.clone()
    t.view(-1)[3] = value
    return t


PICTURES = {
    "text": "a picture", "dict": {"samples": LATENT}, "NaN": spoilt(PICTURE, NAN), "infinity": spoilt(PICTURE, INF),
    "minus infinity": spoilt(PICTURE, -INF), "0 to 255": 255 * PICTURE, "-1 to 1": 2 * PICTURE - 1,
    "bytes": (255 * PICTURE).byte(), "rank 2": PICTURE[0, ..., 0], "rank 3": PICTURE[0], "rank 5": PICTURE[None],
    "no picture": PICTURE[:0], "no height": PICTURE[:, :0], "no width": PICTURE[:, :, :0],
    "one channel": PICTURE[..., :1], "two channels": PICTURE[..., :2], "channels first": PICTURE.movedim(-1, 1),
    "NaN in half precision": spoilt(PICTURE, NAN).half(),
}  # fmt: skip
MASKS = {
    "text": "a mask", "dict": {"samples": LATENT}, "NaN": spoilt(MASK, NAN), "infinity": spoilt(MASK, INF),
    "0 to 255": 255 * MASK, "bytes": (255 * MASK).byte(), "negative": -MASK, "rank 1": MASK[0, 0],
    "rank 5": MASK[None, None], "a picture of one channel": MASK[..., None], "a picture": PICTURE,
    "no mask": MASK[:0], "no height": MASK[:, :0], "NaN in half precision": spoilt(MASK, NAN).half(),
}  # fmt: skip
LATENTS = {
    "text": "a latent", "tensor": LATENT, "empty dict": {}, "text inside": {"samples": "a latent"},
    **{kind: {"samples": samples} for kind, samples in {
        "NaN": spoilt(LATENT, NAN), "infinity": spoilt(LATENT, INF), "rank 2": LATENT[0, 0],
        "rank 6": LATENT[None, None],
        "integers": LATENT.int(), "no latent": LATENT[:0], "no height": LATENT[:, :, :0],
        "16 channels": torch.ones(1, 16, 4, 4), "audio": torch.ones(1, 4, 256)}.items()},
    **{f"noise mask: {kind}": {"samples": LATENT, "noise_mask": mask} for kind, mask in {
        "NaN": spoilt(MASK, NAN), "0 to 255": 255 * MASK, "negative": -MASK, "text": "a mask", "rank 1": MASK[0, 0],
        "empty": MASK[:0]}.items()},
}  # fmt: skip
WORDS = torch.zeros(1, 8, 768)
CONDITIONINGS = {
    "text": "a cat", "empty": [], "numbers": [1, 2], "a tensor": WORDS, "NaN": [[spoilt(WORDS, NAN), {}]],
    "infinity": [[spoilt(WORDS, INF), {}]], "no options": [[WORDS]],
    "NaN in pooled": [[WORDS, {"pooled_output": torch.full((1, 768), NAN)}]],
}  # fmt: skip
OBJECTS = {"text": "?", "number": 3, "dict": {}, "tensor": LATENT, "nothing": None}
NUMBERS = {"NaN": NAN, "infinity": INF, "minus infinity": -INF, "text": "3", "nothing": None, "list": [1]}
VAES = {**OBJECTS, "no model": "no model", "no encoder": "no encoder", "no decoder": "no decoder",
        "wrong encoder": "wrong encoder", "NaN decoded": "NaN decoded", "NaN encoded": "NaN encoded", "video": "video",
        "a decoder of four channels": "a decoder of four channels"}  # fmt: skip
KINDS = {
    "IMAGE": PICTURES, "MASK": MASKS, "LATENT": LATENTS, "CONDITIONING": CONDITIONINGS, "VAE": VAES,
    "INT": NUMBERS | {"half": 1.5, "below": "below", "above": "above"},
    "FLOAT": NUMBERS | {"below": "below", "above": "above"},
    "COMBO": {"unknown": "???", "number": 3, "nothing": None, "other case": "CASE"},
    "BOOLEAN": {"text": "yes", "number": 3, "nothing": None}, "STRING": {"number": 3, "nothing": None, "list": ["a"]},
    "NEWTON_TARGET": {**OBJECTS, "nothing": 0},
    **{kind: OBJECTS for kind in ("MODEL", "SAMPLER", "CLIP_VISION", "NEWTON_CONSTRAINT", "NEWTON_SETTINGS",
                                  "NEWTON_REPORT")},
}  # fmt: skip
CASES = [(kind, badness) for kind, all_of_them in KINDS.items() for badness in all_of_them]
# Node, input, badness ("" = any) that are no mistake there.
FINE = {
    # Nothing connected to an optional input.
    *((node_id, name, "nothing") for node_id, names in {
        "NewtonConstrainedSampler": ("constraint", "settings"), "NewtonSampler": ("constraint", "settings"),
        "NewtonConstrainModel": ("constraint", "settings"), "NewtonConstrainSampler": ("constraint", "settings"),
        "NewtonCombineConstraints": ("constraint_b",), "NewtonDirectionCompare": ("settings",),
        "NewtonJacobianProbe": ("vae",),
    }.items() for name in names),
    # The probe and the style only decode with it.
    *((n, "vae", badness) for n in ("NewtonJacobianProbe", "StyleConstraint")
      for badness in ("no encoder", "wrong encoder", "NaN encoded")),
    # Video is inpainted and measured too.
    *((n, "vae", "video") for n in ("LatentMaskConstraint", "PixelSRConstraint", "PixelOperatorConstraint")),
    # Only its size counts.
    ("WindowConditioning", "latent_image", "16 channels"),
}  # fmt: skip


class Half:
    """A VAE that differs from another one."""

    def __init__(self, vae, **other):
        self.__dict__.update(other)
        self.vae = vae

    def __getattr__(self, name):
        return getattr(self.vae, name)


def fails(*_):
    raise NotImplementedError


def bad_vaes(vae):
    return {
        "no model": Half(vae, first_stage_model=None),
        "no encoder": Half(vae, encode=fails),
        "no decoder": Half(vae, decode=fails),
        "wrong encoder": Half(vae, encode=lambda p: torch.zeros(len(p), 4, p.shape[1] // 8, p.shape[2] // 8)),
        "NaN decoded": Half(vae, decode=lambda z: NAN * vae.decode(z)),
        "NaN encoded": Half(vae, encode=lambda p: NAN * vae.encode(p)),
        "a decoder of four channels": Half(vae, decode=lambda z: vae.decode(z).repeat(1, 1, 1, 2)[..., :4]),
        "video": Half(vae, latent_dim=3),
    }


@pytest.fixture(autouse=True)
def as_in_a_graph():
    """Where the host executes nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
@torch.inference_mode()
def pack(host, vae, tmp_path_factory):
    """The nodes by id, one good input for each of theirs, and the bad VAEs."""
    import comfy.samplers

    nodes = {n.define_schema().node_id: n for n in host.module("nodes.extension").NODES}
    model = CountNode().count(tiny.unet())[0]
    words = nodes["WordConditioning"].execute(text="").result[0]
    sockets = {
        "IMAGE": PICTURE, "MASK": MASK, "LATENT": {"samples": LATENT}, "CONDITIONING": words, "MODEL": model,
        "VAE": vae, "SAMPLER": comfy.samplers.sampler_object("euler_ancestral"),
        "CLIP_VISION": clip_models.make(clip_models.CLIP, tmp_path_factory.mktemp("clip")),
        "NEWTON_SETTINGS": host.module("sampler").PRESETS["fast"], "NEWTON_REPORT": host.module("sampler").Report(),
        "NEWTON_TARGET": lambda image: image,
    }  # fmt: skip
    pixels = nodes["PixelSRConstraint"].execute(image=PICTURE, vae=vae, factor=2, filter="area", noise=0.0).result[0]
    sockets["NEWTON_CONSTRAINT"] = pixels
    return SimpleNamespace(nodes=nodes, sockets=sockets, vaes=bad_vaes(vae), host=host)


def good_inputs(pack, cls):
    inputs = {}
    for i in cls.define_schema().inputs:
        kind = i.get_io_type()
        inputs[i.id] = pack.sockets[kind] if kind in pack.sockets else getattr(i, "default", None)
    node_id = cls.define_schema().node_id
    if node_id == "NewtonBackProjectPixels":
        inputs["image"] = PICTURE.repeat(1, 2, 2, 1)
    if node_id == "LayerDecompose":
        inputs |= {"fixed_1": 0 * MASK, "fixed_2": 0 * MASK}
    if node_id == "PixelOperatorConstraint":
        inputs["kernel"] = torch.full((1, 3, 3, 3), 1 / 9)
    if node_id == "PixelTargetConstraint":
        inputs |= {"palette": torch.cat([0 * PICTURE, 0 * PICTURE + 1])}
    return inputs


def bad_value(pack, kind, badness, i):
    value = KINDS[kind][badness]
    if kind == "VAE" and isinstance(value, str):
        return pack.vaes.get(value, value)
    if badness in ("below", "above"):
        return i.min - 1 if badness == "below" else i.max + 1
    return i.default.upper() + "S" if badness == "other case" else value


def cases(pack):
    """(node class, input, kind, badness) of all."""
    for cls in pack.nodes.values():
        for i in cls.define_schema().inputs:
            for badness in KINDS[i.get_io_type()]:
                yield cls, i, i.get_io_type(), badness


def complaint(run, name):
    """What is wrong with the answer to a bad input; None if nothing is."""
    CountNode.batches = []
    try:
        run()
    except Exception as e:
        text = str(e)
        if CountNode.batches:
            return f"after {len(CountNode.batches)} model calls: {text}"
        named = re.search(rf"^[\w, :-]*\b{name}\b", text, re.M)
        if not (isinstance(e, ValueError) and named and REMEDY.search(f". {text}")):
            return f"unclear: {type(e).__name__}: {text}"
        return None
    return "silent"


def test_the_table_is_long_and_what_is_fine_is_part_of_it(pack):
    table = [(cls.define_schema().node_id, i.id, badness) for cls, i, _, badness in cases(pack)]
    assert len(table) >= 400
    assert set(table) >= FINE


@pytest.mark.parametrize(("kind", "badness"), CASES, ids=lambda v: v)
def test_bad_input_is_named_with_its_remedy(pack, kind, badness):
    problems = []
    for cls, i, of_kind, bad in cases(pack):
        node_id = cls.define_schema().node_id
        if (of_kind, bad) != (kind, badness) or (node_id, i.id, badness) in FINE:
            continue
        inputs = good_inputs(pack, cls) | {i.id: bad_value(pack, kind, badness, i)}
        found = complaint(lambda cls=cls, inputs=inputs: cls.execute(**inputs), i.id)
        if found:
            problems.append(f"{node_id}.{i.id}: {found}")
    assert not problems, "\n".join(problems)


CHEAP = ("NewtonSampler", "NewtonConstrainModel", "NewtonConstrainSampler", "NewtonSettings", "LatentMaskConstraint",
         "PixelSRConstraint", "PixelOperatorConstraint", "PixelTargetConstraint", "StyleConstraint",
         "NewtonBackProjectPixels", "NewtonCombineConstraints", "NewtonCompositeInsideMask",
         "WordConditioning", "WindowConditioning")  # fmt: skip


@pytest.mark.parametrize("node_id", CHEAP)
def test_the_good_inputs_are_good(pack, node_id):
    """Or the table above would fail for another reason."""
    cls = pack.nodes[node_id]
    cls.execute(**good_inputs(pack, cls))


def sample(pack, **inputs):
    cls = pack.nodes["NewtonConstrainedSampler"]
    small = {"steps": 2, "cfg": 1.0, "constraint": None, "settings": None}
    return cls.execute(**(good_inputs(pack, cls) | small | inputs)).result[0]["samples"]


def target(pack, **inputs):
    cls = pack.nodes["PixelTargetConstraint"]
    return cls.execute(**(good_inputs(pack, cls) | inputs)).result[0]


FUNCTIONS = {
    "raises": lambda image: 1 / 0, "raises a RuntimeError": lambda image: image @ torch.ones(7),
    "gives None": lambda image: None,
    "gives NaN": lambda image: image * NAN, "gives infinity": lambda image: image * INF + INF,
    "gives another size": lambda image: image[:, ::2], "gives text": lambda image: "an image",
    "takes no picture": lambda: 0, "gives one channel": lambda image: image[..., :1],
}  # fmt: skip


@pytest.mark.parametrize("fault", FUNCTIONS)
def test_a_faulty_function_is_seen_before_the_model_is_called(pack, fault):
    spec = target(pack, target="function", function=FUNCTIONS[fault])
    assert complaint(lambda: sample(pack, constraint=spec), "function") is None


def test_cells_that_do_not_fit_are_seen_before_the_model_is_called(pack):
    spec = target(pack, target="pixel art", cell=5)
    assert complaint(lambda: sample(pack, constraint=spec), "cell") is None


def custom(pack, sampler, **changes):
    """As SamplerCustom does."""
    import comfy.sample

    run = {
        "cfg": 1.0, "sigmas": torch.tensor([10.0, 1.0, 0.0]), "positive": pack.sockets["CONDITIONING"],
        "negative": pack.sockets["CONDITIONING"], "latent": LATENT, "mask": MASK,
    } | changes  # fmt: skip
    noise = torch.ones_like(run["latent"])
    model = pack.sockets["MODEL"]
    if sampler == "model":
        model = pack.nodes["NewtonConstrainModel"].execute(model=model).result[0]
        sampler = pack.sockets["SAMPLER"]
    return comfy.sample.sample_custom(
        model, noise, run["cfg"], sampler, run["sigmas"], run["positive"], run["negative"], run["latent"],
        noise_mask=run["mask"], seed=1,
    )  # fmt: skip


def doors(pack):
    yield "NewtonSampler", pack.nodes["NewtonSampler"].execute().result[0]
    cls = pack.nodes["NewtonConstrainSampler"]
    yield "NewtonConstrainSampler", cls.execute(sampler=pack.sockets["SAMPLER"]).result[0]
    yield "NewtonConstrainModel", "model"


RUNS = {
    **{f"sigmas {values}": ("sigmas", {"sigmas": torch.tensor(values)}) for values in (
        [1.0, 10.0], [0.0, 1.0], [10.0, 1.0, 2.0, 0.0], [10.0, NAN, 0.0], [NAN, 1.0], [INF, 1.0], [10.0, -1.0],
        [-1.0, -2.0], [0.0, 0.0], [10.0, 1.0, 0.0, 0.0])},
    "cfg NaN": ("cfg", {"cfg": NAN}), "cfg infinite": ("cfg", {"cfg": INF}),
    "positive NaN": ("positive", {"positive": CONDITIONINGS["NaN"]}),
    "negative infinite": ("negative", {"negative": CONDITIONINGS["infinity"], "cfg": 2.0}),
    "latent NaN": ("latent_image", {"latent": spoilt(LATENT, NAN)}),
    "latent infinite": ("latent_image", {"latent": spoilt(LATENT, INF)}),
    "mask NaN": ("noise_mask", {"mask": NAN * MASK}), "mask 0 to 255": ("noise_mask", {"mask": 255 * MASK}),
    "mask negative": ("noise_mask", {"mask": -MASK}),
}  # fmt: skip


@pytest.mark.parametrize("mistake", RUNS)
def test_other_nodes_samplers_are_checked_at_our_doors(pack, mistake):
    name, changes = RUNS[mistake]
    problems = {door: complaint(lambda s=s: custom(pack, s, **changes), name) for door, s in doors(pack)}
    assert not any(problems.values()), problems


def test_a_single_sigma_gives_the_latent_back_as_stock_does(pack):
    for _, sampler in doors(pack):
        custom(pack, sampler, sigmas=torch.tensor([1.0]))
        assert not CountNode.batches


WORK = {
    "a factor on a large picture": (
        "PixelSRConstraint", "factor", {"image": PICTURE.repeat(1, 16, 16, 1), "factor": 64}),
    "an operator that takes minutes": (
        "PixelSRConstraint", "image", {"image": PICTURE[:, :8].repeat(1, 1, 256, 1), "width": 16384, "height": 16}),
    "no height": ("PixelSRConstraint", "width, height", {"image": PICTURE[:, :1].repeat(1, 1, 64, 1), "width": 8}),
    "a matrix of 20,000 rows": (
        "PixelOperatorConstraint", "matrix", {"operator": "channel mix", "matrix": "1 0 0;" * 20000}),
    **{f"matrix {text!r}": ("PixelOperatorConstraint", "matrix", {"operator": "channel mix", "matrix": text})
       for text in ("", ";", "1 2", "a b c", "nan 0 0", "inf 0 0", "1e300 0 0", "0 0 0", "1 2 3 4")},
    **{f"tile {tile} of {node_id}": (node_id, "tile", {"tile": tile}) for tile in (1, 4, 7) for node_id in (
        "PixelSRConstraint", "PixelOperatorConstraint", "PixelTargetConstraint", "StyleConstraint")},
    "one colour": ("PixelTargetConstraint", "palette", {"palette": 0 * PICTURE}),
    "many colours": ("PixelTargetConstraint", "palette", {"palette": torch.rand(1, 64, 64, 3)}),
    "7 x 200 to encode": ("LatentMaskConstraint", "image", {"image": torch.rand(1, 200, 7, 3)}),
    "7 x 200 to measure": ("PixelOperatorConstraint", "image", {"image": torch.rand(1, 200, 7, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WORK)
def test_what_cannot_be_done_is_refused_at_once(pack, mistake):
    node_id, name, changes = WORK[mistake]
    cls = pack.nodes[node_id]
    inputs = good_inputs(pack, cls) | changes
    assert complaint(lambda: cls.execute(**inputs), name) is None


def test_a_size_is_suggested_that_exists(pack):
    cls = pack.nodes["LatentMaskConstraint"]
    with pytest.raises(ValueError, match="for example 8x200"):
        cls.execute(**(good_inputs(pack, cls) | {"image": torch.rand(1, 200, 7, 3)}))


def test_many_tiles_are_announced(pack, caplog):
    cls = pack.nodes["PixelOperatorConstraint"]
    wide = torch.rand(1, 128, 128, 3)
    cls.execute(**(good_inputs(pack, cls) | {"image": wide, "operator": "grey", "tile": 12}))
    assert "256 tiles" in caplog.text


def test_few_calls_are_refused_before_any(pack):
    settings = pack.nodes["NewtonSettings"]
    few = settings.execute(**(good_inputs(pack, settings) | {"max_calls": 1})).result[0]
    assert complaint(lambda: sample(pack, latent_image={"samples": LATENT, "noise_mask": MASK}, settings=few),
                     "max_calls") is None  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_and_masks_sample_like_single_ones(pack, dtype):
    latent = {"samples": LATENT, "noise_mask": MASK}
    half = {key: t.to(dtype) for key, t in latent.items()}
    expected = sample(pack, latent_image=latent)
    assert torch.equal(sample(pack, latent_image=half), expected)
    cls = pack.nodes["LatentMaskConstraint"]
    inputs = good_inputs(pack, cls)
    specs = [cls.execute(**(inputs | {"mask": mask})).result[0] for mask in (MASK, MASK.to(dtype))]
    assert torch.equal(specs[0].weights, specs[1].weights)


GRAPHS = {
    "cfg": ("sample", {"cfg": NAN}), "scheduler": ("sample", {"scheduler": "???"}),
    "fill": ("constraint", {"fill": "???"}), "denoise": ("sample", {"denoise": NAN}),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_over_the_api_is_refused(pack, name):
    """By the host where it looks, else by the node."""
    who, widgets = GRAPHS[name]
    graph = inpaint_graph(pack.host)
    graph[who]["inputs"] |= widgets
    with pytest.raises(GraphError, match=name):
        pack.host.run(graph)
    assert not CountNode.batches


def test_a_broken_mask_in_a_graph_is_refused(pack):
    graph = inpaint_graph(pack.host)
    graph["mask"] = give(pack.host, "MASK", spoilt(MASK, NAN))
    graph["sample"]["inputs"]["model"] = ["count", 0]
    graph["count"] = node("TestCount", model=["ckpt", 0])
    with pytest.raises(GraphError, match="mask: it contains NaN"):
        pack.host.run(graph)
    assert not CountNode.batches
