"""SSIU as ONNX: one graph for images of any size and any number of them, padding and cropping inside it.

Called by tools.export; see docs/export.md.
"""

import importlib
import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.portable import SAMPLE, Portable
from models.ssiu import SSIU
from utils import InputError, atomic_write

OPSET = (
    18  # LayerNormalization is one operation from 17 on, Resize is as here from 18 on; GELU as one (20) is not needed
)
INPUT, OUTPUT = "image", "upscaled"  # names of the tensors, (batch, 3, height, width) and (batch, 3, sH, sW)


def write_onnx(target: Path, network: SSIU, metadata: Mapping[str, str], half: bool = False) -> None:
    """Write `network` to an .onnx file of float32 input and output; with `half` it computes in float16 inside.

    Raises:
        InputError: the package onnx is not installed, or the file cannot be written.
    """
    onnx = needed("onnx", target)
    model = onnx.load_from_string(_traced(Portable(network, half).eval(), network.scale))
    model.doc_string = "RGB in [0, 1] in, the same upscaled out, neither clipped nor rounded."
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    atomic_write(target, model.SerializeToString(deterministic=True))


def needed(package: str, what: object) -> ModuleType:
    """The optional package. Raises InputError, with the way to get it, where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{what}: needs the package {package} ({error}); pip install -r requirements-export.txt"
        ) from error


@torch.no_grad()
def _traced(model: Portable, scale: int) -> bytes:
    """By PyTorch's older exporter, which traces; the newer one takes the same network, but 25 times as long."""
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    axes |= {OUTPUT: {0: "batch", 2: f"{scale}*height", 3: f"{scale}*width"}}
    names = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_axes": axes}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older exporter, and that sizes are taken as numbers
        torch.onnx.export(model, (torch.zeros(SAMPLE),), buffer, dynamo=False, opset_version=OPSET, **names)
    return buffer.getvalue()
