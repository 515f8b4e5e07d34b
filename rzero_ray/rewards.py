"""Rewards of the two roles (paper, section 3.2 and 3.4).

The official code differs: it rewards min(p, 1 - p), half of the paper's scale, so that its
repetition penalty weighs twice as much; it has no max(0, .); and a malformed question costs
-1 minus the penalty instead of earning 0. Here the paper's form is used: a negative reward for
malformed questions was seen elsewhere to drive a proposer into silence.
"""


def uncertainty(agreement: float) -> float:
    """Return 1 - 2|p - 1/2| in [0, 1] for the majority's share p of the votes."""
    return 1.0 - 2.0 * abs(agreement - 0.5)


def challenger_reward(agreement: float, repetition_share: float, weight: float) -> float:
    """Return max(0, uncertainty - weight x share of the batch in the question's cluster)."""
    return max(0.0, uncertainty(agreement) - weight * repetition_share)


MALFORMED_REWARD = 0.0
"""Of a question without its tags or its boxed answer: the paper's format check."""


def solver_reward(answer: str | None, label: str) -> float:
    """Return 1 when the graded answer is the pseudo-label, else 0."""
    return 1.0 if answer == label else 0.0
