"""The method in graphs that sample with other nodes than ours."""

import inspect
import logging
from typing import Any

import comfy.patcher_extension
import comfy.samplers
from torch import Tensor

from ...sampler import NewtonSettings
from ..checks import remedies_first
from ..combine import Part, SumSpec
from ..constraint_spec import ConstraintSpec
from .base_sampler import base_sampler_of
from .sampling import NewtonKSampler

WRAPPER_KEY = "newton_constrained_sampling"
SAMPLING = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
log = logging.getLogger("newton_constrained_sampling")


def constrain_sampler(
    sampler: Any, constraint: ConstraintSpec | None, settings: NewtonSettings
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that corrects x before each level of the given one, which is left as it is.

    Without a constraint the noise mask of the latent being sampled becomes it.
    """
    if isinstance(sampler, NewtonKSampler):
        options = sampler.extra_options
        if constraint is not None and options["constraint"] is not None:
            raise ValueError(
                "constraint: the model or Constrain Sampler carries one, and the sampler that is driven another. Join "
                "them with Combine Constraints and connect the result in one place."
            )
        return NewtonKSampler(options | {"constraint": constraint or options["constraint"]}, sampler.given)
    driven = {"constraint": constraint, "settings": settings, "base_sampler": base_sampler_of(sampler)}
    return NewtonKSampler(driven, sampler)


class ConstrainedSampling:
    """A sampler wrapper of a MODEL: the sampler of every run obeys the constraint."""

    def __init__(self, constraint: ConstraintSpec | None, settings: NewtonSettings):
        self.constraint, self.settings = constraint, settings

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        bound = inspect.signature(comfy.samplers.KSAMPLER.sample).bind(executor.class_obj, *args, **kwargs).arguments
        if self.constraint is None and bound.get("denoise_mask") is None:
            return executor(*args, **kwargs)  # nothing to obey
        with remedies_first():
            sampler = constrain_sampler(executor.class_obj, self.constraint, self.settings)
        # The sampler of a graph is cached: the chain goes on with a new one instead of changing it.
        chain = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            sampler.sample, sampler, executor.wrappers, executor.idx + 1
        )
        return chain.execute(*args, **kwargs)

    def joined(self, constraint: ConstraintSpec | None, settings: NewtonSettings) -> "ConstrainedSampling":
        """With a further constraint; both act all the time and weigh alike."""
        if settings != self.settings:
            raise ValueError(
                "settings: the model was constrained before, with other settings. Connect the same Newton Settings to "
                "every Constrain Model in a row."
            )
        if self.constraint is None or constraint is None:
            return ConstrainedSampling(self.constraint or constraint, settings)
        both = tuple(Part(spec, weight=1.0, start=0.0, end=1.0) for spec in (self.constraint, constraint))
        return ConstrainedSampling(SumSpec(both), settings)


def unconstrained(model: Any) -> Any:
    """The MODEL for nodes that call it themselves: what Constrain Model has put on it acts in samplers only."""
    if not model.get_wrappers(SAMPLING, WRAPPER_KEY):
        return model
    log.warning("model: the constraint of Constrain Model does not act in this node.")
    model = model.clone()
    model.remove_wrappers_with_key(SAMPLING, WRAPPER_KEY)
    return model


def constrain_model(model: Any, constraint: ConstraintSpec | None, settings: NewtonSettings) -> Any:
    """A clone of MODEL whose sampling obeys the constraint and those it obeyed before, whichever node samples it.

    Raises:
        ValueError: earlier ones have other settings.
    """
    model, sampling = model.clone(), ConstrainedSampling(constraint, settings)
    for earlier in model.get_wrappers(SAMPLING, WRAPPER_KEY):
        sampling = earlier.joined(constraint, settings)
    model.remove_wrappers_with_key(SAMPLING, WRAPPER_KEY)
    model.add_wrapper_with_key(SAMPLING, WRAPPER_KEY, sampling)
    return model
