"""The models and pictures that the pack ships, at hand without being copied."""

import folder_paths


def register_checkpoints(folder: str) -> None:
    """Let the host's loaders find the checkpoints of a folder too."""
    folder_paths.add_model_folder_path("checkpoints", folder)


def serve_pictures(folder: str) -> None:
    """Let the editor show the pictures of a folder, see web/js/example_picture.js."""
    from server import PromptServer  # there is a server where nodes are loaded, and nowhere else

    PromptServer.instance.routes.static("/newton_constrained_sampling/pictures", folder)
