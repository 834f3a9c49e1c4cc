"""What each help page shows, by the name of its node: runs of the shipped graphs and what they left."""

import io
import json
from collections.abc import Callable

import numpy as np
from demo_pictures import bands, blurred, grey, heldout, shrunk
from demo_tasks import GRAPHS, calls_of, completion, free_graph, measured, node, shipped, style, superres
from headless import Graph, Host
from masks import ALL_MASKS
from PIL import Image
from thumbnails import Shown, node_of, on_picture, on_squares

Panels = dict[str, Image.Image | np.ndarray]  # pictures by what stands above them
Place = list[str | int]  # an output: node and slot


def template(name: str) -> Graph:
    return json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))


def example(host: Host, name: str, number: int, mask: str) -> Graph:
    """A shipped graph on a held-out picture, of which the mask hides a part."""
    return on_picture(template(name), Shown(mask=mask, number=number), host.base / "input")


def given(host: Host, graph: Graph) -> Image.Image:
    """What a graph loads, with squares where it is hidden."""
    return on_squares(Image.open(host.base / "input" / graph[node_of(graph, "LoadImage")]["inputs"]["image"]))


def result(graph: Graph) -> Place:
    return graph[node_of(graph, "SaveImage")]["inputs"]["images"]


def as_image(graph: Graph, mask: Place) -> Place:
    graph["mask as image"] = node("MaskToImage", mask=mask)
    return ["mask as image", 0]


def run(host: Host, graph: Graph, places: dict[str, Place]) -> Panels:
    """The pictures at these outputs of a graph, which need not have others: the host shows equal previews once."""
    graph = {k: entry for k, entry in graph.items() if entry["class_type"] not in ("PreviewImage", "SaveImage")}
    looks = {f"look {name}": node("PreviewImage", images=place) for name, place in places.items()}
    found = host.run(graph | looks)
    return {name: Image.open(io.BytesIO(found.file(f"look {name}"))).convert("RGB") for name in places}


def inpaint_constraint(host: Host) -> Panels:
    graph = example(host, "inpaint_demo", 8, "strokes")
    made = node_of(graph, "LatentMaskConstraint")
    places = {"filled": [made, 3], "latent_mask": [made, 2], "result": result(graph)}
    return {"picture and mask": given(host, graph)} | run(host, graph, places)


def newton_ksampler(host: Host) -> Panels:
    found = completion("strokes", host, heldout(1)[0], lambda graph: None).pictures
    return {"picture and mask": found["given"], "KSampler": found["stock"], "Newton KSampler": found["ours"]}


def constrain_model(host: Host) -> Panels:
    graph = example(host, "inpaint_model_patch_demo", 13, "half")
    ours = run(host, graph, {"constrained": result(graph)})
    graph[node_of(graph, "KSampler")]["inputs"]["model"] = graph[node_of(graph, "NewtonConstrainModel")]["inputs"][
        "model"
    ]
    return {"picture and mask": given(host, graph)} | run(host, graph, {"KSampler": result(graph)}) | ours


def with_sampler(host: Host, graph: Graph, sampler: Place, name: str) -> Panels:
    graph[node_of(graph, "SamplerCustomAdvanced")]["inputs"]["sampler"] = sampler
    return run(host, graph, {name: result(graph)})


def constrain_sampler(host: Host) -> Panels:
    """Without words, which would tell both samplers what is hidden."""
    graph = example(host, "inpaint_custom_sampler_demo", 25, "half")
    graph[node_of(graph, "WordConditioning")]["inputs"]["text"] = ""
    graph["select"] = node("KSamplerSelect", sampler_name="dpmpp_2m_sde")
    constraint = [node_of(graph, "LatentMaskConstraint"), 0]
    graph["constrain"] = node("NewtonConstrainSampler", sampler=["select", 0], constraint=constraint)
    alone = with_sampler(host, graph, ["select", 0], "dpmpp_2m_sde")
    ours = with_sampler(host, graph, ["constrain", 0], "constrained")
    return {"picture and mask": given(host, graph)} | alone | ours


def newton_sampler(host: Host) -> Panels:
    graph = example(host, "inpaint_custom_sampler_demo", 14, "box")
    graph["select"] = node("KSamplerSelect", sampler_name="euler_ancestral")
    ours = with_sampler(host, graph, [node_of(graph, "NewtonSampler"), 0], "Newton Sampler")
    alone = with_sampler(host, graph, ["select", 0], "euler_ancestral")
    return {"picture and mask": given(host, graph)} | alone | ours


def super_resolution(host: Host) -> Panels:
    found = superres(4, host, heldout(17)[16], lambda graph: None).pictures
    return {"32 x 32 pixels": found["given"], "bicubic": found["bicubic"], "result": found["ours"]}


def operators(host: Host) -> Panels:
    colours = measured("colorize_demo", grey, host, heldout(9)[8], lambda graph: None).pictures
    sharp = measured("deblur_demo", blurred, host, heldout(6)[5], lambda graph: None).pictures
    return {"grey": colours["given"], "result": colours["ours"], "blurred": sharp["given"], "result ": sharp["ours"]}


def pixel_art(host: Host) -> Panels:
    found = measured("pixelart_demo", Image.fromarray, host, heldout(9)[8], lambda graph: None).pictures
    return {"picture": found["given"], "pixel art": found["ours"]}


def back_project(host: Host) -> Panels:
    """A part of it, enlarged."""
    graph = example(host, "pixelart_demo", 8, "")
    made = node_of(graph, "NewtonBackProjectPixels")
    places = {"VAE Decode": graph[made]["inputs"]["image"], "back-projected": [made, 0]}
    found = run(host, graph, places)
    return {name: picture.crop((32, 24, 96, 88)) for name, picture in found.items()}


def combined(host: Host) -> Panels:
    """All details without colour, and a tiny picture with colour."""
    avatar = heldout(26)[25]
    graph = shipped("colorize_demo", avatar, grey(avatar.truth), host)
    graph[node_of(graph, "WordConditioning")]["inputs"]["text"] = ""
    (small := shrunk(avatar.truth, 8)).save(host.base / "input" / "combined_small.png")
    colours, sampler = node_of(graph, "PixelOperatorConstraint"), node_of(graph, "NewtonConstrainedSampler")
    graph["small"] = node("LoadImage", image="combined_small.png")
    shared = {k: v for k, v in graph[colours]["inputs"].items() if k in ("vae", "noise", "direction", "tile")}
    graph["like"] = node("PixelSRConstraint", image=["small", 0], factor=8, filter="area", **shared)
    times = {f"{k}_{part}": v for part in "ab" for k, v in (("weight", 1.0), ("start", 0.0), ("end", 1.0))}
    graph["both"] = node("NewtonCombineConstraints", constraint_a=[colours, 0], constraint_b=["like", 0], **times)
    decoded: Place = [node_of(graph, "VAEDecode"), 0]
    panels: Panels = {"a: grey": given(host, graph), "b: 16 x 16 pixels": small} | run(
        host, graph, {"a alone": decoded}
    )
    graph[sampler]["inputs"]["constraint"] = ["both", 0]
    return panels | run(host, graph, {"both": decoded})


def composite(host: Host) -> Panels:
    """With the change of known pixels, ten times enlarged."""
    graph = example(host, "inpaint_demo", 9, "box")
    made = node_of(graph, "NewtonCompositeInsideMask")
    found = run(host, graph, {"decoded": graph[made]["inputs"]["image"], "composite": [made, 0]})
    original, known = np.asarray(given(host, graph), int), ~ALL_MASKS["box"](len(heldout(1)[0].truth))[..., None]
    panels: Panels = {}
    for name, picture in found.items():
        change = (10 * abs(np.asarray(picture, int) - original)).clip(0, 255)
        panels |= {name: picture, f"{name}, change": np.where(known, change, original).astype(np.uint8)}
    return panels


def by_reference(host: Host) -> Panels:
    found = style(host, heldout(6)[5], lambda graph: None).pictures
    return {"reference": found["reference"], "without": found["without"], "with": found["ours"]}


def two_layers(host: Host) -> Panels:
    """Each half from another picture, and the words of both."""
    left, right = heldout(5)[3:]
    graph = shipped("layers_demo", left, bands([left.truth, right.truth]), host)
    made = node_of(graph, "LayerDecompose")
    for name, avatar in (("layer_1", left), ("layer_2", right)):
        graph[graph[made]["inputs"][name][0]]["inputs"]["text"] = avatar.prompt
    places = {"mask": as_image(graph, [made, 2]), "layer_1": [made, 0], "layer_2": [made, 1]}
    return {"picture": given(host, graph)} | run(host, graph, places)


def presets(host: Host) -> Panels:
    avatar = heldout(18)[17]
    panels: Panels = {"given": shrunk(avatar.truth, 8)}
    for preset in ("fast", "thorough", "newton", "paper"):
        graph = shipped("superres_demo", avatar, shrunk(avatar.truth, 8), host)
        graph[node_of(graph, "PixelSRConstraint")]["inputs"]["factor"] = 8
        graph[node_of(graph, "NewtonSettings")]["inputs"]["preset"] = preset
        graph[node_of(graph, "NewtonConstrainedSampler")]["inputs"] |= {"steps": 20, "denoise": 1.0}
        (picture,) = run(host, graph, {preset: result(graph)}).values()
        panels[f"{preset}, {calls_of(host)} calls"] = picture
    return panels | {"original": avatar.truth}


def report(host: Host) -> Panels:
    graph = template("inpaint_demo")
    return run(host, graph, {"": [node_of(graph, "NewtonConstraintReport"), 0]})


def jacobian(kind: str, host: Host) -> Panels:
    graph = template("jacobian_demo")
    return run(host, graph, {"": [node_of(graph, kind), 0]})


def example_picture(host: Host) -> Panels:
    graph = {"picture": node("NewtonExamplePicture", image="ncs_strokes.png")}
    return run(host, graph, {"IMAGE": ["picture", 0], "MASK": as_image(graph, ["picture", 1])})


def windows(host: Host) -> Panels:
    """The demo model refuses latents of more than 16 cells, so there is no picture without windows."""
    avatar = heldout(10)[9]
    graph = shipped("superres_demo", avatar, shrunk(avatar.truth, 2), host)
    made, sampler = node_of(graph, "PixelSRConstraint"), graph[node_of(graph, "NewtonConstrainedSampler")]["inputs"]
    prompts = {k: sampler[k] for k in ("positive", "negative")}
    graph["windows"] = node("WindowConditioning", **prompts, latent_image=[made, 1], window=16, overlap=8)
    sampler |= {"positive": ["windows", 0], "negative": ["windows", 1]}
    found = run(host, graph, {"upscaled": [made, 2], "256 x 256": result(graph)})
    return {"64 x 64 pixels": given(host, graph)} | found


def words(host: Host) -> Panels:
    panels: Panels = {}
    for text in ("", "bobcut pinkhair", "bluehair glasses"):
        graph = free_graph(text, 1)
        panels |= run(host, graph, {text or "no words": result(graph)})
    return panels


PICTURES: dict[str, Callable[[Host], Panels]] = {
    "LatentMaskConstraint": inpaint_constraint,
    "LayerDecompose": two_layers,
    "NewtonBackProjectPixels": back_project,
    "NewtonCombineConstraints": combined,
    "NewtonCompositeInsideMask": composite,
    "NewtonConstrainModel": constrain_model,
    "NewtonConstrainSampler": constrain_sampler,
    "NewtonConstrainedSampler": newton_ksampler,
    "NewtonConstraintReport": report,
    "NewtonDirectionCompare": lambda host: jacobian("NewtonDirectionCompare", host),
    "NewtonExamplePicture": example_picture,
    "NewtonJacobianProbe": lambda host: jacobian("NewtonJacobianProbe", host),
    "NewtonSampler": newton_sampler,
    "NewtonSettings": presets,
    "PixelOperatorConstraint": operators,
    "PixelSRConstraint": super_resolution,
    "PixelTargetConstraint": pixel_art,
    "StyleConstraint": by_reference,
    "WindowConditioning": windows,
    "WordConditioning": words,
}
