"""Re-creates the vendored files from the npm registry, as scripts/vendored.json lists them, and checks their sums.

Without an option it fetches and writes; `--check` only compares what is there with the list; `--update` writes the sums
of what was fetched into the list, for a new version. Needs npm, except for `--check`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "scripts" / "vendored.json"


def checksum(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def faults_on_disk(assets: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the files in the working tree; empty when all is well."""
    faults = []
    for asset in assets:
        path = ROOT / asset["path"]
        if not path.is_file():
            faults.append(f"{asset['path']} is missing")
        elif checksum(path.read_bytes()) != asset["sha256"]:
            faults.append(f"{asset['path']} is not what {LIST.name} says")
    return faults


def fetch(package: str, version: str, directory: Path) -> tarfile.TarFile:
    """The package's archive, fetched by npm into `directory`."""
    command = ["npm", "pack", "--silent", f"{package}@{version}"]
    packed = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return tarfile.open(directory / packed.stdout.strip().splitlines()[-1])


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one file of an npm package."""
    stored = archive.extractfile(f"package/{name}")
    if stored is None:
        raise LookupError(f"{name} is not a file of the package")
    with stored:
        return stored.read()


def recreate(assets: list[dict[str, Any]], *, update: bool) -> None:
    """Write every asset anew. Raises SystemExit when the registry has something else than the list says."""
    packages = sorted({(asset["package"], asset["version"]) for asset in assets})
    with tempfile.TemporaryDirectory() as directory:
        for package, version in packages:
            with fetch(package, version, Path(directory)) as archive:
                for asset in assets:
                    if (asset["package"], asset["version"]) != (package, version):
                        continue
                    content = member(archive, asset["source"])
                    if update:
                        asset["sha256"] = checksum(content)
                    elif checksum(content) != asset["sha256"]:
                        raise SystemExit(f"{package}@{version} holds another {asset['source']} than listed")
                    path = ROOT / asset["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                    print(f"{asset['path']}  {package}@{version}  {asset['licence']}")


def main() -> int:
    """The exit code: 0 when files and list agree."""
    parser = argparse.ArgumentParser(description="Re-create the vendored files from the npm registry.")
    parser.add_argument("--check", action="store_true", help="compare the files with the list; fetch nothing")
    parser.add_argument("--update", action="store_true", help="write the fetched files' sums into the list")
    options = parser.parse_args()
    document = json.loads(LIST.read_text(encoding="utf-8"))
    if not options.check:
        recreate(document["assets"], update=options.update)
        if options.update:
            LIST.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    faults = faults_on_disk(document["assets"])
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
