"""The network, and reading its weights. This folder imports nothing outside itself: copy it, and it works.

`load("x4")` is the short way; `create_model(config)` builds a network to train; `training_network` and `inference` pick
the fastest way to run it.
"""

from .backends import BACKENDS, choose_backend, inference, trained_through, training_network
from .errors import ModelError
from .precision import PRECISIONS, autocast, matmul_precision
from .registry import create_model
from .ssiu import ESAM, MSGM, SSIU, MoEFS, SSReM, check_architecture
from .upscaler import Upscaler, load

__all__ = [
    "BACKENDS",
    "ESAM",
    "MSGM",
    "PRECISIONS",
    "SSIU",
    "MoEFS",
    "ModelError",
    "SSReM",
    "Upscaler",
    "autocast",
    "check_architecture",
    "choose_backend",
    "create_model",
    "inference",
    "load",
    "matmul_precision",
    "trained_through",
    "training_network",
]
