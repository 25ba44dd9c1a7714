"""The evaluation sets that a config names, opened for a script."""

from collections.abc import Callable, Sequence

from config import Config, parse_overrides
from datas import BenchmarkSet, open_benchmark_sets


def open_sets(
    config: Config, overrides: Sequence[str], lr_only: bool = False, say: Callable[[str], object] = print
) -> list[BenchmarkSet]:
    """The sets of the config key eval_sets; each must be there if `overrides`, those of --set, name them.

    Raises:
        InputError: as `open_benchmark_sets` does.
    """
    named = "eval_sets" in parse_overrides(overrides)
    return open_benchmark_sets(config.data_path, config.eval_sets, config.scale, lr_only, named, say, config.drop_alpha)
