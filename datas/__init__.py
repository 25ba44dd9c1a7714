"""Data: the folder layout, MATLAB's bicubic degradation, training batches and evaluation sets.

These are the names that the rest of the project uses.
"""

from datas.benchmark import BenchmarkSet, Pair, open_benchmark_sets
from datas.check import leaks
from datas.degradation import downscale, upscale
from datas.images import list_images, read_rgb, write_png
from datas.inspection import InspectedSet, inspect
from datas.layout import SCALES, TRAINING_DATASETS, lr_folder
from datas.resident import ResidentTrainSet, resident_bytes
from datas.train_set import TrainSet, open_train_set, same_images
from datas.verify import Verification

__all__ = [
    "SCALES",
    "TRAINING_DATASETS",
    "BenchmarkSet",
    "InspectedSet",
    "Pair",
    "ResidentTrainSet",
    "TrainSet",
    "Verification",
    "downscale",
    "inspect",
    "leaks",
    "list_images",
    "lr_folder",
    "open_benchmark_sets",
    "open_train_set",
    "read_rgb",
    "resident_bytes",
    "same_images",
    "upscale",
    "write_png",
]
