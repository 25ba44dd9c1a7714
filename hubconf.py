"""For torch.hub: `torch.hub.load(DIR, "ssiu", scale=4, source="local")`.

The network's package is imported under a name of its own, so that modules of the same names on the caller's path
(`models`, `utils`) neither shadow it nor are shadowed by it.
"""

import importlib.util
import sys
from pathlib import Path

dependencies = ["torch", "numpy", "einops", "safetensors"]

_NAME = "ssiu_models"


def _package():
    if _NAME not in sys.modules:
        folder = Path(__file__).resolve().parent / "models"
        spec = importlib.util.spec_from_file_location(
            _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None  # the file is there
        sys.modules[_NAME] = package = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(package)
        except BaseException:
            del sys.modules[_NAME]
            raise
    return sys.modules[_NAME]


def ssiu(scale: int | None = None, weights: str | None = None, **options):
    """SSIU with the weights that come with the project, or those of a file; see `models.load` for the options.

    Called with a uint8 (H, W, 3) RGB array or a float (B, 3, H, W) tensor in [0, 1], it returns an
    image of the same kind, `scale` times as large (default 4). With `weights`, the scale is read off the file.

    Raises:
        ValueError: a scale that is not 2, 3 or 4, or not that of the weights; a file that cannot be used.
    """
    package = _package()
    if scale not in (None, 2, 3, 4):
        raise package.ModelError(f"scale: {scale} is not one of 2, 3, 4")
    network = package.load(weights or f"x{scale or 4}", **options)
    if scale is not None and network.scale != scale:
        raise package.ModelError(f"{weights}: holds an x{network.scale} network; call with scale={network.scale}")
    return network
