"""The plots of a curriculum's candidates: their agreement, and what became of them.

Of a short run each iteration has its line or bar, of a long one a row of a picture or a place on an
axis.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rzero_ray.run.report.candidates import agreement_counts
from rzero_ray.run.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Plot,
    add_legend,
    draw,
    spread,
)
from rzero_ray.run.report.summary import outcomes
from rzero_ray.run.rows import Row, phase_rows
from rzero_ray.run.stored import StoredRun

_REASON_COLOURS = (GREEN, GREY, ORANGE, RED, PURPLE, BLUE, SKY, OLIVE)
_MAX_BARS = 20
"""Iterations that have a bar each."""
_MAX_LINES = 12
"""Iterations that have a line of their own in a plot."""
_MAX_ROWS = 300
"""Iterations that have a row of a picture."""
_AGREEMENT = "agreement: share of answered votes for the majority"

_Counts = Mapping[int, NDArray[np.int64]]
"""By iteration, how many candidates are in each bin."""
_Parts = Mapping[str, tuple[str, NDArray[np.int64]]]
"""By outcome its colour, and how many candidates of each iteration came to it."""


def plot_agreement(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    """Return how the agreement of candidates is distributed, by iteration; None without any."""
    settings = run.config.curriculum
    # One bin per possible share when every vote is an answer.
    edges = (np.arange(settings.num_votes + 2) - 0.5) / settings.num_votes
    counts = agreement_counts(run, edges)
    if not counts:
        return None
    paint = _agreement_lines if len(counts) <= _MAX_LINES else _agreement_map
    band = (settings.min_agreement, settings.max_agreement)

    caption = "Of the curriculum's candidates; the marked band is what the Solver trains on."
    if settings.early_stopping:
        caption += (
            " Of the votes taken: voting stops once it is certain whether a question is kept, so a "
            "share may be of fewer votes than the full number, most often near 0 and 1."
        )
    svg = draw((5.2, 3.4), lambda axes: paint(axes, counts, edges, band))
    return Plot("Agreement", caption, svg)


def _agreement_lines(
    axes: Any, counts: _Counts, edges: NDArray[np.float64], band: tuple[float, float]
) -> None:
    told = set(spread(list(counts)))
    axes.axvspan(*band, color=GREEN, alpha=0.13, linewidth=0)
    for colour, (iteration, of_bins) in zip(_shades(len(counts)), counts.items(), strict=True):
        label = f"iteration {iteration}" if iteration in told else None
        axes.stairs(of_bins / of_bins.sum(), edges, color=colour, label=label, linewidth=1.8)
    axes.set(xlabel=_AGREEMENT, xlim=(0, 1.05), ylabel="share of candidates")
    add_legend(axes)


def _agreement_map(
    axes: Any, counts: _Counts, edges: NDArray[np.float64], band: tuple[float, float]
) -> None:
    """Paint many iterations, one below the other: the darker, the more candidates."""
    iterations = spread(list(counts), _MAX_ROWS)
    shares = [counts[iteration] / counts[iteration].sum() for iteration in iterations]
    extent = (edges[0], edges[-1], iterations[-1] + 0.5, iterations[0] - 0.5)
    shown = axes.imshow(
        shares, cmap="Blues", aspect="auto", extent=extent, vmin=0, interpolation="none"
    )
    axes.vlines(band, extent[3], extent[2], color=GREEN, linestyle="--")
    axes.set(xlabel=_AGREEMENT, ylabel="iteration", yticks=spread(iterations))
    axes.figure.colorbar(shown, label="share of candidates")


def _shades(count: int) -> list[tuple[float, float, float]]:
    """Return colours from light to dark, so that later iterations stand out."""
    light, dark = np.array([0.64, 0.80, 0.93]), np.array([0.0, 0.34, 0.62])
    steps = np.linspace(1.0 if count == 1 else 0.0, 1.0, count)
    return [tuple(light + step * (dark - light)) for step in steps]


def plot_outcomes(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    """Return what became of candidates, by iteration; None before the first curriculum."""
    totals: dict[int, Counter[str]] = defaultdict(Counter)
    for row in phase_rows(metrics, "curriculum"):
        totals[row["iteration"]].update(outcomes(row))
    if not totals:
        return None
    reasons = [
        "kept",
        *sorted({reason for counts in totals.values() for reason in counts} - {"kept"}),
    ]

    parts = {
        reason: (
            _REASON_COLOURS[place % len(_REASON_COLOURS)],
            np.array([counts[reason] for counts in totals.values()]),
        )
        for place, reason in enumerate(reasons)
    }
    paint = _outcome_bars if len(totals) <= _MAX_BARS else _outcome_areas
    height = 2.2 + 0.3 * len(totals) if len(totals) <= _MAX_BARS else 3.4
    caption = "What became of the candidates: the first reason that applies to each."
    svg = draw((5.2, height), lambda axes: paint(axes, list(totals), parts))
    return Plot("Kept and dropped", caption, svg)


def _outcome_bars(axes: Any, iterations: Sequence[int], parts: _Parts) -> None:
    left = np.zeros(len(iterations))
    for reason, (colour, widths) in parts.items():
        axes.barh(iterations, widths, left=left, color=colour, label=reason)
        left += widths
    axes.set_yticks(iterations, [f"iteration {i}" for i in iterations])
    axes.invert_yaxis()
    axes.set(xlabel="candidates")
    add_legend(axes)


def _outcome_areas(axes: Any, iterations: Sequence[int], parts: _Parts) -> None:
    colours, counts = zip(*parts.values(), strict=True)
    axes.stackplot(iterations, *counts, colors=colours, labels=list(parts))
    axes.set(xticks=spread(iterations), xlabel="iteration", ylabel="candidates")
    add_legend(axes)
