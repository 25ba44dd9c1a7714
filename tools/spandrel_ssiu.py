"""SSIU for the library spandrel (https://github.com/chaiNNer-org/spandrel), 0.4: `register()`, and its loader knows it.

from spandrel import ModelLoader
from tools.spandrel_ssiu import register
register()
model = ModelLoader().load_from_file("pretrain_model/SSIU_x4.pt")

What its loader makes of which file stands in docs/loaders.md. `tools.spandrel_file` writes what stands here as files of
spandrel itself.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from models.architecture import Architecture as Sizes
from models.architecture import detect_architecture
from models.ssiu import SSIU
from models.weights import PREFIXES
from utils import InputError


def register(registry: Any = None) -> None:
    """Have loaders with this registry know SSIU: all loaders, if it is None. A second time is no error.

    Raises InputError: spandrel cannot be imported.
    """
    try:
        import spandrel
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that belongs to another PyTorch
        raise InputError(
            f"spandrel cannot be imported ({error}); pip install spandrel==0.4.2, with the torchvision that belongs to "
            "this PyTorch (docs/loaders.md says how to do without torchvision)"
        ) from error
    registry = spandrel.MAIN_REGISTRY if registry is None else registry
    registry.add(spandrel.ArchSupport.from_architecture(_architecture()), ignore_duplicates=True)


def without_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys as published. spandrel removes `module.`; a compiled network's file has `_orig_mod.` as well."""
    return {PREFIXES.sub("", key): value for key, value in state_dict.items()}


def network_of(state_dict: dict[str, Tensor]) -> tuple[Sizes, SSIU]:
    """What the network is made of, and the network with its weights, in float32; it shares no memory with them.

    Raises:
        ValueError: the keys name no SSIU that can be built.
        RuntimeError: they do not fit the one that they name.
    """
    weights = without_prefixes(state_dict)
    found = detect_architecture(weights) if len(weights) == len(state_dict) else None
    if found is None:
        raise ValueError("no SSIU's weights: expected head, body.0 to body.N in a row and tail, and no key twice")
    with torch.device("meta"):  # a file takes no more memory than it holds, whatever sizes it names
        model = SSIU(**asdict(found))
    model.load_state_dict({key: value.to(torch.float32, copy=True) for key, value in weights.items()}, assign=True)
    return found, model


def _architecture() -> Any:
    """The class is made here, since spandrel, whose class it extends, may be absent."""
    from spandrel import Architecture, ImageModelDescriptor, ModelTiling, SizeRequirements, StateDict
    from spandrel.util import KeyCondition

    class SSIUArch(Architecture[SSIU]):
        """Width, heads, stages, scale and ablations are read off the names and shapes of the weights."""

        def __init__(self) -> None:
            keys = KeyCondition.has_all(
                "head.weight",
                "body.0.norm.body.weight",
                "body.0.s1.project_in1.weight",
                "body.0.ffn.project_out.weight",
                "tail.0.weight",
            )
            super().__init__(id="SSIU", detect=lambda state_dict: keys(without_prefixes(state_dict)))

        def load(self, state_dict: StateDict) -> ImageModelDescriptor[SSIU]:
            """Raises what `network_of` raises."""
            found, model = network_of(state_dict)
            tags = [f"{found.n_feats}nf", f"{found.n_blocks}nb"]
            tags += ["no ESAM"] * (not found.use_esam) + ["no MoE-FS"] * (not found.use_moe)
            return ImageModelDescriptor(
                model,
                model.state_dict(),
                architecture=self,
                purpose="SR",
                tags=tags,
                supports_half=True,
                supports_bfloat16=True,
                scale=found.scale,
                input_channels=3,
                output_channels=3,
                # None: the network pads by itself, and where a side is shorter than its padding it goes on reflecting;
                # spandrel would repeat the edge there, which gives other pixels.
                size_requirements=SizeRequirements(),
                # ESAM stretches its map from edge to edge (align_corners): pixels depend on where the image ends.
                tiling=ModelTiling.DISCOURAGED,
            )

    return SSIUArch()
