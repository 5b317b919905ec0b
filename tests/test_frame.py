"""The frame of the project: files at the top, packaging, what a PaaS installs and starts.

What the gateway answers over HTTP is tested elsewhere; here only that it starts from an empty disk and ends in order.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import multiverse
from child import Child, child_environ

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "multiverse-gateway"
READY_TIMEOUT_SECONDS = 20.0


def requirements_of(distribution: str, *, extra: str = "") -> list[Requirement]:
    """What an installed distribution asks for on this machine, without or with one of its extras."""
    declared = [Requirement(line) for line in metadata.requires(distribution) or []]
    return [entry for entry in declared if entry.marker is None or entry.marker.evaluate({"extra": extra})]


def pinned_requirements() -> dict[str, Requirement]:
    """The pins of requirements.txt by canonical name; without comments and the project itself."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#") and line.strip() != "."]
    return {canonicalize_name(pin.name): pin for pin in pins}


def closure(requirements: list[Requirement]) -> set[str]:
    """Canonical names of these requirements and of all that they bring along; pip, which is always there, left out."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in found and name != "pip":
            found.add(name)
            waiting.extend(requirements_of(name))
    return found


@pytest.mark.parametrize(
    "path",
    [
        *("multiverse", "tests", "scripts", "docs"),
        *("setup.py", "requirements.txt", "pyproject.toml", "Procfile", ".env.example", ".gitignore", ".ci/run"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    ],
)
def test_the_top_level_is_complete(path: str) -> None:
    assert (ROOT / path).exists()


def scripts_to_run() -> list[Path]:
    """The shell scripts that name an interpreter; the others are only sourced."""
    scripts = [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]
    return [script for script in scripts if script.read_bytes().startswith(b"#!")]


def test_scripts_can_be_run() -> None:
    assert {"demo.sh", "test.sh", "run"} <= {script.name for script in scripts_to_run()}
    assert [script for script in scripts_to_run() if not os.access(script, os.X_OK)] == []


def test_scripts_stop_at_the_first_error() -> None:
    for script in scripts_to_run():
        text = script.read_text(encoding="utf-8")
        assert re.search(r"^set -eu", text, re.MULTILINE), f"{script} goes on after errors"


# It does to a virtual environment what the real one does here, which fetches 350 MB: the tree in a copy's place.
PIP = """
import pathlib, shutil, sys
site, tree = pathlib.Path(__file__).parent.parent, pathlib.Path.cwd()
if "install" in sys.argv:
    with (tree / "installed").open("a") as told:
        print(*sys.argv[1:], file=told)
    shutil.rmtree(site / "multiverse", ignore_errors=True)
    (site / "tree.pth").write_text(str(tree))
"""


def test_a_virtual_environment_made_by_hand_and_the_scripts_get_along(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "make_venv.sh", tmp_path / "scripts")
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "multiverse", tmp_path / "multiverse", ignore=lambda *_every: {"web", "__pycache__"})
    venv.create(tmp_path / ".venv", symlinks=True)
    [site] = (tmp_path / ".venv").glob("lib/python*/site-packages")
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(PIP)
    mine = site / "mine.txt"
    mine.touch()

    def installed_after_the_script() -> int:
        subprocess.run([tmp_path / "scripts" / "make_venv.sh", "demo"], check=True, capture_output=True, timeout=30)
        assert mine.exists(), "what is in it stays"
        return (tmp_path / "installed").read_text().count("--editable .[demo]\n")

    def install_by_hand() -> None:
        (site / "tree.pth").unlink(missing_ok=True)
        shutil.copytree(tmp_path / "multiverse", site / "multiverse")

    install_by_hand()
    assert installed_after_the_script() == 1, "the demo's packages are added"
    assert installed_after_the_script() == 1, "once"
    install_by_hand()
    assert installed_after_the_script() == 2, "else the demo would run the copy, and go on with it after a change"
    assert not (site / "multiverse").exists()


def test_the_version_is_written_once() -> None:
    assert metadata.version(DISTRIBUTION) == multiverse.__version__
    sources = [ROOT / "setup.py", ROOT / "pyproject.toml", *(ROOT / "multiverse").rglob("*.py")]
    literal = f'"{multiverse.__version__}"'
    holders = [source for source in sources if literal in source.read_text(encoding="utf-8")]
    assert holders == [ROOT / "multiverse" / "__init__.py"]


def test_it_wants_python_3_11() -> None:
    assert metadata.metadata(DISTRIBUTION)["Requires-Python"] == ">=3.11"


def test_the_dev_extra_holds_the_demo_extra() -> None:
    demo = {str(entry).split(";")[0] for entry in requirements_of(DISTRIBUTION, extra="demo")}
    dev = {str(entry).split(";")[0] for entry in requirements_of(DISTRIBUTION, extra="dev")}
    assert any(name.startswith("xllamacpp") for name in demo)
    assert demo < dev


def test_pins_lie_in_the_ranges_of_setup_py() -> None:
    pins = pinned_requirements()
    for wanted in requirements_of(DISTRIBUTION):
        pin = pins[canonicalize_name(wanted.name)]
        (exact,) = pin.specifier
        assert exact.operator == "==", f"{pin} is not one version"
        assert wanted.specifier.contains(exact.version), f"{pin} is not in {wanted}"
        assert str(pin.marker) == str(wanted.marker), f"{pin} and {wanted} differ in where they install"


@pytest.mark.skipif(sys.platform == "win32", reason="requirements.txt is for a PaaS")
def test_pins_are_all_that_runs_and_nothing_else() -> None:
    assert set(pinned_requirements()) == closure(requirements_of(DISTRIBUTION))


def test_requirements_install_the_gateway_itself() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "."
    # Without these letters Railpack installs before it has copied the project (its installNeedsAllFiles).
    assert any("file://" in line for line in lines)


def test_the_procfile_starts_from_an_empty_disk(tmp_path: Path) -> None:
    name, _, command = (ROOT / "Procfile").read_text(encoding="utf-8").strip().partition(": ")
    assert name == "web"
    words = shlex.split(command)
    # A PaaS looks the command up in PATH, where pip put it.
    words[0] = str(Path(sys.executable).parent / words[0])
    environ = child_environ(ADMIN_API_KEY="a-key-for-the-procfile", HOST="127.0.0.1", PORT="0")
    gateway = Child("gateway", words, environ=environ, directory=tmp_path)
    try:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while (address := gateway.address()) is None and time.monotonic() < deadline:
            gateway.require_alive()
            time.sleep(0.02)
        assert address is not None, gateway.log_tail()
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            assert response.status == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(READY_TIMEOUT_SECONDS) == 0, gateway.log_tail()
    finally:
        gateway.stop()


def test_the_module_runs_like_the_command() -> None:
    for command in ([sys.executable, "-m", "multiverse"], [str(Path(sys.executable).parent / "multiverse")]):
        ran = subprocess.run([*command, "serve", "--help"], capture_output=True, text=True, timeout=30, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "Usage:" in ran.stdout
