"""Lock what the tests are run with, and list its licences.

    python -m tools.lock                     writes requirements-lock.txt and docs/licences.md

Both speak of the environment that runs this, which must have been made from requirements.txt and requirements-test.txt.
The lock holds each package's version and the SHA-256 of the file that pip takes for this system and Python. PyTorch is
not in it: its builds differ by device, so its hash would name one of them; its range stands in requirements.txt. Nor
is spandrel, which is installed without the torchvision that it needs (Makefile).
"""

import json
import platform
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import InputError, atomic_write, run_command

ROOT = Path(__file__).resolve().parents[1]
LOCK, LICENCES = ROOT / "requirements-lock.txt", ROOT / "docs" / "licences.md"
NOT_LOCKED = ("torch", "spandrel")
WITH_PYTHON = ("pip", "setuptools")  # they come with a virtual environment
LONGEST = 200  # characters of a licence; some packages have its whole text there


def installed() -> dict[str, Distribution]:
    """The packages of this environment by their canonical name, sorted."""
    found = {canonicalize_name(package.metadata["Name"]): package for package in distributions()}
    return dict(sorted(found.items()))


def file_hashes(packages: dict[str, Distribution]) -> dict[str, str]:
    """SHA-256 of the file that pip would install for each, at its version.

    Raises:
        InputError: pip does not find one.
    """
    wanted = [f"{name}=={package.version}" for name, package in packages.items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    done = subprocess.run([*command, "--report", "-", *wanted], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"pip cannot find what is installed here: {' '.join(done.stderr.split())[-300:]}")
    entries = json.loads(done.stdout[done.stdout.index("{") :])["install"]
    return {
        canonicalize_name(entry["metadata"]["name"]): entry["download_info"]["archive_info"]["hashes"]["sha256"]
        for entry in entries
    }


def licence(package: Distribution) -> str:
    """What the package's metadata says, in the order: SPDX expression, classifiers, free text."""
    stated = package.metadata.json
    lines = [line for line in stated.get("classifier", []) if line.startswith("License :: ")]
    classifiers = ", ".join(line.rpartition(" :: ")[2] for line in lines)
    text = str(stated.get("license_expression") or classifiers or stated.get("license") or "not stated")
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def main() -> None:
    packages = installed()
    locked = {name: package for name, package in packages.items() if name not in NOT_LOCKED + WITH_PYTHON}
    hashes = file_hashes(locked)
    where = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    lines = [f"# {where}; written by `python -m tools.lock`. PyTorch is not locked: its builds differ by device."]
    lines += [f"{name}=={package.version} --hash=sha256:{hashes[name]}" for name, package in locked.items()]
    atomic_write(LOCK, "".join(f"{line}\n" for line in lines).encode())

    shown = {name: package for name, package in packages.items() if name not in WITH_PYTHON}
    rows = [f"| {name} | {package.version} | {licence(package)} |" for name, package in shown.items()]
    text = f"""# Licences of dependencies

What each package's metadata says of itself ({where}); written by
`python -m tools.lock`. They are installed beside the project, none of them is part of it. The project's
own licence is in [LICENSE](../LICENSE).

| package | version | licence |
| --- | --- | --- |
"""
    atomic_write(LICENCES, (text + "".join(f"{row}\n" for row in rows)).encode())
    print(f"wrote {LOCK} ({len(locked)} packages) and {LICENCES}")


if __name__ == "__main__":
    run_command(main)
