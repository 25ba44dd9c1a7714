"""What a file of `test.py --json` or `tools.score --json` says, as far as a leaderboard needs it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datas import SCALES
from evaluation.metrics import Scores
from utils import InputError, printable, shown

BICUBIC_TOLERANCE = 1e-3  # dB; bicubic is the same computation everywhere, so a larger difference is one of images
TEST, BENCHMARK = "test.py --json", "benchmark.py inference --json"  # that write what is read here
ROUNDED = "of 8-bit images"  # `official` is of the network's float output; tools.score has files alone
FACTS = ("images", "hr", "lr", "bicubic")  # attributes of SetScores that tell which images a set is of
KINDS = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class SetScores:
    """A network's results on one set, under one protocol.

    Attributes:
        images: names of the images.
        hr: fingerprint of the HR images, as the file has it; None where it has none. `lr` likewise.
        bicubic: means of bicubic upscaling, if they were measured.
        milliseconds: median forward time of an image, if the network was timed.
    """

    scores: Scores
    images: frozenset[str]
    hr: Any = None
    lr: Any = None
    bicubic: Scores | None = None
    milliseconds: float | None = None

    def differs(self, other: "SetScores", fact: str) -> bool:
        """Whether both have this one of FACTS, and not alike."""
        own, others = getattr(self, fact), getattr(other, fact)
        if own is None or others is None:
            return False
        return abs(own.psnr - others.psnr) > BICUBIC_TOLERANCE if fact == "bicubic" else own != others

    def difference(self, other: "SetScores") -> str:
        """Why the images are not those of `other`, a set of the same name; empty where nothing says so."""
        fact = next((fact for fact in FACTS if self.differs(other, fact)), "")
        if fact == "images":
            shared = len(self.images & other.images)
            return f"{len(self.images)} images, of which {shared} are among the {len(other.images)} of the others"
        if fact == "bicubic" and self.bicubic and other.bicubic:
            values = f"{self.bicubic.psnr:.3f} dB in place of {other.bicubic.psnr:.3f}"
            return f"other images of the same names, as bicubic has {values}"
        return f"other {fact.upper()} images of the same names" if fact else ""


@dataclass(frozen=True)
class Result:
    """What one file says of a network.

    Attributes:
        conditions: what sets the evaluation apart from the usual one, as 'self-ensemble x8, bf16'; often empty.
        multiply_adds: for an output of 1280x720.
        device: that the times are of; empty where there are none.
    """

    file: Path
    name: str
    scale: int
    conditions: str
    parameters: int | None
    multiply_adds: int | None
    device: str
    sets: dict[str, SetScores]


@dataclass(frozen=True)
class Times:
    """What benchmark.py measured: the fastest float32 way through each network, for an output of 1280x720.

    Attributes:
        milliseconds: medians, by name of the network and scale.
    """

    device: str
    milliseconds: dict[tuple[str, int], float]


def read_times(file: Path) -> Times:
    """Those of a file of `benchmark.py inference --json`.

    Raises:
        InputError: it cannot be read, is no JSON, something is missing, or it has no such times.
    """
    content = _content(file, "rows", BENCHMARK)
    found: dict[tuple[str, int], float] = {}
    for number, row in enumerate(_needed(file, content, "rows", list, source=BENCHMARK)):
        if not isinstance(row, dict) or row.get("output") != "720p":
            continue
        place = f"rows.{number}."
        name, path = (_needed(file, row, key, str, place, BENCHMARK) for key in ("network", "path"))
        key = printable(name), _needed(file, row, "scale", int, place, BENCHMARK)
        if re.fullmatch(rf"(?!literal )\w+ float32( of {re.escape(name)})?", path):
            median = _needed(file, row, "median_ms", float, place, BENCHMARK)
            found[key] = min(median, found.get(key, median))
    if not found:
        raise InputError(f"{file}: holds no times of outputs of 720p in float32; give a file of {BENCHMARK}")
    return Times(printable(_needed(file, content, "device", str, source=BENCHMARK)), found)


def read_result(file: Path, protocol: str) -> Result:
    """A file's result, with the scores under one protocol.

    Raises:
        InputError: it cannot be read, is no JSON, something is missing or of a wrong type, or it has no scores.
    """
    content = _content(file, "sets", TEST)
    sets = {printable(name): _set(file, f"sets.{name}", found, protocol) for name, found in _sets(file, content)}
    scored = {name: found for name, found in sets.items() if found is not None}
    if not scored:
        raise InputError(f"{file}: holds no scores (test.py --lr-only makes none); leave it out")
    network = _optional(file, content, "network", dict) or {}
    name = _optional(file, network, "name", str, "network.") or file.stem
    return Result(
        file,
        printable(name),
        _scale(file, content),
        printable(_conditions(file, content, protocol)),
        _optional(file, network, "parameters", int, "network."),
        _optional(file, network, "multiply_adds", int, "network."),
        printable(_optional(file, content, "device", str) or ""),
        scored,
    )


def _content(file: Path, key: str, source: str) -> dict:
    """The file's JSON, a mapping that has this key. Raises InputError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its name") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is no JSON ({shown(error)}); give a file of {source}") from error
    if not isinstance(content, dict) or key not in content:
        raise InputError(f"{file}: '{key}' is missing; give a file of {source}")
    return content


def _sets(file: Path, content: dict) -> list[tuple[str, dict]]:
    sets = _needed(file, content, "sets", dict)
    return [(name, _needed(file, sets, name, dict, "sets.")) for name in sets]


def _set(file: Path, place: str, found: dict, protocol: str) -> SetScores | None:
    """One set; None where it has no scores at all."""
    if not any(key in found for key in ("standard", "official")):
        return None
    bicubic = _optional(file, found, "bicubic", dict, f"{place}.")
    seconds = _optional(file, found, "seconds_per_image", float, f"{place}.")
    return SetScores(
        _scores(file, found, protocol, f"{place}."),
        frozenset(_needed(file, found, "images", dict, f"{place}.")),
        found.get("hr"),
        found.get("lr"),
        _scores(file, bicubic, protocol, f"{place}.bicubic.") if bicubic else None,
        None if seconds is None else 1000 * seconds,
    )


def _scores(file: Path, found: dict, protocol: str, place: str) -> Scores:
    means = _needed(file, found, protocol, dict, place)
    return Scores(*(_needed(file, means, metric, float, f"{place}{protocol}.") for metric in Scores._fields))


def _scale(file: Path, content: dict) -> int:
    """From the config, or, of a program that has none, beside it."""
    config = _optional(file, content, "config", dict)
    scale = _needed(file, config, "scale", int, "config.") if config else _needed(file, content, "scale", int)
    if scale not in SCALES:
        raise InputError(f"{file}: scale {scale} is not one of {', '.join(map(str, SCALES))}")
    return scale


def _conditions(file: Path, content: dict, protocol: str) -> str:
    """As the file states them; of an older file, put together from what it holds."""
    stated = _optional(file, content, "conditions", str)
    if stated is None:
        precision = (_optional(file, content, "config", dict) or {}).get("eval_precision", "float32")
        ways = [("tiles", content.get("tiles")), ("self-ensemble x8", content.get("self_ensemble"))]
        stated = ", ".join([way for way, used in ways if used] + [str(precision)] * (precision != "float32"))
    rounded = any(found.get("official_input") == "uint8" for _, found in _sets(file, content))
    return ", ".join(filter(None, [stated, ROUNDED if rounded and protocol == "official" else ""]))


def _needed(file: Path, mapping: dict, key: str, kind: type, place: str = "", source: str = TEST) -> Any:
    """mapping[key], which must be of this kind. Raises InputError that names the file and the place."""
    found = _optional(file, mapping, key, kind, place)
    if found is None:
        raise InputError(f"{file}: '{shown(place + key)}' is missing; give a file of {source}")
    return found


def _optional(file: Path, mapping: dict, key: str, kind: type, place: str = "") -> Any:
    """mapping[key] or None. Raises InputError where it is of another kind; a float may stand as a whole number."""
    found = mapping.get(key)
    kinds = (int, float) if kind is float else (kind,)
    if found is not None and (not isinstance(found, kinds) or isinstance(found, bool)):
        raise InputError(f"{file}: '{shown(place + key)}' is {shown(repr(found))}, not {KINDS[kind]}")
    return found
