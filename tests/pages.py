"""What README.md and docs/ ask a reader to type: blocks of code with the marks above them, and single commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

FENCE = re.compile(r"```(\w*)")
MARK = re.compile(r"<!-- (run|not run): (.+?) -->")
TYPED = re.compile(r"\s*(python|torchrun|make|pip|git|timeout|srun|from|import|\.venv/bin/\w+)\s")
IN_LINE = re.compile(r"`((?:python|torchrun) [^`]+|make [\w-]+(?: [A-Z]+=\S+)?)`")
BEFORE = re.compile(r"(?:\w+=\S* +|srun +|timeout (?:-s )?\w+ \d+ +)*")  # of a command, which is the same without


@dataclass(frozen=True)
class Block:
    """One block of code: where it is, its language, its lines, and the mark above it ("run" or "not run", and what)."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def is_typed(self) -> bool:
        """Whether a reader is meant to type it or save it, in place of an example of what is printed."""
        return self.language in ("sh", "python", "yaml") or any(map(TYPED.match, self.text.splitlines()))

    def commands(self) -> list[str]:
        """Its lines that begin as commands do; lines that end with a backslash are joined with the next."""
        if self.language in ("python", "yaml"):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        lines = [re.split(r"\s{3,}", BEFORE.sub("", line.strip(), count=1))[0] for line in lines]
        return [line for line in lines if TYPED.match(line) and not line.startswith(("from ", "import "))]


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """Fenced blocks, and those that are indented by four spaces.

    A mark holds for the block below it; right under a heading, for all blocks of that section that have none.
    """
    name, found = page.relative_to(ROOT).as_posix(), []
    lines = page.read_text(encoding="utf-8").splitlines()
    mark, place = None, 0
    title, sections = 0, {}  # level of the heading right above, else 0; marks of sections by level
    while place < len(lines):
        line, first = lines[place], place + 1
        fence = FENCE.fullmatch(line)
        if fence:
            end = lines.index("```", first)
            body, language, place = lines[first:end], fence[1], end + 1
        elif line.startswith("    ") and not _in_a_list(lines, place):
            end = place
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            body, language, place = [one[4:] for one in lines[place:end]], "", end
        else:
            if line.strip():
                mark = MARK.fullmatch(line.strip())
                if mark and title:
                    sections[title] = mark
                title = len(line) - len(line.lstrip("#"))
                if title:
                    sections = {level: held for level, held in sections.items() if level < title}
            place += 1
            continue
        mark, title = mark or next((sections[level] for level in sorted(sections, reverse=True)), None), 0
        state, reason = mark.groups() if mark else (None, "")
        found.append(Block(name, first, language, "\n".join(body).strip() + "\n", state, reason))
        mark = None
    return found


def _in_a_list(lines: list[str], place: int) -> bool:
    """Whether an indented line goes on with an item above it."""
    above = [line for line in lines[:place] if line.strip()]
    while above and above[-1].startswith(" "):
        above.pop()
    return bool(above) and re.match(r"[-*+] |\d+\. ", above[-1]) is not None


def single_commands(page: Path) -> list[str]:
    """Commands inside sentences."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(command.split()) for command in IN_LINE.findall(text)]


def words_of(command: str) -> list[str]:
    """The words of a command, without comments, redirections and `&`."""
    words = shlex.split(command, comments=True)
    for stop in ("<", ">", "|", "&", "&&"):
        if stop in words:
            words = words[: words.index(stop)]
    return words
