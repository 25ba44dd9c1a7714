"""Crops drawn on the device against those of the loader, pixel for pixel."""

import torch

from config import load_config
from datas.resident import ResidentTrainSet, resident_bytes
from datas.train_set import open_train_set


def test_every_crop_of_two_epochs_equals_the_loaders(tiny_config, tiny_data):
    hr = str(tiny_data / "Sample" / "Sample_train_HR")
    entries = [{"path": hr, "weight": 2.0}, {"path": str(tiny_data / "benchmark" / "Sample" / "HR")}]
    data = open_train_set(load_config(tiny_config(data=entries, batch_size=5, drop_last=False)))
    assert data.smallest_batch == 2  # of 8 images, four times each
    resident = ResidentTrainSet(data, torch.device("cpu"))
    stop = 2 * data.iterations_per_epoch
    oriented = set()
    for iteration, (rows,) in enumerate(resident.batches(3, stop), 3):
        for drawn, loaded in zip(resident.crops(rows), data[iteration], strict=True):
            assert torch.equal(drawn, loaded), iteration
        oriented |= set(map(tuple, rows[:, 3:].tolist()))
    assert iteration == stop - 1
    assert len(oriented) == 8
    assert resident_bytes(data) == sum(part.pixels.numel() for part in (resident._lr, resident._hr))
