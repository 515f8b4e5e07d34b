"""What a study comes to: figures of runs to means over base models, and to comparisons of arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rzero_ray.evaluation.statistics import MeanOverBases, bases_needed, holm, mean_over_bases
from rzero_ray.run.rows import mean
from rzero_ray.study.figures import RunFigures
from rzero_ray.study.plan import Comparison, Plan

DIFFERENCE = 0.02
"""The difference for which the number of base models is told that finds it."""
COMPARED = ("mean", "greedy", "labels", "referee", "middling")
"""The figures of an iteration that are compared beside the primary metric."""

Figure = Callable[[RunFigures], float | None]
"""Takes one figure of a run; None where the run has not got it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """An arm, over its base models."""

    arm: str
    num_runs: int
    """The finished ones."""
    num_planned: int
    totals: Mapping[str, MeanOverBases]
    """The figures of `RunFigures.totals`."""
    series: Mapping[str, Sequence[MeanOverBases | None]]
    """The figures of `RunFigures.by_iteration`, each by iteration from the base model on; None
    where no run has it."""
    last: Mapping[str, MeanOverBases]
    """The same as means over the last iterations, as the primary metric is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """One arm minus another, paired by base model."""

    comparison: Comparison
    primary: MeanOverBases | None
    """The difference of the primary metric; None where no base model has runs of both."""
    by_base: Mapping[int, float]
    """The same by base seed."""
    holm: float | None
    """The p value, adjusted for all comparisons of the plan."""
    num_needed: int | None
    """The base models that would find a difference of `DIFFERENCE`, by the spread of these."""
    others: Mapping[str, MeanOverBases]
    """The differences of other figures: `fall`, and at the end of a run the accuracies and the
    label accuracy, those by stratum too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """All of a study."""

    arms: Sequence[ArmResult]
    comparisons: Sequence[ComparisonResult]


def summarize(plan: Plan, runs: Sequence[RunFigures], last: int) -> StudyResult:
    """Return the results of the plan's finished runs; `last` iterations make the end of a run."""
    num_planned = len(plan.bases) * len(plan.seeds)
    return StudyResult(
        arms=[
            _arm(arm, [run for run in runs if run.place.arm == arm], num_planned, last)
            for arm in plan.arms
        ],
        comparisons=_compare(plan.comparisons(), runs, last),
    )


def over_bases(runs: Sequence[RunFigures], figure: Figure) -> MeanOverBases | None:
    """Return the mean over base models, run seeds averaged first; None where no run has it."""
    return _mean(_by_base(runs, figure))


def _mean(by_base: Mapping[int, float]) -> MeanOverBases | None:
    return mean_over_bases(list(by_base.values())) if by_base else None


def _by_base(runs: Sequence[RunFigures], figure: Figure) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for run in runs:
        value = figure(run)
        if value is not None:
            values.setdefault(run.place.base, []).append(value)
    return {base: mean(of_base) for base, of_base in sorted(values.items())}


def _arm(arm: str, runs: Sequence[RunFigures], num_planned: int, last: int) -> ArmResult:
    num_iterations = max((len(run.by_iteration) for run in runs), default=0)
    names = sorted({name for run in runs for row in run.by_iteration for name in row})
    totals = sorted({name for run in runs for name in run.totals})
    return ArmResult(
        arm=arm,
        num_runs=len(runs),
        num_planned=num_planned,
        totals=_found({name: over_bases(runs, _total(name)) for name in totals}),
        series={
            name: [over_bases(runs, _at(name, i)) for i in range(num_iterations)] for name in names
        },
        last=_found({name: over_bases(runs, _at_the_end(name, last)) for name in names}),
    )


def _compare(
    comparisons: Sequence[Comparison], runs: Sequence[RunFigures], last: int
) -> list[ComparisonResult]:
    primary_of = _total("primary")
    by_base = [_differences(comparison, runs, primary_of) for comparison in comparisons]
    found = [_mean(of) for of in by_base]
    others = _others(runs, last)
    adjusted = _adjusted(comparisons, [None if of is None else of.p for of in found])
    return [
        ComparisonResult(
            comparison=comparison,
            primary=primary,
            by_base=of_base,
            holm=p,
            num_needed=(
                None
                if primary is None or primary.sd is None
                else bases_needed(DIFFERENCE, primary.sd)
            ),
            others=_found(
                {name: _mean(_differences(comparison, runs, of)) for name, of in others.items()}
            ),
        )
        for comparison, primary, of_base, p in zip(
            comparisons, found, by_base, adjusted, strict=True
        )
    ]


def _adjusted(comparisons: Sequence[Comparison], ps: Sequence[float | None]) -> list[float | None]:
    """Return p values by Holm, each adjusted for those of its own family."""
    adjusted: dict[int, float | None] = {}
    for family in {comparison.family for comparison in comparisons}:
        members = [k for k, comparison in enumerate(comparisons) if comparison.family == family]
        adjusted |= zip(members, holm([ps[k] for k in members]), strict=True)
    return [adjusted[k] for k in range(len(comparisons))]


def _others(runs: Sequence[RunFigures], last: int) -> dict[str, Figure]:
    """Return the figures that are compared beside the primary metric."""
    names = {name for run in runs for row in run.by_iteration for name in row}
    compared = sorted(name for name in names if name.partition("/")[0] in COMPARED)
    return {"fall": _total("fall"), **{name: _at_the_end(name, last) for name in compared}}


def _differences(
    comparison: Comparison, runs: Sequence[RunFigures], figure: Figure
) -> dict[int, float]:
    """Return the differences of a figure by base seed, over the run seeds that both arms have
    finished on it."""
    by_arm = {
        arm: {(r.place.base, r.place.seed): r for r in runs if r.place.arm == arm}
        for arm in (comparison.left, comparison.right)
    }
    both = by_arm[comparison.left].keys() & by_arm[comparison.right].keys()
    left, right = (
        _by_base([run for place, run in of.items() if place in both], figure)
        for of in by_arm.values()
    )
    return {base: left[base] - right[base] for base in left if base in right}


def _total(name: str) -> Figure:
    return lambda run: run.totals.get(name)


def _at(name: str, iteration: int) -> Figure:
    def figure(run: RunFigures) -> float | None:
        rows = run.by_iteration
        return rows[iteration].get(name) if iteration < len(rows) else None

    return figure


def _at_the_end(name: str, last: int) -> Figure:
    def figure(run: RunFigures) -> float | None:
        found = [row[name] for row in run.by_iteration[1:][-last:] if name in row]
        return mean(found) if found else None

    return figure


def _found(values: Mapping[str, MeanOverBases | None]) -> dict[str, MeanOverBases]:
    return {name: value for name, value in values.items() if value is not None}
