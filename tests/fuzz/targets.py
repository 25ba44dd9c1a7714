"""What is fuzzed: each reader of files from strangers, with good files to begin from and what it may raise."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import safetensors.torch
import tifffile
import torch
import yaml
from fuzz import mutate
from helpers import ROOT, TINY, train
from picture_files import cmyk_profile, png
from PIL import Image

from config import load_config, parse_overrides
from datas import read_rgb, write_png
from datas.images import image_size
from datas.sample import make_sample
from datas.store import pack
from models import ModelError, create_model
from models.weights import load_weights, read_checkpoint
from pictures.decode import read_picture
from pictures.exif import kept_exif
from pictures.read import read_head
from tools.record import read_run
from training.checkpoint_form import checked_form
from training.logs import RunLog
from utils import InputError

Mutate = Callable[[bytes, list[bytes], Random], bytes]


@dataclass
class Target:
    """A reader: `read(folder, data)` writes the input into an empty folder and reads it."""

    seeds: list[bytes]
    mutate: Mutate
    read: Callable[[Path, bytes], object]
    expected: tuple[type[Exception], ...] = (InputError, ModelError)
    weight: int = 1  # its share of the inputs


def make_targets(work: Path) -> dict[str, Target]:
    """All readers by name; `work` is a folder for what they need."""
    images = make_images(work / "images")
    run, config = make_run(work)
    weights = [(run / "best.pt").read_bytes(), (run / "iteration_0000002.pt").read_bytes(), *other_forms(work, config)]
    configs = [path.read_bytes() for path in [*sorted((ROOT / "configs").rglob("*.yml")), run / "config.yml"]]
    model = create_model(config)
    return {
        "config": Target(configs, mutate.blind, read_config, weight=3),
        "--set": Target(overrides(configs), mutate.blind, read_override, weight=2),
        "checkpoint": Target(weights, mutate.checkpoint, lambda *where: read_weights(model, *where), weight=3),
        "image": Target(images, mutate.png, read_image, weight=4),
        "picture": Target([*images, *make_pictures()], mutate.png, read_any_picture, weight=4),
        "manifest": store_target(work),
        "records": Target(
            [(run / "metrics.jsonl").read_bytes()], mutate.jsonic, lambda *what: read_records(run, *what)
        ),
    }


def make_run(work: Path):
    """The folder of a short run, and its config."""
    make_sample(work / "data")
    values = {**TINY, "data_path": str(work / "data"), "patch_size": 24, "epochs": 2, "data_repeat": 1, "scale": 4}
    values |= {"batch_size": 6, "eval_sets": [], "ema_decay": 0.9, "log_path": str(work)}
    (work / "tiny.yml").write_text(yaml.safe_dump(values))
    config = load_config(work / "tiny.yml")
    train(config, work / "run")
    newest = work / "run" / "iteration_0000002.pt"
    shutil.copy(newest, work / "run" / "best.pt")
    line = {"kind": "validation/Sample", "iteration": 2, "psnr": 30.0, "ssim": 0.9, "minutes": 0.1}
    with open(work / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    return work / "run", config


def other_forms(work: Path, config) -> list[bytes]:
    """Weights as a bare state dict, in PyTorch's older format, and as safetensors."""
    state = create_model(config).state_dict()
    torch.save(state, work / "bare.pt")
    torch.save({"model": state}, work / "legacy.pt", _use_new_zipfile_serialization=False)
    return [(work / "bare.pt").read_bytes(), (work / "legacy.pt").read_bytes(), safetensors.torch.save(state)]


def make_images(folder: Path) -> list[bytes]:
    """Small images of every format that is read."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    files = []
    for name, options in {
        "a.png": {}, "a.jpg": {}, "a.webp": {"lossless": True}, "b.webp": {}, "a.bmp": {}, "a.tif": {},
        "b.tif": {"compression": "tiff_lzw"}, "c.tif": {"compression": "tiff_deflate"},
    }.items():  # fmt: skip
        Image.fromarray(pixels).save(folder / name, **options)
        files.append(folder / name)
    Image.fromarray(pixels[:, :, 0]).save(folder / "grey.png")
    Image.fromarray(pixels).quantize(8).save(folder / "palette.png")
    return [path.read_bytes() for path in [*files, folder / "grey.png", folder / "palette.png"]]


def make_pictures() -> list[bytes]:
    """What people's pictures have beside 8-bit RGB: 16 bits, alpha, ink, few colours, EXIF, profiles, rare storage."""
    random = np.random.default_rng(2)
    pixels = random.integers(0, 256, (9, 13, 4), np.uint8)
    pixels[:3, :, 3] = 0
    deep = random.integers(0, 65536, (9, 13, 4), np.uint16)
    rgb, grey = Image.fromarray(pixels[:, :, :3]), Image.fromarray(pixels[:, :, 0])
    said = Image.Exif()
    said.update({0x112: 6, 0x10F: "Maker", 0x8769: {0x9003: "2020:01:01 00:00:00", 0xA002: 13}, 0x8825: {1: "N"}})
    exif = said.tobytes()
    made = [
        (rgb, "GIF", {}), (Image.fromarray(pixels), "GIF", {}), (rgb.quantize(8), "PNG", {"transparency": 3}),
        (rgb, "JPEG", {"exif": exif, "progressive": True}), (rgb, "WEBP", {"exif": exif}), (grey, "JPEG", {}),
        (rgb, "PNG", {"exif": exif}), (rgb, "TIFF", {"exif": exif}), (rgb, "TIFF", {"compression": "jpeg"}),
        (grey, "BMP", {}), (rgb.convert("1"), "TIFF", {"compression": "group4"}), (rgb.convert("1"), "PNG", {}),
        (Image.fromarray(pixels), "PNG", {}), (Image.fromarray(pixels), "WEBP", {"lossless": True}),
        (Image.fromarray(pixels), "TIFF", {"compression": "packbits"}), (rgb.quantize(8), "BMP", {}),
        (rgb.convert("LA"), "PNG", {}), (rgb.quantize(8), "TIFF", {}), (rgb.convert("YCbCr"), "TIFF", {}),
        *((rgb.convert("CMYK"), kind, {"icc_profile": cmyk_profile()}) for kind in ("JPEG", "TIFF")),
    ]  # fmt: skip
    files = []
    for image, kind, options in made:
        image.save(file := io.BytesIO(), kind, **options)
        files.append(file.getvalue())
    files += [png(deep[:, :, :channels], 16, colour) for channels, colour in ((1, 0), (2, 4), (3, 2), (4, 6))]
    files.append(png(deep[:, :, :3], 16, 2, transparent=(1, 2, 3)))
    for content, options in (
        (deep[:, :, 0], {"photometric": "miniswhite"}),
        (deep[:, :, :3], {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (deep, {"photometric": "rgb", "extrasamples": ["assocalpha"], "rowsperstrip": 4, "byteorder": ">"}),
        (np.moveaxis(deep[:, :, :3], 2, 0), {"photometric": "rgb", "planarconfig": "separate", "bigtiff": True}),
    ):
        tifffile.imwrite(file := io.BytesIO(), content, **options)
        files.append(file.getvalue())
    return files


def overrides(configs: list[bytes]) -> list[bytes]:
    """`key=value` texts from config files."""
    lines = [line for data in configs for line in data.decode().splitlines() if ": " in line and line[0] not in "# -"]
    return [line.replace(": ", "=", 1).encode() for line in dict.fromkeys(lines)]


def read_config(folder: Path, data: bytes) -> object:
    (folder / "x.yml").write_bytes(data)
    config = load_config(folder / "x.yml")
    (folder / "again.yml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(folder / "again.yml") == config, "the config that is written does not read back"
    return config


def read_override(_folder: Path, data: bytes) -> object:
    return parse_overrides([data.decode("utf-8", "surrogateescape")])


def read_weights(model: torch.nn.Module, folder: Path, data: bytes) -> object:
    name = "x.safetensors" if data[8:9] == b"{" else "x.pt"
    (folder / name).write_bytes(data)
    try:
        checked_form(read_checkpoint(folder / name), folder / name)
    except (InputError, ModelError) as error:
        assert str(error).isprintable(), "not one line"
    outcome = load_weights(model, folder / name)
    assert all(parameter.isfinite().all() for parameter in model.parameters()), "weights that are not finite"
    return outcome


def read_image(folder: Path, data: bytes) -> object:
    path = folder / "x.png"
    path.write_bytes(data)
    size = image_size(path)
    image = read_rgb(path)
    assert image.shape == (*size, 3) and image.dtype == np.uint8, "the header says something else"
    return image


def read_any_picture(folder: Path, data: bytes) -> object:
    path = folder / "x.png"
    path.write_bytes(data)
    head = read_head(path)
    picture = read_picture(data, str(path))
    colour, alpha = picture.colour, picture.alpha
    assert picture.head == head, "the header says something else the second time"
    assert colour.shape in [(head.height, head.width, channels) for channels in (1, 3)], "other pixels than named"
    assert colour.dtype in (np.uint8, np.uint16), "samples of a kind that nobody knows"
    assert alpha is None or (alpha.shape == colour.shape[:2] and alpha.dtype == colour.dtype), "alpha of another form"
    kept_exif(picture.exif, (head.width, head.height), str(path))
    return picture


def store_target(work: Path) -> Target:
    """The manifest of packed images: whatever it says, the pixels that are handed out are right."""
    random, folder = np.random.default_rng(1), work / "packed"
    pixels = [random.integers(0, 256, (5 + number, 9 - number, 3), np.uint8) for number in range(3)]
    files = [folder / f"{number}.png" for number in range(3)]
    for path, image in zip(files, pixels, strict=True):
        write_png(path, image)
    pack(files, work / "cache")
    (manifest,) = (work / "cache").glob("*.json")

    def read(cache: Path, data: bytes) -> object:
        shutil.copytree(work / "cache", cache, dirs_exist_ok=True)
        (cache / manifest.name).write_bytes(data)
        found = pack(files, cache)
        for number, image in enumerate(pixels):
            assert np.array_equal(found.whole(number), image), f"image {number} has other pixels"
        return found

    return Target([manifest.read_bytes()], mutate.jsonic, read, weight=1)


def read_records(run: Path, folder: Path, data: bytes) -> object:
    shutil.copy(run / "config.yml", folder)
    (folder / "metrics.jsonl").write_bytes(data)
    log = RunLog(folder, 2, 2)
    log.close()
    for line in filter(None, (folder / "metrics.jsonl").read_bytes().split(b"\n")):
        assert json.loads(line)["iteration"] <= 2, "a line beyond the checkpoint was kept"
    return read_run(folder)
