"""Where a run's batches come from: loader processes, or images held on the device. The crops are the same."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from config import Config
from datas import ResidentTrainSet, TrainSet, resident_bytes
from training.loader import loaded_batches
from training.processes import Process
from utils import InputError

Batch = tuple[Tensor, ...]
Batches = Callable[[int, int], Iterable[Any]]
Draw = Callable[..., tuple[Tensor, Tensor]]
COMPARED = 2  # batches drawn both ways before those on the device are trusted


def open_batches(data: TrainSet, process: Process, config: Config, say: Callable[[str], None]) -> tuple[Draw, Batches]:
    """(draw, batches): `batches(start, stop)` yields the batches of those iterations, `draw(*batch)` their crops.

    From the memory-mapped store through loader processes, or, with data_on_gpu, from images held on the device. The
    crops are uint8 on the device, LR (B, p, p, 3) and HR (B, s p, s p, 3), this process's rows of each batch. `say`
    takes lines on which it is, where images were to be held on the device, and on loader processes that died.

    Raises:
        InputError: data_on_gpu is True and the images do not fit, or their crops are not the loader's.
    """
    data, device = data.shard(process.rank, process.world), process.device
    if config.data_on_gpu is True or (config.data_on_gpu == "auto" and device.type == "cuda"):
        resident, problem = hold(data, device)
        if resident is not None:
            say(f"data_on_gpu: {resident_bytes(data) / 2**30:.1f} GiB; {COMPARED} batches equal the loader's")
            return resident.crops, resident.batches
        if config.data_on_gpu is True:
            raise InputError(f"config key 'data_on_gpu': {problem}; set it to auto or False")
        say(f"warning: data_on_gpu: {problem}: loading from disk")

    def draw(*crops: Tensor) -> tuple[Tensor, Tensor]:
        lr_crops, hr_crops = (part.to(device, non_blocking=True) for part in crops)
        return lr_crops, hr_crops

    def batches(start: int, stop: int) -> Iterable[Any]:
        return loaded_batches(data, start, stop, config.threads, device.type == "cuda", say)

    return draw, batches


def hold(data: TrainSet, device: torch.device) -> tuple[ResidentTrainSet | None, str]:
    """(the training images on the device, ''), or (None, why they are not there)."""
    needed = resident_bytes(data)
    if device.type == "cuda" and needed > (free := torch.cuda.mem_get_info(device)[0]) / 2:
        return None, f"{needed / 2**30:.1f} GiB of images beside {free / 2**30:.1f} GiB free leave too little to train"
    try:
        resident = ResidentTrainSet(data, device)
    except RuntimeError as error:  # memory that another process took in the meantime
        return None, " ".join(str(error).split())[:200]
    for iteration in range(COMPARED):
        rows = next(iter(resident.batches(iteration, iteration + 1)))
        pairs = zip(resident.crops(*rows), data[iteration], strict=True)
        if not all(torch.equal(held.cpu(), loaded) for held, loaded in pairs):
            return None, f"the crops of batch {iteration} drawn on the device are not those of the loader"
    return resident, ""
