"""Drawing: plots as SVG text whose colours follow the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

INK = "#123456"
"""Stands for the page's text colour in a plot: replaced by `currentColor`, for dark pages."""
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
LIGHT_BLUE = "#A6CEE3"
RED, PURPLE, GREY = "#D55E00", "#B35A91", "#8A8F98"
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
    # Inside HTML an SVG needs no document type, no name spaces and no licence.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    return svg.replace(INK, "currentColor")


def plot_lines(series: Sequence[Series], paint: Callable[[Any], None] = lambda axes: None) -> str:
    def paint_lines(axes: Any) -> None:
        for line in series:
            ys = [np.nan if y is None else y for y in line.ys]
            axes.plot(line.xs, ys, "o-", color=line.colour, label=line.name)
        paint(axes)
        add_legend(axes)

    return draw((5.2, 3.4), paint_lines)


def add_legend(axes: Any) -> None:
    """Put the legend above the axes, where it hides no line."""
    num_columns = 3 if len(axes.get_legend_handles_labels()[0]) > 4 else 2
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=num_columns, borderaxespad=0.2)
