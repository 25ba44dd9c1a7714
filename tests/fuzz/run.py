"""Feed damaged files to every reader of files from strangers. Each may succeed, or say in one line what is wrong.

    python -m tests.fuzz.run --count 100000            all readers; a table at the end
    python -m tests.fuzz.run --only image --seed 7 --first 1234 --count 1      one input again, its trace shown

Input i of a reader is a function of the seed and of i. Inputs are read in a child whose memory is limited, with an
alarm: an exception of another kind, a line that is not one printable line, an alarm or a death is a failure.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.targets import Target, make_targets  # noqa: E402

from models.devices import device_name, pick_device  # noqa: E402

MEMORY = 3 << 30  # bytes of address space that an input may take beyond what the child begins with
SECONDS = 10  # for one input
BATCH = 500  # inputs of one child


class TooSlow(BaseException):
    """Raised by the alarm; no `except Exception` of a reader can take it for an error of the file."""


def make_input(target: Target, seed: int, number: int) -> bytes:
    """Input `number` of a reader."""
    random = Random(f"{seed} {number}")
    data = random.choice(target.seeds)
    for _ in range(random.choice((1, 1, 2))):
        data = target.mutate(data, target.seeds, random)
    return data


def try_input(target: Target, folder: Path, data: bytes) -> tuple[str, str]:
    """(outcome, detail): 'read', 'refused' or what was wrong."""
    signal.alarm(SECONDS)
    try:
        target.read(folder, data)
        return "read", ""
    except target.expected as error:
        text = str(error)
        if text.isprintable() and text and len(text) < 2000:
            return "refused", ""
        return "message", repr(text)[:500]
    except TooSlow:
        return "too slow", f"over {SECONDS} s"
    except BaseException:
        return "exception", traceback.format_exc()
    finally:
        signal.alarm(0)


def in_child(target: Target, seed: int, numbers: range, report: Path) -> int:
    """Fork, try the inputs, one line of JSON in `report` for each; the child's exit status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code = 1
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.signal(signal.SIGALRM, _too_slow)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        with report.open("a") as file, tempfile.TemporaryDirectory(dir=report.parent) as name:
            for number in numbers:
                file.write(json.dumps([number, "began", ""]) + "\n")
                file.flush()
                folder = Path(name) / str(number)
                folder.mkdir()
                outcome = try_input(target, folder, make_input(target, seed, number))
                shutil.rmtree(folder)
                file.write(json.dumps([number, *outcome]) + "\n")
        code = 0
    finally:
        os._exit(code)


def _too_slow(*_) -> None:
    raise TooSlow


def fuzz(target: Target, seed: int, numbers: range, work: Path) -> tuple[Counter, list[tuple[int, str, str]]]:
    """Outcomes counted, and the failures: (number of the input, outcome, detail)."""
    counts: Counter = Counter()
    failures = []
    start = numbers.start
    while start < numbers.stop:
        report = work / "report"
        report.unlink(missing_ok=True)
        part = range(start, min(start + BATCH, numbers.stop))
        status = in_child(target, seed, part, report)
        lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        for number, outcome, detail in lines:
            if outcome != "began":
                counts[outcome] += 1
                if outcome not in ("read", "refused"):
                    failures.append((number, outcome, detail))
        start = part.stop
        if status:  # it died in the input that it had begun
            number = lines[-1][0] if lines else part.start
            counts["died"] += 1
            failures.append((number, "died", f"exit status {status}"))
            start = number + 1
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each reader")
    parser.add_argument("--only", help="one reader")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        targets = make_targets(Path(name))
        if arguments.only:
            targets = {arguments.only: targets[arguments.only]}
        total = sum(target.weight for target in targets.values())
        where = device_name(pick_device([]))
        print(f"{where}; seed {arguments.seed}, {arguments.count:,} inputs, {time.strftime('%F')}\n")
        print("| reader | inputs | read | refused in one line | failures | inputs a second |\n" + "| --- " * 6 + "|")
        for reader, target in targets.items():
            count = -(-arguments.count * target.weight // total)
            began = time.monotonic()
            numbers = range(arguments.first, arguments.first + count)
            counts, failures = fuzz(target, arguments.seed, numbers, Path(name))
            pace = count / (time.monotonic() - began)
            cells = [reader, count, counts["read"], counts["refused"], len(failures), round(pace)]
            print(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in cells)} |", flush=True)
            for number, outcome, detail in failures[:10]:
                failed = True
                again = f"--only {reader} --seed {arguments.seed} --first {number} --count 1"
                print(f"{reader} {number}: {outcome}; again: {again}\n{detail}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
