"""Drawing: plots as SVG text whose colours follow the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

INK = "#123456"
"""Stands for the page's text colour in a plot: replaced by `currentColor`, for dark pages."""
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
LIGHT_BLUE = "#A6CEE3"
RED, PURPLE, GREY = "#D55E00", "#B35A91", "#8A8F98"
SKY, OLIVE = "#56B4E9", "#C7B42C"
OF_SEVERAL = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY, SKY, OLIVE)
"""Colours of runs, or of arms, that share a plot."""
MAX_TOLD = 6
"""Iterations that an axis or a legend names: more have no room, and cost a second a plot."""
_MOST_STRETCHES = 300
"""Of a line: three points of each are some 100 KB of a page at the most."""
_MOST_LARGE_MARKS = 60
_LONGEST_OF_THREE = 18
"""Characters of a legend's entry of which three are beside each other."""
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}


class Series(NamedTuple):
    """One line of a plot."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: str


class Plot(NamedTuple):
    """A plot with what it shows, in a sentence."""

    title: str
    caption: str
    svg: str


def draw(size: tuple[float, float], paint: Callable[[Any], None], num_axes: int = 1) -> str:
    """Return a plot as inline SVG; `paint` gets the axes, or the list of them."""
    # Imported here: slow, and a run needs it only at its end.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, num_axes, squeeze=False)[0]
        paint(axes[0] if num_axes == 1 else axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    # Inside HTML an SVG needs no document type, no name spaces and no licence, and its style is
    # the page's (`markup`), whose policy allows no other one.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    return svg.replace(INK, "currentColor")


def plot_lines(series: Sequence[Series], paint: Callable[[Any], None] = lambda axes: None) -> str:
    def paint_lines(axes: Any) -> None:
        for line in series:
            paint_line(axes, line)
        paint(axes)
        add_legend(axes)

    return draw((5.2, 3.4), paint_lines)


def paint_line(axes: Any, line: Series) -> None:
    """Paint a line with a mark at each point: a point that has no neighbour is seen, too."""
    xs, ys = thinned(line.xs, line.ys)
    size = min(4.0, max(1.2, 4.0 * _MOST_LARGE_MARKS / max(len(xs), 1)))
    axes.plot(xs, ys, "o-", color=line.colour, label=line.name, markersize=size)


def thinned(
    xs: Sequence[float], ys: Sequence[float | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a line's points, NaN for a missing one, and of a long line a part of them: of each of
    so many stretches of equal length the lowest, the highest and the first that is missing."""
    x = np.asarray(xs, dtype=np.float64)
    y = np.array([np.nan if value is None else value for value in ys], dtype=np.float64)
    if len(x) <= 3 * _MOST_STRETCHES:
        return x, y
    stretches = np.array_split(np.arange(len(x)), _MOST_STRETCHES)
    chosen = sorted({place for stretch in stretches for place in _extremes(y, stretch)})
    return x[chosen], y[chosen]


def _extremes(y: NDArray[np.float64], stretch: NDArray[np.int64]) -> list[int]:
    missing = np.isnan(y[stretch])
    there = stretch[~missing]
    found = stretch[missing][:1].tolist()
    if len(there):
        found += [int(there[y[there].argmin()]), int(there[y[there].argmax()])]
    return found


def spread(items: Sequence[int], count: int = MAX_TOLD) -> list[int]:
    """Return at most `count` items: the first, the last and some evenly between."""
    if len(items) <= count:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


def add_legend(axes: Any) -> None:
    """Put the legend above the axes, where it hides no line."""
    labels = axes.get_legend_handles_labels()[1]
    is_wide = any(len(label) > _LONGEST_OF_THREE for label in labels)
    num_columns = 3 if len(labels) > 4 and not is_wide else 2
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=num_columns, borderaxespad=0.2)
