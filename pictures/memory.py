"""Pictures that the memory cannot hold, or the network cannot take: one line each."""

from collections.abc import Iterator
from contextlib import contextmanager

from models import ModelError
from models.memory import is_out_of_memory
from utils import InputError


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Errors for want of memory, and what the network refuses, become InputErrors about `what`."""
    try:
        yield
    except ModelError as error:
        raise InputError(f"{what}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "cut it into smaller pictures or choose a smaller scale"
        raise InputError(f"{what} is too large for the memory; {advice}") from error
