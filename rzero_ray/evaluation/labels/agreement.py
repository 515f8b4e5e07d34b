"""How right labels are, and how far two oracles agree about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rzero_ray.evaluation.statistics import Estimate, estimate
from rzero_ray.types import AuditedLabel

RIGHT, WRONG, UNKNOWN = "right", "wrong", "unknown"
"""The verdicts on a label; it is unknown where the oracle gave no answer that can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAccuracy:
    """What one oracle says of a sample of labels."""

    num_right: int
    num_wrong: int
    num_unknown: int
    accuracy: Estimate | None
    """The share of right labels among those that the oracle could judge; None where it could judge
    none. Unknown ones may be harder than the rest: read the share together with theirs."""

    @property
    def unknown_share(self) -> float:
        """The share of labels that the oracle could not judge."""
        total = self.num_right + self.num_wrong + self.num_unknown
        return self.num_unknown / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How two oracles agree on the labels that both could judge."""

    counts: Mapping[tuple[str, str], int]
    """How many labels have each pair of verdicts: (the first oracle's, the second's)."""

    @property
    def num_labels(self) -> int:
        """How many labels both oracles could judge."""
        return sum(self.counts.values())

    @property
    def share(self) -> float | None:
        """The share of labels on which both verdicts are equal."""
        same = self.counts[RIGHT, RIGHT] + self.counts[WRONG, WRONG]
        return same / self.num_labels if self.num_labels else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: 1 full agreement, 0 what the two verdicts' shares give by chance.

        None where both oracles give every label the same one verdict: then chance agrees too.
        """
        if self.share is None:
            return None
        total = self.num_labels
        first = (self.counts[RIGHT, RIGHT] + self.counts[RIGHT, WRONG]) / total
        second = (self.counts[RIGHT, RIGHT] + self.counts[WRONG, RIGHT]) / total
        by_chance = first * second + (1 - first) * (1 - second)
        return None if by_chance == 1 else (self.share - by_chance) / (1 - by_chance)


def label_accuracy(records: Sequence[AuditedLabel], seed: int) -> LabelAccuracy:
    """Count an oracle's verdicts; `seed` is that of the interval's random numbers."""
    counts = Counter(record.verdict for record in records)
    scores = [1.0] * counts[RIGHT] + [0.0] * counts[WRONG]
    return LabelAccuracy(
        num_right=counts[RIGHT],
        num_wrong=counts[WRONG],
        num_unknown=counts[UNKNOWN],
        accuracy=estimate(scores, seed) if scores else None,
    )


def compare(first: Sequence[AuditedLabel], second: Sequence[AuditedLabel]) -> Agreement:
    """Compare two oracles on the labels of the same iteration that both judged."""
    verdicts = {(r.question, r.label): r.verdict for r in second}
    pairs = Counter((r.verdict, verdicts.get((r.question, r.label), UNKNOWN)) for r in first)
    kinds = (RIGHT, WRONG)
    return Agreement(counts={(a, b): pairs[a, b] for a in kinds for b in kinds})


def combine(parts: Sequence[Agreement]) -> Agreement:
    """Return the agreement over several iterations together."""
    total: Counter[tuple[str, str]] = Counter()
    for part in parts:
        total.update(part.counts)
    kinds = (RIGHT, WRONG)
    return Agreement(counts={(a, b): total[a, b] for a in kinds for b in kinds})
