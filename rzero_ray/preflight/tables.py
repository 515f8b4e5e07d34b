"""What a preflight prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from rzero_ray.config.config import Config
from rzero_ray.preflight.estimate import Cost, totals
from rzero_ray.preflight.findings import Findings, warnings

_BAR: Final = 40
"""Characters of the longest bar."""


def print_findings(config: Config, found: Findings) -> None:
    """Print what the base model is like in both roles; `config` is the rehearsal's."""
    low, high = config.curriculum.min_agreement, config.curriculum.max_agreement
    say = Console(highlight=False, soft_wrap=True).print
    say(f"\nThe base model, in {found.num_questions} questions")
    say(f"  well formed        {_of(found.num_well_formed, found.num_questions)}")
    say(f"  cut at the limit   {_of(found.num_questions_cut, found.num_questions)}")
    say(f"  votes that answer  {found.answered:.0%}")
    say(f"  in {low:g} to {high:g}".ljust(21) + _of(found.num_in_band, found.num_well_formed))
    say(f"  candidates kept    {_of(found.num_kept, found.num_candidates)}")
    if found.num_answers:
        say(f"  answers cut        {_of(found.num_answers_cut, found.num_answers)}")
    say("\n  agreement of the votes, questions")
    most = max(1, *found.histogram)
    for part, number in enumerate(found.histogram):
        bar = "#" * round(_BAR * number / most)
        say(f"  {part / len(found.histogram):.1f} {number:4d} {bar}")
    for line in warnings(config, found):
        say(f"warning: {line}")


def print_costs(costs: Sequence[Cost], growth: float) -> None:
    """Print what the run would take, part by part; at its end answers are `growth` times as long
    as the base model's."""
    table = Table(title="\nThe whole run, estimated", box=None, title_justify="left")
    for name in ("part", "times", "tokens", "fixed s", "work s", "growth", "all tokens", "hours"):
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for cost in costs:
        tokens, seconds = totals([cost], grown=True)
        table.add_row(
            cost.part,
            str(cost.times),
            f"{cost.tokens:,.0f}",
            f"{cost.fixed:,.1f}",
            f"{cost.work:,.1f}",
            f"{cost.growth:.2f}",
            f"{tokens:,.0f}",
            f"{seconds / 3600:.3f}",
        )
    tokens, seconds = totals(costs, grown=True)
    table.add_row("all", "", "", "", "", "", f"{tokens:,.0f}", f"{seconds / 3600:.3f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    tokens, seconds = totals(costs, grown=False)
    console.print(
        f"A Solver that learns writes as it is rewarded for: at the end answers {growth:.2f} times "
        "as long as the base model's. If they stay\nas they are, the run takes "
        f"{tokens:,.0f} tokens and {seconds / 3600:.3f} hours, on a cluster as busy as in the "
        "rehearsal."
    )


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" + (f" ({count / total:.0%})" if total else "")
