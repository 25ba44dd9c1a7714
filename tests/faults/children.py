"""Children that run a script of the project, forked from a process that has imported everything already.

A child is the leader of a session of its own, its output goes to files, and it ends as an interpreter does. The parent
must have one thread only, and must not have computed anything with PyTorch.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import importlib
import mmap
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.workload import one_thread

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0  # seconds; a child that takes longer hangs
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # Linux, prctl(2)
LAZY = ("torch._dynamo", "einops._torch_specific", "imageio.plugins.pillow", "torch.utils.serialization.config")
CHANGING = ("open", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "truncate", "write")
READING = "open to read"
COUNTED = ("started", "fault", "calls", "due", *CHANGING, READING)
RESET = ("SIGTERM", "SIGHUP", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGALRM")


class Shared:
    """Counters by name that a child, its own children and the harness see; "fault" counts how often it happened.

    Processes and threads count at the same time. A process that is killed while it counts lets go of the lock.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(COUNTED))
        self._lock = os.memfd_create("counters")
        self._forget_other_threads()
        os.register_at_fork(after_in_child=self._forget_other_threads)

    def _forget_other_threads(self) -> None:
        self._among_threads = threading.RLock()

    def __getitem__(self, name: str) -> int:
        place = 8 * COUNTED.index(name)
        return int.from_bytes(self._memory[place : place + 8], "little")

    def add(self, name: str, number: int = 1) -> int:
        """Add to a counter; returns what it is then."""
        import fcntl  # which Windows lacks; the module is imported there to say so

        with self._among_threads:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            place, total = 8 * COUNTED.index(name), self[name] + number
            self._memory[place : place + 8] = total.to_bytes(8, "little")
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
            return total


Injection = Callable[[Shared], Callable[[], None] | None]  # run in the child before its script; what it returns, after


@dataclass
class Ended:
    """How a child ended. `code` is negative, as subprocess has it, if a signal ended it."""

    code: int
    out: str
    err: str
    seconds: float
    counts: Shared
    hung: bool = False
    orphans: int = 0  # its processes that were alive seconds after its end


@dataclass
class Child:
    """A child that was started."""

    pid: int
    files: tuple[Path, Path]  # stdout, stderr
    shared: Shared
    started: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """Its code if it has ended."""
        if not hasattr(self, "_code"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return None
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send(self, number: int, to_group: bool = False) -> None:
        """A signal to it, or to it and its processes, as a terminal sends them; nothing if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if to_group else os.kill)(self.pid, number)

    def wait(self, deadline: float = DEADLINE) -> Ended:
        """Wait for its end; after `deadline` seconds it prints where its threads are, and is killed."""
        hung = not self._ends_within(deadline)
        if hung:
            self.send(signal.SIGUSR1)
            self._ends_within(1.0)
            self.send(signal.SIGKILL, to_group=True)
            self._ends_within(10.0)
        orphans = 0 if hung else self._orphans()
        code = self.poll()
        out, err = (path.read_text(errors="replace") for path in self.files)
        seconds = time.monotonic() - self.started
        return Ended(-9 if code is None else code, out, err, seconds, self.shared, hung, orphans)

    def _ends_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > until:
                return False
            time.sleep(0.004)
        return True

    def _orphans(self) -> int:
        """Its processes that outlive it by three seconds; they are killed."""
        until = time.monotonic() + 3
        while (alive := _group(self.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(alive)


def _group(leader: int) -> list[int]:
    """Processes of a group that are alive. Those that have ended are reaped: their parent's end made them ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-leader, os.WNOHANG)[0]:
            pass
    alive = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, _parent, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(group) == leader and state not in "ZX":
                    alive.append(int(folder.name))
    return alive


def missing() -> str:
    """What this system lacks for the fault tests; empty if nothing."""
    if sys.platform != "linux":
        return "children are forked and watched by means of Linux"
    return ""


def prepare_to_fork() -> None:
    """Import all that the children need."""
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path not in ("", str(ROOT)))]
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("train", "training.folder", "training.loop", "datas.prepare", *LAZY):
        with contextlib.suppress(ImportError):  # of another release of a library; it is imported by the child then
            importlib.import_module(name)
    from PIL import Image

    Image.init()  # all formats
    _be_impatient()
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        raise RuntimeError(f"the process that forks has {len(threads)} threads; its children would hang")


def _be_impatient() -> None:
    """PyTorch looks every five seconds whether a loader process is alive: here more often."""
    from torch.utils.data import _utils, dataloader

    _utils.MP_STATUS_CHECK_INTERVAL = 0.5
    dataloader._MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.5,)


def take_in_orphans() -> None:
    """Be the parent of the processes whose own parents end."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def start(
    script: Sequence,
    folder: Path,
    name: str,
    inject: Injection | None = None,
    environment: dict | None = None,
    is_new_interpreter: bool = False,
) -> Child:
    """Start `train.py ARGUMENTS` or `-m MODULE ARGUMENTS` in `folder`, its output in NAME.out and NAME.err there.

    It returns when the child is at its script, so that no signal reaches what comes before. With `is_new_interpreter`
    the child imports everything for itself, and nothing can be injected.
    """
    files = (folder / f"{name}.out", folder / f"{name}.err")
    shared, words = Shared(), [str(word) for word in script]
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(words, folder, files, environment or {}, is_new_interpreter, inject, shared)
    child = Child(pid, files, shared)
    while not shared["started"] and child.poll() is None:
        time.sleep(0.001)
    return child


def call(function: Callable[[], None]) -> None:
    """Run a function in a child, as this process must compute nothing. RuntimeError if it fails."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            one_thread()
            function()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("a child of the fault tests failed; see above")


def _become(script: list[str], folder: Path, files, environment: dict, is_new: bool, inject, shared: Shared) -> None:
    """Be the interpreter of a script. Does not return."""
    code = 70
    try:
        _leave_the_parent(folder, files, environment)
        if is_new:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            shared.add("started")
            os.execv(sys.executable, [sys.executable, str(ROOT / script[0]), *script[1:]])
        finish = inject(shared) if inject else None
        code = _run(script, shared)
        sys.setprofile(None)
        if finish:
            finish()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = code or 120
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _leave_the_parent(folder: Path, files: tuple[Path, Path], environment: dict) -> None:
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for name in RESET:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in zip((1, 2), files, strict=True):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.chdir(folder)
    os.environ.update(environment)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
    one_thread()


def _run(script: list[str], shared: Shared) -> int:
    """Run a script as `python` does; its exit code."""
    try:
        shared.add("started")
        if script[0] == "-m":
            sys.argv = script[1:]
            runpy.run_module(script[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / script[0]), *script[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
