"""What the official evaluation does, what ours does, by how much the tiny model's score differs.

Real answers of the tiny base model to its held-out problems, through the command `evaluate`; each
pitfall is then applied to the same answers. `RAY_ADDRESS=local python -m tests.bench
evaluation_pitfalls`. No language model can judge here: a literal reader takes its place, which says
yes when the text that it is told is the answer occurs in the text that it is told is the reference.
The official rules are written anew from their description; none of their code is here.
"""

from __future__ import annotations

import random
import re
import string
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from rzero_ray.answers.choices import grade_choice
from rzero_ray.answers.equality import equivalent
from rzero_ray.config.evaluation import load_evaluation_config
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.benchmarks.command import run_evaluation
from rzero_ray.run.parquet import read_records
from rzero_ray.run.rows import mean
from tests.bench.harness import Figure

_FIRST_BOX = re.compile(r"(?i)\\boxed\s*{([^\n]+)}")
"""The official pattern: the first box, greedily to the last brace of its line."""
_NUM_OPTIONS = 10
_FURTHER_OFF = (-10, -2, -1, 1, 2, 10, 11, -11, 3)
"""Wrong options: the truth plus these, so that the model's usual mistakes are among them."""


def run() -> list[Figure]:
    """Measure all four pitfalls on one evaluation."""
    return measure(_evaluate())


def measure(problems: Sequence[AnsweredProblem]) -> list[Figure]:
    """Apply each pitfall to the answers of one evaluation."""
    texts = [(p, text) for p in problems for text in p.texts]
    greedy = [(p, p.greedy_text) for p in problems]
    return [
        _figure("greedy copied k times, called mean@8", _copied(problems), _sampled(problems)),
        _figure(
            "first box to the end of the line, greedy answers",
            _share(greedy, _first_box_right),
            _share(greedy, _last_box_right),
        ),
        _figure(
            "first box to the end of the line, sampled answers",
            _share(texts, _first_box_right),
            _share(texts, _last_box_right),
        ),
        _figure(
            "missing choices guessed, greedy answers", _choices(greedy, True), _choices(greedy)
        ),
        _figure("missing choices guessed, sampled answers", _choices(texts, True), _choices(texts)),
        _figure(
            "judge asked with swapped texts about refused answers (literal reader)",
            _share(greedy, _rechecked_swapped),
            _share(greedy, _last_box_right),
        ),
        _figure(
            "the same judge, texts in their places (literal reader)",
            _share(greedy, _rechecked),
            _share(greedy, _last_box_right),
        ),
    ]


def _evaluate() -> list[AnsweredProblem]:
    with tempfile.TemporaryDirectory() as folder:
        config = load_evaluation_config(["model=tiny", "suite=heldout", f"output_dir={folder}"])
        run_evaluation(config, Console(quiet=True))
        return read_records(Path(folder) / "model" / "heldout.parquet", AnsweredProblem)


def _figure(name: str, official: float, ours: float) -> Figure:
    return Figure(
        name=name,
        value=100 * (official - ours),
        unit="points",
        details=f"there {100 * official:.1f} %, here {100 * ours:.1f} %",
    )


Rule = Callable[[AnsweredProblem, str], bool]


def _share(responses: Sequence[tuple[AnsweredProblem, str]], rule: Rule) -> float:
    return mean([float(rule(problem, text)) for problem, text in responses])


def _sampled(problems: Sequence[AnsweredProblem]) -> float:
    return mean([mean(problem.correct) for problem in problems])


def _copied(problems: Sequence[AnsweredProblem]) -> float:
    """Return the mean over k copies of the greedy answer."""
    return mean([mean([p.greedy_correct] * len(p.correct)) for p in problems])


def _last_box_right(problem: AnsweredProblem, text: str) -> bool:
    """Return our grade, which the evaluation has given already."""
    if text == problem.greedy_text:
        return problem.greedy_correct
    return problem.correct[problem.texts.index(text)]


def _first_box_right(problem: AnsweredProblem, text: str) -> bool:
    match = _FIRST_BOX.search(text)
    return match is not None and equivalent(match[1], problem.reference)


def _choices(
    responses: Sequence[tuple[AnsweredProblem, str]], guess_missing: bool = False
) -> float:
    """Return accuracy when each problem is a choice of ten numbers; a guess is a random letter."""
    guesses = random.Random(0)
    letters = string.ascii_uppercase[:_NUM_OPTIONS]
    right = []
    for problem, text in responses:
        truth = int(problem.reference)
        numbers = [str(truth), *(str(truth + offset) for offset in _FURTHER_OFF)]
        random.Random(problem.question).shuffle(numbers)
        reference = letters[numbers.index(str(truth))]
        answer = grade_choice(text, reference, numbers)
        if answer is None and guess_missing:
            answer = guesses.choice(letters)
        right.append(float(answer == reference))
    return mean(right)


def _literal_reader(answer: str, reference: str) -> bool:
    return answer in reference


def _rechecked_swapped(problem: AnsweredProblem, text: str) -> bool:
    """The gold answer is called the answer, the whole response the reference."""
    return _last_box_right(problem, text) or _literal_reader(problem.reference, text)


def _rechecked(problem: AnsweredProblem, text: str) -> bool:
    answer = problem.greedy_answer
    is_accepted = answer is not None and _literal_reader(answer, problem.reference)
    return _last_box_right(problem, text) or is_accepted
