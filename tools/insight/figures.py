"""The figure of each kind of insight, as matplotlib figures."""

from typing import Any

import numpy as np
from torch import Tensor

from tools.insight.attention import CELL, WINDOW, Query
from tools.insight.drawing import BLUE, RED, box, colour_bar, grey, panels, pixels, show
from tools.insight.erf import centre_of
from tools.insight.lam import SHARE, Attribution, Window, area


def draw_lam(picture: Tensor, sr: Tensor, found: Attribution, window: Window, scale: int) -> Any:
    """LR with the window | SR around the window | attribution | area of contribution."""
    height, width = picture.shape[-2:]
    left, top, side = window
    figure, ((low, large, map_axes, area_axes),) = panels([height], 4, width, inches=2.4)
    show(low, pixels(picture), "LR and the window")
    show(large, *around(sr, window))
    strength, title = found.strength, f"attribution, DI {found.diffusion:.2f}"
    show(map_axes, strength / max(strength.max(), 1e-12), title, cmap="Reds", norm=faint())
    inside = area(strength)
    shaded = grey(picture)
    shaded[inside] = (0.45 * shaded[inside] + 0.55 * np.array((224, 32, 42))).astype(np.uint8)
    show(area_axes, shaded, f"area of {SHARE:.0%}: {inside.sum():,} pixels")
    for axes in (low, map_axes, area_axes):
        box(axes, left / scale, top / scale, side / scale, side / scale, RED if axes is low else BLUE)
    return figure


def around(sr: Tensor, window: Window) -> tuple[np.ndarray, str]:
    """The part of the SR image that is the window, as pixels, and its title."""
    left, top, side = window
    return pixels(sr[..., top : top + side, left : left + side]), f"the window in SR, {side}x{side}"


def faint() -> Any:
    """Colours for numbers in [0, 1] of which most are small: by their square root."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, 0, 1)


def draw_erf(field: np.ndarray, shares: tuple[float, ...], found: list[float], name: str) -> Any:
    """The field on a logarithmic scale, with the discs that hold the shares."""
    from matplotlib.colors import LogNorm
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    height, width = field.shape
    figure, ((axes,),) = panels([height], 1, width, inches=3, bar=True)
    figure.set_size_inches(figure.get_size_inches() + (0, 0.6))  # below is the legend
    seen = np.where(field > 0, field / field.max(), np.nan)
    drawn = show(axes, seen, f"effective receptive field of {name}", cmap="viridis", norm=LogNorm(1e-6, 1))
    row, column = centre_of(height, width)
    lines = []
    for share, radius, style in zip(shares, found, ("-", "--", ":"), strict=True):
        look: dict[str, Any] = {"color": RED, "linewidth": 1.3, "linestyle": style}
        axes.add_patch(Circle((column, row), radius, fill=False, **look))
        lines.append(Line2D([], [], label=f"{share:.0%} within {radius:.1f} LR pixels", **look))
    figure.legend(handles=lines, loc="outside lower left", fontsize=8, frameon=False)
    colour_bar(figure, drawn, axes, "gradient, the largest is 1")
    return figure


def draw_stages(images: list[tuple[str, Tensor]], columns: int = 4) -> Any:
    """Titled images (1, 3, sH, sW), row after row."""
    height, width = images[0][1].shape[-2:]
    figure, every = panels([height] * -(-len(images) // columns), columns, width)
    for axes in every.flat:
        axes.set_axis_off()
    for axes, (title, image) in zip(every.flat, images, strict=False):
        show(axes, pixels(image), title)
    return figure


def draw_moe(pictures: list[Tensor], maps: list[np.ndarray], names: list[str], experts: list[str]) -> Any:
    """A row for each picture: LR and the maps (3, H, W) of the experts, all in one range of colours."""
    heights, width = [picture.shape[-2] for picture in pictures], max(picture.shape[-1] for picture in pictures)
    figure, every = panels(heights, 4, width, bar=True)
    least, most = min(found.min() for found in maps), max(found.max() for found in maps)
    for row, picture, found, name in zip(every, pictures, maps, names, strict=True):
        show(row[0], pixels(picture), name)
        for axes, expert, one in zip(row[1:], experts, found, strict=True):
            drawn = show(axes, one, f"{expert}: mean {one.mean():.3f}", cmap="cividis", vmin=least, vmax=most)
    colour_bar(figure, drawn, list(every.flat), "weight, mean over channels")
    return figure


def draw_attention(picture: Tensor, maps: list[tuple[str, np.ndarray]], query: Query, one: bool) -> Any:
    """LR with block and window | for each (title, map (10, 10)) the map over the part of the picture beneath it.

    Args:
        one: the maps are of one query, which is marked; else means over the block's.
    """
    left, right, bottom, top = query.window
    columns = min(5, 1 + len(maps))
    figure, every = panels([WINDOW] * -(-(1 + len(maps)) // columns), columns, WINDOW, bar=True)
    for axes in every.flat:
        axes.set_axis_off()
    first, *others = every.flat
    show(first, pixels(picture), "LR, block and window")
    box(first, left + 0.5, top + 0.5, right - left, bottom - top, BLUE)
    most = max(found.max() for _, found in maps)
    for axes, (title, found) in zip(others, maps, strict=False):
        show(axes, grey(picture), title)
        drawn = axes.imshow(found, cmap=see_through(), vmin=0, vmax=most, extent=query.window)
        axes.set(xlim=(left, right), ylim=(bottom, top))
    for axes in every.flat[: 1 + len(maps)]:
        block = CELL * (WINDOW - 2)
        box(axes, left + CELL + 0.5, top + CELL + 0.5, block, block)
        if one:
            box(axes, CELL * query.column, CELL * query.row, CELL, CELL, BLUE)
    colour_bar(figure, drawn, list(every.flat), "attention")
    return figure


def see_through() -> Any:
    """Colours from nothing to red."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("see through", [(0.9, 0, 0.05, 0), (0.9, 0, 0.05, 1)])
