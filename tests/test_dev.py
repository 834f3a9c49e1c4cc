"""What dev.py says when a machine is not as it should be, and that a killed set-up goes on. No network."""

import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and signals")


@pytest.fixture
def project(tmp_path):
    """dev.py and its pins in an empty folder."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dev.py", folder)
    return folder


@pytest.fixture
def comfyui(tmp_path):
    folder = tmp_path / "comfyui"
    folder.mkdir()
    (folder / "comfyui_version.py").write_text('__version__ = "9.8.7"\n')
    (folder / "requirements.txt").write_text("torch\n")
    (folder / "main.py").write_text("import package_that_is_missing\n")
    return folder


def environment(**changes: object) -> dict[str, str]:
    """This process's variables, without what would lead pip or dev.py elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") and k != "COMFYUI_PATH"}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"} | {k: str(v) for k, v in changes.items()}


def dev(project: Path, *args: str | Path, prefix: tuple[str, ...] = (), **variables: object):
    command = [*prefix, sys.executable, project / "dev.py", *args]
    return subprocess.run(command, env=environment(**variables), text=True, capture_output=True)


def sentence(done: subprocess.CompletedProcess) -> str:
    """The one line that dev.py says."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dev.py: ")
    return last


def test_a_python_without_venv(project, tmp_path):
    (tmp_path / "venv.py").write_text("raise ImportError('No module named venv')")
    assert "makes no virtual environments" in sentence(dev(project, "test", PYTHONPATH=tmp_path))


def test_a_folder_without_write_permission(project):
    prefix = ()
    if os.geteuid() == 0:  # root writes everywhere unless this is taken away
        prefix = ("setpriv", "--bounding-set=-dac_override")
    project.chmod(0o555)
    try:
        assert f"{project / '.cache'} cannot be written: Permission denied" in sentence(
            dev(project, "test", prefix=prefix)
        )
    finally:
        project.chmod(0o755)


def test_out_is_made_before_anything_runs(project, tmp_path):
    (file := tmp_path / "file").write_text("")
    done = dev(project, "demo", "--out", file / "results")
    assert f"--out {file / 'results'} cannot be written: Not a directory" in sentence(done)
    assert not (project / ".cache").exists()


@pytest.mark.parametrize("missing", ["main.py", "requirements.txt", "comfyui_version.py"])
def test_a_folder_that_is_no_comfyui(project, comfyui, missing):
    (comfyui / missing).unlink()
    assert f"it has no {missing}" in sentence(dev(project, "test", COMFYUI_PATH=comfyui))


def wanted(project: Path, comfyui: Path | str) -> tuple[Path, str]:
    """The environment's folder for a ComfyUI, "" for none, and the digest of what it has to hold."""
    code = "from environment import find_host; host = find_host(); print(host.venv); print(host.wanted())"
    variables = environment(COMFYUI_PATH=comfyui, PYTHONPATH=project / "tools")
    folder, digest = subprocess.check_output([sys.executable, "-c", code], env=variables, text=True).split()
    return Path(folder), digest


def test_the_pinned_comfyui_has_one_environment_whether_named_or_not(project):
    """Else every change between the two would make it anew, under whatever runs in it."""
    assert wanted(project, project / ".cache" / "comfyui-0.3.75") == wanted(project, "")


def test_a_comfyui_of_ones_own_of_the_pinned_version_leaves_the_other_environment_alone(project, comfyui):
    (comfyui / "comfyui_version.py").write_text('__version__ = "0.3.75"\n')
    assert wanted(project, comfyui)[0] != wanted(project, "")[0]


def test_a_comfyui_that_lacks_a_package(project, comfyui):
    folder, digest = wanted(project, comfyui)
    venv.create(folder, with_pip=False)
    (folder / "set-up.txt").write_text(f"{digest} 6")
    said = sentence(dev(project, "test", COMFYUI_PATH=comfyui))
    assert "ComfyUI 9.8.7" in said and "No module named 'package_that_is_missing'" in said


def test_a_killed_set_up_goes_on_where_it_was(project, comfyui):
    with socket.create_server(("127.0.0.1", 0)) as index:  # never answers
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        variables = environment(COMFYUI_PATH=comfyui, PIP_INDEX_URL=url)
        del variables["PIP_NO_INDEX"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        child = subprocess.Popen([sys.executable, project / "dev.py", "test"], env=variables, **pipes)
        index.settimeout(120)
        connection, _ = index.accept()  # pip asks for PyTorch
        with connection:
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 128 + signal.SIGTERM
            while connection.recv(4096):  # ends when pip has ended too
                pass
    folder, digest = wanted(project, comfyui)
    assert (folder / "set-up.txt").read_text() == f"{digest} 2"
    (site,) = folder.glob("**/site-packages")
    (site / "cut_short-1.0.dist-info").mkdir()
    (site / "cut_short-1.0.dist-info" / "METADATA").write_text("Name: cut_short")
    again = dev(project, "test", COMFYUI_PATH=comfyui)
    assert "starting again resumes" in again.stderr and "Traceback" not in again.stderr
    assert "Resuming" in again.stdout and "[3/7] PyTorch" in again.stdout and "[1/7]" not in again.stdout
    assert not (site / "cut_short-1.0.dist-info").exists() and list(site.glob("pip-*.dist-info"))


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [("--out o", "inpaint", []), ("--out o --images 8", "inpaint", ["--images", "8"]),
     ("superres --out o --images 8", "superres", ["--images", "8"])],
)  # fmt: skip
def test_options_of_a_benchmark_are_not_taken_for_its_name(line, name, rest):
    opts = runpy.run_path(str(ROOT / "dev.py"))["parse"](["bench", *line.split()])
    assert opts.name == name and opts.rest == rest


@pytest.mark.parametrize(("died", "ran"), [(-signal.SIGKILL, 1), (1, 3)])
def test_a_program_that_was_killed_is_no_success_and_the_last(monkeypatch, died, ran):
    dev, started = runpy.run_path(str(ROOT / "dev.py")), []
    changed = {
        "set_up": lambda: None, "programs": lambda opts, host: [["a"], ["b"], ["c"]],
        "start": lambda host, command: died if not started.append(command) and len(started) == 1 else 0,
    }  # fmt: skip
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    dev["main"].__globals__.update(changed)
    assert dev["main"](["lint"]) == (137 if died < 0 else 1) and len(started) == ran
