"""Names of files and folders: which ones are used."""

import errno
import os
from pathlib import Path

from utils import UNFIT, InputError, printable


def usable_path(path) -> Path:
    """The path of a file or folder, whether it exists or not.

    Raises:
        InputError: it holds a character that cannot be printed, or the system calls it too long.
    """
    path = Path(path)
    if UNFIT.search(str(path)):
        raise InputError(f"{printable(path)}: its name holds control characters or bytes that are not UTF-8; rename it")
    try:
        os.lstat(path)
    except OSError as error:  # whether it is there, and can be read, others find out
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(path)[:80]}...: is too long a name for this system; check the path") from error
    return path
