"""Disturb training on purpose, at moments drawn from a seed, and compare the end with that of an undisturbed run.

    python -m tests.faults.run --count 500              # rounds over all faults
    python -m tests.faults.run --only NAME --case K     # one case again

After each fault the run must either go on, or be resumable, and end the same bit for bit as one without; or stop with
one line `error: ...` and exit code 2, and end so once the fault is removed. A hang, a stack trace, other bits, or what
else should not be (`otherwise wrong`: processes or temporary files left behind, a save lost) makes the exit code 1; how
to repeat it is printed, and its folder is kept. Needs Linux; faults that need root are skipped without.
"""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults import children
from tests.faults.case import BAD, IDENTICAL, LATE, SKIPPED, STOPPED, Result, run_case
from tests.faults.kinds import FAULTS
from tests.faults.references import Reference, describe, make_references
from tests.faults.registry import Job, rounds

COLUMNS = (
    ("tried", lambda counts: sum(counts.values()) - counts[LATE] - counts[SKIPPED]),
    ("went on, identical", lambda counts: counts[IDENTICAL]),
    ("stopped with one line, then identical", lambda counts: counts[STOPPED]),
    *((f"{kind}{'s' if kind in ('hang', 'traceback') else ''}", lambda counts, k=kind: counts[k]) for kind in BAD),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500, metavar="N", help="cases (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--only", metavar="NAME", action="append", help="these faults alone; --list names them")
    parser.add_argument("--case", type=int, metavar="K", help="with --only: case K of each alone")
    parser.add_argument("--tries", type=int, default=1, help="cases for one that comes when a run is over (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at a time (default: 2)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every result there")
    parser.add_argument("--list", action="store_true", help="print the names of the faults, and stop")
    arguments = parser.parse_args()
    if arguments.case is not None and not arguments.only:
        parser.error("--case goes with --only")
    if min(arguments.count, arguments.jobs, arguments.tries) < 1:
        parser.error("--count, --jobs and --tries must be at least 1")
    return arguments


def chosen(arguments: argparse.Namespace) -> list[Job]:
    """The cases that were asked for."""
    names = arguments.only or list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        sys.exit(f"error: --only {unknown[0]}: there is no such fault; --list names them")
    if arguments.case is not None:
        return [(name, arguments.case) for name in names]
    return rounds(names, arguments.count)


def do_all(
    jobs: list[Job], workers: int, tries: int, seed: int, base: Path, references: dict[str, Reference]
) -> Iterator[Result]:
    """The results, as they come, from so many processes that each take the next case."""
    turns, reader, writer = _numbers(base, len(jobs)), *os.pipe()
    pids = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _work(jobs, turns, writer, tries, seed, base, references)
        pids.append(pid)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            yield Result(**json.loads(line))
    for pid in pids:
        os.waitpid(pid, 0)


def _numbers(base: Path, count: int) -> int:
    """A file of the numbers of all cases; those who share its descriptor read each number once."""
    path = base / "turns"
    path.write_bytes(b"".join(number.to_bytes(4, "little") for number in range(count)))
    return os.open(path, os.O_RDONLY)


def _work(
    jobs: list[Job], turns: int, writer: int, tries: int, seed: int, base: Path, references: dict[str, Reference]
) -> None:
    """Do cases until there is none left. Does not return."""
    code = 1
    try:
        children.take_in_orphans()
        while number := os.read(turns, 4):
            name, first = jobs[int.from_bytes(number, "little")]
            for case in range(first, first + tries):
                folder = base / f"{name.replace(' ', '-').replace(':', '').replace(',', '')}-{case}"
                result = run_case(FAULTS[name], seed, case, folder, references)
                if result.verdict != LATE:
                    break
            result.notes = [note[:200] for note in result.notes[:4]]  # a line that a pipe takes as a whole
            os.write(writer, json.dumps(dataclasses.asdict(result)).encode() + b"\n")
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def table(results: Sequence[Result], markdown: bool) -> str:
    """A row for every fault that was tried, and one of sums."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for result in results:
        counts[result.fault][result.verdict] += 1
    rows = [("fault", *(title for title, _ in COLUMNS))]
    rows += [(name, *(str(value(counts[name])) for _, value in COLUMNS)) for name in FAULTS if name in counts]
    total: Counter = sum(counts.values(), Counter())
    rows.append(("all", *(str(value(total)) for _, value in COLUMNS)))
    if markdown:
        rows.insert(1, ("---",) * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows)


def caption(results: Sequence[Result], seed: int, seconds: float) -> str:
    """On what, how many, when."""
    import torch

    from models.devices import device_name

    verdicts = Counter(result.verdict for result in results)
    return (
        f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}; seed {seed}; "
        f"{len(results)} cases in {seconds:.0f} s; in {verdicts[LATE]} the run was over before the fault came, "
        f"{verdicts[SKIPPED]} skipped"
    )


def report(results: Sequence[Result], seed: int) -> None:
    """Each failure, and how to repeat it."""
    for result in results:
        if result.verdict in BAD:
            name = shlex.quote(result.fault)
            print(f"\n{result.verdict}: {result.fault}, case {result.number}: {'; '.join(result.notes)}")
            print(f"  again: python -m tests.faults.run --only {name} --seed {seed} --case {result.number}")
            print(f"  its folder: {result.folder}")
    for reason in sorted({note for result in results if result.verdict == SKIPPED for note in result.notes}):
        print(f"\nskipped: {reason}")


def place() -> str | None:
    """Where the folders of the cases lie: in memory, as they wait for a disk otherwise; $TMPDIR if that is set."""
    memory = "/dev/shm"
    return memory if "TMPDIR" not in os.environ and os.access(memory, os.W_OK) else None


def main() -> int:
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(FAULTS))
        return 0
    if lacking := children.missing():
        print(f"skipped: {lacking}")
        return 0
    jobs, started = chosen(arguments), time.monotonic()
    children.prepare_to_fork()
    base = Path(tempfile.mkdtemp(prefix="faults-", dir=place()))
    tried = [(name, number + more) for name, number in jobs for more in range(arguments.tries)]
    references = make_references(base, {FAULTS[name].config(arguments.seed, number) for name, number in tried})
    print(f"undisturbed: {describe(references)}", flush=True)
    results = []
    for result in do_all(jobs, arguments.jobs, arguments.tries, arguments.seed, base, references):
        results.append(result)
        print(f"{len(results)}/{len(jobs)} {result.fault}, case {result.number}: {result.verdict}, ", end="")
        print(f"{result.seconds:.1f} s{''.join(f'; {note}' for note in result.notes)}", flush=True)
    results.sort(key=lambda result: (result.fault, result.number))
    print(f"\n{table(results, arguments.markdown)}\n\n{caption(results, arguments.seed, time.monotonic() - started)}")
    report(results, arguments.seed)
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(result) for result in results]))
    is_bad = any(result.verdict in BAD for result in results) or len(results) < len(jobs)
    if not is_bad:
        shutil.rmtree(base)
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
