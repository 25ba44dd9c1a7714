"""Results as boards: one for each scale, with what can be compared in each column."""

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from evaluation.metrics import Scores
from evaluation.report import PAPER
from tools.leaderboard.read import FACTS, Result, SetScores, Times
from utils import InputError

BICUBIC, PAPER_ROW = "bicubic", "SSIU, the paper"
OUTPUT = "1280x720"  # the size that benchmark.py and tools.profile_model count an SR image of


@dataclass(frozen=True)
class Row:
    """One line of a board.

    Attributes:
        label: name, and conditions if they are not the usual ones.
        milliseconds: median forward time of an image, see the board's `timed`.
        scores: by set, unrounded.
        differences: by set, why the images are not those of the other rows.
        ranked: whether its values compete.
        rounded: whether the scores are those of a printed table already.
    """

    label: str
    scores: dict[str, Scores]
    differences: dict[str, str]
    ranked: bool = False
    rounded: bool = False
    parameters: int | None = None
    multiply_adds: int | None = None
    milliseconds: float | None = None


@dataclass(frozen=True)
class Board:
    """Everything that is known of one scale, under one protocol: networks from best to worst, bicubic, the paper."""

    scale: int
    protocol: str
    sets: list[str]
    first: str  # the set that the rows are sorted by and a picture shows
    timed: str  # what the times are of: the name of a set, or '1280x720' for an output of this size
    rows: list[Row]
    remarks: list[str]

    def ranked(self, name: str) -> list[Row]:
        """The rows whose values on a set compete."""
        return [row for row in self.rows if row.ranked and name in row.scores and name not in row.differences]


def boards(
    results: list[Result], protocol: str, paper: bool = False, wanted: str | None = None, times: Times | None = None
) -> list[Board]:
    """A board for each scale, from small to large.

    Args:
        paper: add the paper's own figures, which are `official`.
        wanted: the set that comes first, where a scale has it; None: the first that all networks have.
        times: to be taken in place of those of the results.

    Raises:
        InputError: a file is given twice, no file has the wanted set, or the paper's figures are of another protocol.
    """
    twice = [file for file, count in Counter(result.file.resolve() for result in results).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: is given twice")
    if paper and protocol != "official":
        raise InputError("--paper: its figures are of the official protocol; add --protocol official")
    known = list(dict.fromkeys(name for result in results for name in result.sets))
    if wanted and wanted not in known:
        raise InputError(f"--set {wanted}: no file has scores of it; they have {', '.join(known)}")
    return [
        _board(scale, [result for result in results if result.scale == scale], protocol, paper, wanted, times)
        for scale in sorted({result.scale for result in results})
    ]


def _board(
    scale: int, results: list[Result], protocol: str, paper: bool, wanted: str | None, times: Times | None
) -> Board:
    found = {name for result in results for name in result.sets}
    sets = [name for name in PAPER[scale] if name in found]
    sets += [name for name in dict.fromkeys(name for result in results for name in result.sets) if name not in sets]
    everywhere = [name for name in sets if all(name in result.sets for result in results)]
    first = wanted if wanted in found else (everywhere or sets)[0]
    agreed = {name: _agreed([result.sets[name] for result in results if name in result.sets]) for name in sets}
    milliseconds, remark = _times_of(times, results) if times else _times_on(first, results, agreed[first])

    labels = _labels(results)
    rows = [_row(result, labels[result.file], agreed, milliseconds.get(result.file)) for result in results]
    rows.sort(key=lambda row: _place(row, first))
    bicubic = {name: set_scores.bicubic for name, set_scores in agreed.items() if set_scores.bicubic}
    if bicubic:
        rows.append(Row(BICUBIC, bicubic, {}))
    if paper:
        printed = {name: scores for name, scores in PAPER[scale].items() if name in sets}
        rows.append(Row(PAPER_ROW, printed, {}, rounded=True))
    remarks = [*_remarks(results, sets), *([remark] if remark else [])]
    return Board(scale, protocol, sets, first, OUTPUT if times else first, rows, remarks)


def _times_of(times: Times, results: list[Result]) -> tuple[dict[Path, float], str]:
    """(milliseconds by file, remark) as benchmark.py measured them; none of a result of other conditions."""
    counts: dict[str, set[int | None]] = {}
    for result in results:  # networks of one name and several sizes, as ablations are: whose time it is is not known
        counts.setdefault(result.name, set()).add(result.parameters)
    own = {
        result.file: times.milliseconds.get((result.name, result.scale))
        for result in results
        if not result.conditions and len(counts[result.name]) == 1
    }
    found = {file: value for file, value in own.items() if value is not None}
    return found, f"Times: float32 on {times.device}." if found else ""


def _times_on(name: str, results: list[Result], agreed: SetScores) -> tuple[dict[Path, float], str]:
    """The same of test.py on a set, where the images are the agreed ones and all devices the same."""
    timed = [result for result in results if name in result.sets and not result.sets[name].difference(agreed)]
    found = {result.file: result.sets[name].milliseconds for result in timed}
    devices = sorted({result.device for result in timed if found[result.file] is not None})
    if len(devices) > 1:
        return {}, f"Times are left out, as the devices differ: {'; '.join(devices)}."
    return {file: value for file, value in found.items() if value is not None}, "".join(f"Times: {d}." for d in devices)


def _place(row: Row, name: str) -> tuple[bool, float]:
    """What rows are sorted by: values that compare, from large to small, then the others; NaN last."""
    psnr = row.scores[name].psnr if name in row.scores else math.nan
    return name in row.differences, math.inf if math.isnan(psnr) else -psnr


def _agreed(candidates: list[SetScores]) -> SetScores:
    """What most files have, fact by fact, each among those that have the facts before: one may lack some of them."""
    left, facts = candidates, {}
    for fact in FACTS:
        known = [one for one in left if getattr(one, fact) is not None]
        if known:
            most = max(known, key=lambda one: sum(not one.differs(other, fact) for other in known))
            facts[fact] = getattr(most, fact)
            left = [one for one in left if not one.differs(most, fact)]
    return dataclasses.replace(left[0], **facts)


def _row(result: Result, label: str, agreed: dict[str, SetScores], milliseconds: float | None) -> Row:
    differences = {name: found.difference(agreed[name]) for name, found in result.sets.items()}
    return Row(
        label,
        {name: found.scores for name, found in result.sets.items()},
        {name: difference for name, difference in differences.items() if difference},
        ranked=not result.conditions,
        parameters=result.parameters,
        multiply_adds=result.multiply_adds,
        milliseconds=milliseconds,
    )


def _labels(results: list[Result]) -> dict[Path, str]:
    """Name and conditions of each file's row; the file besides, where two rows would read alike."""
    plain = {r.file: f"{r.name} ({r.conditions})" if r.conditions else r.name for r in results}
    stems = Counter((label, file.stem) for file, label in plain.items())
    count = Counter(plain.values())

    def full(file: Path, label: str) -> str:
        if count[label] == 1:
            return label
        return f"{label} [{file.stem if stems[label, file.stem] == 1 else file}]"

    return {file: full(file, label) for file, label in plain.items()}


def _remarks(results: list[Result], sets: list[str]) -> list[str]:
    """What a reader must know besides the values, one sentence each."""
    remarks = []
    if any(result.conditions for result in results):
        remarks.append("Rows with conditions in brackets are not ranked.")
    unknown = [
        name
        for name in sets
        for shared in [[result.sets[name] for result in results if name in result.sets]]
        if len(shared) > 1 and any(found.hr is None or found.lr is None for found in shared)
    ]
    if unknown:
        remarks.append(f"Not every file has fingerprints of the images of {', '.join(unknown)}.")
    return remarks
