"""The work behind the page: from the file that was given to the files that the page shows. Knows nothing of gradio."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from datas.images import LARGEST
from models import load
from models.devices import device_name
from models.ssiu import SCALES
from models.weights import SHIPPED, shipped_weights
from pictures import Done, upscale_bytes
from pictures.decode import read_picture
from pictures.fit import Size
from pictures.names import Source, result_path
from pictures.read import Head, opened
from pictures.rows import Runner
from pictures.write import Form, write_result
from utils import InputError, atomic_file, atomic_write

SHOWN = 16_000_000  # pixels of the largest picture that the page shows; of a larger result it shows a smaller copy


@dataclass(frozen=True)
class Limits:
    """What one picture may ask for: pixels, in millions; seconds of work; MB (2^20 bytes) of its file."""

    megapixels: float
    seconds: float
    upload_mb: float


@dataclass(frozen=True)
class Result:
    """Files of a picture that is done, and what became of it.

    Attributes:
        file: the result, a PNG, as upscale.py writes it.
        before: what the page shows of the picture: upright, 8 bits.
        after: what it shows of the result: `file`, or a smaller copy; None where even that would ask for too much.
        seconds: that the network took.
    """

    file: Path
    before: Path
    after: Path | None
    done: Done
    seconds: float


@dataclass
class Watched:
    """A network whose work is reported, and ends where it takes too long.

    Attributes:
        tell: takes the share of a pass over the picture that is done; what it raises ends the work.
    """

    upscaler: Runner
    name: str
    seconds: float
    tell: Callable[[float], None]

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def scale(self) -> int:
        return self.upscaler.scale

    def stream(self, image: np.ndarray) -> Iterator[Tensor]:
        behind = 0
        for rows in self.upscaler.stream(image):
            if time.monotonic() > self._end:
                advice = "choose a smaller picture or a smaller scale"
                raise InputError(f"{self.name}: takes longer than the {self.seconds:g} s that are allowed; {advice}")
            behind += rows.shape[1]
            self.tell(behind / (self.scale * image.shape[0]))
            yield rows


class Studio:
    """The networks, each opened when it is first asked for, and the limits that hold for every picture."""

    def __init__(
        self,
        limits: Limits,
        device: str | None = None,
        memory_mib: float | None = None,
        say: Callable[[str], None] | None = None,
    ):
        self.limits = limits
        self._device, self._memory, self._say = device, memory_mib, say or (lambda line: None)
        self._upscalers: dict[int, Runner] = {}

    def upscaler(self, scale: int) -> Runner:
        """The shipped network of a scale. ModelError: there is none, or it cannot run."""
        if scale not in self._upscalers:
            opened_now = load(f"x{scale}", self._device, say=self._say, memory_mib=self._memory)
            self._say(f"weights: {opened_now.weights}; on {device_name(opened_now.device)}, {opened_now.backend}")
            self._upscalers[scale] = opened_now
        return self._upscalers[scale]

    def look(self, path: Path) -> Head:
        """What the header of a picture's file says. InputError: it is refused."""
        return self._head(self._content(path), path.name)

    def upscale(self, path: Path, scale: int, folder: Path, tell: Callable[[float], None]) -> Result:
        """Super-resolve the picture in a file.

        Args:
            folder: of the result's files; it must be there, and where it is removed meanwhile nothing is written.
            tell: see `Watched`.

        Raises:
            InputError: the picture is refused, takes too long, or the memory or the disk has no room for it.
            ModelError: see `upscaler`.
        """
        name, data = path.name, self._content(path)
        self._head(data, name)  # refuses what is too large before its pixels are decoded
        runner = Watched(self.upscaler(scale), name, self.limits.seconds, tell)
        begin = time.monotonic()
        encoded, done = upscale_bytes(runner, data, name, "png")
        seconds = time.monotonic() - begin
        need_folder(folder)
        out, before = result_path(Source(path), folder, scale, "png"), folder / "before.png"
        atomic_write(out, encoded)
        _write_before(data, name, before)
        return Result(out, before, _shown(out, encoded, done.after), done, seconds)

    def _content(self, path: Path) -> bytes:
        most = self.limits.upload_mb
        try:
            if path.stat().st_size > most * 2**20:
                raise InputError(f"{path.name}: has more than {most:g} MB; give a smaller file")
            return path.read_bytes()
        except OSError as error:  # its time is over, or the same file was given on another page, which was closed
            raise InputError(f"{path.name}: is no longer here; choose it again") from error

    def _head(self, data: bytes, name: str) -> Head:
        with opened(io.BytesIO(data), name) as (_, head):
            pass
        most = self.limits.megapixels
        if head.width * head.height > most * 1e6:
            size = f"{head.width}x{head.height}"
            raise InputError(f"{name}: {size} are more than {most:g} megapixels; give a smaller picture")
        return head


def scales_at_hand() -> list[int]:
    """The scales whose weights are there, ascending. ModelError if there are none."""
    found = [scale for scale in SCALES if (SHIPPED / f"SSIU_x{scale}.pt").is_file()]
    if not found:
        shipped_weights(SHIPPED, max(SCALES))  # says what is missing, and where it is to be had
    return found


def need_folder(folder: Path) -> None:
    """Raise InputError where a page's folder is gone: the page was closed, or another picture was given."""
    if not folder.is_dir():
        raise InputError("the page was closed, or has another picture now; the work on this one has ended")


def _write_before(data: bytes, name: str, out: Path) -> None:
    """The picture for the page: PNG, upright, 8 bits, in its own colours."""
    picture = read_picture(data, name)
    pixels = picture.colour
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[:, :, None]], axis=2)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    height, width, channels = pixels.shape
    form = Form("png", (height, width, channels), 8, picture.icc, b"", 100)
    with atomic_file(out) as file:
        write_result(file, name, [np.ascontiguousarray(pixels)], form)


def _shown(out: Path, encoded: bytes, size: Size) -> Path | None:
    """What the page shows of a result: the file itself up to SHOWN pixels, beyond that a smaller copy beside it."""
    pixels = size[0] * size[1]
    if pixels <= SHOWN:
        return out
    if pixels > LARGEST:
        return None
    share, copy = (SHOWN / pixels) ** 0.5, out.with_name("after.png")
    with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
        icc = image.info.get("icc_profile")
        if image.mode.startswith("I"):  # grey of 16 bits
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        smaller = image.resize((max(1, int(size[0] * share)), max(1, int(size[1] * share))), Image.Resampling.BOX)
    with atomic_file(copy) as file:
        smaller.save(file, "PNG", icc_profile=icc, compress_level=1)
    return copy
