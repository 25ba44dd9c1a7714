"""What a command will do, known before anything is done: results, sizes, what is skipped, what cannot be read."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from datas.names import usable_path
from pictures.fit import Size, result_size
from pictures.names import Source, result_path
from pictures.read import Head, read_head
from pictures.write import need_room, same_format
from utils import InputError


@dataclass(frozen=True)
class Job:
    """A picture, its result, and the size of the latter."""

    path: Path
    out: Path
    head: Head
    size: Size

    @property
    def pixels(self) -> int:
        return self.head.width * self.head.height

    def __str__(self) -> str:
        before, after = f"{self.head.width}x{self.head.height}", f"{self.size[0]}x{self.size[1]}"
        return f"{self.path} {before} {self.head.format} -> {self.out} {after}"


@dataclass
class Plan:
    """Jobs, results that are there already, and one line for each picture that cannot be done."""

    jobs: list[Job] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def make_plan(
    sources: list[Source], folder: Path | None, scale: int, kind: str, fit: Size | None, overwrite: bool
) -> Plan:
    """Look at every picture's header.

    Args:
        folder: of the results; None for that of each picture.
        kind: the format of the results, 'same' for that of each picture.
        fit: see `pictures.fit.result_size`.
        overwrite: results that are there are made again.
    """
    plan, makers = Plan(), dict[Path, Path]()
    for source in sources:
        try:
            usable_path(source.path)
            head = read_head(source.path)
            chosen = same_format(head) if kind == "same" else kind
            job = Job(
                source.path,
                result_path(source, folder, scale, chosen),
                head,
                result_size(head.width, head.height, scale, fit),
            )
            need_room(str(source.path), chosen, job.size, 1, 8)  # at least; what else there is, decoding tells
            maker = makers.setdefault(job.out, job.path)
            if maker != job.path:
                raise InputError(f"{job.path}: {job.out} is the result of {maker} already; rename one of the two")
        except InputError as error:
            plan.failures.append(str(error))
            continue
        if os.path.exists(job.out) and not overwrite:
            plan.finished.append(job.out)
        else:
            plan.jobs.append(job)
    return plan
