"""What every figure needs: matplotlib, which is optional, and fonts that journals take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils import InputError

ENDINGS = (".png", ".pdf")
FONTS: dict[Any, Any] = {"pdf.fonttype": 42}  # TrueType, which journals take; the default of PDF is Type 3


def need_ending(option: str, file: Path) -> None:
    """Raise InputError for a file that figures are not written to."""
    if file.suffix.lower() not in ENDINGS:
        raise InputError(f"{option} {file}: must end in {' or '.join(ENDINGS)}")


def need_matplotlib(who: str) -> None:
    """Raise InputError where there is no matplotlib; `who` begins the sentence, as '--plot needs'."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(f"{who} matplotlib: pip install matplotlib") from error


@contextmanager
def embedded_fonts() -> Iterator[None]:
    """Figures that are drawn and written in the block have TrueType fonts."""
    from matplotlib import rc_context

    with rc_context(FONTS):
        yield
