"""What a verifier is taught, and what its verdicts decide.

Source: CoVerRL, whose verifier is of the policy's own base model, is taught majority answers as
right and the rarest as wrong, and drops a label unless most of the majority's solutions pass
(sum v_j > |V+| / 2). From notes about the paper, not held against code. There the policy itself is
the verifier and learns it by reinforcement; here it is a third policy, which learns its verdicts by
cross-entropy.

In the laboratory that form takes over the majority's mistakes (`rarest`): where the majority is
wrong, it is taught that the wrong answer is right. Negatives made from structure (`structure`) do
not come from votes: a step of a majority's solution is left out or changed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from rzero_ray.types import Candidate, NegativeRule, Verdict, VerifierExample

_LEAST_AGREEMENT = 0.5
"""Majority share of the votes below which a majority's solution is not held to be right."""

Spoil = Callable[[str, str, random.Random], str | None]
"""`protocols.Task.spoil`."""


def majority_solutions(candidate: Candidate) -> list[str]:
    """Return the texts of the votes whose answer is written as the label is."""
    return _solutions(candidate, candidate.label)


def rarest_solution(candidate: Candidate, rng: random.Random, spoil: Spoil) -> str | None:
    """Return a text with the answer that the fewest votes have; None where all have one answer."""
    counts = Counter(a for a in candidate.answers if a is not None and a != candidate.label)
    if not counts:
        return None
    rarest = min(sorted(counts), key=lambda answer: counts[answer])
    return rng.choice(_solutions(candidate, rarest))


def spoilt_solution(candidate: Candidate, rng: random.Random, spoil: Spoil) -> str | None:
    """Return a majority's text with a step left out or changed; None where it has no steps."""
    assert candidate.question is not None
    return spoil(candidate.question, rng.choice(majority_solutions(candidate)), rng)


NEGATIVES: dict[NegativeRule, Callable[[Candidate, random.Random, Spoil], str | None]] = {
    "rarest": rarest_solution,
    "structure": spoilt_solution,
}
"""The wrong solution of each value of `verifier.negatives`."""


def make_examples(
    candidates: Sequence[Candidate], negatives: NegativeRule, spoil: Spoil, rng: random.Random
) -> list[VerifierExample]:
    """Return a right and a wrong solution of each question on which at least half of the votes
    agree and of which there is a wrong one, whether the question was kept or not."""
    examples = []
    for candidate in candidates:
        agreed = candidate.num_agree >= _LEAST_AGREEMENT * max(1, len(candidate.answers))
        if candidate.question is None or not agreed or not majority_solutions(candidate):
            continue
        wrong = NEGATIVES[negatives](candidate, rng, spoil)
        if wrong is not None:
            right = rng.choice(majority_solutions(candidate))
            pair = ((right, True), (wrong, False))
            examples += [
                VerifierExample(question=candidate.question, solution=text, is_right=is_right)
                for text, is_right in pair
            ]
    return examples


def confirmed(verdicts: Sequence[Verdict]) -> set[str]:
    """Return the questions whose labels are confirmed."""
    return {verdict.question for verdict in verdicts if verdict.is_confirmed}


def _solutions(candidate: Candidate, answer: str | None) -> list[str]:
    pairs = zip(candidate.answers, candidate.vote_texts, strict=True)
    return [text for found, text in pairs if answer is not None and found == answer]
