"""A page for pictures: drop one, choose the scale, compare before and after, and download the result.

    pip install -r requirements-app.txt
    python app.py                                    then open http://127.0.0.1:7860/
    python app.py --memory 2000 --max-seconds 120

Only this machine can open the page, unless --host says otherwise. A result is the PNG that upscale.py would write. One
picture is worked on at a time, the others wait. docs/app.md says what is kept, and for how long.
"""

import interrupts  # noqa: F401, isort: skip
import argparse
import re
import signal
import threading

from models import ModelError
from utils import run_command
from webapp.server import served
from webapp.studio import Limits, Studio, scales_at_hand

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=7860, help="1 to 65535 (default 7860)")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: the first CUDA device, if there is one)")
    parser.add_argument("--memory", type=above_0, metavar="MIB", help="see upscale.py")
    parser.add_argument("--max-megapixels", type=above_0, default=10, help="of a picture, in millions (default 10)")
    parser.add_argument("--max-seconds", type=above_0, default=300, help="of work on a picture (default 300)")
    parser.add_argument("--max-upload-mb", type=above_0, default=50, help="of a picture's file (default 50)")
    arguments = parser.parse_args()
    if not 1 <= arguments.port <= 65535:
        parser.error("--port goes from 1 to 65535")
    return arguments


def above_0(text: str) -> float:
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text) is None or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, such as 20")
    return float(text)


def main() -> int:
    arguments = parse_arguments()
    limits = Limits(arguments.max_megapixels, arguments.max_seconds, arguments.max_upload_mb)
    scales = scales_at_hand()
    studio = Studio(limits, arguments.device, arguments.memory, print)
    studio.upscaler(scales[-1])  # what cannot run is said now, and the first picture need not wait
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with served(studio, scales, arguments.host, arguments.port) as address:
        if arguments.host not in LOOPBACK:
            print(f"note: whoever reaches {arguments.host} can use the page; there is no password")
        print(f"open {address} (Ctrl-C ends it)", flush=True)
        while not stop.wait(1):  # without a limit Ctrl-C would not be heard on Windows
            pass
    return 0


if __name__ == "__main__":
    run_command(main, ModelError)
