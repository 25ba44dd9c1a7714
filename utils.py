"""Small helpers that everything else may import: errors for the user, atomic files, spelling hints."""

import difflib
import errno
import io
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from filelock import BaseFileLock, FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows, where nobody can remove a file that is open
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"  # in a held folder; one that a killed process left there holds nothing
LONGEST_SHOWN = 200  # characters of a value in an error message
# What names and text may not hold, as logs, tables and configs are UTF-8 text of whole lines: control characters, line
# ends of Unicode, and the surrogates by which Python stands for bytes that are not UTF-8.
UNFIT = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")  # what `atomic_file` calls its temporary files


class InputError(ValueError):
    """Something the user gave (a file, a key, a folder) is wrong.

    The message is one line that names the file or key, says what is wrong with it and what to do.
    `run_command` prints it without a stack trace.
    """


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


def run_command(main, *errors: type[Exception], say: Callable[[str], None] = _complain) -> None:
    """Run a script's `main()`: an InputError, or one of `errors`, becomes one line for `say` and exit code 2.

    Ctrl-C ends with exit code 130.
    """
    expected: tuple[type[Exception], ...] = (InputError, *errors)
    try:
        code = main()
    except expected as error:
        say(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # in the midst of Python's own end it would print a trace
    sys.exit(code)


class Terminal:
    """Standard error for progress bars: where whoever read it is gone, nothing is written, and the work goes on."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str):
        return getattr(sys.stderr, name)

    def __eq__(self, other: object) -> bool:
        """tqdm clears a bar before it writes beside it, and asks for its width, if its file is standard error."""
        return other is sys.stderr or isinstance(other, Terminal)

    __hash__ = object.__hash__


def did_you_mean(name: str, known) -> str:
    """`; did you mean 'NEAREST'?` for the known name that is spelt most like `name`, or an empty string."""
    by_lower = {str(option).lower(): str(option) for option in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean '{by_lower[near[0]]}'?" if near else ""


def printable(text: object) -> str:
    """The text on one printable line, other characters escaped: "a\\xff.png" for a name that holds the byte 255."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in str(text))


def shown(value: object) -> str:
    """`value` for an error message: 200 printable characters at most, of a longer text the beginning and the end."""
    line, half = printable(value), LONGEST_SHOWN // 2
    return line if len(line) <= LONGEST_SHOWN else f"{line[:half]} ... {line[5 - half :]}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(letter)[1:-1]


def atomic_write(path, data: bytes) -> None:
    """Write `data` to `path`, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path) -> Iterator[BinaryIO]:
    """A new file that can seek, to be written in the block: it becomes `path` when the block ends without an error.

    A reader sees the old file or the whole new one, also after a power cut. Until the end the bytes are in a temporary
    file in the same folder, which is then flushed to disk and renamed over `path`. An error in the block removes it.

    Raises:
        InputError: the disk is full, or the folder cannot be written to; `path` keeps its old content. Errors of the
            block that are not of writing this file pass unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _named_failure(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = open(temporary, "xb", buffering=0)  # noqa: SIM115  (closed below)
        try:
            _hold(raw)
            file = _NewFile(raw, path)
            yield file
            file.flush()
            with _named_failure(path):
                os.fsync(raw.fileno())
                raw.close()
        finally:
            with suppress(OSError):  # another error is under way, or it is closed; what is not flushed is dropped
                raw.close()
        with _named_failure(path):
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # it was not made, or has its final name already
            temporary.unlink()
        raise


class _NewFile(io.BufferedWriter):
    """A file in which every failure to write becomes the InputError that names `path`."""

    def __init__(self, raw: io.RawIOBase, path: Path):
        super().__init__(raw)
        self._path = path

    def write(self, data, /) -> int:
        with _named_failure(self._path):
            return super().write(data)

    def flush(self) -> None:
        with _named_failure(self._path):
            super().flush()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with _named_failure(self._path):  # what is buffered is written first
            return super().seek(offset, whence)


@contextmanager
def _named_failure(path: Path) -> Iterator[None]:
    """An OSError becomes the InputError of a file that could not be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "no space left" if full else error.strerror
        raise InputError(
            f"{path}: could not be written ({reason}); what stood there before is untouched; "
            f"{'free some space' if full else 'check the folder'} and start again"
        ) from error


def _hold(file: IO[bytes]) -> None:
    """Mark a temporary file as one that this process is writing, for `remove_leftover`; it ends with the process."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: two runs that make the same file may disturb each other
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftover(path: Path) -> None:
    """Remove a temporary file of `atomic_file`, unless a process is writing it. OSError if it cannot be removed."""
    if fcntl is not None:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            except OSError:  # a file system without locks: nothing tells it from what a killed process left
                pass
    path.unlink()


def remove_leftovers(folder) -> None:
    """Remove what `atomic_file` left in a folder when it was killed. Only for whoever alone writes there."""
    with suppress(OSError):  # there is no such folder, or nothing may be removed from it: writing will say so
        for path in Path(folder).iterdir():
            if _LEFTOVER.fullmatch(path.name):
                remove_leftover(path)


def make_folder(folder) -> Path:
    """Make `folder`, if it is not there. InputError if it cannot be made or written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from error
    return folder


@contextmanager
def held_folder(folder) -> Iterator[None]:
    """Make `folder` and hold it: no other process may while this one does. Leftovers of a killed one are removed.

    It is removed again if nothing came into it, and so are the folders above it that were made for it.

    The system lets go of it when the process ends, however it ends.

    Raises:
        InputError: it cannot be made, written to or locked, or another process holds it.
    """
    path = Path(folder)
    new = [place for place in (path, *path.parents) if not os.path.exists(place)]  # the innermost first
    folder = make_folder(folder)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(blocking=False)
    except (Timeout, FileNotFoundError) as error:  # not found: the process that held it has just removed it
        reason = "another process is at work in it; wait for it or choose another folder"
        raise InputError(f"{folder}: {reason}") from error
    except OSError as error:
        reason = f"cannot be locked ({error.strerror or error}); choose another folder"
        raise InputError(f"{folder}: {reason}") from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        _let_go(folder, lock)
        for place in new:
            with suppress(OSError):  # something came into it
                place.rmdir()


def _let_go(folder: Path, lock: BaseFileLock) -> None:
    """Remove the lock file, and the folder if it is empty then.

    On POSIX the file goes first: another process that has opened it finds, once it has the lock, that the file is gone,
    and gives up. On Windows a file that is open cannot be removed, by us or from under another process.
    """
    if os.name == "nt":
        lock.release()
    with suppress(OSError):  # Windows: another process has opened it meanwhile
        (folder / LOCK_NAME).unlink()
    lock.release()
    with suppress(OSError):  # something came into it
        folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable. Windows cannot open a folder, and NTFS keeps a journal of renames."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
