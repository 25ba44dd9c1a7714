"""How the house is built: imports go one way, files stay readable, nothing shipped needs the tests."""

import ast
from pathlib import Path

import pytest
from helpers import ROOT

BELOW = (
    "interrupts", "utils", "yaml_file", "models", "datas", "pictures", "config", "evaluation", "training", "tools",
    "peers", "webapp",
)  # fmt: skip
ALLOWED = {
    "interrupts": (),
    "utils": (),
    "yaml_file": ("utils",),
    "models": (),
    "peers": (),
    "webapp": ("utils", "models", "datas", "pictures"),
    "datas": ("utils",),
    "pictures": ("utils", "models", "datas"),
    "config": ("utils", "yaml_file", "models", "datas"),
    "evaluation": ("utils", "yaml_file", "models", "datas", "config"),
    "training": ("utils", "yaml_file", "models", "datas", "config", "evaluation"),
    "tools": ("interrupts", "utils", "yaml_file", "models", "datas", "config", "evaluation", "training"),
}  # a script in the root may import all of them; no one imports a script
SCRIPTS = ("train", "test", "doctor", "benchmark", "hubconf", "upscale", "app")
LONGEST = 400  # lines; a file that cannot be read in one sitting is wrong
EXEMPT = ("models/cpu.cpp", "models/kernels/")


def sources() -> list[Path]:
    folders = [ROOT / name for name in (*BELOW, "tests") if (ROOT / name).is_dir()]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    return sorted(file.relative_to(ROOT) for file in files)


def imported(file: Path) -> set[str]:
    """First names of every module that a file imports by an absolute name, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", [file for file in sources() if file.parts[0] != "tests"], ids=str)
def test_imports_go_one_way(file):
    room = file.parts[0].removesuffix(".py")
    ours = imported(file) & {*BELOW, *SCRIPTS, "tests", "helpers", "conftest"}
    within = {room} if room not in ("models", *SCRIPTS) else set()  # models/ imports itself by relative names alone
    assert ours - within <= set(ALLOWED.get(room, BELOW)), f"{file} reaches where it must not"


def test_every_room_is_known():
    rooms = {file.parts[0].removesuffix(".py") for file in sources()}
    assert rooms == {*BELOW, *SCRIPTS, "tests"} & rooms, (
        "a new module belongs into a folder, or into SCRIPTS or BELOW here"
    )


def test_no_file_is_too_long_to_be_read_in_one_sitting():
    long = {}
    for file in sources():
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        if lines > LONGEST and not str(file.as_posix()).startswith(EXEMPT):
            long[str(file)] = lines
    assert long == {}


def test_tests_mirror_the_folders():
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    assert tested >= {"datas", "models", "training", "evaluation", "tools", "pictures"}
