"""What a command will do, known before anything is done: results, sizes, what is skipped, what cannot be read."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from datas.names import usable_path
from pictures.fit import Size, result_size
from pictures.names import Source, result_path
from pictures.read import Head, read_head
from pictures.video import read_clip, video_size
from pictures.video_file import Clip, container_of
from pictures.write import need_room, same_format
from utils import InputError


@dataclass(frozen=True)
class Job:
    """A picture or a video, its result, and the size of the latter."""

    path: Path
    out: Path
    head: Head | Clip
    size: Size

    @property
    def pixels(self) -> int:
        frames = self.head.frames if isinstance(self.head, Clip) else 1
        return frames * self.head.width * self.head.height

    def __str__(self) -> str:
        before, after = f"{self.head.width}x{self.head.height}", f"{self.size[0]}x{self.size[1]}"
        return f"{self.path} {before} {self.head.format} -> {self.out} {after}"


@dataclass
class Plan:
    """Jobs, results that are there already, and one line for each picture or video that cannot be done."""

    jobs: list[Job] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def make_plan(
    sources: list[Source], folder: Path | None, scale: int, kind: str, fit: Size | None, overwrite: bool
) -> Plan:
    """Look at every header.

    Args:
        folder: of the results; None for that of each picture.
        kind: the format of the pictures' results, 'same' for that of each picture.
        fit: see `pictures.fit.result_size`.
        overwrite: results that are there are made again.
    """
    plan, makers = Plan(), dict[Path, Path]()
    for source in sources:
        try:
            usable_path(source.path)
            job = _video(source, folder, scale, fit) or _picture(source, folder, scale, kind, fit)
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


def _picture(source: Source, folder: Path | None, scale: int, kind: str, fit: Size | None) -> Job:
    head = read_head(source.path)
    chosen = same_format(head) if kind == "same" else kind
    size = result_size(head.width, head.height, scale, fit)
    need_room(str(source.path), chosen, size, 1, 8)  # at least; what else there is, decoding tells
    return Job(source.path, result_path(source, folder, scale, chosen), head, size)


def _video(source: Source, folder: Path | None, scale: int, fit: Size | None) -> Job | None:
    """None for a file that is no video."""
    if container_of(source.path) is None:
        return None
    clip = read_clip(source.path)
    return Job(source.path, result_path(source, folder, scale, clip.kind), clip, video_size(clip, scale, fit))
