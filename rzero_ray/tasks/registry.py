"""The tasks a run can be about; each implements `protocols.Task`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from rzero_ray.config.config import Config
from rzero_ray.protocols import Halves, Task
from rzero_ray.tasks import arithmetic, prompts
from rzero_ray.tasks.words import split_words
from rzero_ray.types import Message, Problem, UserError


class ArithmeticTask:
    """Chains of additions and subtractions, in the notation of the built-in base model."""

    has_oracle = True
    has_halves = True

    def challenger_messages(self) -> tuple[Message, ...]:
        return (
            Message(role="system", content="<challenger>"),
            Message(role="user", content=""),
        )

    def solver_messages(self, question: str) -> tuple[Message, ...]:
        return (
            Message(role="system", content="<solver>"),
            Message(role="user", content=question),
        )

    def choice_messages(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Leaves the options out: the vocabulary has no letters to name them by."""
        return self.solver_messages(question)

    def normalize(self, question: str) -> str:
        return arithmetic.normalize(question)

    def words(self, question: str) -> list[str]:
        return split_words(question)

    def words_by_space(self, question: str) -> list[str]:
        """Symbols, too: the notation has no spaces at all."""
        return split_words(question)

    def halve(self, question: str) -> Halves | None:
        return arithmetic.halve(question)

    def solve(self, question: str) -> str | None:
        return arithmetic.solve(question)

    def heldout(self) -> tuple[Problem, ...]:
        return _arithmetic_heldout()

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        return _arithmetic_strata()


class MathTask:
    """Mathematics in natural language: no oracle, and no held-out problems of its own."""

    has_oracle = False
    has_halves = False

    def challenger_messages(self) -> tuple[Message, ...]:
        return prompts.math_challenger_messages()

    def solver_messages(self, question: str) -> tuple[Message, ...]:
        return prompts.math_solver_messages(question)

    def choice_messages(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        return prompts.choice_messages(question, options)

    def normalize(self, question: str) -> str:
        return " ".join(question.split()).casefold()

    def words(self, question: str) -> list[str]:
        return split_words(question)

    def words_by_space(self, question: str) -> list[str]:
        return question.split()

    def halve(self, question: str) -> Halves | None:
        return None

    def solve(self, question: str) -> str | None:
        return None

    def heldout(self) -> tuple[Problem, ...]:
        return ()

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        return {}


def make_task(name: str) -> ArithmeticTask | MathTask:
    """Return the task of `config.task`."""
    return {"arithmetic": ArithmeticTask, "math": MathTask}[name]()


def check_labels(config: Config) -> None:
    """Raise UserError when the curriculum's labels shall come from an oracle that is not there."""
    if config.curriculum.labels == "oracle" and not make_task(config.task).has_oracle:
        raise UserError(
            f"curriculum.labels=oracle needs a task with an oracle, which task={config.task} has "
            "not; use task=arithmetic or curriculum.labels=majority"
        )


def check_halves(config: Config) -> None:
    """Raise UserError when labels shall be checked on halves of questions that have none."""
    if config.curriculum.check == "halves" and not make_task(config.task).has_halves:
        raise UserError(
            f"curriculum.check=halves needs a task whose questions can be solved in two parts, "
            f"which task={config.task} has not; use task=ladder, task=arithmetic or "
            "curriculum.check=none"
        )


def held_out_forms(task: Task) -> set[str]:
    """Return the normal forms of all held-out problems: nothing may be trained on one."""
    problems = [*task.heldout(), *(p for stratum in task.strata().values() for p in stratum)]
    return {task.normalize(problem.question) for problem in problems}


@cache
def _arithmetic_heldout() -> tuple[Problem, ...]:
    return arithmetic.heldout_problems()


@cache
def _arithmetic_strata() -> Mapping[str, tuple[Problem, ...]]:
    return arithmetic.strata_problems()
