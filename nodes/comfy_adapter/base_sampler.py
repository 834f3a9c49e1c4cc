"""Samplers of the host under the method: they take the steps, x and its estimate are corrected at every level."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import comfy.model_sampling
import comfy.samplers
from comfy.k_diffusion import sampling as k_diffusion
from torch import Tensor

from ...sampler import Run, Step, mixed_seed
from .host_denoiser import HostDenoiser

log = logging.getLogger("newton_constrained_sampling")

# By name, with the model calls that each makes beyond the first one of a level, at every level but the last.
# Those whose steps need nothing of other levels are run one level at a time.
SINGLE_STEP = {"euler": 0, "euler_ancestral": 0, "heun": 1, "dpm_2": 1, "dpm_2_ancestral": 1, "dpmpp_2s_ancestral": 1,
               "ddpm": 0, "lcm": 0, "seeds_2": 1, "seeds_3": 2}  # fmt: skip
# Those that remember earlier levels, or have noise or guidance of the whole run. The first tensor that they hand to the
# model at a level is their own state, so they remember what was corrected in place.
WHOLE_RUN = {"lms": 0, "dpmpp_2m": 0, "dpmpp_2m_sde": 0, "dpmpp_2m_sde_gpu": 0, "dpmpp_2m_sde_heun": 0,
             "dpmpp_2m_sde_heun_gpu": 0, "dpmpp_3m_sde": 0, "dpmpp_3m_sde_gpu": 0, "dpmpp_sde": 1, "dpmpp_sde_gpu": 1,
             "ipndm": 0, "ipndm_v": 0, "deis": 0, "res_multistep": 0, "res_multistep_ancestral": 0,
             "gradient_estimation": 0, "er_sde": 0, "exp_heun_2_x0": 1, "exp_heun_2_x0_sde": 1, "euler_cfg_pp": 0,
             "euler_ancestral_cfg_pp": 0, "dpmpp_2s_ancestral_cfg_pp": 1, "dpmpp_2m_cfg_pp": 0,
             "res_multistep_cfg_pp": 0, "res_multistep_ancestral_cfg_pp": 0, "gradient_estimation_cfg_pp": 0,
             }  # fmt: skip
# What the others do instead of that.
REPLACED = {"dpm_adaptive": "chooses its noise levels itself", "dpm_fast": "chooses its noise levels itself",
            "heunpp2": "looks ahead at further noise levels", "uni_pc": "keeps its state to itself",
            "uni_pc_bh2": "keeps its state to itself", "sa_solver": "keeps its state to itself",
            "sa_solver_pece": "keeps its state to itself"}  # fmt: skip
SUBSTITUTE = "euler_ancestral"
# Their steps are those of models whose noise is added to the picture; on flow models they miss the noise level.
NOT_FLOW = "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"


@dataclass(frozen=True)
class BaseSampler:
    """A sampler that takes the steps.

    Attributes:
        name: as the host lists it.
        function: a sampler function of the host with its options.
        replaced: why `SUBSTITUTE` takes its place; empty if it does not.
    """

    name: str
    function: Callable[..., Tensor]
    replaced: str = ""

    def on(self, model_sampling: Any) -> "BaseSampler":
        """For models of this kind."""
        if self.name in NOT_FLOW and isinstance(model_sampling, comfy.model_sampling.CONST):
            return replace(self, replaced="is not made for flow models")
        return self

    @property
    def calls(self) -> int:
        """Model calls beyond the first one of a level, at every level but a last one of 0."""
        return 0 if self.replaced else (SINGLE_STEP | WHOLE_RUN)[self.name]

    def calls_of(self, levels: list[float]) -> int:
        """These of a whole run."""
        return self.calls * sum(cur > nxt > 0 for cur, nxt in pairwise(levels))

    @property
    def needs_negative(self) -> bool:
        """Whether its steps need the model's estimate for the negative prompt (CFG++)."""
        return self.name.endswith("_cfg_pp")

    def announced(self) -> str:
        """For the report; a sentence in the log too where it is replaced."""
        if not self.replaced:
            return ""
        log.warning(
            "sampler_name: %s %s, so it cannot be corrected step by step; %s took its place.",
            self.name, self.replaced, SUBSTITUTE,
        )  # fmt: skip
        return f"sampled by {SUBSTITUTE} in place of {self.name}"


def base_sampler_of(sampler: Any) -> BaseSampler:
    """Of a SAMPLER of the host."""
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        substitute = getattr(k_diffusion, f"sample_{SUBSTITUTE}")
        return BaseSampler(type(sampler).__name__, substitute, "is none of the host's own")
    function = sampler.sampler_function
    name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_").removesuffix("_function")
    name = name.replace("unipc", "uni_pc")
    own = getattr(k_diffusion, f"sample_{name}", None) is function
    known = name in SINGLE_STEP or (name in WHOLE_RUN and own)
    replaced = "" if known else REPLACED.get(name, "is none of the host's own")
    return BaseSampler(name, partial(function, **sampler.extra_options), replaced)


class CachedFirstCall:
    """A host model whose first call is answered with an estimate that is already known."""

    def __init__(self, model_k: Any, model: Callable[[Tensor, Tensor], Tensor], x0: Tensor):
        self.model_k, self.model, self.given = model_k, model, [x0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_k, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return self.given.pop() if self.given else self.model(x, sigma)


def steps_of(
    base: BaseSampler, host: HostDenoiser, model: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor
) -> dict[str, Any]:
    """The arguments of `sample_constrained` that let the sampler take the steps from x at the first of `sigmas`."""
    if base.name in WHOLE_RUN and not base.replaced:
        return {"drive": whole_run(base, host, model, x, sigmas)}
    return {"step": level_by_level(base, host, model, sigmas)}


def level_by_level(
    base: BaseSampler, host: HostDenoiser, model: Callable[[Tensor, Tensor], Tensor], sigmas: Tensor
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """The sampler's step, from (i, x, x0) at the i-th of `sigmas` to x at the next."""
    function = getattr(k_diffusion, f"sample_{SUBSTITUTE}") if base.replaced else base.function

    def step(i: int, x: Tensor, x0: Tensor) -> Tensor:
        # A sampler's noise starts anew with its seed, so every level gets one of its own.
        extra = host.extra_args | {"seed": mixed_seed(host.extra_args.get("seed") or 0, i)}
        return function(CachedFirstCall(host.model_k, model, x0), x, sigmas[i : i + 2], extra_args=extra, disable=True)

    return step


class DrivenModel:
    """A host model whose first call at each level corrects the sampler's own x in place, and answers with its x0.

    Samplers of CFG++ also take what the last call said about the negative prompt: it moves as x0 does.

    Attributes:
        state: what the run gave last, see `Run`.
    """

    def __init__(self, base: BaseSampler, host: HostDenoiser, model: Callable[[Tensor, Tensor], Tensor], run: Run):
        self.base, self.host, self.model, self.run = base, host, model, run
        self.state: Any = None
        self.later_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host.model_k, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        if self.later_calls:
            self.later_calls -= 1
            return self.model(x, sigma)
        corrected, x0, cur, nxt = self.state = next(self.run) if self.state is None else self.run.send(x)
        x.copy_(corrected)
        if self.base.needs_negative:
            negative = self.host.cond.negative
            assert negative is not None  # such a sampler takes it from the same hook
            negative.add_(x0 - self.host.x0)
        self.later_calls = self.base.calls if cur.sigma > nxt.sigma > 0 else 0
        return x0


def whole_run(
    base: BaseSampler, host: HostDenoiser, model: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor
) -> Callable[[Run, Step], Tensor]:
    """A function that takes a run from x at the first of `sigmas` to its end."""

    def drive(run: Run, step: Step) -> Tensor:
        driven, given, out = DrivenModel(base, host, model, run), host.extra_args, x
        for part, levels in enumerate(falling(sigmas.tolist())):
            if part:  # a warm restart, with noise of its own
                out = step(*driven.state)
                given = given | {"seed": mixed_seed(given.get("seed") or 0, part)}
            host.extra_args = dict(given)  # samplers of CFG++ add a function of theirs to the model's options
            out = base.function(
                driven, out.clone(), sigmas.new_tensor(levels), extra_args=host.extra_args, callback=None, disable=True
            )
        try:
            run.send(out)
        except StopIteration as end:
            return end.value
        raise RuntimeError(f"sampler_name: {base.name} ended before its last noise level. Use {SUBSTITUTE}.")

    return drive


def falling(levels: list[float]) -> list[list[float]]:
    """The levels of each part of a run with warm restarts; all parts end in 0 but the last, which ends as the run."""
    starts = [0, *(i for i, (cur, nxt) in enumerate(pairwise(levels), start=1) if nxt > cur)]
    parts = [levels[a:b] for a, b in pairwise([*starts, len(levels)])]
    return [[*part, 0.0] for part in parts[:-1]] + parts[-1:]
