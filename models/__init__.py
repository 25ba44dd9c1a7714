"""The network, and reading its weights. This folder imports nothing outside itself: copy it, and it works.

`load("x4")` is the short way; `create_model(config)` builds a network to train; `training_network` and `inference` pick
the fastest way to run it.
"""

from .backends import BACKENDS, choose_backend, inference, training_network
from .errors import ModelError
from .precision import PRECISIONS, autocast, matmul_precision
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
    "training_network",
]


def create_model(args) -> SSIU:
    """SSIU for `args`: any object with the attributes scale, n_feats, num_heads and n_blocks.

    The ablation attributes use_esam, use_moe and msgm_depthwise may be absent; the full network is then built.

    Raises:
        ValueError: sizes that do not fit together.
    """
    ablation = {key: getattr(args, key) for key in ("use_esam", "use_moe", "msgm_depthwise") if hasattr(args, key)}
    return SSIU(args.scale, args.n_feats, args.num_heads, args.n_blocks, **ablation)
