"""YAML of the core schema: read from a file or from the value of one key, and written.

Config files and the values of `--set` are read here. Values are null, True or False, numbers, text, lists, and mappings
whose keys are text. Dates, yes and no, and 1_000 or 12:30 are text. Anchors, aliases, merge keys and other tags are
refused, and so is what is too large or nested too deep, so that any input is read or refused within a second.
"""

import errno
import math
import os
import re
import stat
from collections.abc import Hashable
from typing import Any

import yaml

from utils import InputError, shown

LARGEST = 32 * 1024  # bytes of a file and of what is written, characters of one value; configs/ needs 1,000
DEEPEST = 20  # levels of lists and mappings
LONGEST_NUMBER = 100  # characters

_TAG = "tag:yaml.org,2002:"
_FORMS = {
    "null": re.compile(r"(?:null|Null|NULL|~|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}  # the first that matches counts: what has the form of an int has that of a float too


class _Problem(Exception):
    """What is wrong, and in which line (from 0)."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line


def read_yaml(path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no regular file that can be read, over 32 KiB, not UTF-8, not YAML as it is read here, no mapping.
    """
    name = shown(path)
    try:
        data = _content(path)
    except (OSError, ValueError) as error:  # ValueError: no name of a file, as it holds a NUL byte
        reason = getattr(error, "strerror", None) or "not a name of a file"
        raise InputError(f"{name}: cannot be read ({reason}); name a YAML file, such as those in configs/") from error
    _check_size(len(data), name)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    values = parse_yaml(text, name)
    if not isinstance(values, dict):
        raise InputError(f"{name}: not a config: expected lines of 'key: value'")
    return values


def _content(path) -> bytes:
    """The first bytes of a regular file, one more than it may have. OSError or ValueError if it cannot be read."""
    _check_regular(os.stat(path))  # opening a device can do something, opening a FIFO waits
    with open(path, "rb", opener=_without_waiting) as file:
        _check_regular(os.fstat(file.fileno()))  # it may be another file by now
        return file.read(LARGEST + 1)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _without_waiting(path, flags: int) -> int:
    """An `opener` for `open` that does not wait for the writer of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse_yaml(text: str, source: str, value_only: bool = False) -> Any:
    """What YAML text holds, None if nothing.

    Args:
        source: what the text is from; error messages begin with it.
        value_only: the text is the value of one key, as it stands on a command line: error messages name no line, and
            one level less may be nested, so that the value fits into a file.

    Raises:
        InputError: not YAML as it is read here, or over 32 KiB.
    """
    _check_size(len(text), source)
    try:
        return _document(text, 1 if value_only else 0)
    except _Problem as problem:
        place = source if value_only else f"{source}, line {problem.line + 1}"
        raise InputError(f"{place}: {problem}") from problem.__cause__


def _document(text: str, depth: int) -> Any:
    """What the text holds, as if it stood inside of `depth` lists and mappings. Raises _Problem."""
    unfit = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unfit:
        code = ord(unfit.group())
        what = (
            f"byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"character U+{code:04X}"
        )  # of an argument
        reason = f"the {what} cannot stand in YAML, which is UTF-8 text; remove it"
        raise _Problem(text.count("\n", 0, unfit.start()), reason)
    parser = yaml.SafeLoader(text)  # of which the events are taken alone: they come one by one, without recursion
    try:
        parser.get_event()  # the start of the stream
        if parser.check_event(yaml.StreamEndEvent):
            return None
        parser.get_event()  # the start of the document
        value = _value(parser, depth)
        parser.get_event()  # the end of the document
        if not parser.check_event(yaml.StreamEndEvent):
            raise _wrong(parser.peek_event(), "a second document starts here; leave one")
        return value
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else parser.line
        raise _Problem(line, f"not valid YAML ({shown(error.problem)})") from error
    except (ValueError, OverflowError) as error:  # of a number after \U or %YAML
        raise _Problem(parser.line, "not valid YAML (an escape or a version that is out of range)") from error


def _value(parser: yaml.SafeLoader, depth: int) -> Any:
    """The value that starts with the next event, inside of `depth` lists and mappings."""
    event = parser.get_event()
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise _wrong(event, "anchors and aliases (& and *) are not read; write the value out, or put text in quotes")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    is_list = isinstance(event, yaml.SequenceStartEvent)
    if event.tag not in (None, _TAG + ("seq" if is_list else "map")):
        raise _unread_tag(event)
    if depth == DEEPEST:
        raise _wrong(event, f"nested deeper than {DEEPEST} levels; use fewer")
    value = _list(parser, depth + 1) if is_list else _mapping(parser, depth + 1)
    parser.get_event()  # the end of it
    return value


def _list(parser: yaml.SafeLoader, depth: int) -> list:
    items = []
    while not parser.check_event(yaml.SequenceEndEvent):
        items.append(_value(parser, depth))
    return items


def _mapping(parser: yaml.SafeLoader, depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    while not parser.check_event(yaml.MappingEndEvent):
        first = parser.peek_event()
        key = _value(parser, depth)
        if not isinstance(key, str):
            raise _wrong(first, f"key {shown(repr(key))} is not text; put it in quotes")
        if key == "<<" and first.implicit[0]:
            raise _wrong(first, "'<<' is not read (it merges mappings); write the keys out")
        if key in values:
            raise _wrong(first, f"key '{shown(key)}' stands there twice; remove one")
        values[key] = _value(parser, depth)
    return values


def _scalar(event: yaml.ScalarEvent) -> Any:
    text, kind = event.value, _kind(event)
    if kind in ("str", "null"):
        return text if kind == "str" else None
    if kind == "bool":
        return text.lower() == "true"
    if len(text) > LONGEST_NUMBER:
        advice = f"{LONGEST_NUMBER} at most are read; if it is text, put it in quotes"
        raise _wrong(event, f"a number of {len(text)} characters; {advice}")
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    value = float(text.lower().replace(".i", "i").replace(".n", "n"))
    if math.isinf(value) and not text.lower().endswith("inf"):
        raise _wrong(event, f"{text} is too large; write .inf if infinity is meant")
    return value


def _kind(event: yaml.ScalarEvent) -> str:
    """A key of _FORMS, or 'str'."""
    if event.tag is None:
        unquoted = event.implicit[0]
        return next((kind for kind, form in _FORMS.items() if unquoted and form.match(event.value)), "str")
    kind = event.tag.removeprefix(_TAG)
    if not event.tag.startswith(_TAG) or kind not in (*_FORMS, "str"):
        raise _unread_tag(event)
    if kind != "str" and not _FORMS[kind].match(event.value):
        reason = f"{shown(repr(event.value))} is not of the form of !!{kind}; remove the tag or correct the value"
        raise _wrong(event, reason)
    return kind


def _unread_tag(event: Any) -> _Problem:
    tag = shown(event.tag.replace(_TAG, "!!"))
    return _wrong(event, f"the tag {tag} is not read here; remove it, or put text in quotes")


def _wrong(event: Any, reason: str) -> _Problem:
    return _Problem(event.start_mark.line, reason)


def _check_size(size: int, source: str) -> None:
    if size > LARGEST:
        raise InputError(f"{source}: over {LARGEST // 1024} KiB, which no config needs; use less")


def dump_yaml(values: dict[str, Any]) -> str:
    """`values` as YAML that is read back equal, here and by readers of YAML 1.1.

    Raises:
        InputError: over 32 KiB.
    """
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None)
    _check_size(len(text.encode()), "the config, written out")
    return text


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that the core schema or YAML 1.1 would take for something else."""

    def ignore_aliases(self, data: Hashable) -> bool:
        return True


for _name, _form in _FORMS.items():
    _Dumper.add_implicit_resolver(_TAG + _name, _form, None)
