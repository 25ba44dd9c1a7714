"""Pages of one file: elements whose text is escaped, pictures inside, one style, one script, nothing from outside."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).parent
LOSSLESS = 101  # for OpenCV a quality above 100 says so
_VOID = {"br", "img", "input", "link", "meta"}
_UNFIT = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Html(str):
    """Markup. Any other text is escaped where it becomes part of a page."""


def escaped(value: object) -> Html:
    """Markup that shows the text; control characters, and those that turn its direction, are shown as escapes."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNFIT.sub(lambda found: ascii(found[0])[1:-1], str(value))))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. A `_` at the end of an attribute's name is dropped, others become `-`; None leaves it out."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    start = "".join(
        f" {key}" if value is True else f' {key}="{escaped(value)}"' for key, value in named if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{start}>")
    return Html(f"<{name}{start}>{joined(*children)}</{name}>")


def joined(*parts: object) -> Html:
    return Html("".join(map(escaped, parts)))


def section(title: str, *children: object) -> Html:
    return tag("section", tag("h2", title), *children)


def facts(values: Mapping[str, object]) -> Html:
    """Names and values, one pair a line; empty values are left out."""
    pairs = [joined(tag("dt", name), tag("dd", value)) for name, value in values.items() if value not in ("", None)]
    return tag("dl", *pairs)


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str, sortable: bool = False) -> Html:
    """A table in a box that scrolls by itself; what looks like a number stands at the right.

    Args:
        caption: says to a screen reader what it is of.
        sortable: rows can be sorted by a column, where the page's script runs.
    """
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(header))]
    side = ["n" if one else None for one in numeric]
    heads = [tag("th", cell, scope="col", class_=kind) for cell, kind in zip(header, side, strict=True)]
    lines = [tag("tr", *(tag("td", c, class_=k) for c, k in zip(row, side, strict=True))) for row in rows]
    body = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines), class_="sortable" if sortable else None)
    return tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _is_number(cell: object) -> bool:
    """Whether a cell begins as a number does, or is empty."""
    return not isinstance(cell, Html) and re.match(r"[-+]?\d|$|inf|nan|–$", str(cell)) is not None


def uri(data: bytes) -> str:
    """A WebP file as an address of itself."""
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def webp(image: np.ndarray, quality: int) -> bytes:
    """uint8 RGB (H, W, 3) as a WebP file; `LOSSLESS`, or a quality up to 100."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def document(title: str, *body: object) -> bytes:
    """The page as a file. Its policy lets it load nothing, and run no script but its own."""
    style, script = ((HERE / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(style)),
    )
    main = tag("main", tag("h1", title), *body)
    page = tag("html", head, tag("body", main, tag("script", Html(script))), lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def _digest(text: str) -> str:
    """As a page's policy names what it may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
