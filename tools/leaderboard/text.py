"""Boards as Markdown, as LaTeX and as CSV."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase

from evaluation.metrics import rounded_like_the_paper
from tools.leaderboard.board import Board, Row

BEST, SECOND = "best", "second"
DECIMALS = {"psnr": 2, "ssim": 4}
PROTOCOL_TEXTS = {
    "standard": "protocol standard (uint8 SR, float64 Y, a border of {scale} pixels left out)",
    "official": "protocol official (the paper's; means rounded upwards)",
}
LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&$])")


@dataclass(frozen=True)
class Style:
    """How a format writes a text, the best value, the second one and the letter of a footnote."""

    escape: Callable[[str], str]
    best: Callable[[str], str]
    second: Callable[[str], str]
    note: Callable[[str], str]


MARKDOWN = Style(
    lambda text: MARKDOWN_SPECIAL.sub(r"\\\1", text), "**{}**".format, "<ins>{}</ins>".format, "<sup>{}</sup>".format
)
TEX = Style(
    lambda text: "".join(LATEX.get(character, character) for character in text),
    "\\textbf{{{}}}".format,
    "\\underline{{{}}}".format,
    "\\textsuperscript{{{}}}".format,
)


def printed(row: Row, name: str, protocol: str) -> dict[str, str]:
    """PSNR and SSIM of a row on a set as a table has them."""
    scores = row.scores[name]
    if protocol == "official" and not row.rounded:
        scores = rounded_like_the_paper(scores)
    return {metric: f"{value:.{DECIMALS[metric]}f}" for metric, value in scores._asdict().items()}


def marks(board: Board, name: str, metric: str) -> dict[str, str]:
    """{printed value: BEST or SECOND} of a column; empty where fewer than two rows compete."""
    competing = [printed(row, name, board.protocol)[metric] for row in board.ranked(name)]
    values = sorted({value for value in competing if value != "nan"}, key=float, reverse=True)
    return dict(zip(values, (BEST, SECOND), strict=False)) if len(competing) > 1 else {}


def footnotes(board: Board) -> dict[tuple[str, str], str]:
    """{(set, difference): letter}, in the order of the rows."""
    found = dict.fromkeys((name, row.differences[name]) for row in board.rows for name in board.sets
                          if name in row.differences)  # fmt: skip
    return {key: _letter(number) for number, key in enumerate(found)}


def _letter(number: int) -> str:
    return ascii_lowercase[number % 26] * (1 + number // 26)


def caption(board: Board, style: Style) -> str:
    """What the values are, and what the marks mean."""
    protocol = PROTOCOL_TEXTS[board.protocol].format(scale=board.scale)
    marked = f"Best {style.best('bold')}, second {style.second('underlined')}."
    return f"PSNR (dB) and SSIM on Y at x{board.scale}, {style.escape(protocol)}. {marked}"


def notes(board: Board, style: Style) -> list[str]:
    """Footnotes, then remarks, a sentence each."""
    letters = footnotes(board).items()
    found = [f"{style.note(letter)} {style.escape(f'{name}: {what}')}; not ranked." for (name, what), letter in letters]
    counted = any(row.multiply_adds is not None for row in board.rows)
    found += ["Multiply-adds are those of an output of 1280x720."] if counted else []
    return found + [style.escape(remark) for remark in board.remarks]


def costs(board: Board) -> dict[str, Callable[[Row], str]]:
    """The columns besides scores that some row has a value for: {header: text of a row}."""
    columns: dict[str, tuple[str, float]] = {
        "parameters, K": ("parameters", 1e-3),
        "multiply-adds, G": ("multiply_adds", 1e-9),
        f"ms, {board.timed}": ("milliseconds", 1.0),
    }

    def text(row: Row, key: str, unit: float) -> str:
        value = getattr(row, key)
        return "" if value is None else f"{unit * value:,.{0 if unit * value >= 1000 else 1}f}"

    return {
        header: partial(text, key=key, unit=unit)
        for header, (key, unit) in columns.items()
        if any(getattr(row, key) is not None for row in board.rows)
    }


def score_cells(board: Board, row: Row, name: str, style: Style) -> list[str]:
    """PSNR and SSIM of a row on a set, marked; two empty cells where it has none."""
    if name not in row.scores:
        return ["", ""]
    cells = []
    competes = row in board.ranked(name)
    for metric, value in printed(row, name, board.protocol).items():
        mark = marks(board, name, metric).get(value, "") if competes else ""
        cells.append({BEST: style.best, SECOND: style.second}.get(mark, str)(value))
    letter = footnotes(board).get((name, row.differences.get(name, "")))
    if letter:
        cells[-1] += style.note(letter)
    return cells


def as_markdown(boards: list[Board]) -> str:
    """A table for each scale, under a heading where there are several."""
    return "\n\n".join(_markdown(board, heading=len(boards) > 1) for board in boards) + "\n"


def _markdown(board: Board, heading: bool) -> str:
    columns = costs(board)
    header = ["model", *columns, *board.sets]
    rows = [[MARKDOWN.escape(column) for column in header], ["---", *["---:"] * (len(header) - 1)]]
    for row in board.rows:
        pairs = (score_cells(board, row, name, MARKDOWN) for name in board.sets)
        cells = [MARKDOWN.escape(row.label), *(text(row) for text in columns.values())]
        rows.append([*cells, *(" / ".join(pair) if any(pair) else "" for pair in pairs)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    table = "\n".join(f"| {line} |" for line in lines)
    below = "\n".join(f"- {note}" for note in notes(board, MARKDOWN))
    return f"## x{board.scale}\n\n" * heading + f"{table}\n\n{caption(board, MARKDOWN)}\n\n{below}".rstrip()


def as_latex(boards: list[Board]) -> str:
    """A floating table for each scale; it needs the package booktabs."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_latex(board) for board in boards)


def _latex(board: Board) -> str:
    columns = costs(board)
    before = 1 + len(columns)
    groups = [f"\\multicolumn{{2}}{{c}}{{{TEX.escape(name)}}}" for name in board.sets]
    rules = "".join(f"\\cmidrule(lr){{{before + 2 * n + 1}-{before + 2 * n + 2}}}" for n in range(len(board.sets)))
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{caption(board, TEX)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(columns) + 2 * len(board.sets))}}}",
        "\\toprule",
        " & ".join([*[""] * before, *groups]).strip() + " \\\\",
        rules,
        " & ".join(["Model", *map(TEX.escape, columns), *["PSNR", "SSIM"] * len(board.sets)]) + " \\\\",
        "\\midrule",
    ]
    for row in board.rows:
        cells = [TEX.escape(row.label), *(text(row) for text in columns.values())]
        cells += [cell for name in board.sets for cell in score_cells(board, row, name, TEX)]
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par {{\\footnotesize {note}}}" for note in notes(board, TEX)]
    return "\n".join([*lines, "\\end{table}", ""])


def as_csv(boards: list[Board]) -> str:
    """A line for each row of every board: all values as measured, and why a set's are not ranked."""
    sets = list(dict.fromkeys(name for board in boards for name in board.sets))
    costs_columns = ["parameters", "multiply_adds", "milliseconds", "milliseconds_of"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_sets = [f"{name} {what}" for name in sets for what in ("PSNR", "SSIM", "difference")]
    writer.writerow(["scale", "protocol", "model", "ranked", *costs_columns, *of_sets])
    for board in boards:
        for row in board.rows:
            line = [board.scale, board.protocol, row.label, "yes" if row.ranked else "no"]
            line += [row.parameters, row.multiply_adds, row.milliseconds]
            line.append(board.timed if row.milliseconds is not None else None)
            for name in sets:
                line += [*row.scores.get(name, (None, None)), row.differences.get(name)]
            writer.writerow(line)
    return text.getvalue()
