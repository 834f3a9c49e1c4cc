"""The sampler package without ComfyUI: loaded by file, because the repository's root must stay off sys.path."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "newton_pack"

if PACK not in sys.modules:
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])

from newton_pack import sampler
from newton_pack.sampler import noise, step

__all__ = ["ROOT", "noise", "sampler", "step"]
