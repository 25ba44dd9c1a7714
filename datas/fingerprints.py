"""Fingerprints of evaluation sets: which images they are, whatever file format they lie in.

A digest is of pixels as they are scored: RGB, HR cropped at the top left to a multiple of the scale, so that HR images
that come cropped are the same as those that come whole. `known_sets.tsv` holds those of the sets that were at hand when
it was made: Set5 (HR and MATLAB's own LR images), Set14 and B100 (HR). `datas.known_sets` writes such lines.
"""

import csv
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from datas.images import pixel_digest
from datas.layout import BENCHMARKS

KNOWN_SETS = Path(__file__).with_name("known_sets.tsv")
DIGITS = 12  # of an image's digest: enough to tell images apart, too few to prove anything against forgery
NAMED = 5  # images that a line names


def image_digest(image: np.ndarray) -> str:
    """Of an image's size and pixels, (H, W, 3) uint8: 12 hexadecimal digits."""
    return pixel_digest(image.shape, [np.ascontiguousarray(image).reshape(-1)])[:DIGITS]


def set_fingerprint(digests: dict[str, str]) -> str:
    """Of a set's image names and digests, in the order of the names: 16 hexadecimal digits."""
    lines = (f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@cache
def known_digests(set_name: str, kind: str, scale: int) -> dict[str, str]:
    """The digests by image name of a set as it is commonly distributed; empty where that was not recorded.

    Args:
        kind: 'HR' (cropped to a multiple of `scale`) or 'LR'.
    """
    with KNOWN_SETS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if (row["set"], row["kind"]) == (set_name, kind)]
    return {row["image"]: digest for row in rows if (digest := row.get(f"x{scale}"))}


def deviations(found: dict[str, str], known: dict[str, str]) -> list[str] | None:
    """How a set differs from the known one, by image, as 'baby differs'; None if `known` is empty: none is known."""
    if not known:
        return None
    name_of = {digest: name for name, digest in known.items()}
    renamed = {name: name_of[digest] for name, digest in found.items() if name not in known and digest in name_of}
    lists = {
        ("differs", "differ"): [name for name, digest in found.items() if known.get(name, digest) != digest],
        ("is missing", "are missing"): [name for name in known if name not in {*found, *renamed.values()}],
        ("is none of the set", "are none of the set"): [name for name in found if name not in {*known, *renamed}],
        ("has another name", "have other names"): [f"{old} (here {name})" for name, old in renamed.items()],
    }
    return [f"{_some(names)} {verbs[len(names) > 1]}" for verbs, names in lists.items() if names]


def known_or_not(set_name: str, scale: int, found: dict[str, str]) -> str:
    """The fingerprint of a set's HR images, and whether they are those commonly distributed under this name."""
    text = f"fingerprint {set_fingerprint(found)}"
    other = deviations(found, known_digests(set_name, "HR", scale))
    if other is not None:
        verdict = f"not the images commonly distributed: {'; '.join(other)}" if other else "as commonly distributed"
        return f"{text}, {verdict}"
    expected = BENCHMARKS.get(set_name)
    if expected is None:
        return text
    other_count = f"; the published set has {expected} images" if len(found) != expected else ""
    return f"{text} (that of the published set is not on record here){other_count}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
