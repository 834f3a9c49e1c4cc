"""The models that the pack ships, selectable without being copied."""

import folder_paths


def register_checkpoints(folder: str) -> None:
    """Let the host's loaders find the checkpoints of a folder too."""
    folder_paths.add_model_folder_path("checkpoints", folder)
