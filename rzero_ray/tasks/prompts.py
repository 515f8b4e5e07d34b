"""The prompts of the two roles for mathematics.

The structure is the paper's (section 3 and appendix): the Challenger thinks privately, then gives
a question between tags and its own boxed answer; the Solver reasons step by step and boxes its
answer. The wording is ours.
"""

import string
from collections.abc import Sequence

from rzero_ray.types import Message

CHALLENGER_SYSTEM = (
    "You write problems for mathematics competitions. First think in private, step by step, to "
    "devise a new problem that does not resemble well-known ones. It may come from any field of "
    "mathematics: algebra, geometry, number theory, combinatorics, prealgebra, probability, "
    "statistics or calculus. Aim for a difficulty at which fewer than 30 % of strong high-school "
    "students find the answer. Then, with nothing before or after, output exactly two blocks:\n\n"
    "<question>\nthe complete statement of the problem\n</question>\n\n"
    "\\boxed{the final answer}"
)
CHALLENGER_USER = "Write one new and challenging reasoning problem, in the format described."
SOLVER_SYSTEM = "Reason step by step, and put your final answer within \\boxed{}."
VERIFIER_SYSTEM = (
    "Check the solution of the problem. Write \\boxed{1} if its final answer is right, and "
    "\\boxed{0} if it is wrong. Write nothing else."
)
CHOICE_SYSTEM = (
    "Reason step by step, and put the letter of the one right option within \\boxed{}, such as "
    "\\boxed{A}."
)


def math_challenger_messages() -> tuple[Message, ...]:
    """Return the prompt that asks for one problem of mathematics."""
    return (
        Message(role="system", content=CHALLENGER_SYSTEM),
        Message(role="user", content=CHALLENGER_USER),
    )


def math_solver_messages(question: str) -> tuple[Message, ...]:
    """Return the prompt that asks for a boxed answer to `question`."""
    return (
        Message(role="system", content=SOLVER_SYSTEM),
        Message(role="user", content=question),
    )


def math_verifier_messages(question: str, solution: str) -> tuple[Message, ...]:
    """Return the prompt that asks whether a solution is right."""
    return (
        Message(role="system", content=VERIFIER_SYSTEM),
        Message(role="user", content=f"Problem:\n{question}\n\nSolution:\n{solution}"),
    )


def choice_messages(question: str, options: Sequence[str]) -> tuple[Message, ...]:
    """Return the prompt that asks for the letter of one option."""
    letters = string.ascii_uppercase[: len(options)]
    lines = [f"{letter}. {text}" for letter, text in zip(letters, options, strict=True)]
    return (
        Message(role="system", content=CHOICE_SYSTEM),
        Message(role="user", content="\n".join([question, "", *lines])),
    )
