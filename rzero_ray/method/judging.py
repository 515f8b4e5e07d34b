"""The rules by which model text is judged, in one process: `protocols.Judge` without a cluster.

A reward worker runs them on a cluster, the unit tests and the audit command call them directly.
Symbolic comparison runs in a killable child of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rzero_ray.answers.choices import grade_choice, grade_text, plurality
from rzero_ray.answers.equality import BudgetedEquality, default_comparer
from rzero_ray.answers.parsing import parse_answer
from rzero_ray.answers.voting import VOTING_RULES
from rzero_ray.method.repetition import REPETITION_RULES, cluster_ids
from rzero_ray.protocols import Task
from rzero_ray.types import Ballot, BenchmarkProblem, Marks, RepetitionRule, VotingRule


class LocalJudge:
    """What each method of `protocols.Judge` comes to; holds no state but caches."""

    def __init__(self, task: Task) -> None:
        """`task` says over which words questions are compared."""
        self._task = task

    def vote(self, responses: Sequence[str], rule: VotingRule) -> Ballot:
        """Parse [M] responses and count their answers, within one budget of processor time."""
        answers = [parse_answer(response) for response in responses]
        return VOTING_RULES[rule](answers, BudgetedEquality().equivalent)

    def grade(self, responses: Sequence[str], reference: str) -> list[str | None]:
        """Return `reference` per equivalent answer, else the answer itself, None without one."""
        answers = [parse_answer(response) for response in responses]
        equivalent = BudgetedEquality().equivalent
        return [
            reference if answer is not None and equivalent(answer, reference) else answer
            for answer in answers
        ]

    def mark(self, responses: Sequence[str], problem: BenchmarkProblem) -> Marks:
        """Hold [M] responses to a problem against its reference, by the problem's rule."""
        if problem.rule == "choice":
            answers = [grade_choice(r, problem.answer, problem.options) for r in responses]
        elif problem.rule == "text":
            answers = [grade_text(r, problem.answer) for r in responses]
        else:
            label = self.vote(responses, "by_value").label
            is_right = label is not None and BudgetedEquality().equivalent(label, problem.answer)
            return Marks(
                answers=tuple(self.grade(responses, problem.answer)),
                majority=problem.answer if is_right else label,
            )
        return Marks(answers=tuple(answers), majority=plurality(answers))

    def repetition_shares(
        self, questions: Sequence[str], threshold: float, rule: RepetitionRule
    ) -> list[float]:
        """Return per question the share of `questions` in its cluster, by `rule`."""
        tokenize: dict[RepetitionRule, Callable[[str], list[str]]] = {
            "symmetric": self._task.words,
            "official": self._task.words_by_space,
            "skeleton": lambda question: [self._task.skeleton(question)],
        }
        return REPETITION_RULES[rule](questions, threshold, tokenize[rule])

    def repetition_clusters(self, questions: Sequence[str], threshold: float) -> list[int]:
        """Return per question the number of its BLEU cluster."""
        return cluster_ids(questions, threshold, self._task.words)

    def num_killed(self) -> int:
        """Return how many comparisons of this process have overrun their limits."""
        return default_comparer().num_killed
