"""Whether a command would be taken: its file is there, and the parser in that file knows every word."""

import argparse
import contextlib
import functools
import io
import re
import runpy
import sys
from unittest.mock import patch

import pages
from helpers import ROOT
from torch.distributed.run import get_args_parser

from config import load_config, parse_overrides

PLACEHOLDER = re.compile(r"\.\.\.|…")


def check(command: str) -> str:
    """What is wrong with a command of a page: an empty string if nothing is. Words like $NAME stand for others."""
    program, *words = [word for word in pages.words_of(command) if not word.startswith("$")]
    program = program.removeprefix(".venv/bin/")
    try:
        if program == "make":
            return _check_make(words)
        if program == "pip":
            missing = [word for word in words if word.endswith(".txt") and not (ROOT / word).is_file()]
            return f"there is no {missing[0]}" if missing else ""
        if program == "torchrun":
            return _check_torchrun(words)
        return _check_python(words) if program == "python" else ""
    except (ValueError, SystemExit) as error:
        return str(error) or "is not taken"


def _check_make(words: list[str]) -> str:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"make has no {unknown[0]}" if unknown else ""


def _check_torchrun(words: list[str]) -> str:
    if not any(word.endswith(".py") for word in words):  # a sentence about an option of torchrun
        return _unknown(get_args_parser(), words)
    taken = _taken(get_args_parser(), words)
    return taken if isinstance(taken, str) else _check_python([taken.training_script, *taken.training_script_args])


def _check_python(words: list[str]) -> str:
    if words[0] in ("-c", "-V", "--version"):
        return ""
    if words[:2] in (["-m", "venv"], ["-m", "pip"]):
        return ""
    if words[:2] == ["-m", "pytest"]:
        missing = [word for word in words[2:] if word.startswith("tests") and not (ROOT / word.split("::")[0]).exists()]
        return f"there is no {missing[0]}" if missing else ""
    if words[0] == "-m":
        name, words = words[1], words[2:]
        file = ROOT / name.replace(".", "/")
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
    else:
        file, words = ROOT / words[0], words[1:]
    if not file.is_file():
        return f"there is no {file.relative_to(ROOT)}"
    parser = parser_of(file)
    if parser is None:
        return f"{file.name} takes no {words[0]}" if words else ""
    if not words or "..." in words:  # a sentence about the program, or about some of its options
        return _unknown(parser, words)
    taken = _taken(parser, words)
    return taken if isinstance(taken, str) else _check_config(taken)


def _check_config(taken: argparse.Namespace) -> str:
    """Every key of --set, and its value; with a config that comes with the project all of it."""
    if not hasattr(taken, "config"):
        return ""
    overrides = [PLACEHOLDER.sub("X", pair) for pair in getattr(taken, "set", None) or ()]
    file = ROOT / (taken.config or "")
    if taken.config and file.is_file():
        load_config(file, overrides)
    elif taken.config and taken.config.lstrip("./").startswith("configs/"):
        return f"there is no {taken.config}"
    else:
        parse_overrides(overrides)
    return ""


class _Found(BaseException):
    """Carries a parser out of a script that is about to read its command line."""


@functools.cache
def parser_of(file) -> argparse.ArgumentParser | None:
    """The parser with which a script reads its command line; None if it has none. It is stopped there."""

    def stop(parser, *arguments, **options):
        raise _Found(parser)

    if "ArgumentParser" not in file.read_text(encoding="utf-8"):
        return None
    with patch.object(argparse.ArgumentParser, "parse_args", stop), patch.object(sys, "argv", [str(file)]):
        try:
            runpy.run_path(str(file), run_name="__main__")
        except _Found as found:
            return found.args[0]
    raise AssertionError(f"{file}: does not read its command line")


def _options(parser: argparse.ArgumentParser) -> set[str]:
    known = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            known = known.union(*map(_options, action.choices.values()))
    return known


def _unknown(parser: argparse.ArgumentParser, words: list[str]) -> str:
    known = _options(parser)
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in known]
    return f"there is no {unknown[0]}" if unknown else ""


def _taken(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace | str:
    """What the parser makes of the words, or what it says against them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parser.parse_args(words)
    except SystemExit as leaving:
        return argparse.Namespace() if leaving.code == 0 else said.getvalue().splitlines()[-1]
