"""Newton Constrained Sampling: make any diffusion checkpoint obey a constraint, without training or backpropagation."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes.extension import NewtonExtension

    return NewtonExtension()
