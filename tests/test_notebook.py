"""notebooks/ssiu.ipynb: its cells run, and print what is stored below them."""

import ast
import contextlib
import io
import json
import re
import sys

import pytest
from helpers import ROOT
from PIL import Image

FILE = ROOT / "notebooks" / "ssiu.ipynb"
CELLS = [cell for cell in json.loads(FILE.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
NUMBER = re.compile(r"-?\d+\.\d+")


def run(source: str, names: dict) -> tuple[str, object]:
    """What a cell prints, and the value of its last line, if that is an expression."""
    body, last = ast.parse(source).body, None
    if body and isinstance(body[-1], ast.Expr):
        last = compile(ast.Expression(body.pop().value), FILE.name, "eval")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(ast.Module(body, []), FILE.name, "exec"), names)
        value = eval(last, names) if last else None
    return said.getvalue(), value


def test_the_cells_run_and_print_what_is_stored(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SSIU_BACKEND", "plain")  # the fast ones prove themselves in other tests
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict = {}
    for cell in CELLS:
        printed, value = run("".join(cell["source"]), names)
        stored = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", stored)
        assert list(map(float, NUMBER.findall(printed))) == pytest.approx(
            list(map(float, NUMBER.findall(stored))), abs=0.02
        )
        shown = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        assert shown == isinstance(value, Image.Image)
    assert names["standard"].psnr > 30  # of SSIU, the last that was scored


def test_the_stored_file_is_small_and_of_no_machine():
    text = FILE.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert not re.search(r"/home/|/Users/|site-packages", text)
    assert str(ROOT) not in text
    assert not any(output["output_type"] == "error" for cell in CELLS for output in cell["outputs"])
