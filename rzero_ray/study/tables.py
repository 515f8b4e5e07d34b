"""The tables of a study, as titles, sentences and cells; `to_markdown` writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rzero_ray.evaluation.statistics import MeanOverBases
from rzero_ray.study.figures import COUNTS, LAST, SERIES
from rzero_ray.study.plan import Plan
from rzero_ray.study.results import COMPARED, DIFFERENCE, ArmResult, ComparisonResult, StudyResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with what it shows."""

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def make_tables(plan: Plan, result: StudyResult) -> list[Table]:
    """Return the tables of a study, those that answer its question first."""
    return [
        _headline(result),
        _comparisons(result),
        *_other_comparisons(result),
        *_at_the_end(result),
        *_trajectories(result),
        _plan(plan),
    ]


def to_markdown(tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Return the tables as Markdown, with remarks above them."""
    parts = ["# Study\n", *(f"- {remark}\n" for remark in remarks)]
    for table in tables:
        parts.append(f"\n## {table.title}\n\n{table.caption}\n\n")
        lines = [table.head, ["---"] * len(table.head), *table.rows]
        parts += [f"| {' | '.join(map(_escaped, line))} |\n" for line in lines]
    return "".join(parts)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as tables of shares have it: .354, -.020, 1.000; `-` where there is none."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(of: MeanOverBases | None) -> str:
    """Return a difference with its interval: +.013 [-.011, +.037]."""
    if of is None:
        return "-"
    bounds = "" if of.low is None else f" [{_plus(of.low)}, {_plus(of.high)}]"
    return f"{_plus(of.value)}{bounds}"


def _plus(value: float | None) -> str:
    text = number(value)
    return text if text.startswith("-") else f"+{text}"


def _value(of: MeanOverBases | None) -> str:
    return "-" if of is None else number(of.value)


def _count(of: MeanOverBases | None) -> str:
    if of is None:
        return "-"
    return f"{of.value:,.1f}" if of.value < 100 else f"{of.value:,.0f}"


def _with_interval(of: MeanOverBases | None) -> str:
    if of is None or of.low is None:
        return _value(of)
    return f"{number(of.value)} [{number(of.low)}, {number(of.high)}]"


def _headline(result: StudyResult) -> Table:
    head = ["arm", "runs", "bases", "primary", "minus own base", "fall from own peak"]
    head += ["runs near own peak", "labels right, last", "kept, last", "votes", "updates", "hours"]
    return Table(
        title="Arms",
        caption=(
            "Means over base models with 95 % t intervals. Primary: mean@k on half B over the last "
            f"{LAST} iterations. Fall: the iteration that is best on half A, valued on half B, "
            "minus the primary; near: by less than .02. Last: of the last iteration. Votes, "
            "updates of the Solver and hours of wall clock are of one run."
        ),
        head=head,
        rows=[_headline_row(arm) for arm in result.arms],
    )


def _headline_row(arm: ArmResult) -> list[str]:
    totals = arm.totals
    primary = totals.get("primary")
    votes = sum(
        totals[name].value for name in ("votes_challenger", "votes_curriculum") if name in totals
    )
    last = {name: arm.series[name][-1] if name in arm.series else None for name in SERIES}
    return [
        arm.arm,
        f"{arm.num_runs} of {arm.num_planned}",
        "0" if primary is None else str(primary.num),
        _value(primary),
        signed(totals.get("gain")),
        signed(totals.get("fall")),
        _value(totals.get("near_peak")),
        _value(last["labels"]),
        _count(last["kept"]),
        f"{votes:,.0f}" if arm.num_runs else "-",
        _count(totals.get("updates")),
        "-" if "wall_hours" not in totals else f"{totals['wall_hours'].value:.2f}",
    ]


def _comparisons(result: StudyResult) -> Table:
    head = ["comparison", "difference of the primary", "p", "Holm", "bases", "same sign"]
    head += [f"bases for {number(DIFFERENCE, 2)}", "by base", "planned"]
    return Table(
        title="Comparisons",
        caption=(
            "Paired by base model, 95 % t intervals, two-sided p, Holm's adjustment over the "
            f"lines that were planned together. Bases for {number(DIFFERENCE, 2)}: how many a "
            "paired t test needs to find such a difference with a power of .8, if differences "
            "spread as these do."
        ),
        head=head,
        rows=[_comparison_row(of) for of in result.comparisons],
    )


def _comparison_row(of: ComparisonResult) -> list[str]:
    added = of.comparison.added_after
    primary = of.primary
    return [
        str(of.comparison),
        signed(primary),
        number(None if primary is None else primary.p, 4),
        number(of.holm, 4),
        "0" if primary is None else str(primary.num),
        "-" if primary is None else f"{primary.num_same_sign}/{primary.num}",
        "-" if of.num_needed is None else str(of.num_needed),
        " ".join(_plus(value) for value in of.by_base.values()) or "-",
        f"added after {added} runs" if added else "before the first run",
    ]


def _other_comparisons(result: StudyResult) -> list[Table]:
    """Return the comparisons of other figures, a table each for those of all strata."""
    tables = []
    for series, strata in [(series, _strata(result, series)) for series in COMPARED]:
        names = [series, *(f"{series}/{of}" for of in strata)]
        if not any(name in of.others for of in result.comparisons for name in names):
            continue
        tables.append(
            Table(
                title=f"Comparisons beside the primary one: {SERIES[series]}",
                caption=(
                    f"Differences of means over the last {LAST} iterations, paired by base model, "
                    "with 95 % t intervals that are adjusted for nothing: to explore, not to show."
                ),
                head=["comparison", "all", *strata],
                rows=[
                    [str(of.comparison), *(signed(of.others.get(name)) for name in names)]
                    for of in result.comparisons
                ],
            )
        )
    return tables


def _at_the_end(result: StudyResult) -> list[Table]:
    """Return the figures by stratum over the last iterations."""
    tables = []
    for name in ("mean", "greedy", "labels", "share"):
        strata = _strata(result, name)
        if not strata:
            continue
        tables.append(
            Table(
                title=f"By stratum at the end: {SERIES[name]}",
                caption=f"Means over the last {LAST} iterations and over base models.",
                head=["arm", *strata],
                rows=[
                    [arm.arm, *(_with_interval(arm.last.get(f"{name}/{of}")) for of in strata)]
                    for arm in result.arms
                ],
            )
        )
    return tables


def _trajectories(result: StudyResult) -> list[Table]:
    """Return a table a figure, with a column for each iteration."""
    names = [
        name
        for series in SERIES
        for name in (series, *(f"{series}/{of}" for of in _strata(result, series)))
    ]
    tables = []
    for name in names:
        arms = [arm for arm in result.arms if name in arm.series]
        if not arms:
            continue
        series, _, stratum = name.partition("/")
        num = max(len(arm.series[name]) for arm in arms)
        cell = _count if series in COUNTS else _value
        tables.append(
            Table(
                title=f"{SERIES[series]}{f', stratum {stratum}' if stratum else ''}, by iteration",
                caption="Means over base models; 0 is the base model.",
                head=["arm", *map(str, range(num))],
                rows=[[arm.arm, *map(cell, arm.series[name])] for arm in arms],
            )
        )
    return tables


def _plan(plan: Plan) -> Table:
    return Table(
        title="Plan",
        caption=f"Primary: {plan.primary}. Tests: {plan.tests}. Run seeds: "
        f"{', '.join(map(str, plan.seeds))}. conf={plan.conf} {' '.join(plan.overrides)}".rstrip(),
        head=["written", "program", "runs finished by then", "arms", "bases", "comparisons"],
        rows=[
            [
                entry.time,
                entry.program,
                str(entry.finished_runs),
                ", ".join(entry.arms) or "-",
                ", ".join(map(str, entry.bases)) or "-",
                ", ".join(entry.compare) or "-",
            ]
            for entry in plan.entries
        ],
    )


def _strata(result: StudyResult, name: str) -> list[str]:
    """Return the strata of a figure, where there are several."""
    found = {
        key.partition("/")[2]
        for arm in result.arms
        for key in arm.series
        if key.startswith(f"{name}/")
    }
    return sorted(found, key=_place) if len(found) > 1 else []


def _place(stratum: str) -> tuple[int, str]:
    """Return what sorts strata: by the number with which they begin."""
    digits = re.match(r"\d*", stratum)
    return int(digits[0]) if digits and digits[0] else -1, stratum


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
