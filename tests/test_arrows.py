"""Which room may import which: sampler only torch; only the adapter knows the host's internals."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOST_INTERNALS = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview", "nodes", "server"}


def imports(source: str) -> set[tuple[int, str]]:
    """(relative level, module) of every import in a source text, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.level, node.module or ""))
    return found


def wrong_sampler_imports(source: str, depth: int) -> set[str]:
    """Imports that a file `depth` folders below the pack's root (1 = sampler/) may not have."""
    allowed = set(sys.stdlib_module_names) | {"torch"}
    return {
        module
        for level, module in imports(source)
        if (level == 0 and module.split(".")[0] not in allowed) or level > depth
    }


@pytest.mark.parametrize("file", sorted((ROOT / "sampler").rglob("*.py")), ids=lambda f: f.name)
def test_sampler_imports_torch_only(file):
    depth = len(file.relative_to(ROOT).parts) - 1
    assert not wrong_sampler_imports(file.read_text(encoding="utf-8"), depth)


@pytest.mark.parametrize("file", sorted((ROOT / "nodes").rglob("*.py")), ids=lambda f: f"{f.parent.name}/{f.name}")
def test_only_the_adapter_imports_host_internals(file):
    internals = {m for level, m in imports(file.read_text(encoding="utf-8")) if level == 0} & HOST_INTERNALS
    internals |= {
        m for level, m in imports(file.read_text(encoding="utf-8")) if level == 0 and m.split(".")[0] in HOST_INTERNALS
    }
    assert not internals or file.parent.name == "comfy_adapter"


def test_the_check_finds_wrong_arrows():
    assert wrong_sampler_imports("from ..nodes import sockets", 1)
    assert wrong_sampler_imports("def f():\n    import comfy.samplers", 1)
    assert not wrong_sampler_imports("from ..denoiser import unit_max\nimport torch", 2)


def test_entry_point_is_lazy_and_v3_only():
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    top_level = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not top_level


@pytest.mark.parametrize("folder", [".", "nodes", "tools", "tests/small_nodes"])
def test_nodes_are_declared_as_v3_only(folder):
    """The packs that demo and tests load too; a test may look into the host's own table."""
    files = (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    assert [f.name for f in files if "NODE_CLASS_MAPPINGS" in f.read_text(encoding="utf-8")] == []
