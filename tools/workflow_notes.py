"""What the notes in the shipped workflows say."""

DEMO = """Copy `demo/ncs_emoji.safetensors` of this pack to ComfyUI's `models/checkpoints` and the pictures of \
`demo/images` to its `input`, press R to refresh, then Run. The model is small and knows emoji of 128 px only: it \
shows the method within seconds on a CPU, not the quality of a large model."""

COMPOSITE = """**Known pixels stay untouched.** The mask is shrunk by {px} px and blurred inside itself, so the \
composite fades over within the generated region and keeps every known pixel bit for bit."""

BACK_PROJECTION = """**Back-projection.** The sampler follows the given picture closely, not exactly. Back-Project \
Pixels changes the result as little as possible until it does, to within rounding; its report says by how many of the \
256 levels the shrunk result is off."""

LARGE = """**First** load your picture, right click on Load Image > Open in MaskEditor, and paint what is to be \
generated. Then describe the whole picture in the {prompt}.

**Canvas.** Picture and mask are scaled together to {px} x {px}, the size of this model; what does not fit is \
cropped."""

NOTES = {
    "inpaint_demo": f"""## Inpainting with the demo model

{DEMO}

**Constraint.** The transparent part of the picture is its mask: it is generated, the rest is kept. Paint another one \
with a right click on Load Image > Open in MaskEditor.

**Sampling.** Newton Constrained Sampler holds the known part, and corrects its noise at every step until the model \
itself says what is known. At the middle steps it calls the model twice and draws anew what does not fit yet. \
Constraint Report draws how far each step was from what is known.

{COMPOSITE.format(px=2)}

Try `ncs_box.png`, `ncs_strokes.png`, another seed, or words such as `face`.
""",
    "inpaint_flow_demo": f"""## Inpainting with a flow model

{DEMO.replace("ncs_emoji", "ncs_emoji_flow")}

**The same graph** as for the other demo model: only the checkpoint differs, a small one of the format of Stable \
Diffusion 3. Nothing else has to be set for flow models.

{COMPOSITE.format(px=2)}
""",
    "inpaint_model_patch_demo": f"""## A constraint on the model: the stock KSampler

{DEMO}

**Constrain Model** gives a model that obeys: KSampler, KSampler (Advanced), detailers and tiled upscalers then need \
no change. The sampler must be a single-step one; *euler_ancestral* is the best start.

For detailers leave its *constraint* unconnected: the noise mask of each crop becomes the constraint.

{COMPOSITE.format(px=2)}
""",
    "inpaint_custom_sampler_demo": f"""## The sampler alone: SamplerCustomAdvanced

{DEMO}

**Newton Sampler** is the method as a SAMPLER, for graphs with their own noise, guider and sigmas. Exchange \
BasicGuider for CFGGuider, PerpNegGuider or another: what it guides is what is constrained.

**Constrain Sampler** in its place drives a sampler of another node, such as KSamplerSelect.

{COMPOSITE.format(px=2)}
""",
    "outpaint_demo": f"""## Outpainting with the demo model

{DEMO}

**Canvas.** The crop stands for your own small picture of 128 px or less. Pad Image for Outpainting grows the canvas \
and marks what is new. Leave its feathering at 0: the composite feathers, and a soft mask here would let known pixels \
change. Width and height of the canvas must be multiples of 8.

**Sampling.** As in inpainting: what is new must fit what is known.

{COMPOSITE.format(px=2)}
""",
    "inpaint_sd15": f"""## Inpainting with Stable Diffusion 1.5

Needs `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (2 GB); the editor offers the download. An \
ordinary checkpoint, not an inpainting one: any other does as well.

{LARGE.format(prompt="positive prompt", px=512)}

**Sampling.** 20 steps, 24 model calls. For other settings connect Newton Settings.

{COMPOSITE.format(px=8)}
""",
    "inpaint_sdxl": f"""## Inpainting with Stable Diffusion XL

Needs `sd_xl_base_1.0.safetensors` in `models/checkpoints` (7 GB); the editor offers the download. Any SDXL checkpoint \
does as well.

{LARGE.format(prompt="positive prompt", px=1024)}

**Sampling.** 20 steps, about 24 model calls.

{COMPOSITE.format(px=8)}
""",
    "inpaint_sd35": f"""## Inpainting with Stable Diffusion 3.5 Medium

Needs `sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors` in `models/checkpoints`; the editor offers the \
download. A flow model: the method reads the scales of its noise off the model, nothing is to be set.

{LARGE.format(prompt="positive prompt", px=1024)}

**Sampling.** 28 steps, about 34 model calls.

{COMPOSITE.format(px=8)}
""",
    "inpaint_flux": f"""## Inpainting with Flux dev

Needs `flux1-dev-fp8.safetensors` in `models/checkpoints` (17 GB); the editor offers the download. The ordinary model, \
not Flux Fill. Its licence is non-commercial.

{LARGE.format(prompt="prompt", px=1024)}

**Sampling.** 20 steps, about 24 model calls. cfg stays at 1: FluxGuidance is the guidance that this model was \
distilled with.

{COMPOSITE.format(px=8)}
""",
    "controlnet_plus_constraint_sd15": f"""## ControlNet and constraint together, Stable Diffusion 1.5

Needs `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (2 GB) and \
`control_v11p_sd15_canny_fp16.safetensors` in `models/controlnet` (0.7 GB); the editor offers the downloads.

{LARGE.format(prompt="positive prompt", px=512)}

**ControlNet** hands on the outlines of the whole picture, those under the mask too: what is generated follows them in \
new colours and materials. The constraint keeps the rest. Connect a drawing of your own to Canny to set other outlines.

**Sampling.** 20 steps, 24 model calls; every call asks the ControlNet as well.

{COMPOSITE.format(px=8)}
""",
    "superres_demo": f"""## Super-resolution with the demo model

{DEMO}

**Constraint.** The finished picture, shrunk 4 times by averaging, must be the given one. What the model adds is \
plausible detail, not the truth: another seed gives another picture that shrinks to the same.

**Sampling.** It starts from the enlarged picture with noise (*denoise* .6). 6 steps of six model calls each (preset \
*thorough*), and forward passes of the VAE only: nothing is backpropagated.

{BACK_PROJECTION}

Set *factor* to 8 with a picture of 16 x 16, *filter* to how yours was shrunk, and *noise* if it has any.
""",
    "superres_sd15_x8": f"""## Super-resolution x 8 with Stable Diffusion 1.5

Needs `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (2 GB); the editor offers the download. Any other \
model of 512 px does as well.

**Picture.** It is scaled to 64 x 64 first, so that any picture shows what happens; remove that node for a small \
picture of your own. The result is 8 times as wide and high; both must be near the model's own size.

**Prompt.** Describe the picture. cfg is 1, as in the paper; more guidance costs twice as much and follows the prompt \
closer.

**Sampling.** It starts from the enlarged picture with noise (*denoise* .6). 10 steps of six model calls each (preset \
*thorough*), in which the VAE decodes seven times and encodes twice. The preset *fast* takes a third of that.

{BACK_PROJECTION}
""",
    "colorize_demo": f"""## Colouring with the demo model

{DEMO}

**Constraint.** The finished picture, made grey, must be the given one: light and shade are kept, the colours are the \
model's. Words such as `red` or another seed give others.

**Sampling.** Two model calls a step, and forward passes of the VAE only.

{BACK_PROJECTION}
""",
    "deblur_demo": f"""## Deblurring with the demo model

{DEMO}

**Constraint.** The finished picture, blurred, must be the given one. *radius* is the standard deviation of the blur \
in pixels; *motion blur* and *kernel* are other blurs. Which one it was must be known: a wrong one gives ripples along \
edges. *noise* is 0.005, a little above the rounding to 8 bits: a blur cannot be undone further than that without \
ripples. Raise it for a noisy picture.

**Sampling.** Two model calls a step, and forward passes of the VAE only.

{BACK_PROJECTION}
""",
    "pixelart_demo": f"""## Pixel art with the demo model

{DEMO}

**Constraint.** The finished picture must be what a function makes of it, here: square cells of *cell* pixels in \
*colours* colours. No gradient passes through such a function, and none is needed: it names a target, and the sampler \
moves towards it in every step. Connect a picture to *palette* to use its colours.

**Sampling.** The picture is redrawn as pixel art: *denoise* says how freely. The steps towards the target are short \
(Newton Settings), because it moves with the picture: long ones would flatten it.

**Back-projection** here applies the function itself: the cells come out exact.
""",
    "style_sd15": """## Style with Stable Diffusion 1.5

Needs `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (2 GB) and the image encoder CLIP ViT-H/14, \
`clip_vision_h.safetensors`, in `models/clip_vision` (1.2 GB); the editor offers both downloads. CLIP ViT-L/14 does as \
well (`model.safetensors` of openai/clip-vit-large-patch14 on Hugging Face), and so do ViT-G, SigLIP and DINOv2.

**Reference.** Load Image gives the look, the prompt the content. Batch Images makes one style of several references.

**Block.** The features after block 2 are compared (the first is 0): colour and texture. A higher block sees larger \
shapes. The paper's encoder, ViT-B/16, is none that ComfyUI loads; the help of Style Constraint says which blocks \
correspond.

**Sampling.** 20 steps of two model calls, and in each step one backward pass through the first blocks of the image \
encoder. cfg 3 as published: more follows the prompt closer.
""",
    "layers_demo": f"""## An image as two layers

{DEMO}

**Prompt.** One for each layer: what lies above and what lies below.

**Layers.** In each of six rounds the model is asked what it expects of either layer, and every cell goes to the layer \
that expects it better. The mask is shown as it converges. What is hidden in a layer is painted at the end. 116 model \
calls in all, 44 where the samples fit into memory together.

**Help it** with a starting mask (a box or a rough scribble in the MaskEditor, connected to `mask`), or with certain \
pixels in `fixed_1` and `fixed_2`.

Put together, the layers give the image again, exactly. Where the mask is soft, at the borders, that leaves a trace of \
each layer in the other one; switch *exact* off to have them without.
""",
    "layers_three_demo": f"""## An image as three layers

{DEMO}

**Layers.** The first split takes the lion off; the second splits what is left, as it was completed, into two. Any \
number of layers can be taken off in turn.

**Help.** A box in `fixed_2` tells the first split that the rose does not belong to the lion: under its prompt the \
small model would take both. A mask painted in the MaskEditor does as well.
""",
    "jacobian_demo": f"""## Inside: the denoiser's Jacobian

{DEMO}

**Jacobian Probe** changes one cell of the noisy latent a little and maps where the estimate x0 changes with it (J v), \
and on which cells that cell of x0 depends (J^T v, by backpropagation). For an ideal denoiser both maps are the same. \
What sets them apart is the skew part; asymmetry 0 is a symmetric J. Change `x`, `y`, `noise_levels` and `cfg`.

**Direction Compare** asks for one blue square, on the left ear, and takes five steps towards it from the same noisy \
latent: along J e as the samplers of this pack do, along the gradient J^T e, and along the exact Newton direction, \
which needs a backward pass for each known value of the latent: keep the square small. Watch what else turns blue.
""",
    "layers_sd15": """## An image as two layers with Stable Diffusion 1.5

Needs `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (2 GB); the editor offers the download. Any other \
model does as well.

**Picture.** Any size; near the model's own, 512 px, is best. Scale a larger one first.

**Prompt.** One for each layer: what lies above and what lies below, each as if it were the whole picture.

**Layers.** A box or a rough scribble around the upper layer in the MaskEditor, connected to `mask`, helps; `fixed_1` \
and `fixed_2` hold what is certain. More *samples* make the mask steadier.
""",
}
