"""What makes a fault happen inside a child: at the n-th Python call, or at the n-th operation on files.

Both are counted, so that a moment drawn from a seed comes again at the same place. `at_call` and `at_operation` return
what `children.start` takes as its injection.
"""

import builtins
import ctypes
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.children import CHANGING, READING, Injection, Shared

Action = Callable[[], object]  # False: not possible yet, try again soon
AGAIN = 200  # calls between two tries
MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH = 1, 32, 4096, 2  # Linux, mount(2), umount2(2)


def at_calls(moments: Sequence[tuple[int, Action]]) -> Injection:
    """Act at the `number`-th event of `sys.setprofile` in the main thread, counted anew after each action."""

    def install(shared: Shared) -> None:
        waiting = list(moments)
        left = waiting[0][0]

        def count(_frame, _event, _argument) -> None:
            nonlocal left
            left -= 1
            if left > 0:
                return
            sys.setprofile(None)
            shared.add("fault")
            if waiting[0][1]() is False:
                shared.add("fault", -1)
                left = AGAIN
            else:
                del waiting[0]
                left = waiting[0][0] if waiting else 0
            if waiting:
                sys.setprofile(count)

        sys.setprofile(count)

    return install


def at_call(number: int, action: Action) -> Injection:
    """Do something at one such event."""
    return at_calls([(number, action)])


def at_start(action: Action) -> Injection:
    """Do something before the script."""

    def install(shared: Shared) -> None:
        shared.add("fault")
        action()

    return install


def at_operation(
    number: int, action: Action, names: Sequence[str] = CHANGING, after: bool = False, suffixes: Sequence[str] = ("",)
) -> Injection:
    """Do something before or after the `number`-th operation of these names, in whichever process of the child.

    Counted are those on files whose names end with one of `suffixes`.
    """

    def install(shared: Shared) -> None:
        def watch(name: str, path: str) -> bool:
            due = name in names and path.endswith(tuple(suffixes)) and shared.add("due") == number
            if due:
                shared.add("fault")
            return due

        _patch(watch, action, after)

    return install


def count_all(shared: Shared) -> Callable[[], None]:
    """Change nothing, and count the calls and the operations."""
    calls = 0

    def count(_frame, _event, _argument) -> None:
        nonlocal calls
        calls += 1

    def watch(name: str, _path: str) -> bool:
        shared.add(name)
        return False

    def finish() -> None:
        shared.add("calls", calls)

    _patch(watch, lambda: None, False)
    sys.setprofile(count)
    return finish


def _patch(watch: Callable[[str, str], bool], action: Action, after: bool) -> None:
    """Replace the functions through which Python changes and opens files: `watch(name, path)` says whether to act."""

    def replacement(original, name_of: Callable[..., str]):
        def called(*args, **kwargs):
            due = watch(name_of(*args, **kwargs), _path(args[0]))
            if due and not after:
                action()
            result = original(*args, **kwargs)
            if due and after:
                action()
            return result

        return called

    for name in CHANGING[1:]:  # open is of two kinds
        setattr(os, name, replacement(getattr(os, name), lambda *_args, n=name, **_kwargs: n))
    os.open = replacement(os.open, _kind_of_os_open)
    builtins.open = io.open = replacement(io.open, _kind_of_open)  # type: ignore[assignment]


def _path(file) -> str:
    """The path of a file that is given by its path or its descriptor."""
    if not isinstance(file, int):
        return os.fsdecode(file)
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return ""


def _kind_of_open(_file, mode: str = "r", *_args, **_kwargs) -> str:
    return CHANGING[0] if set(mode) & set("wxa+") else READING


def _kind_of_os_open(_path, flags: int, *_args, **_kwargs) -> str:
    return CHANGING[0] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else READING


# Actions


def kill(number: int, to_group: bool = False) -> Action:
    """Send a signal to this process, or to its whole group as a terminal does."""
    return lambda: os.kill(0 if to_group else os.getpid(), number)


def kill_leader(number: int) -> Action:
    """Send a signal to the child, from whichever of its processes."""
    return lambda: os.kill(os.getpgrp(), number)


def kill_own_children(number: int, count: int) -> Action:
    """Send a signal to the first `count` processes that the main thread started; not possible while there are none."""

    def action() -> bool | None:
        pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in pids[:count]:
            os.kill(int(pid), number)
        return None if pids else False

    return action


def fail(number: int) -> Action:
    """Raise the error of that number."""

    def action() -> None:
        raise OSError(number, os.strerror(number))

    return action


DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ESTALE)


def limit_files(size: int, deadly: bool) -> Action:
    """From now on no file grows beyond `size` bytes: writing is an error, or kills in the midst of the write."""

    def action() -> None:
        import resource  # which Windows lacks; the module is imported there to say so

        if deadly:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            ctypes.CDLL(None).signal(signal.SIGXFSZ, 0)  # SIG_DFL; Python's own is for the main thread alone
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return action


def make_read_only(path: Path) -> Action:
    """Mount a folder or file over itself, read-only; not possible before it is there, nor when another thread has just
    opened a file through the new mount. Needs root."""

    def action() -> bool | None:
        if not path.exists():
            return False
        place = os.fsencode(path)
        mount(place, MS_BIND)
        try:
            mount(place, MS_BIND | MS_REMOUNT | MS_RDONLY)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            ctypes.CDLL(None).umount2(place, MNT_DETACH)
            return False
        return None

    return action


def mount(place: bytes, flags: int) -> None:
    """mount(2) of a place over itself. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(place, place, None, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def flip_bit(path_of: Callable[[], Path], where: float, bit: int) -> Action:
    """Flip a bit of a file, `where` from 0 up to 1 of its length; not possible before it is there."""

    def action() -> bool | None:
        try:
            path = path_of()
            with path.open("r+b") as file:
                place = int(where * path.stat().st_size)
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 1 << bit]))
        except (OSError, LookupError):
            return False
        return None

    return action
