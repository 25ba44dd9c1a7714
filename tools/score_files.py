"""What `tools.score` found, and the files it writes: JSON and CSV as test.py's, without times."""

from dataclasses import dataclass

from datas.fingerprints import set_fingerprint
from evaluation.metrics import Scores, mean_scores
from evaluation.report import csv_cells, versions, write_csv_rows
from tools.perceptual import PERCEPTUAL

OFFICIAL_INPUT = "uint8"  # what `official` scores of files are of; those of test.py are of float images


@dataclass(frozen=True)
class ScoredImage:
    """Scores by 'standard', 'official' and 'rgb', those of bicubic by protocol, LPIPS and DISTS where asked for."""

    scores: dict[str, Scores]
    bicubic: dict[str, Scores]
    perceptual: dict[str, float]


@dataclass(frozen=True)
class ScoredSet:
    """By the name of the HR file: a set's images, and digests of its HR and, if given, LR images."""

    name: str
    images: dict[str, ScoredImage]
    hr: dict[str, str]
    lr: dict[str, str]


def mean_of(scored: ScoredSet) -> ScoredImage:
    """Plain means over the images."""
    images = list(scored.images.values())

    def means(parts: list[dict[str, Scores]]) -> dict[str, Scores]:
        return {key: mean_scores([part[key] for part in parts]) for key in parts[0]}

    return ScoredImage(
        means([image.scores for image in images]),
        means([image.bicubic for image in images]),
        {key: sum(image.perceptual[key] for image in images) / len(images) for key in images[0].perceptual},
    )


def as_json(scored: ScoredSet, network: dict, scale: int) -> dict:
    """Everything that is known: the keys are those of test.py --json, and more."""
    found = {
        **_entry(mean_of(scored)),
        "official_input": OFFICIAL_INPUT,
        "hr": set_fingerprint(scored.hr),
        **({"lr": set_fingerprint(scored.lr)} if scored.lr else {}),
        "images": {name: _entry(image) for name, image in scored.images.items()},
    }
    return {
        "network": network,
        "scale": scale,
        "versions": versions(),
        "conditions": "",
        "sets": {scored.name: found},
    }


def _entry(image: ScoredImage) -> dict:
    scores = {key: found._asdict() for key, found in image.scores.items()}
    return {**scores, "bicubic": {key: found._asdict() for key, found in image.bicubic.items()}, **image.perceptual}


def write_csv(path, scored: ScoredSet, network: str) -> None:
    """One line per image: the columns of test.py's per_image.csv, then those that only files of images have."""
    own = ["official_input", *(f"rgb_{metric}" for metric in Scores._fields), *PERCEPTUAL]
    rows = []
    for name, image in scored.images.items():
        perceptual = (image.perceptual.get(key, "") for key in PERCEPTUAL)
        more = "", network, "", OFFICIAL_INPUT, *image.scores["rgb"], *perceptual
        rows.append([scored.name, name, *csv_cells(image.scores, image.bicubic), *more])
    write_csv_rows(path, rows, own)
