"""Where the peers come from: PyPI into a virtual environment each, Debian's packages unpacked, nothing system-wide.

All of it lands in benchmarks/.peers/, which git ignores by itself; deleting that directory is the way to uninstall.
No service is started, no administrator's right is needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent / ".peers"
INSTALL_TIMEOUT_SECONDS = 900
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
STAMP = "installed"


class NotAvailable(Exception):
    """A peer cannot be had on this machine; the text says why in one line."""


@dataclass(frozen=True)
class Program:
    """A program, and where the libraries lie that came with it (empty: where the system has them)."""

    path: str
    library_path: str = ""

    def environ(self) -> dict[str, str]:
        """What it needs in its environment."""
        return {"LD_LIBRARY_PATH": self.library_path} if self.library_path else {}


def run(command: Sequence[str], *, directory: Path | None = None) -> str:
    """What a command prints; raises NotAvailable with the last line when it fails."""
    try:
        ran = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{command[0]}: {error}") from error
    if ran.returncode != 0:
        lines = (ran.stderr.strip() or ran.stdout.strip() or f"status {ran.returncode}").splitlines()
        raise NotAvailable(f"{Path(command[0]).name}: {lines[-1][:300]}")
    return ran.stdout + ran.stderr


def peers_directory() -> Path:
    """benchmarks/.peers/, made when it is missing."""
    PEERS.mkdir(exist_ok=True)
    (PEERS / ".gitignore").write_text("*\n")
    return PEERS


def python_environment(name: str, requirement: str, *, allowed: bool, say: Callable[[str], None]) -> Path:
    """The virtual environment that holds `requirement` alone; wheels only, so that nothing is built or run to install.

    Raises NotAvailable, also when it would have to be installed and that is not `allowed`.
    """
    directory = peers_directory() / name
    stamp = directory / STAMP
    wanted = f"{requirement} {platform.python_version()} {directory}"
    if stamp.exists() and stamp.read_text() == wanted:
        return directory
    if not allowed:
        raise NotAvailable("it is not installed, and --no-install was given")
    say(f"installing {requirement} into {directory}")
    run([sys.executable, "-m", "venv", "--clear", str(directory)])
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--only-binary", ":all:", requirement])
    stamp.write_text(wanted)
    return directory


def debian_program(name: str, *, allowed: bool, say: Callable[[str], None]) -> Program:
    """A program that the system has, or else that of Debian's package of the same name, unpacked.

    Raises NotAvailable, also when it would have to be fetched and that is not `allowed`.
    """
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"):
        return Program(found)
    root = peers_directory() / name
    stamp = root / STAMP
    if not stamp.exists():
        if not allowed:
            raise NotAvailable("it is not installed, and --no-install was given")
        say(f"unpacking Debian's {name} into {root}")
        unpack_debian(name, root)
        stamp.write_text(name)
    libraries = sorted((root / "usr" / "lib").glob("*-linux-*"))
    return Program(str(root / "usr" / "sbin" / name), ":".join(str(path) for path in libraries))


def unpack_debian(package: str, root: Path) -> None:
    """Fetch a package with whatever of its dependencies the system lacks, and unpack them all into `root`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotAvailable(f"this system has neither {package} nor Debian's apt-get")
    packages = root / "packages"
    shutil.rmtree(root, ignore_errors=True)
    packages.mkdir(parents=True)
    try:
        missing = missing_packages(package)
    except NotAvailable:
        if os.geteuid() != 0:
            raise
        run(["apt-get", "update"])  # a new machine has no lists yet
        missing = missing_packages(package)
    run(["apt-get", "download", *missing], directory=packages)
    for archive in sorted(packages.glob("*.deb")):
        run(["dpkg-deb", "-x", str(archive), str(root)])


def missing_packages(package: str) -> list[str]:
    """What apt would install for a package; raises NotAvailable when it knows none."""
    plan = run(["apt-get", "--simulate", "install", "--no-install-recommends", package])
    return re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
