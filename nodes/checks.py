"""What every node is given, checked before anything is computed: one function for each kind of input.

Every error is a ValueError that says an input's name, what is wrong with it, and what to do. What to do stands first
when it reaches the user: editors show the first words at once and the rest on a click.
"""

import math
import numbers
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from inspect import signature
from typing import Any

from torch import Tensor

from ..sampler import NewtonSettings, Report
from .vae_checks import check_vae

# What resizing with overshoot makes of values in [0, 1] lies well within.
RANGE = -0.5, 1.5
LARGEST = 16384  # pixels a side, as in the host's own nodes
WIDGETS = "INT", "FLOAT", "BOOLEAN", "COMBO", "STRING"
# Verbs that a sentence about what to do begins with.
VERBS = (
    "Allow", "Choose", "Connect", "Convert", "Cut", "Encode", "Give", "Load", "Look", "Mend", "Paint", "Put", "Return",
    "Sample", "Scale", "Set", "Use", "Write",
)  # fmt: skip
REMEDY = re.compile(rf"\. (?=(?:{'|'.join(VERBS)})\b)")
UNFINISHED = "it contains NaN or infinite values. Look at the node that makes it."


def checked(execute: Callable[..., Any]) -> Callable[..., Any]:
    """`execute` of a node, after its inputs were checked against the node's own schema; errors say first what to do."""
    parameters = signature(execute)

    @wraps(execute)
    def run(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with remedies_first():
            check_all(cls, *args, **kwargs)
            return execute(cls, *args, **kwargs)

    def check_all(cls: Any, *args: Any, **kwargs: Any) -> None:
        given = parameters.bind(cls, *args, **kwargs).arguments
        # A VAE is tried, which takes longest.
        for i in sorted(cls.define_schema().inputs, key=lambda i: i.get_io_type() == "VAE"):
            unconnected = i.optional and given.get(i.id) is None and i.get_io_type() not in WIDGETS
            if i.id in given and not unconnected:
                CHECKS[i.get_io_type()](i.id, given[i.id], i)

    return run


@contextmanager
def remedies_first() -> Iterator[None]:
    """Errors on their way to the user begin with what to do."""
    try:
        yield
    except ValueError as e:
        raise ValueError(remedy_first(str(e))) from e


def remedy_first(text: str) -> str:
    """'name: problem. Remedy.' as 'Remedy.' and, on a line of its own, 'name: problem.'"""
    problem, *remedy = REMEDY.split(text, maxsplit=1)
    return f"{remedy[0]}\n{problem}." if remedy and "\n" not in text else text


def kind(value: Any) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"


def check_floats(name: str, t: Any, what: str, ranks: tuple[int, ...]) -> None:
    """A non-empty tensor of one of these ranks."""
    if not isinstance(t, Tensor):
        raise ValueError(f"{name}: it is {kind(t)}, not {what}. Connect the output of a node that gives one.")
    if t.ndim not in ranks:
        raise ValueError(
            f"{name}: its shape {tuple(t.shape)} is not that of {what}. Look at the node that makes it, or use another."
        )
    if not t.numel():
        raise ValueError(f"{name}: there is no picture or latent in it, its shape is {tuple(t.shape)}. Give one.")


def check_unit_range(name: str, t: Tensor) -> None:
    low, high = (v.item() for v in t.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: {UNFINISHED}")
    if low < RANGE[0] or high > RANGE[1]:
        raise ValueError(
            f"{name}: its values go from {low:g} to {high:g}, but must be from 0 to 1. Scale them in the node that "
            "makes it, by 1/255 if they are those of an 8-bit picture."
        )


def check_picture(name: str, image: Any, _: Any = None) -> None:
    """An IMAGE (B, H, W, C), at least three channels, in [0, 1]."""
    check_floats(name, image, "an IMAGE (batch, height, width, channels)", (4,))
    if image.shape[-1] not in (3, 4):
        raise ValueError(f"{name}: there are {image.shape[-1]} channels, but three are needed (RGB). Convert it first.")
    check_unit_range(name, image)


def check_ratio(name: str, height: int, width: int, ratio: int) -> None:
    """Of a picture to be encoded."""
    near = "x".join(str(max(1, n // ratio) * ratio) for n in (width, height))
    if height % ratio or width % ratio or not (height and width):
        raise ValueError(
            f"{name}: the picture's size {width}x{height} is not a multiple of {ratio}, the VAE's ratio. Scale or crop "
            f"it first, or choose another size, for example {near}."
        )
    if max(height, width) > LARGEST:
        raise ValueError(
            f"{name}: the picture's size would be {width}x{height}, and {LARGEST} pixels a side are the most. Choose "
            "a smaller size, or enlarge in several passes."
        )


def rgb_picture(image: Tensor) -> Tensor:
    """BHWC in [0, 1] to BCHW, for nodes that measure all of the picture."""
    if image.shape[-1] == 4:
        raise ValueError(
            "image: it has an alpha channel, and what lies under transparent pixels is not part of the picture. Put it "
            "on a background first: SplitImageWithAlpha, then ImageCompositeMasked."
        )
    return image.movedim(-1, 1).float()


def check_mask(name: str, mask: Any, _: Any = None) -> None:
    """A MASK (H, W), (N, H, W) or (N, 1, H, W) in [0, 1]."""
    check_floats(name, mask, "a MASK (batch, height, width)", (2, 3, 4))
    if mask.ndim == 4 and mask.shape[1] != 1:
        raise ValueError(
            f"{name}: its shape {tuple(mask.shape)} is not that of a MASK (batch, height, width) but of a picture. Use "
            "Convert Image to Mask."
        )
    check_unit_range(name, mask.float())


def check_samples(name: str, samples: Any) -> None:
    """What a LATENT holds; several packed ones, and audio, are left to those who know the model."""
    if getattr(samples, "is_nested", False):
        return
    check_floats(name, samples, "a LATENT (batch, channels, height, width)", (3, 4, 5))
    if not samples.is_floating_point():
        raise ValueError(f"{name}: it holds {samples.dtype} numbers. Look at the node that makes it.")
    check_finite(name, samples)


def check_finite(name: str, t: Tensor, masks: bool = False) -> None:
    """In attention masks minus infinity says what is not looked at."""
    if not (t.isfinite() | (masks & t.isneginf())).all():
        raise ValueError(f"{name}: {UNFINISHED}")


def check_latent(name: str, latent: Any, _: Any = None) -> None:
    if not isinstance(latent, dict) or "samples" not in latent:
        raise ValueError(f"{name}: it is {kind(latent)}, not a LATENT. Connect VAE Encode or Empty Latent Image.")
    check_samples(name, latent["samples"])
    mask = latent.get("noise_mask")
    if mask is not None:
        check_floats(f"{name}: noise_mask", mask, "a noise mask", (2, 3, 4, 5))
        check_unit_range(f"{name}: noise_mask", mask.float())


def check_conditioning(name: str, conditioning: Any, _: Any = None) -> None:
    pairs = conditioning if isinstance(conditioning, list | tuple) else ()
    if not pairs or not all(isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[1], dict) for p in pairs):
        found = "an empty list" if isinstance(conditioning, list) and not conditioning else kind(conditioning)
        raise ValueError(f"{name}: it is {found}, not a CONDITIONING. Connect CLIP Text Encode.")
    for embedding, more in pairs:
        for key, tensor in {"embedding": embedding, **more}.items():
            if isinstance(tensor, Tensor):
                check_finite(name, tensor, masks="mask" in key)


def check_number(name: str, value: Any, i: Any) -> None:
    whole = i.get_io_type() == "INT"
    if not isinstance(value, numbers.Integral if whole else numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name}: {value!r} is not a {'whole ' if whole else ''}number. Set it in the widget.")
    if not (math.isfinite(value) and i.min <= value <= i.max):
        raise ValueError(f"{name}: it is {value}, but must be from {i.min} to {i.max}. Set one of these.")


def check_choice(name: str, value: Any, i: Any) -> None:
    if value not in i.options:
        raise ValueError(f"{name}: {value!r} is no option. Choose one of {', '.join(map(str, i.options))}.")


def of_kind(what: str, source: str, is_one: Callable[[Any], bool]) -> Callable[[str, Any, Any], None]:
    def check(name: str, value: Any, _: Any = None) -> None:
        if not is_one(value):
            raise ValueError(f"{name}: it is {kind(value)}, not {what}. Connect {source}.")

    return check


def has_methods(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(callable(getattr(value, n, None)) for n in names)


def check_settings(name: str, settings: Any, _: Any = None) -> None:
    of_kind("SETTINGS", "Newton Settings", lambda s: isinstance(s, NewtonSettings))(name, settings)
    for f in fields(NewtonSettings):
        value = getattr(settings, f.name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}: {f.name} is {value}. Set a number in Newton Settings.")


CHECKS: dict[str, Callable[[str, Any, Any], None]] = {
    "IMAGE": check_picture,
    "MASK": check_mask,
    "LATENT": check_latent,
    "CONDITIONING": check_conditioning,
    "VAE": check_vae,
    "MODEL": of_kind("a MODEL", "a node that loads one", has_methods("get_model_object", "clone")),
    "SAMPLER": of_kind("a SAMPLER", "KSamplerSelect", has_methods("sample")),
    "CLIP_VISION": of_kind("a CLIP_VISION", "Load CLIP Vision", lambda v: hasattr(v, "model")),
    "NEWTON_CONSTRAINT": of_kind("a CONSTRAINT", "a constraint node of this pack", has_methods("bind")),
    "NEWTON_SETTINGS": check_settings,
    "NEWTON_REPORT": of_kind("a REPORT", "Newton KSampler", lambda r: isinstance(r, Report)),
    "NEWTON_TARGET": of_kind("a function", "a node that gives a Python function from IMAGE to IMAGE", callable),
    "INT": check_number,
    "FLOAT": check_number,
    "BOOLEAN": of_kind("true or false", "nothing, and set the widget", lambda v: isinstance(v, bool)),
    "COMBO": check_choice,
    "STRING": of_kind("text", "a node that gives text, or write it in the widget", lambda v: isinstance(v, str)),
}
