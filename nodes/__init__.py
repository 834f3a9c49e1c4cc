"""ComfyUI nodes: thin layers over `sampler`."""
