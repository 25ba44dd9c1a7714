"""SSIU as a program of torch.export: one graph for images of any size, run by PyTorch without this project.

Called by tools.export; see docs/export.md.
"""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.portable import SAMPLE, Portable
from models.ssiu import SSIU
from utils import atomic_write

METADATA = "metadata.json"  # its name among the extra files of the archive


def write_pt2(target: Path, network: SSIU, metadata: Mapping[str, str]) -> None:
    """Write `network` to a .pt2 file. Raises InputError if it cannot be written."""
    buffer = io.BytesIO()
    torch.export.save(exported_program(network), buffer, extra_files={METADATA: json.dumps(dict(metadata), indent=1)})
    atomic_write(target, buffer.getvalue())


@torch.no_grad()
def exported_program(network: SSIU) -> ExportedProgram:
    """The program for any batch, height and width.

    Without the first setting torch.export takes every side to be 2 or more; without the second it refuses a program
    of which it cannot prove beforehand that the shapes fit.
    """
    shapes = {0: Dim("batch", min=1), 2: Dim("height", min=1), 3: Dim("width", min=1)}
    settings = {"dynamic_shapes": (shapes,), "prefer_deferred_runtime_asserts_over_guards": True}
    with _config.patch(backed_size_oblivious=True):
        program = torch.export.export(Portable(network).eval(), (torch.zeros(SAMPLE),), **settings)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, a third of the file
    return program
