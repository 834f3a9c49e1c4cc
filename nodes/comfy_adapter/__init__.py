"""The only room that knows ComfyUI's internals.

Host API used, present since 2024 or earlier: comfy.samplers.KSAMPLER and KSampler.sigmas,
comfy.sample.prepare_noise / fix_empty_latent_channels / sample_custom, model_sampling.noise_scaling and
percent_to_sigma, BaseModel.process_latent_in / get_dtype / manual_cast_dtype, comfy.utils.ProgressBar,
latent_preview.get_previewer, model_management.throw_exception_if_processing_interrupted / load_models_gpu /
get_free_memory, VAE.decode / encode / first_stage_model / process_output / memory_used_decode; since January 2025:
comfy.patcher_extension and ModelPatcher.add_wrapper_with_key.
"""

from .codec import PixelCodec, start_latent
from .doors import SINGLE_STEP, constrain_model, constrain_sampler
from .run import sample_latent, scheduler_names
from .sampling import make_sampler
from .scales import measured_scales

__all__ = [
    "SINGLE_STEP",
    "PixelCodec",
    "constrain_model",
    "constrain_sampler",
    "make_sampler",
    "measured_scales",
    "sample_latent",
    "scheduler_names",
    "start_latent",
]
