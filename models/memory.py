"""Images that are too large for the memory go through the network row by row; which those are is decided here.

The numbers are the same either way (on a CPU through compiled code, the bits): see models/streaming.py.
"""

import ctypes
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from .cpu import CpuInference
from .errors import ModelError
from .plain_stream import PlainStream
from .ssiu import SSIU, padded_side
from .streaming import Streamer, rows_of
from .strips import Layout, layout, stream

SHARE = 0.6  # of the memory that is free, which whole maps may take where nobody has said how much they may
SMALL = 256.0  # MiB that are taken without a look at what is free
LARGE = 2**18  # pixels of an image that flows on a CPU in any case: it takes no longer, and memory by the width alone
UNKNOWN = 2048.0  # MiB that are taken to be free where the system does not say
BAND = 256  # rows of a whole image that are handed on at once
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_FAILED = re.compile("out of memory|not enough memory|alloc|memory object", re.IGNORECASE)
_CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def keep_freed_memory() -> None:
    """Have glibc, where that is the C library, keep large pieces that are freed: a training step on a CPU then takes a
    quarter less time. For a program that works on a CPU until it ends, and may hold what it needs most.

    glibc gives pieces from 32 MiB on back to the system, which hands them out anew page by page, zeroed. See
    mallopt(3); releases before 2.35 take no threshold as large, but leave all pieces among the others.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        if not library.mallopt(M_MMAP_THRESHOLD, 2**30):
            library.mallopt(M_MMAP_MAX, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory could not be had; on a CPU PyTorch raises a RuntimeError of many wordings."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _FAILED.search(str(error)) is not None


def free_mib(device: torch.device) -> float:
    """The memory that can still be had: of a GPU with what PyTorch holds unused, of a machine or of its container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) / 2**20
    found = [*_of_machine(), *_of_container(Path("/sys/fs/cgroup"))]
    return min(found, default=UNKNOWN)


def _of_machine() -> list[float]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:")]


def _of_container(root: Path) -> list[float]:
    found = []
    for limit, used in _CGROUPS:
        try:
            found.append((int((root / limit).read_text()) - int((root / used).read_text())) / 2**20)
        except (OSError, ValueError):  # another version of cgroups, or 'max'
            continue
    return found


def plain_mib(model: SSIU, batch: int, height: int, width: int) -> float:
    """What whole maps take at their peak, measured on a CPU in float32 as maps of C floats at the input's size.

    At x4 three maps of the tail, which are 16 times as large; at x2 those of a stage. What runs through Triton takes
    less, other precisions do, too.
    """
    maps = max(21, 3 * model.scale**2 + 3)
    return batch * padded_side(height) * padded_side(width) * maps * model.head.out_channels * 4 / 2**20


class Bounded:
    """A network that takes images whole where these fit into the memory, and row by row where they do not.

    Attributes:
        streamer: what rows flow through; None for a network that has no streaming.
        limit_mib: what the network's maps may take at most; None for a share of what is free.
    """

    def __init__(
        self,
        whole: Callable[[Tensor], Tensor],
        model: torch.nn.Module,
        backend: str,
        precision: str,
        limit_mib: float | None = None,
    ):
        self.whole, self.model, self.backend, self.limit_mib = whole, model, backend, limit_mib
        self.streamer: Streamer | None = None
        if isinstance(whole, CpuInference):
            self.streamer = whole
        elif isinstance(model, SSIU):
            self.streamer = PlainStream(model, "float32" if precision == "tf32x3" else precision)

    def limit(self, device: torch.device) -> float:
        """MiB that maps may take now."""
        if self.limit_mib is not None:
            return self.limit_mib
        kept = self.whole.kept_mib if isinstance(self.whole, CpuInference) else 0
        return SHARE * (free_mib(device) + kept)

    def fits(self, batch: int, height: int, width: int, device: torch.device) -> bool:
        """Whether images of this size may go through whole."""
        if not isinstance(self.model, SSIU):
            return True
        if isinstance(self.whole, CpuInference):
            needed = self.whole.whole_mib(height, width)
        else:
            needed = plain_mib(self.model, batch, height, width)
        return (self.limit_mib is None and needed <= SMALL) or needed <= self.limit(device)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> float32 (B, 3, sH, sW).

        Raises:
            ModelError: neither way fits into the memory.
        """
        try:
            if self.fits(len(x), x.shape[2], x.shape[3], x.device):
                return self.whole(x)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if self.streamer is None:
                raise self.too_large(x) from error
            warnings.warn(f"{size_of(x)}: out of memory; it goes through row by row", stacklevel=2)
        return self.by_rows(x)

    def by_rows(self, x: Tensor) -> Tensor:
        """The same, one image after another, in which no map is whole."""
        batch, _, height, width = x.shape
        scale = self.flowing().model.scale
        try:
            out = x.new_empty(batch, 3, scale * height, scale * width, dtype=torch.float32)
            for image, sr in zip(x, out, strict=True):
                top = 0
                for rows in self.rows(image.permute(1, 2, 0).float().cpu().numpy(), x.device):
                    sr[:, top : top + rows.shape[1]] = rows
                    top += rows.shape[1]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self.too_large(x) from error
        return out

    def rows(self, image, device: torch.device) -> Iterator[Tensor]:
        """The output of one image (H, W, 3), row by row; see `models.strips.stream`."""
        if self.backend == "triton":
            how = "'triton' takes whole images; one that does not fit into the memory goes through 'plain', row by row"
            warnings.warn(f"backend: {how}", stacklevel=3)
        return stream(self.flowing(), image, self.limit(device))

    def plan(self, height: int, width: int, device: torch.device) -> Layout:
        """What `rows` will take. Raises ModelError where there is not enough memory."""
        return layout(self.flowing(), height, width, self.limit(device))

    def flowing(self) -> Streamer:
        if self.streamer is None:
            raise ModelError(f"streaming: it is for SSIU, not for a {type(self.model).__name__}")
        return self.streamer

    def too_large(self, x: Tensor) -> ModelError:
        advice = "close other programs, allow fewer MiB ('memory'), or cut the image"
        return ModelError(f"an image of {size_of(x)} does not fit into the memory; {advice}")


@torch.no_grad()
def rows_of_whole(network: Callable[[Tensor], Tensor], image, device: torch.device) -> Iterator[Tensor]:
    """What a network makes of a whole image (see `models.streaming.rows_of`), as `models.strips.stream` gives it."""
    x = rows_of(image)(0, image.shape[0]).to(device)
    out = network(x[None])[0]
    yield from (rows.cpu() for rows in out.split(BAND, dim=1))


def size_of(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]}"
