"""The files by which spandrel itself would know SSIU, written from models/ and tools/spandrel_ssiu.py.

python -m tools.spandrel_file --out spandrel/libs/spandrel/spandrel

What is written needs spandrel, PyTorch and einops, and nothing of this project.
"""

import argparse
import ast
import re
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from models import ModelError
from models.weights import PREFIXES
from utils import InputError, atomic_write, run_command

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("architectures", "SSIU")
IMPORTS = """\
import re
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from spandrel.util import KeyCondition

from ...__helpers.model_descriptor import (
    Architecture,
    ImageModelDescriptor,
    ModelTiling,
    SizeRequirements,
    StateDict,
)
from .__arch.ssiu import MSGMS, SSIU
"""
REGISTRATION = """\
in __helpers/main_registry.py, import SSIU from ..architectures and add at the end of MAIN_REGISTRY.add(...):
    ArchSupport.from_architecture(SSIU.SSIUArch()),"""


def files() -> dict[Path, str]:
    """What spandrel's package gets, by the path in it.

    Raises:
        InputError: the sources have changed so much that this no longer knows how to turn them into those.
    """
    return {
        FOLDER / "__init__.py": architecture_file(),
        FOLDER / "__arch" / "ssiu.py": network_file(),
        FOLDER / "__arch" / "LICENSE": _source("LICENSE"),
    }


def network_file() -> str:
    """models/ssiu.py, its class SSIU called by keywords alone and remembering them, as spandrel's networks do."""
    text = _source("models/ssiu.py")
    docstring = _docstring(text)
    about_the_project = [part for part in docstring.split("\n\n") if "models/" in part]
    for part in about_the_project:
        text = _replaced(text, f"\n\n{part.rstrip()}", "")
    text = re.sub(r", see docs/\w+\.md", "", text)
    text = _replaced(
        text,
        "from torch import Tensor, nn\n",
        "from torch import Tensor, nn\n\nfrom spandrel.util import store_hyperparameters\n",
    )
    head, mark, network = text.partition("class SSIU(nn.Module):\n")
    if not mark:
        raise InputError("models/ssiu.py: has no class SSIU(nn.Module); change tools/spandrel_file.py with it")
    network = _replaced(
        network,
        "    def __init__(\n        self,\n",
        "    hyperparameters = {}\n\n    def __init__(\n        self,\n        *,\n",
    )
    return f"{head}@store_hyperparameters()\n{mark}{network}"


def architecture_file() -> str:
    """The detection of models/architecture.py and the adapter, in one."""
    sizes = _definitions("models/architecture.py", "Architecture", "detect_architecture", "detect_scale")
    adapter = _definitions("tools/spandrel_ssiu.py", "without_prefixes", "network_of", "SSIUArch")
    parts = [
        IMPORTS,
        f'PREFIXES = re.compile(r"{PREFIXES.pattern}")',
        *(re.sub(r"\bArchitecture\b", "Sizes", part) for part in sizes),
        *adapter,
        '__all__ = ["SSIU", "SSIUArch"]\n',
    ]
    return "\n\n\n".join(parts).replace(f"{IMPORTS}\n\n\n", f"{IMPORTS}\n", 1)


def _source(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _docstring(text: str) -> str:
    return ast.get_docstring(ast.parse(text), clean=False) or ""


def _definitions(name: str, *wanted: str) -> list[str]:
    """The source of classes and functions of a file, decorators included, in the order of `wanted`."""
    text = _source(name)
    lines, found = text.splitlines(), {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in wanted:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]))
    missing = [definition for definition in wanted if definition not in found]
    if missing:
        raise InputError(f"{name}: has no {', '.join(missing)}; change tools/spandrel_file.py with it")
    return [found[definition] for definition in wanted]


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise InputError(f"models/ssiu.py: {old.strip()!r} is not in it once; change tools/spandrel_file.py with it")
    return text.replace(old, new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="spandrel's package, with architectures/ in it"
    )
    out = parser.parse_args().out
    for path, text in files().items():
        atomic_write(out / path, text.encode())
        print(f"wrote {out / path}")
    print(REGISTRATION)


if __name__ == "__main__":
    run_command(main, ModelError)
