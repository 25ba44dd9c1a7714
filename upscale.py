"""Make pictures and videos larger: photographs, drawings, scans and clips, with the weights of the project or others.

    python upscale.py photo.jpg                                            photo_x4.png beside it
    python upscale.py photos/ '*.webp' -o out/ --scale 2 --self-ensemble --format jpg --quality 95
    python upscale.py photos/ -o out/ --recursive --fit 3840x2160          none larger than a screen
    python upscale.py clip.mp4 -o out/ --scale 2                           a video, with its sound (needs PyAV)
    python upscale.py photo.png --weights runs/NAME/best.pt                the scale is that of the weights
    python upscale.py photos/ --dry-run                                    what would be done
    python upscale.py - < photo.jpg > large.png                            from standard input to standard output

Results that are there already are left as they are, unless --overwrite is given. A picture that cannot be done does not
stop the others; the exit code is 1 then. docs/pictures.md says what happens to colours, transparency, EXIF and videos.
"""

import interrupts  # noqa: F401, isort: skip
import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datas.names import usable_path
from evaluation.evaluator import self_ensemble
from models import BACKENDS, PRECISIONS, ModelError, Upscaler, load
from models.architecture import detect_architecture
from models.devices import device_name
from models.weights import SHIPPED, file_hash, read_weights, shipped_weights
from pictures import Done, Wanted, upscale_bytes, upscale_file
from pictures.fit import Size
from pictures.forecast import Forecast, duration
from pictures.names import find_sources, remove_leftovers_of, without_results
from pictures.plan import Plan, make_plan
from pictures.read import read_file
from pictures.rows import Runner, Whole
from pictures.video import upscale_video
from pictures.video_file import VIDEOS, Clip, container_that_begins
from pictures.write import FORMATS, QUALITY, SUFFIXES
from utils import InputError, run_command

SCALES = (2, 3, 4)
STREAM = "-"  # stands for standard input and standard output
LOSSY = ("jpg", "webp", "same")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="picture, video, folder, pattern, or - for standard input"
    )
    parser.add_argument("-o", "--out", metavar="FOLDER", help="of the results; - for standard output (default: beside)")
    parser.add_argument("--scale", type=int, choices=SCALES, help="2, 3 or 4 (default 4, or that of --weights)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint in place of the shipped weights")
    parser.add_argument(
        "--format", choices=(*FORMATS, "same"), default="png", help="of the pictures' results (default png)"
    )
    parser.add_argument("--quality", type=int, metavar="1..100", help=f"of jpg and webp (default {QUALITY})")
    parser.add_argument("--fit", type=size_of, metavar="WxH", help="reduce larger results to fit inside, as 3840x2160")
    parser.add_argument("--keep-exif", action="store_true", help="keep camera, time, place and author of photographs")
    parser.add_argument("--self-ensemble", action="store_true", help="average over 8 flips and transpositions")
    parser.add_argument("--recursive", action="store_true", help="also folders inside folders")
    parser.add_argument("--overwrite", action="store_true", help="make results again that are there already")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, with sizes, and do nothing")
    parser.add_argument(
        "--memory",
        type=mib_of,
        metavar="MIB",
        help="that the network's maps may take (default: a share of what is free)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: the first CUDA device, if there is one)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="see models/backends.py")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="see models/precision.py")
    arguments = parser.parse_args()
    if arguments.quality is not None and not 1 <= arguments.quality <= 100:
        parser.error("--quality goes from 1 to 100")
    if arguments.quality is not None and arguments.format not in LOSSY:
        parser.error(f"--quality goes with --format {' or '.join(LOSSY)}; {arguments.format} loses nothing")
    return arguments


def size_of(text: str) -> Size:
    match = re.fullmatch(r"([1-9]\d{0,8})[xX×]([1-9]\d{0,8})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 3840x2160")
    return int(match[1]), int(match[2])


def mib_of(text: str) -> float:
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text) is None or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB above 0, such as 2000")
    return float(text)


def chosen_scale(arguments: argparse.Namespace) -> int:
    """The scale of --weights, which --scale must not contradict; else --scale, or 4."""
    if arguments.weights is None:
        return arguments.scale or 4
    found = detect_architecture(read_weights(arguments.weights))
    if found is None:
        raise InputError(f"{arguments.weights}: holds the weights of another network than SSIU; name other weights")
    if arguments.scale not in (None, found.scale):
        raise InputError(f"--scale {arguments.scale}: {arguments.weights} is for x{found.scale}; leave --scale out")
    return found.scale


def open_upscaler(arguments: argparse.Namespace, scale: int, say: Callable[[str], None]) -> Runner:
    weights = arguments.weights or f"x{scale}"
    upscaler = load(weights, arguments.device, arguments.backend, arguments.precision, say, arguments.memory)
    averaged = ", self-ensemble x8" if arguments.self_ensemble else ""
    where = f"{arguments.precision} on {device_name(upscaler.device)}, backend {upscaler.backend}"
    say(f"weights: {upscaler.weights}; {where}{averaged}")
    if arguments.self_ensemble:
        return Whole(self_ensemble(upscaler.network), upscaler.device, scale)
    return upscaler


def main() -> int:
    arguments = parse_arguments()
    wanted = Wanted(arguments.quality or QUALITY, arguments.fit, arguments.keep_exif)
    if STREAM in (*arguments.inputs, arguments.out):
        return stream(arguments, wanted)
    folder = result_folder(arguments.out)
    found = find_sources(arguments.inputs, arguments.recursive, folder)
    sources, left_out = without_results(found)
    if left_out:
        print(f"{left_out} left out: NAME_x4 is a result of NAME, which is there, too")
    scale = chosen_scale(arguments)
    plan = make_plan(sources, folder, scale, arguments.format, wanted.fit, arguments.overwrite)
    for path in plan.finished:
        print(f"skipped: {path} is there already (--overwrite makes it again)")
    if arguments.dry_run:
        print("\n".join(["nothing is written (--dry-run):", *map(str, plan.jobs)]))
    elif plan.jobs:
        work(plan, open_upscaler(arguments, scale, print), wanted, arguments.overwrite, made_with(arguments, scale))
    for line in plan.failures:
        print(f"error: {line}", file=sys.stderr)
    done = f"{len(plan.jobs)} to do" if arguments.dry_run else f"{len(plan.jobs)} written"
    print(f"{done}, {len(plan.finished)} skipped, {len(plan.failures)} failed")
    return 1 if plan.failures else 0


def result_folder(out: str | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"--out {out}: is a file; name a folder")
    if not os.path.exists(folder) and folder.suffix.lower() in (*SUFFIXES, *VIDEOS):
        raise InputError(f"--out {out}: looks like a picture's name; name a folder, results are called NAME_x4.png")
    return folder


def work(plan: Plan, upscaler: Runner, wanted: Wanted, overwrite: bool, made_with: str) -> None:
    """Do the plan's jobs; those that fail move from its jobs to its failures. See `upscale_video` for `made_with`."""
    remove_leftovers_of(job.out for job in plan.jobs)
    jobs, plan.jobs = plan.jobs, []
    total, behind, begin, warned = sum(job.pixels for job in jobs), 0, time.monotonic(), False
    forecast = Forecast(upscaler) if isinstance(upscaler, Upscaler) else None
    for number, job in enumerate(jobs, 1):
        try:
            if forecast and (line := forecast.line(job.head.height, job.head.width)):
                print(f"{job.path}: {line}", flush=True)
            if isinstance(job.head, Clip):
                tell = partial(say_frames, job.path)
                done = upscale_video(upscaler, job.path, job.out, wanted, overwrite, made_with, tell)
            else:
                done = upscale_file(upscaler, job.path, job.out, wanted, overwrite)
        except (InputError, ModelError) as error:
            plan.failures.append(str(error) if isinstance(error, InputError) else f"{job.path}: {error}")
            done = None
        behind += job.pixels
        left = (time.monotonic() - begin) * (total - behind) / behind
        print(f"{number}/{len(jobs)} {job if done else f'{job.path} failed'}{time_left(left)}", flush=True)
        if done is not None:
            plan.jobs.append(job)
            warned = say_notes(job.path, done, warned, print)


def made_with(arguments: argparse.Namespace, scale: int) -> str:
    """What a video's frames depend on beside the video: work that was done with something else is not continued."""
    weights = file_hash(arguments.weights or shipped_weights(SHIPPED, scale))
    return f"{weights} {arguments.precision} self-ensemble={arguments.self_ensemble}"


def say_frames(path: Path, behind: int, total: int, rate: float) -> None:
    print(f"{path}: frame {behind}/{total}, {rate:.2f} a second{time_left((total - behind) / rate)}", flush=True)


def time_left(seconds: float) -> str:
    return f"; {duration(seconds)} left" if seconds >= 1 else ""


def say_notes(name: object, done: Done, warned: bool, say: Callable[[str], None]) -> bool:
    """Say what was decided about a picture; once in a run, that JPEG blocks stay. True if that has been said."""
    for note in done.notes:
        say(f"note: {name}: {note}")
    if done.quality is not None and not warned:
        advice = "the network was trained on clean pictures: blocks and noise are enlarged, not removed"
        say(f"note: {name}: a strongly compressed JPEG (quality about {done.quality}); {advice}")
    return warned or done.quality is not None


def stream(arguments: argparse.Namespace, wanted: Wanted) -> int:
    """One picture from standard input, or from a file, to standard output; all else is said on standard error."""
    if len(arguments.inputs) > 1 or arguments.out not in (None, STREAM):
        raise InputError(
            "-: one picture goes in and standard output takes its result; name nothing else, and no folder"
        )
    if arguments.dry_run or arguments.overwrite or arguments.recursive:
        raise InputError("-: does not go with --dry-run, --overwrite or --recursive; leave them out")
    if arguments.format == "same":
        raise InputError(f"-: does not go with --format same; name one of {', '.join(FORMATS)}")
    if sys.stdout.isatty():
        raise InputError("-: standard output is a terminal; write into a file: > large.png")

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    upscaler = open_upscaler(arguments, chosen_scale(arguments), say)
    name = arguments.inputs[0]
    if name == STREAM:
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        data = read_file(usable_path(name))
    if container_that_begins(data[:12]) is not None:
        raise InputError(f"{name}: is a video, which - does not take; name its file, and a folder with --out")
    encoded, done = upscale_bytes(upscaler, data, name, arguments.format, wanted)
    try:
        sys.stdout.buffer.write(encoded)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise InputError(
            f"-: standard output could not be written ({error.strerror}); check what it goes to"
        ) from error
    say_notes(name, done, False, say)
    return 0


if __name__ == "__main__":
    run_command(main, ModelError)
