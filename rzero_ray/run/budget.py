"""What a run may spend, and what it has spent: hours of work and sampled tokens."""

from __future__ import annotations

from rzero_ray.config.config import Config
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import BudgetSpentError


def check_budget(config: Config, stored: StoredRun) -> None:
    """Raise BudgetSpentError when the finished steps of all starts have spent the run's budget.

    What is counted is what rows of metrics and evaluations say: not the starting of engines, and
    not what a stop has undone.
    """
    if not (config.max_hours or config.max_tokens):
        return
    rows = [*stored.metrics(), *stored.evaluations()]
    hours = sum(row.get("seconds", {}).get("wall", 0.0) for row in rows) / 3600
    tokens = sum(row.get("tokens_sampled", 0) for row in rows)
    if config.max_hours and hours >= config.max_hours:
        raise BudgetSpentError(
            f"max_hours={config.max_hours:g} is spent: {hours:.2f} hours of work are recorded; "
            "raise it to go on"
        )
    if config.max_tokens and tokens >= config.max_tokens:
        raise BudgetSpentError(
            f"max_tokens={config.max_tokens} is spent: {tokens} sampled tokens are recorded; "
            "raise it to go on"
        )
