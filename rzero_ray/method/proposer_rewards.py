"""What other methods of the family pay a proposer, as functions of the Solver's agreement.

Each is a row of `rewards.CHALLENGER_REWARDS` and a preset of `conf/recipe/`. In these methods p is
often the share of right answers, which an executor, a reference or a judge knows. Nobody knows it
here: p is the majority's share of the votes, as in R-Zero, and a formula is taken over that.

Where we have a formula from a paper's abstract or from notes about its code, and could not hold it
against the source, the docstring says so.
"""

from __future__ import annotations

import math

_SPELL_WIDTH = 1.0 / 6.0


def pace(agreement: float, floor: float, peak: float) -> float:
    """Return a reward that is 0 below `floor`, p / peak up to `peak`, and falls to 0 at p = 1.

    Ours, from the laboratory (`conf/ladder.yaml`). R-Zero pays most at p = 1/2, where the majority
    is as often wrong as right on a task with few likely mistakes; a peak above one half asks for
    questions that the Solver mostly agrees on, so their labels are mostly right.
    """
    if agreement < floor or agreement >= 1.0:
        return 0.0
    return agreement / peak if agreement < peak else (1.0 - agreement) / (1.0 - peak)


def absolute_zero(agreement: float) -> float:
    """Return 1 - p for 0 < p < 1, and 0 where no answer is right or all are.

    Source: AZR (arXiv 2505.03335), section 3.1. There p is the share that a Python executor finds
    right. An ill-formed task costs 1 (`ABSOLUTE_ZERO_MALFORMED`), which is the paper's too.
    """
    return 1.0 - agreement if 0.0 < agreement < 1.0 else 0.0


ABSOLUTE_ZERO_MALFORMED = -1.0


def some_but_not_all(num_agree: int, num_votes: int) -> float:
    """Return 1 where more than one vote but not every vote agrees, else 0.

    Source: SQLM (Self-Questioning Language Models, arXiv 2508.03682), its reward for arithmetic.
    """
    return 1.0 if 1 < num_agree < num_votes else 0.0


def spell(agreement: float) -> float:
    """Return exp(-(p - 1/2)^2 / (2 (1/6)^2)), and 0 for p = 1.

    Source: SPELL; from notes about its code, not held against it. Its further -.5 for a question
    that its documents do not support has no counterpart without documents. An ill-formed question
    costs 1 (`SPELL_MALFORMED`).
    """
    if agreement >= 1.0:
        return 0.0
    return math.exp(-((agreement - 0.5) ** 2) / (2.0 * _SPELL_WIDTH**2))


SPELL_MALFORMED = -1.0


def darc(agreement: float, target: float) -> float:
    """Return 1 - |p - target|, and -.1 where nothing agrees.

    Source: DARC, which asks for questions of a wanted difficulty: targets .8, .5 and .2; from notes
    about its code, not held against it. What it pays for copies of a document is left out: there is
    none.
    """
    return 1.0 - abs(agreement - target) if agreement > 0.0 else -0.1


def multi_agent_evolve(agreement: float, answered: float) -> float:
    """Return the mean of quality, difficulty 1 - p, and 1 for the form of a well-formed question.

    Source: MAE (Multi-Agent Evolve), (judge + (1 - solver) + format) / 3. The judge is a trained
    model there; here quality is the share of votes that hold an answer, the one sign of a sound
    question that needs no judge. An ill-formed question earns 0.
    """
    return (answered + (1.0 - agreement) + 1.0) / 3.0


def proposer_solver(agreement: float) -> float:
    """Return 4 p (1 - p): the variance of a right answer, scaled to 1 at p = 1/2.

    Source: the hierarchical proposer-solver examples of the verifiers and prime-rl projects, where
    p is the share that agrees with the proposer's own, verified answer.
    """
    return 4.0 * agreement * (1.0 - agreement)


def pasodoble(agreement: float, diversity: float) -> float:
    """Return 0 where p <= .2 or diversity <= .3, else 1.1 - p + .2 x diversity.

    Source: PasoDoble; from notes about its code, not held against it. There p is the share that
    agrees with the proposer's own answer, and diversity is taken over the last 100 questions;
    here it is 1 minus the greatest similarity to a remembered question (`novelty`).
    """
    if agreement <= 0.2 or diversity <= 0.3:
        return 0.0
    return 1.1 - agreement + 0.2 * diversity
