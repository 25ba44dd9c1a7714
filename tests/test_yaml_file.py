"""YAML: values of the core schema are read as they are meant, and everything else ends in one short line."""

import itertools
import math
import os
import sys

import pytest
import yaml

from utils import InputError, shown
from yaml_file import DEEPEST, LARGEST, dump_yaml, parse_yaml, read_yaml

BOMB = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in itertools.pairwise("abcdefghi"))
BOMB_IN_ONE_LINE = "[&a [x, x], &b [*a, *a], [*b, *b]]"
TEXTS = [
    "1e-6", "true", "False", "null", "~", "", "0o7", "07", "08", "0x1F", "1_000", "2026-01-02", "12:30", "yes", "off",
    ".inf", ".NaN", "+.5", "<<", "=", "- a", "a: b", "a #b", "#a", "'", '"', "\\", "&a", "*a", "!a", "%a", "@a", "`a",
    "[", "{}", ",", "---", "...", " a", "a ", "a  b " * 40, "two\nlines\n", "\n", "\t", "\r\n", "\a", "\x85", "\u2028",
    "\ufeffa", "\u00e9\u202e", "\U0001f600", "d" * 300, "?", ":", "a:", "-", "|", ">", "0." + "3" * 40,
]  # fmt: skip


def read(text, path) -> dict:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def is_one_line(message: str) -> bool:
    return message.isprintable() and len(message) < 700


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, None) for text in ("", "~", "null", "Null", "NULL", "# nothing", "!!null ''")],
        *[(text, True) for text in ("true", "True", "TRUE", "!!bool true", "!!bool 'True'")],
        *[(text, False) for text in ("false", "False", "FALSE")],
        *[(text, text) for text in ("yes", "No", "on", "OFF", "y", "n", "tRUE", "nUll")],
        *[(text, text) for text in ("2026-01-02", "2024-02-30", "12:30:45", "1_000", "0b11", "-0x1F", "=", "<<")],
        *[("7", 7), ("+7", 7), ("-7", -7), ("010", 10), ("0o17", 15), ("0x1f", 31), ("!!int 7", 7), ("!!int '7'", 7)],
        *[("1e-6", 1e-6), ("1.0e-6", 1e-6), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-1.5", -1.5)],
        *[("!!float 7", 7.0), (".inf", math.inf), ("+.Inf", math.inf), ("-.INF", -math.inf)],
        *[("'7'", "7"), ('"true"', "true"), ("!!str 7", "7"), ("!!str", ""), ("|-\n  1", "1"), ("ſ", "ſ"), ("٣", "٣")],
        *[("[1, [a], {b: 2}]", [1, ["a"], {"b": 2}]), ("!!seq []", []), ("!!map {}", {}), ("[a: 1]", [{"a": 1}])],
        *[("{'7': 1, 'null': 2}", {"7": 1, "null": 2}), ("{a, b}", {"a": None, "b": None}), ("--- 7\n...\n", 7)],
    ],
)
def test_values_are_those_of_the_core_schema(text, value):
    assert (got := parse_yaml(text, "here")) == value
    assert type(got) is type(value)


def test_not_a_number_is_read_as_such():
    assert math.isnan(parse_yaml(".nan", "here"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lr: [1", "line 1: not valid YAML"),
        ("a: 1\nb: ]", "line 2: not valid YAML"),
        ('a: "\\UFFFFFFFF"', "line 1: not valid YAML"),
        ('a: "\\U00110000"', "line 1: not valid YAML"),
        (f"%YAML {'1' * 5000}.1\n--- a", "line 1: not valid YAML"),
        ("a: 1\nb: !!bool 7", "line 2: '7' is not of the form of !!bool"),
        ('a: !!int ""', "line 1: '' is not of the form of !!int"),
        ("a: !!int 7.5", "'7.5' is not of the form of !!int"),
        ("a: !!timestamp x", "line 1: the tag !!timestamp is not read"),
        ("a: !!timestamp 2026-01-02", "line 1: the tag !!timestamp is not read"),
        ("a: !!binary aGk=", "the tag !!binary is not read"),
        ("a: !!set {b}", "the tag !!set is not read"),
        ("a: !!omap [b: 1]", "the tag !!omap is not read"),
        ("a: !!python/object/apply:os.getcwd []", "the tag !!python/object/apply:os.getcwd is not read"),
        ("a: !!str [b]", "the tag !!str is not read"),
        ("a: !!seq {}", "the tag !!seq is not read"),
        ("a: !mine 7", "the tag !mine is not read"),
        ("a: ! 7", "the tag ! is not read"),
        (f"a: {'9' * 401}", "line 1: a number of 401 characters"),
        (f"a: {'9' * 4301}", "line 1: a number of 4301 characters"),
        (f"a: !!float {'9' * 401}", "line 1: a number of 401 characters"),
        ("a: 1e999", "line 1: 1e999 is too large"),
        ("a: 1\nb: &x [1]", "line 2: anchors and aliases"),
        ("a: 1\nb: *x", "line 2: anchors and aliases"),
        (BOMB, "line 1: anchors and aliases"),
        ("a: {b: 1,\n <<: {c: 1}}", "line 2: '<<' is not read"),
        ("<<: {c: 1}", "line 1: '<<' is not read"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "line 5: key 'c' stands there twice"),
        ("a: [{c: 1, c: 2}]", "line 1: key 'c' stands there twice"),
        ("a: 1\n'a': 2", "line 2: key 'a' stands there twice"),
        ("7: 1", "line 1: key 7 is not text"),
        ("a: {null: 1}", "key None is not text"),
        ("a: {true: 1}", "key True is not text"),
        ("? [b]\n: 1", "key ['b'] is not text"),
        ("a: 1\n--- \nb: 1", "line 2: a second document"),
        ("just words", "not a config"),
        ("- a", "not a config"),
        ("", "not a config"),
        ("a: 1\nb: \0", "line 2: the character U+0000"),
        ("a: 1\nb: \x1b[31m", "line 2: the character U+001B"),
        (b"a: 1\nb: \xe4", "line 2: not UTF-8 text"),
        (b"\xff\xfea\0", "line 1: not UTF-8 text"),
        ("a: " + "x" * LARGEST, "over 32 KiB"),
        ("a: " + "[" * 900 + "]" * 900, "line 1: nested deeper than 20 levels"),
        ("- " * 900 + "a", "line 1: nested deeper than 20 levels"),
    ],
)
def test_what_is_not_read_is_one_line_that_names_the_place(text, complaint, tmp_path):
    path = tmp_path / "bad.yml"
    with pytest.raises(InputError) as caught:
        read(text, path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)
    assert is_one_line(str(caught.value))


def test_twenty_levels_are_read_and_the_value_of_a_key_has_one_less(tmp_path):
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert read(f"a: {deep}", tmp_path / "deep.yml")["a"] == parse_yaml(deep, "--set a", value_only=True)
    with pytest.raises(InputError, match="nested deeper than 20 levels"):
        read(f"a: [{deep}]", tmp_path / "deeper.yml")
    with pytest.raises(InputError, match="--set a: nested deeper than 20 levels"):
        parse_yaml(f"[{deep}]", "--set a", value_only=True)


@pytest.mark.parametrize("text", ["!!bool 7", BOMB_IN_ONE_LINE, "[", "\udcff", "x" * (LARGEST + 1)])
def test_the_value_of_a_key_is_named_without_a_line(text):
    with pytest.raises(InputError, match=r"^--set a: ") as caught:
        parse_yaml(text, "--set a", value_only=True)
    assert is_one_line(str(caught.value))


def test_a_byte_of_an_argument_that_is_not_utf8_is_named():
    with pytest.raises(InputError, match="--set a: the byte 0xFF cannot stand in YAML"):
        parse_yaml("x\udcff", "--set a", value_only=True)


def test_a_byte_order_mark_and_crlf_are_no_part_of_the_text(tmp_path):
    assert read(b"\xef\xbb\xbfa: x\r\nb: \xc3\xa9\r\n", tmp_path / "windows.yml") == {"a": "x", "b": "é"}


@pytest.mark.parametrize("name", ["absent.yml", "", "a\0b", "x" * 300, "\udcff"])
def test_a_file_that_is_not_there_is_named(name):
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_yaml(name)
    assert is_one_line(str(caught.value))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(not a regular file\)"):
        read_yaml(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"cannot be read \(not a regular file\)"):
        read_yaml(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_file_that_turns_into_a_fifo_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    before = os.stat(tmp_path / "file")
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"\(not a regular file\)"):
        patch.setattr("yaml_file.os.stat", lambda path: before)
        read_yaml(tmp_path / "pipe")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_device_is_refused_before_it_is_opened(monkeypatch):
    monkeypatch.setattr("yaml_file.open", lambda *arguments, **named: pytest.fail("opened"), raising=False)
    with pytest.raises(InputError, match=r"cannot be read \(not a regular file\)"):
        read_yaml("/dev/zero")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_comes_back_as_it_was_written(text):
    values = {"plain": text, "nested": [text, {"a": [text]}], "key": {text: 1}}
    assert parse_yaml(dump_yaml(values), "here") == values
    assert yaml.safe_load(dump_yaml(values)) == values  # for YAML 1.1, which other programs read


@pytest.mark.parametrize(
    "number", [0, -7, 2**63, 10**99, 0.0, 1e-6, 1e16, -1.5e300, 5e-324, math.inf, True, False, None]
)
def test_numbers_and_switches_come_back_as_they_were_written(number):
    back = parse_yaml(dump_yaml({"a": number, "b": [number]}), "here")
    assert back == {"a": number, "b": [number]}
    assert type(back["a"]) is type(number)


def test_a_list_that_stands_in_two_places_is_written_out():
    both = ["x"]
    assert parse_yaml(dump_yaml({"a": both, "b": both}), "here") == {"a": ["x"], "b": ["x"]}


def test_what_could_not_be_read_again_is_not_written():
    with pytest.raises(InputError, match="over 32 KiB"):
        dump_yaml({"a": "x" * LARGEST})


def test_what_is_shown_is_printable_and_short_with_both_ends():
    assert shown("a b\n\x1b\udcff\u202eé") == r"a b\n\x1b\xff\u202eé"
    assert shown("x" * 200) == "x" * 200
    long = shown("begin" + "\n" * 10**6 + "end")
    assert (len(long), long[:5], long[-3:]) == (200, "begin", "end")
    assert shown(sys.__class__) == "<class 'module'>"
