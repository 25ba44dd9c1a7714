"""How strongly a JPEG is compressed, read off its quantisation tables."""

STRONG = 75  # below this quality, blocks are seen once they are enlarged
_STANDARD_SUM = 3692  # of the 64 entries of the luminance table of JPEG's Annex K, which stands for quality 50


def jpeg_quality(tables: dict[int, list[int]]) -> int | None:
    """The quality, 1 to 100, for which libjpeg would write a luminance table as coarse as the first one here.

    Args:
        tables: number -> 64 entries, as Pillow's `quantization`. None is returned where there is no whole table.
    """
    entries = list(tables.get(0, ()))
    if len(entries) != 64:
        return None
    percent = 100 * sum(entries) / _STANDARD_SUM  # libjpeg: 200 - 2 quality, or 5000 / quality below 50
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return min(max(round(quality), 1), 100)
