"""A node pack for the servers of the tests: models small enough to run, which no stock loader reads."""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from clip_models import CLIP, make


class SmallClipVision:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP_VISION",), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return (make(CLIP, Path(tempfile.mkdtemp())),)


NODE_CLASS_MAPPINGS = {"SmallClipVision": SmallClipVision}
