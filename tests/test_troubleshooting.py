"""docs/troubleshooting.md has a line for every error of the project, and none that no longer exists."""

import ast
import functools
import re
from pathlib import Path

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
# What becomes a line for the user: the errors, and the functions that raise them for a text.
RAISED = {"InputError", "ModelError", "Refused", "refusal", "_refuse", "_wrong", "_Problem", "stop_on"}
GAP = "\0"  # in place of what only a run knows
# Where a message is one that was made elsewhere, with a name before it. What is made there has its own line.
PASSED_ON = {
    "config.py:build_config", "evaluation/evaluator.py:_raise_first", "evaluation/evaluator.py:_named",
    "evaluation/peers.py:_refuse", "evaluation/peers.py:named_config", "models/registry.py:_create_other",
    "models/registry.py:_build", "models/weight_file.py:refusal", "pictures/memory.py:enough_memory",
    "training/losses.py:find_loss", "yaml_file.py:parse_yaml", "yaml_file.py:_wrong", "yaml_file.py:_document",
    "datas/layout.py:stop_on", "datas/layout.py:checked_pairs", "datas/verify.py:_difference",
    "models/weight_file.py:read_checkpoint", "models/weights.py:put_weights", "models/weights.py:_check_values",
    "pictures/video_out.py:_failures",
}  # fmt: skip


def sources() -> list[Path]:
    others = ("tests", "data", "runs", "results", "hub")
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in others]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def literal(node: ast.AST, names: dict[str, list[ast.expr]]) -> str:
    """The text of an expression, GAP for what is not written there; names stand for all that is assigned to them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(value, names) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return literal(node.value, names)
    if isinstance(node, ast.BinOp):
        return literal(node.left, names) + literal(node.right, names)
    if isinstance(node, ast.IfExp):
        return GAP.join(("", literal(node.body, names), literal(node.orelse, names), ""))
    if isinstance(node, ast.Name) and node.id in names:
        rest = {name: values for name, values in names.items() if name != node.id}
        return GAP.join(["", *(literal(value, rest) for value in names[node.id]), ""])
    return GAP


def messages() -> list[tuple[str, int, str]]:
    """(file:function, line, text) of every error that is raised with a text."""
    found = []
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        nodes = nodes_of(path)
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        owner = {id(inner): function for function in functions for inner in ast.walk(function)}  # the innermost last
        for node in nodes:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED):
                continue
            function = owner.get(id(node))
            names: dict[str, list[ast.expr]] = {}
            for inner in ast.walk(function) if function else ():
                for target in inner.targets if isinstance(inner, ast.Assign) else ():
                    if isinstance(target, ast.Name):
                        names.setdefault(target.id, []).append(inner.value)
            text = GAP.join(literal(argument, names) for argument in node.args)
            found.append((f"{name}:{function.name if function else ''}", node.lineno, text))
    return found


def fragments(page: str) -> list[str]:
    """What the first column of the tables looks for."""
    cells = re.findall(r"^\| (`.*?`) \| (?!---)", page, re.MULTILINE)
    return [fragment for cell in cells for fragment in re.split(r"`, `", cell[1:-1])]


def groups(page: str) -> list[str]:
    """Beginnings of the paths whose errors share a row, as each is of one option of one command."""
    cells = re.findall(r"^\| all lines of (.*?) \|", page, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]
    return [name if name.endswith(".py") else name.replace(".", "/") for name in names]


def pattern(fragment: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, fragment.split("…"))), re.DOTALL)


MESSAGES = messages()
FRAGMENTS = fragments(PAGE)


def test_the_messages_are_found():
    assert len(MESSAGES) > 200
    assert any("unknown config key" in text for _, _, text in MESSAGES)


def is_in(place: str, group: str) -> bool:
    return re.match(rf"{re.escape(group)}(/|\.py:|:)", place) is not None


def test_every_error_has_a_line():
    patterns = [pattern(fragment) for fragment in FRAGMENTS]
    shared = groups(PAGE)
    without = []
    for place, line, text in MESSAGES:
        if place in PASSED_ON or any(is_in(place, group) for group in shared):
            continue
        if not any(one.search(text) for one in patterns):
            without.append(f"{place}:{line}: {text.replace(GAP, '…')}")
    assert without == [], "add a line, or word the error so that one fits"


def test_only_texts_of_elsewhere_are_passed_on():
    places = {place for place, _, _ in MESSAGES}
    assert places >= PASSED_ON, "what is raised there no more is no exception"


@pytest.mark.parametrize("column", range(2))
def test_every_line_says_why_and_what_to_do(column):
    rows = re.findall(r"^\| (?:`|all).*?` \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 80
    assert [row for row in rows if len(row[column]) < 5] == []


def test_every_line_is_of_a_text_of_the_project():
    texts = [GAP.join([text for _, _, text in MESSAGES])]
    for path in sources():
        texts += [literal(node, {}) for node in nodes_of(path) if isinstance(node, ast.JoinedStr | ast.Constant)]
    everything = "\n".join(texts)
    gone = [one for one in FRAGMENTS if not all(part in everything for part in one.split("…"))]
    assert gone == []
