"""The tasks a run can be about; each implements `protocols.Task`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache

from rzero_ray.config.config import Config
from rzero_ray.protocols import Halves, OpenTask, Task
from rzero_ray.tasks import arithmetic, prompts
from rzero_ray.tasks.bouquet import bouquets
from rzero_ray.tasks.ladder import questions as ladder
from rzero_ray.tasks.ladder import solutions as ladder_solutions
from rzero_ray.tasks.words import mask_numbers, split_words
from rzero_ray.types import Message, Problem, RatedPair, UserError


class ArithmeticTask:
    """Chains of additions and subtractions, in the notation of the built-in base model."""

    has_oracle = True
    has_halves = True
    has_steps = True

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

    def is_question(self, text: str) -> bool:
        """Any text is: what has no answer is dropped by the votes on it, or not at all."""
        return True

    def normalize(self, question: str) -> str:
        return arithmetic.normalize(question)

    def skeleton(self, question: str) -> str:
        """The question with its numbers masked: two of one form have the same signs."""
        return mask_numbers(self.normalize(question))

    def stratum(self, question: str) -> str:
        """The number of operands, such as ``3 operands``; empty where it is no chain."""
        count = arithmetic.num_operands(question)
        return "" if count is None else f"{count} operands"

    def words(self, question: str) -> list[str]:
        return split_words(question)

    def words_by_space(self, question: str) -> list[str]:
        """Symbols, too: the notation has no spaces at all."""
        return split_words(question)

    def verifier_messages(self, question: str, solution: str) -> tuple[Message, ...]:
        return _worked_out(question, solution)

    def spoil(self, question: str, solution: str, rng: random.Random) -> str | None:
        return arithmetic.spoil(solution, rng)

    def halve(self, question: str) -> Halves | None:
        return arithmetic.halve(question)

    def solve(self, question: str) -> str | None:
        return arithmetic.solve(question)

    def heldout(self) -> tuple[Problem, ...]:
        return _arithmetic_heldout()

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        return _arithmetic_strata()

    def reserved(self) -> tuple[Problem, ...]:
        return (*self.heldout(), *(p for problems in self.strata().values() for p in problems))


class LadderTask:
    """Operations on one digit, carried out in order, in the notation of their base model."""

    has_oracle = True
    has_halves = True
    has_steps = True

    def challenger_messages(self) -> tuple[Message, ...]:
        return (
            Message(role="system", content=ladder.CHALLENGER_TAG),
            Message(role="user", content=""),
        )

    def solver_messages(self, question: str) -> tuple[Message, ...]:
        return (
            Message(role="system", content=ladder.SOLVER_TAG),
            Message(role="user", content=question),
        )

    def choice_messages(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Leaves the options out: the vocabulary has no letters to name them by."""
        return self.solver_messages(question)

    def is_question(self, text: str) -> bool:
        return ladder.parse(text) is not None

    def normalize(self, question: str) -> str:
        return ladder.normalize(question)

    def words(self, question: str) -> list[str]:
        return ladder.words(question)

    def words_by_space(self, question: str) -> list[str]:
        """Tokens, too: the notation has no spaces at all."""
        return ladder.words(question)

    def skeleton(self, question: str) -> str:
        """The family and the number of operations, such as ``triple:2``; of a text that is no
        question, its normal form with numbers masked."""
        parsed = ladder.parse(question)
        if parsed is None:
            return mask_numbers(self.normalize(question))
        return f"{parsed.family}:{len(parsed.operations)}"

    def stratum(self, question: str) -> str:
        """A range of numbers of operations, such as ``4-5``, or ``coin`` for a question that has no
        answer; empty where it is no question."""
        parsed = ladder.parse(question)
        if parsed is None:
            return ""
        return (
            ladder.COIN if parsed.family == ladder.COIN else ladder.stratum(len(parsed.operations))
        )

    def verifier_messages(self, question: str, solution: str) -> tuple[Message, ...]:
        return _worked_out(question, solution)

    def spoil(self, question: str, solution: str, rng: random.Random) -> str | None:
        return ladder_solutions.spoil(solution, rng)

    def halve(self, question: str) -> Halves | None:
        return ladder.halve(question)

    def solve(self, question: str) -> str | None:
        return ladder.solve(question)

    def heldout(self) -> tuple[Problem, ...]:
        return _ladder_heldout()

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        return {}

    def reserved(self) -> tuple[Problem, ...]:
        return _ladder_reserved()


class BouquetTask:
    """Bouquets, in the notation of their base model: an open task, whose answers have a hidden
    quality and no truth."""

    has_oracle = False
    has_halves = False
    has_steps = True

    def challenger_messages(self) -> tuple[Message, ...]:
        return (
            Message(role="system", content=bouquets.CHALLENGER_TAG),
            Message(role="user", content=""),
        )

    def solver_messages(self, question: str) -> tuple[Message, ...]:
        return (
            Message(role="system", content=bouquets.SOLVER_TAG),
            Message(role="user", content=question),
        )

    def choice_messages(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Leaves the options out: the vocabulary has no letters to name them by."""
        return self.solver_messages(question)

    def referee_messages(self, request: str, first: str, second: str) -> tuple[Message, ...]:
        return (
            Message(role="system", content=bouquets.REFEREE_TAG),
            Message(role="user", content=f"{request}={first}{bouquets.BETWEEN}{second}"),
        )

    def is_question(self, text: str) -> bool:
        return bouquets.parse_request(text) is not None

    def read_answer(self, text: str) -> str | None:
        return bouquets.parse_bouquet(text)

    def quality(self, request: str, answer: str) -> float:
        return bouquets.quality(request, answer)

    def heldout_pairs(self) -> tuple[RatedPair, ...]:
        return bouquets.heldout_pairs()

    def normalize(self, question: str) -> str:
        return bouquets.normalize(question)

    def words(self, question: str) -> list[str]:
        """The wishes, each of which is a word."""
        return bouquets.words(question)

    def words_by_space(self, question: str) -> list[str]:
        """Wishes, too: the notation has no spaces at all."""
        return self.words(question)

    def skeleton(self, question: str) -> str:
        """The number of wishes, such as ``3 wishes``."""
        return f"{len(self.words(question))} wishes"

    def stratum(self, question: str) -> str:
        """The number of wishes, such as ``3 wishes``; empty where it is no request."""
        return self.skeleton(question) if self.is_question(question) else ""

    def verifier_messages(self, question: str, solution: str) -> tuple[Message, ...]:
        return _worked_out(question, solution)

    def spoil(self, question: str, solution: str, rng: random.Random) -> str | None:
        return bouquets.spoil(solution, rng)

    def halve(self, question: str) -> Halves | None:
        return None

    def solve(self, question: str) -> str | None:
        return None

    def heldout(self) -> tuple[Problem, ...]:
        return bouquets.heldout_problems()

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        return {}

    def reserved(self) -> tuple[Problem, ...]:
        return self.heldout()


class MathTask:
    """Mathematics in natural language: no oracle, and no held-out problems of its own."""

    has_oracle = False
    has_halves = False
    has_steps = False

    def challenger_messages(self) -> tuple[Message, ...]:
        return prompts.math_challenger_messages()

    def solver_messages(self, question: str) -> tuple[Message, ...]:
        return prompts.math_solver_messages(question)

    def choice_messages(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        return prompts.choice_messages(question, options)

    def is_question(self, text: str) -> bool:
        """Any text is: what has no answer is dropped by the votes on it, or not at all."""
        return True

    def normalize(self, question: str) -> str:
        return " ".join(question.split()).casefold()

    def skeleton(self, question: str) -> str:
        """The words in small letters, parted by spaces, with numbers masked."""
        return mask_numbers(" ".join(self.words(question)).casefold())

    def stratum(self, question: str) -> str:
        """One group of all: nothing tells how hard a text is."""
        return ""

    def words(self, question: str) -> list[str]:
        return split_words(question)

    def words_by_space(self, question: str) -> list[str]:
        return question.split()

    def verifier_messages(self, question: str, solution: str) -> tuple[Message, ...]:
        return prompts.math_verifier_messages(question, solution)

    def spoil(self, question: str, solution: str, rng: random.Random) -> str | None:
        return None

    def halve(self, question: str) -> Halves | None:
        return None

    def solve(self, question: str) -> str | None:
        return None

    def heldout(self) -> tuple[Problem, ...]:
        return ()

    def strata(self) -> Mapping[str, tuple[Problem, ...]]:
        return {}

    def reserved(self) -> tuple[Problem, ...]:
        return ()


_TASKS: dict[str, type[ArithmeticTask | LadderTask | MathTask | BouquetTask]] = {
    "arithmetic": ArithmeticTask,
    "ladder": LadderTask,
    "math": MathTask,
    "bouquet": BouquetTask,
}
_OPEN_TASKS = {"bouquet": BouquetTask}
"""Those whose requests have no exact answer."""


def make_task(name: str) -> ArithmeticTask | LadderTask | MathTask | BouquetTask:
    """Return the task of `config.task`."""
    return _TASKS[name]()


def open_task(name: str) -> OpenTask:
    """Return the open task of `config.task`; `check_config` has refused any other."""
    return _OPEN_TASKS[name]()


def check_task(config: Config) -> None:
    """Raise UserError where a configuration needs of its task what that has not."""
    check_labels(config)
    check_halves(config)
    check_steps(config)
    check_prompts(config)


def check_prompts(config: Config) -> None:
    """Raise UserError where the agreement on held-out prompts is watched and there are none."""
    if config.rollback_fall < 1.0 and not make_task(config.task).heldout():
        raise UserError(
            f"rollback_fall={config.rollback_fall} watches the answers to held-out prompts, which "
            f"task={config.task} has not; set rollback_fall=1"
        )


def check_labels(config: Config) -> None:
    """Raise UserError when the curriculum's labels shall come from an oracle that is not there."""
    if config.curriculum.labels == "oracle" and not make_task(config.task).has_oracle:
        raise UserError(
            f"curriculum.labels=oracle needs a task with an oracle, which task={config.task} has "
            "not; use task=arithmetic, task=ladder or curriculum.labels=majority"
        )


def _worked_out(question: str, solution: str) -> tuple[Message, ...]:
    """Return a question with its solution, in the notation of the built-in models: no other prompt
    begins with a question and not with a role."""
    return (Message(role="user", content=f"{question}={solution}"),)


def check_steps(config: Config) -> None:
    """Raise UserError when a verifier shall learn from spoilt steps of solutions without steps."""
    if config.verifier.negatives == "structure" and not make_task(config.task).has_steps:
        raise UserError(
            f"verifier.negatives=structure needs a task whose solutions have steps, which "
            f"task={config.task} has not; use verifier.negatives=rarest"
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
    return {task.normalize(problem.question) for problem in task.reserved()}


@cache
def _arithmetic_heldout() -> tuple[Problem, ...]:
    return arithmetic.heldout_problems()


@cache
def _arithmetic_strata() -> Mapping[str, tuple[Problem, ...]]:
    return arithmetic.strata_problems()


@cache
def _ladder_reserved() -> tuple[Problem, ...]:
    return ladder.heldout_problems(ladder.HELDOUT_DRAWN)


@cache
def _ladder_heldout() -> tuple[Problem, ...]:
    return ladder.heldout_problems()
