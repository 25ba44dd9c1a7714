"""Files of results as test.py writes them, and the boards made of them."""

import json

from tools.leaderboard.board import boards
from tools.leaderboard.read import read_result

IMAGES = ("baby", "bird")


def a_set(psnr, ssim, images=IMAGES, bicubic=28.0, seconds=0.05, **more):
    scores = {"psnr": psnr, "ssim": ssim}
    found = {
        "standard": scores,
        "official": scores,
        "seconds_per_image": seconds,
        "images": {key: {} for key in images},
    }
    if bicubic:
        found["bicubic"] = {key: {"psnr": bicubic, "ssim": 0.8} for key in ("standard", "official")}
    return {**found, **more}


def save_result(folder, name, sets, scale=4, parameters=1000, multiply_adds=2e6, file=None, **more):
    """The file of a network's results, as test.py --json writes it."""
    content = {
        "network": {"name": name, "parameters": parameters, "multiply_adds": multiply_adds and int(multiply_adds)},
        "config": {"scale": scale, "eval_precision": "float32"},
        "device": "EPYC, 2 threads",
        "conditions": "",
        "sets": sets,
        **more,
    }
    path = folder / f"{file or name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def made(*files, protocol="standard", **options):
    return boards([read_result(file, protocol) for file in files], protocol, **options)
