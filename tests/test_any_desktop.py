"""The project on other systems than Linux: no POSIX call, no /proc, no fork, and no open file replaced or removed.

A child process runs this file as a script, and so does every loader process that it spawns; in these the project's
modules see what Python offers on Windows. Only they do: the packages that the project stands on choose their code by
the true system, so filelock, which locks by other means on Windows, must keep its fcntl here.
"""

import builtins
import csv
import errno
import functools
import glob
import importlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("datas", "evaluation", "models", "pictures", "tools", "training")
ABSENT_MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
ABSENT_NAMES = {
    "os": """
        O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_RSYNC O_SYNC
        O_TMPFILE WNOHANG chown chroot confstr copy_file_range eventfd fchdir fchmod fchown fdatasync fork forkpty
        fpathconf getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid
        getxattr killpg lchown lockf login_tty major makedev memfd_create minor mkfifo mknod nice openpty pathconf pipe2
        posix_fadvise posix_fallocate posix_spawn posix_spawnp pread preadv pwrite pwritev readv register_at_fork
        sched_getaffinity sched_setaffinity sched_yield sendfile setegid seteuid setgid setpgid setpriority setsid
        setuid splice statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid writev
    """,
    "signal": """
        SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGXCPU
        SIGXFSZ SIG_BLOCK SIG_SETMASK SIG_UNBLOCK alarm getitimer pause pthread_kill pthread_sigmask setitimer
        siginterrupt sigpending sigtimedwait sigwait sigwaitinfo
    """,
}


def look_like_windows() -> None:
    """From now on, and for good, the project's modules see what they would see on Windows."""
    real_import = builtins.__import__
    seen = {name: without(importlib.import_module(name), absent) for name, absent in ABSENT_NAMES.items()}
    seen["os"].name = "nt"
    seen["os"].replace, seen["os"].unlink = map(refusing_open_files, (os.replace, os.unlink))
    for name in ("unlink", "rename", "replace"):
        setattr(Path, name, refusing_open_files(getattr(Path, name)))

    def chosen_import(name, globals=None, locals=None, fromlist=(), level=0):
        if is_of_the_project((globals or {}).get("__file__")):
            if name in ABSENT_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in seen:
                return seen[name]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = chosen_import
    builtins.open = io.open = without_proc(open)
    del os.fork  # for all: multiprocessing has nothing but `spawn` then


def without(module: ModuleType, absent: str) -> ModuleType:
    """The module without those names."""
    left_out = absent.split()
    rest = ModuleType(module.__name__)
    vars(rest).update({name: value for name, value in vars(module).items() if name not in left_out})
    return rest


def is_of_the_project(file: str | None) -> bool:
    """Whether a module's file is one of the project's own, tests apart."""
    path = Path(file or "/")
    if not path.is_relative_to(ROOT):
        return False
    first, *more = path.relative_to(ROOT).parts
    return first in FOLDERS or not more


def without_proc(true_open):
    @functools.wraps(true_open)
    def checked_open(file, *arguments, **options):
        if isinstance(file, (str, os.PathLike)) and str(file).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(file))
        return true_open(file, *arguments, **options)

    return checked_open


def refusing_open_files(function, true_open=open):
    """The function, refusing paths of files that this process has open or mapped. Linux alone can tell."""

    @functools.wraps(function)
    def refusing(*paths, **options):
        in_use = {os.path.realpath(descriptor) for descriptor in glob.glob("/proc/self/fd/*")}
        if os.path.exists("/proc/self/maps"):
            with true_open("/proc/self/maps") as file:
                in_use |= {line.split(maxsplit=5)[-1].rstrip() for line in file}
        for path in paths:
            if os.path.realpath(path) in in_use:
                raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        return function(*paths, **options)

    return refusing


def import_every_module() -> None:
    """Modules that need a package which is not installed here, as Triton is for some systems, are passed over."""
    for path in sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != "triton":
                raise


def train_stop_resume_and_test(config_file: str, folder: Path) -> None:
    from helpers import assert_same_bits, final_state, run_script, train

    from config import load_config
    from training import loop

    def with_ctrl_c(config, iteration, *rest):
        if iteration == 3:  # of 6
            signal.raise_signal(signal.SIGINT)
        return true_rate(config, iteration, *rest)

    def run(expected: int, *command) -> None:
        done = run_script(*command)
        assert done.returncode == expected, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"

    true_rate, loop.learning_rate = loop.learning_rate, with_ctrl_c
    run(128 + signal.SIGINT, "train.py", "--config", config_file, "--set", "log_name=cut")
    loop.learning_rate = true_rate
    run(0, "train.py", "--resume", folder / "cut")
    weights = f"pretrain={folder / 'cut' / 'best.pt'}"
    run(0, "test.py", "--config", config_file, "--set", weights, "--out", folder / "test", "--save-images")
    lines = (folder / "test" / "per_image.csv").read_text(encoding="utf-8").splitlines()
    assert [line["image"] for line in csv.DictReader(lines)] == ["0000", "0001"]

    assert train(load_config(config_file, ["threads=1"]), folder / "spawned") == 0
    assert_same_bits(final_state(folder / "cut"), final_state(folder / "spawned"))
    hidden = list(folder.rglob(".*"))
    assert not hidden, f"locks or temporary files are left: {hidden}"


@pytest.mark.skipif(os.name == "nt", reason="every other test shows it there")
def test_every_module_can_be_imported_and_a_run_trained_stopped_resumed_and_tested_on_any_desktop(
    tiny_config, tmp_path
):
    config_file = tiny_config(epochs=1, cache_path=str(tmp_path / "cache"))
    command = [sys.executable, __file__, config_file, tmp_path / "runs"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


if __name__ in ("__main__", "__mp_main__"):  # the second is what a spawned process calls it
    sys.path.insert(0, str(ROOT))
    look_like_windows()
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell starts in the background ignores
    multiprocessing.set_start_method("spawn")
    import_every_module()
    train_stop_resume_and_test(sys.argv[1], Path(sys.argv[2]))
