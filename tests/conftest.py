"""Loads the pack under a fixed name, the way ComfyUI does: its root never enters sys.path."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# That a machine is busy is no failure.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

ROOT = Path(__file__).parent.parent
PACK = "newton_pack"

if PACK not in sys.modules:
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


def pytest_collection_modifyitems(items):
    """`-m law`: the tests that need no ComfyUI."""
    for item in items:
        if not {"host", "server"} & set(item.fixturenames):
            item.add_marker("law")


@pytest.fixture(scope="session")
def host():
    from host import Host

    return Host()


@pytest.fixture(scope="module")
def vae(host):
    """Of the shipped checkpoint."""
    from host import CHECKPOINT, node

    return host.run({
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "out": node("TestCapture", value=["ckpt", 2]),
    })[0]  # fmt: skip


@pytest.fixture(scope="module")
def server():
    """A running ComfyUI with the pack; for the modules that mark themselves `browser.needs_browser`."""
    from browser import running_server
    from host import CROP_AND_STITCH

    with running_server(CROP_AND_STITCH if CROP_AND_STITCH.is_dir() else None) as host:
        yield host


@pytest.fixture(scope="module")
def page(server):
    """The editor of that server in Chromium: a Playwright page."""
    from browser import editor_page

    with editor_page(server.url) as page:
        yield page
