"""The only room that knows ComfyUI's internals.

Host API used, and since when it is there. The youngest is comfy_api.latest with comfy_entrypoint, since summer
2025, used all over nodes/: a host that loads the pack has everything else here.

- 2024 or earlier: comfy.samplers.KSAMPLER, KSampler.sigmas, SCHEDULER_NAMES, CFGGuider, sampling_function and
  calculate_sigmas; what KSAMPLER hands a sampler function (model_k with inner_model, latent_image and sigmas;
  extra_args with model_options, seed and denoise_mask);
  comfy.sample.prepare_noise / fix_empty_latent_channels / sample_custom; model_sampling.noise_scaling and
  percent_to_sigma; BaseModel.process_latent_in / process_latent_out / get_dtype / manual_cast_dtype;
  ModelPatcher.clone / get_model_object / load_device / loaded_size / model_patches_models; of a guider model_patcher,
  loaded_models, conds and model_options, which sampler_helpers.prepare_sampling takes; comfy.utils.ProgressBar /
  repeat_to_batch_size; folder_paths.add_model_folder_path; latent_preview.get_previewer;
  model_management.throw_exception_if_processing_interrupted /
  load_models_gpu / loaded_models / get_free_memory; VAE.decode / encode / first_stage_model / process_output /
  vae_dtype / device; of model_options the guidance functions and denoise_mask_function (DifferentialDiffusion, 2024).
- 0.3.7 (December 2024): comfy.patcher_extension with WrapperExecutor and WrappersMP.SAMPLER_SAMPLE / APPLY_MODEL,
  ModelPatcher.add_wrapper_with_key / get_wrappers / remove_wrappers_with_key,
  model_patcher.create_model_options_clone.
- 2025: comfy_execution.utils.get_executing_context; server.PromptServer.send_progress_text and routes;
  VAE.spacial_compression_encode; where EasyCache or LazyCache is in the graph, transformer_options["easycache"] with
  its name, clone and end_t.
- 2026, used where it is there: fix_empty_latent_channels takes the ratios that an empty LATENT was made for;
  ModelPatcher.get_free_memory and is_dynamic.
"""

from .base_sampler import REPLACED, SINGLE_STEP, SUBSTITUTE, WHOLE_RUN
from .clip_vision import block_features
from .codec import NO_ENCODER, PixelCodec, has_encoder, start_latent
from .demo_files import register_checkpoints, serve_pictures
from .guidance import without_guidance
from .guider import MultiPromptRun, sample_with_prompts, samples_at_once, simple_levels
from .host_denoiser import HostDenoiser
from .inspection import Inspection, NoGradient, inspect_model
from .ksampler import sample_latent, scheduler_names
from .model_patch import constrain_model, constrain_sampler
from .sampling import make_sampler
from .scales import measured_scales
