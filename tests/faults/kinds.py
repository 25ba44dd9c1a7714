"""All faults, in the order of the table. A module adds its own when it is imported."""

from tests.faults import signals  # noqa: F401, isort: skip
from tests.faults import files  # noqa: F401, isort: skip
from tests.faults import disks  # noqa: F401, isort: skip
from tests.faults import data  # noqa: F401, isort: skip
from tests.faults.registry import FAULTS

__all__ = ["FAULTS"]
