"""What the notes in the shipped workflows say."""

DEMO = """Copy `demo/ncs_emoji.safetensors` of this pack to ComfyUI's `models/checkpoints` and the pictures of \
`demo/images` to its `input`, press R to refresh, then Run. The model is small and knows emoji of 128 px only: it \
shows the method within seconds on a CPU, not the quality of a large model."""

COMPOSITE = """**Known pixels stay untouched.** The mask is shrunk by {px} px and blurred inside itself, so the \
composite fades over within the generated region and keeps every known pixel bit for bit."""

NOTES = {
    "inpaint_demo": f"""## Inpainting with the demo model

{DEMO}

**Constraint.** The transparent part of the picture is its mask: it is generated, the rest is kept. Paint another one \
with a right click on Load Image > Open in MaskEditor.

**Sampling.** Newton Constrained Sampler corrects every step until the known part is obeyed: two model calls a step.

{COMPOSITE.format(px=2)}

Try `ncs_box.png`, `ncs_strokes.png`, another seed, or words such as `face`.
""",
    "outpaint_demo": f"""## Outpainting with the demo model

{DEMO}

**Canvas.** The crop stands for your own small picture of 128 px or less. Pad Image for Outpainting grows the canvas \
and marks what is new. Leave its feathering at 0: the composite feathers, and a soft mask here would let known pixels \
change. Width and height of the canvas must be multiples of 8.

**Sampling.** As in inpainting: what is new must fit what is known, in two model calls a step.

{COMPOSITE.format(px=2)}
""",
    "inpaint_sd15": f"""## Inpainting with Stable Diffusion 1.5

Needs `v1-5-pruned-emaonly-fp16.safetensors` in `models/checkpoints` (2 GB); the editor offers the download. An \
ordinary checkpoint, not an inpainting one: any other does as well.

**First** load your picture, right click on Load Image > Open in MaskEditor, and paint what is to be generated. Then \
describe the whole picture in the positive prompt.

**Canvas.** Picture and mask are scaled together to 512 x 512, the size of this model; what does not fit is cropped.

**Sampling.** 20 steps of two model calls each, about the time of 40 steps with KSampler. For stricter or cheaper runs \
connect Newton Settings.

{COMPOSITE.format(px=8)}
""",
}
