"""A page of HTML as a test reads it: elements closed in order, the text of tables, all addresses; and what to show."""

from html.parser import HTMLParser

import numpy as np

from datas import Pair, downscale, upscale

VOID = {"br", "img", "input", "link", "meta"}
ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")


class Page(HTMLParser):
    """What stands on a page.

    Attributes:
        elements: (name, attributes) in order.
        tables: of each table its rows of cells' text, by its label.
        addresses: of everything that a browser would load or lead to.
        text: what a reader sees, and the title.
    """

    def __init__(self, data: bytes):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.addresses: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(data.decode("utf-8"))
        self.close()
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, attributes))
        self.addresses += [value for name, value in attrs if name in ADDRESSES]
        if attributes.get("role") == "region":
            self._rows = self.tables.setdefault(attributes["aria-label"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"{tag} is closed out of order"

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    def names(self) -> set[str]:
        return {name for name, _ in self.elements}


def images(count, side=160, seed=0):
    """(pair, SR, bicubic) of smooth images with noise; the SR is HR with a little noise of its own."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = upscale(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8), 8)
        hr = np.clip(coarse + rng.normal(0, 9, coarse.shape), 0, 255).astype(np.uint8)
        lr = downscale(hr, 2)
        sr = np.clip(hr + rng.normal(0, 2 + number, hr.shape), 0, 255).astype(np.uint8)
        yield Pair(f"image {number}", lr, hr), sr, upscale(lr, 2)


def summary(sets):
    """As `report.as_json` gives it, of made-up figures."""
    rng = np.random.default_rng(1)

    def scores():
        return {"psnr": float(rng.uniform(20, 40)), "ssim": float(rng.uniform(0.5, 1))}

    def image():
        bicubic = {"standard": scores(), "official": scores()}
        return {"standard": scores(), "official": scores(), "bicubic": bicubic, "seconds": float(rng.uniform(0, 2))}

    return {
        "network": {"name": "SSIU", "parameters": 794467, "multiply_adds": 48905256960},
        "config": {"scale": 2, "eval_precision": "float32", "data_path": "<b>"},
        "weights": {"file": "x.pt", "sha256": "ab" * 32},
        "device": "a device",
        "versions": {"commit": "abc"},
        "self_ensemble": False,
        "tiles": None,
        "conditions": "",
        "sets": {name: {"images": {one: image() for one in names}, "lr": "12ab"} for name, names in sets.items()},
    }
