"""Training images held on the device: a batch is one gather, and augmentation is index arithmetic.

The samples are those of the stateless plan (`datas.sampling`), the same that the loader draws: a batch is given by its
rows of the plan, a small tensor, and cropped, flipped and transposed on the device.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from datas.store import Pack
from datas.train_set import TrainSet

CHUNK = 1 << 28  # bytes copied to the device at a time
COLUMNS = ("image", "top", "left", "hflip", "vflip", "transpose")


class ResidentImages:
    """All images of several packs as one flat uint8 tensor on `device`."""

    def __init__(self, packs: list[Pack], device: torch.device):
        firsts = np.cumsum([0] + [len(pack.flat) for pack in packs[:-1]])
        offsets = np.concatenate([pack.offsets + first for pack, first in zip(packs, firsts, strict=True)])
        widths = np.concatenate([pack.widths for pack in packs])
        self.offsets = torch.from_numpy(offsets.astype(np.int64)).to(device)
        self.widths = torch.from_numpy(widths.astype(np.int64)).to(device)
        self.pixels = torch.empty(sum(len(pack.flat) for pack in packs), dtype=torch.uint8, device=device)
        for pack, first in zip(packs, firsts, strict=True):
            for start in range(0, len(pack.flat), CHUNK):
                piece = torch.from_numpy(pack.flat[start : start + CHUNK].copy())
                self.pixels[first + start : first + start + len(piece)].copy_(piece)

    def crops(self, rows: Tensor, side: int, unit: int) -> Tensor:
        """Oriented crops: plan rows (B, 6) int64 -> (B, side, side, 3) uint8.

        `unit` is the size of a plan's pixel in this image: 1 for LR, the scale for HR. Output pixel (y, x) of a crop
        that was flipped vertically, then horizontally, then transposed stood at (y', x') of the crop as it was cut:
        undoing the three in reverse order gives its address.
        """
        image, top, left, hflip, vflip, transpose = (column.view(-1, 1, 1) for column in rows.unbind(1))
        line = torch.arange(side, device=rows.device)
        y, x = line.view(1, -1, 1), line.view(1, 1, -1)
        y, x = torch.where(transpose > 0, x, y), torch.where(transpose > 0, y, x)
        x = torch.where(hflip > 0, side - 1 - x, x)
        y = torch.where(vflip > 0, side - 1 - y, y)
        pixel = (unit * top + y) * self.widths[image] + unit * left + x
        address = self.offsets[image] + 3 * pixel
        return self.pixels[address.unsqueeze(-1) + torch.arange(3, device=rows.device)]


class ResidentTrainSet:
    """The crops of a `TrainSet` drawn on `device`, where its packed images are copied once.

    Raises:
        torch.cuda.OutOfMemoryError: they do not fit; the memory-mapped loader needs no such space.
    """

    def __init__(self, data: TrainSet, device: torch.device):
        self.data, self.device = data, device
        self._lr = ResidentImages([source.lr for source in data.sources], device)
        self._hr = ResidentImages([source.hr for source in data.sources], device)

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor]]:
        """Plan rows of batches start .. stop - 1 (this shard's), each a one-tuple of (B, 6) int64 on the device.

        An epoch's plan is uploaded whole, some megabytes, so that nothing crosses to the device between epochs.
        """
        per_epoch = self.data.iterations_per_epoch
        for epoch in range(start // per_epoch, -(-stop // per_epoch)):
            plan = self.data.plan(epoch)
            columns = [getattr(plan, name).astype(np.int64) for name in COLUMNS]
            rows = torch.from_numpy(np.stack(columns, axis=1)).to(self.device)
            first, last = max(start, epoch * per_epoch), min(stop, (epoch + 1) * per_epoch)
            for batch in range(first - epoch * per_epoch, last - epoch * per_epoch):
                yield (rows[self.data.rows(batch)],)

    def crops(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """LR (B, p, p, 3) and HR (B, s p, s p, 3) uint8 crops of plan rows (B, 6)."""
        scale, side = self.data.config.scale, self.data.lr_patch
        return self._lr.crops(rows, side, 1), self._hr.crops(rows, scale * side, scale)


def resident_bytes(data: TrainSet) -> int:
    """Device memory that `ResidentTrainSet(data, ...)` takes."""
    return sum(len(pack.flat) for source in data.sources for pack in (source.lr, source.hr))
