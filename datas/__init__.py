"""Data: the folder layout, MATLAB's bicubic degradation, training batches and evaluation sets."""

from datas.benchmark import BenchmarkSet, Pair
from datas.degradation import downscale, imresize, upscale
from datas.images import encode_png, image_size, image_sizes, list_images, read_rgb, write_png
from datas.layout import BENCHMARKS, SCALES, TRAINING_DATASETS, hr_folder, lr_folder, lr_name
from datas.resident import ResidentTrainSet, resident_bytes
from datas.sampling import EpochPlan, Source, epoch_plan, orient, source_shares
from datas.store import Pack, pack
from datas.train_set import TrainSet, TrainSource, open_train_set

__all__ = [
    "BENCHMARKS",
    "SCALES",
    "TRAINING_DATASETS",
    "BenchmarkSet",
    "EpochPlan",
    "Pack",
    "Pair",
    "ResidentTrainSet",
    "Source",
    "TrainSet",
    "TrainSource",
    "downscale",
    "encode_png",
    "epoch_plan",
    "hr_folder",
    "image_size",
    "image_sizes",
    "imresize",
    "list_images",
    "lr_folder",
    "lr_name",
    "open_train_set",
    "orient",
    "pack",
    "read_rgb",
    "resident_bytes",
    "source_shares",
    "upscale",
    "write_png",
]
