"""An evaluation as a page of one file, of what test.py --json writes and of pictures kept on the way."""

import math
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.charts import histogram
from evaluation.gallery import SIDE, Crop, Gallery
from evaluation.page import LOSSLESS, Html, document, escaped, facts, joined, section, table, tag, uri, webp
from evaluation.report import LEGEND, PROTOCOLS
from evaluation.tiles import Tiles
from yaml_file import dump_yaml

HEADER = [
    "", "set", "image", "PSNR", "SSIM", "official PSNR", "official SSIM", "bicubic PSNR", "gain, dB", "ms",
]  # fmt: skip


def report_page(
    summary: dict[str, Any],
    cells: Sequence[Sequence[str]],
    inspections: Mapping[str, Sequence[str]],
    gallery: Gallery,
    laps: Mapping[str, float],
) -> bytes:
    """The page, a UTF-8 file.

    Args:
        summary: as `report.as_json` gives it.
        cells: the table of sets, as `report.table_cells` gives it.
        inspections: of each set, lines about its images.
        gallery: of all processes.
        laps: seconds of the main thread by what it did.
    """
    network, scale = summary["network"]["name"], summary["config"]["scale"]
    how = [_extent(summary["sets"]), summary["conditions"], f"on {summary['device']}", time.strftime("%Y-%m-%d")]
    return document(
        f"{network} ×{scale}: evaluation",
        tag("p", ", ".join(filter(None, how)), class_="lead"),
        section("Scores", table(cells[0], cells[1:], caption="Scores of every set"), tag("p", LEGEND, class_="note")),
        _gains(summary["sets"]),
        _crops(gallery, network),
        _images(summary["sets"], gallery),
        _how(summary, inspections, laps),
    )


def _extent(sets: Mapping[str, Any]) -> str:
    images = sum(len(of_set["images"]) for of_set in sets.values())
    return f"{images} image{'s' * (images != 1)} of {len(sets)} set{'s' * (len(sets) != 1)}"


def _gains(sets: Mapping[str, Any]) -> Html:
    """The histogram of gains over bicubic; nothing where there is no HR."""
    gains = {name: [gain(image) for image in of_set["images"].values()] for name, of_set in sets.items()}
    known = {name: [value for value in values if value is not None] for name, values in gains.items()}
    chart = histogram("Histogram of gains over bicubic upscaling", known, "PSNR gain, dB")
    if not chart:
        return Html("")
    rows = [
        [
            escaped(name),
            str(len(found)),
            *(f"{value:+.2f}" for value in (min(found), statistics.median(found), max(found))),
        ]
        + [str(sum(value < 0 for value in found))]
        for name, found in known.items()
        if found
    ]
    header = ["set", "images", "least", "median", "most", "below 0"]
    summed = tag("div", table(header, rows, caption="Gains of every set, dB"))
    note = tag(
        "p", "PSNR in dB, standard protocol, less that of bicubic upscaling of the same LR image.", class_="note"
    )
    return section("Gain over bicubic", note, tag("div", tag("figure", chart), summed, class_="grid"))


def gain(image: Mapping[str, Any]) -> float | None:
    """PSNR less that of bicubic upscaling, of the standard protocol; None where either is unknown."""
    if "standard" not in image or "bicubic" not in image:
        return None
    return image["standard"]["psnr"] - image["bicubic"]["standard"]["psnr"]


def _crops(gallery: Gallery, network: str) -> Html:
    if not gallery.best:
        return Html("")
    text = (
        f"Windows of {SIDE} pixels in which the network gains most and least over bicubic upscaling, one per image at "
        "most, among those in which bicubic does no better than in the mean of the image. PSNR of RGB."
    )
    parts = [
        joined(tag("h3", title), tag("div", *(_comparison(crop, network) for crop in crops), class_="grid"))
        for title, crops in (("Largest gain", gallery.best), ("Smallest gain", gallery.worst))
    ]
    return section("Crops", tag("p", text, class_="note"), *parts)


def _comparison(crop: Crop, network: str) -> Html:
    """Bicubic, SR and HR side by side; the page's script puts the first two under a slider."""
    where = f"{crop.set_name}/{crop.name}"
    shots = [
        tag("div", tag("div", _shot(image, f"{kind}, {where}")), tag("span", kind), class_="shot")
        for kind, image in (("bicubic", crop.bicubic), (network, crop.sr), ("HR", crop.hr))
    ]
    name = tag("span", f"Share of bicubic, {where}", class_="hidden")
    slider = tag("label", name, tag("input", type="range", min=0, max=100, value=50))
    about = f" at ({crop.left}, {crop.top}): {crop.gain:+.2f} dB"
    caption = tag("figcaption", tag("b", where), about)
    return tag("figure", tag("div", *shots, class_="shots"), slider, caption, class_="compare")


def _shot(image: np.ndarray, text: str) -> Html:
    height, width = image.shape[:2]
    return tag("img", src=uri(webp(image, LOSSLESS)), alt=text, width=width, height=height)


def _images(sets: Mapping[str, Any], gallery: Gallery) -> Html:
    """A row for every image."""
    thumbnails = {(one.set_name, one.name): one.data for one in gallery.thumbnails}
    rows = [
        [_thumbnail(thumbnails.get((set_name, name))), escaped(set_name), tag("b", name), *_numbers(image)]
        for set_name, of_set in sets.items()
        for name, image in of_set["images"].items()
    ]
    text = "PSNR in dB, of single images and not rounded upwards; gain: standard PSNR less that of bicubic."
    caption = "Scores of every image"
    return section("Images", tag("p", text, class_="note"), table(HEADER, rows, caption=caption, sortable=True))


def _thumbnail(data: bytes | None) -> Html:
    return Html("") if data is None else tag("img", src=uri(data), alt="", width=66, height=44)


def _numbers(image: Mapping[str, Any]) -> list[str]:
    """The cells behind an image's name."""
    scores = [f"{image[p][m]:.{d}f}" if p in image else "–" for p in PROTOCOLS for m, d in (("psnr", 3), ("ssim", 4))]
    gained = gain(image)
    bicubic = [f"{image['bicubic']['standard']['psnr']:.3f}", f"{gained:+.3f}"] if gained is not None else ["–", "–"]
    return [*scores, *bicubic, f"{1000 * image['seconds']:.1f}"]


def _how(summary: Mapping[str, Any], inspections: Mapping[str, Sequence[str]], laps: Mapping[str, float]) -> Html:
    """With what it was measured."""
    network, weights, config = summary["network"], summary["weights"] or {}, summary["config"]
    images = [image for of_set in summary["sets"].values() for image in of_set["images"].values()]
    seconds = math.fsum(image["seconds"] for image in images)
    times = [f"{name} {taken:.1f} s" for name, taken in laps.items()]
    listed = {
        "network": network["name"],
        "parameters": _count(network.get("parameters")),
        "multiply-adds": _count(network.get("multiply_adds")),
        "weights": weights.get("file", "none"),
        "sha256": tag("code", weights["sha256"]) if weights else None,
        "conditions": summary["conditions"] or "the usual ones: whole images, float32, no self-ensemble",
        "precision": config["eval_precision"],
        "tiles": Tiles(**summary["tiles"]) if summary["tiles"] else "none",
        "self-ensemble": "8 flips and transpositions" if summary["self_ensemble"] else "no",
        "device": summary["device"],
        "times": f"network {seconds:.1f} s for {len(images)} images; {', '.join(times)}",
        "versions": ", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
        "command": tag("code", shlex.join(["python", "test.py", *sys.argv[1:]])),
    }
    sets = [tag("p", line) for lines in inspections.values() for line in lines]
    prints = [
        [name, kind, of_set[kind]]
        for name, of_set in summary["sets"].items()
        for kind in ("hr", "lr")
        if kind in of_set
    ]
    return joined(
        section("How it was measured", facts(listed)),
        section("Data", *sets, _fingerprints(prints)),
        section("Config", tag("details", tag("summary", "all keys"), tag("pre", dump_yaml(config)))),
    )


def _fingerprints(prints: Sequence[Sequence[str]]) -> Html:
    if not prints:
        return Html("")
    rows = [[escaped(name), kind.upper(), tag("code", fingerprint)] for name, kind, fingerprint in prints]
    return table(["set", "images", "fingerprint"], rows, caption="Fingerprints of the sets")


def _count(number: float | None) -> str:
    """With thousands set apart; empty if it is unknown."""
    return "" if number is None else f"{number:,.0f}"
