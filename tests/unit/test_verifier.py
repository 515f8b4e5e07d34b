"""The verifier: what it is taught, what its verdicts decide, and the loop with it."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.config.load import load_config
from rzero_ray.method.verification import confirmed, majority_solutions, make_examples
from rzero_ray.phases import verifier
from rzero_ray.run.parquet import read_records
from rzero_ray.run.retention import plan_disk
from rzero_ray.run.run import Run
from rzero_ray.run.shape import find_shape
from rzero_ray.tasks import arithmetic
from rzero_ray.tasks.ladder import solutions
from rzero_ray.tasks.registry import ArithmeticTask, LadderTask, MathTask, check_steps
from rzero_ray.types import Candidate, CurriculumItem, UserError, Verdict, VerifierExample
from tests.unit.test_coevolution import OVERRIDES, Attempt, Killed

SETTINGS = ["verifier.num_steps=2", "verifier.num_prompts=4", "verifier.prompts_per_update=4"]
LADDER = r"7[3v+1]2[3v+4]0[3v+1]1\boxed{01}"
CHAIN = r"7+5=12;12-6=6;6+1=7;\boxed{7}"


def candidate(answers: list[str | None], label: str | None, num_agree: int) -> Candidate:
    return Candidate(
        text="q",
        question="7+5-6+1",
        answers=tuple(answers),
        label=label,
        num_agree=num_agree,
        num_votes=sum(a is not None for a in answers),
        num_tokens=1,
        dropped=None,
        truth=None,
        vote_texts=tuple(f"text {k} of {a}" for k, a in enumerate(answers)),
    )


def no_steps(question: str, solution: str, rng: random.Random) -> None:
    return None


def test_majority_answers_are_right_and_the_rarest_wrong():
    votes = candidate(["7", "7", "7", "8", "8", "9", None, "7"], "7", 4)
    assert majority_solutions(votes) == [f"text {k} of 7" for k in (0, 1, 2, 7)]
    for seed in range(20):
        right, wrong = make_examples([votes], "rarest", no_steps, random.Random(seed))
        assert right.is_right and right.solution in majority_solutions(votes)
        assert not wrong.is_right and wrong.solution == "text 5 of 9"


def test_a_weak_majority_a_unanimous_one_and_no_vote_teach_nothing_by_rarest():
    weak = candidate(["7", "7", "8", "9", "1"], "7", 2)
    unanimous = candidate(["7"] * 4, "7", 4)
    silent = candidate([None] * 4, None, 0)
    assert make_examples([weak, unanimous, silent], "rarest", no_steps, random.Random(0)) == []


def test_structure_makes_a_wrong_solution_of_a_unanimous_vote():
    def spoil(question: str, solution: str, rng: random.Random) -> str:
        return f"{solution}, spoilt"

    votes = candidate(["7"] * 4, "7", 4)
    right, wrong = make_examples([votes], "structure", spoil, random.Random(0))
    assert (right.is_right, wrong.is_right) == (True, False)
    assert wrong.solution.endswith("of 7, spoilt")


def test_most_solutions_must_pass():
    verdicts = [
        Verdict(question=f"{right}/{judged}", label="1", num_judged=judged, num_right=right)
        for right, judged in ((0, 0), (1, 2), (2, 3), (4, 8), (5, 8))
    ]
    assert confirmed(verdicts) == {"2/3", "5/8"}


@pytest.mark.parametrize(
    ("spoil", "solution"), [(solutions.spoil, LADDER), (arithmetic.spoil, CHAIN)]
)
def test_a_spoilt_solution_is_another_one_in_the_same_notation(spoil, solution: str):
    spoilt = {spoil(solution, random.Random(seed)) for seed in range(200)}
    assert None not in spoilt and solution not in spoilt and len(spoilt) > 10
    assert all(parse_answer(text) is not None for text in spoilt)
    assert all(spoil(text, random.Random(0)) is not None for text in spoilt)
    assert spoil("no solution", random.Random(0)) is None


def test_a_step_that_is_left_out_at_the_end_moves_the_box():
    assert r"7[3v+1]2[3v+4]0\boxed{20}" in {
        solutions.spoil(LADDER, random.Random(seed)) for seed in range(50)
    }
    assert r"7+5=12;12-6=6;\boxed{6}" in {
        arithmetic.spoil(CHAIN, random.Random(seed)) for seed in range(50)
    }


def test_structure_needs_a_task_whose_solutions_have_steps():
    check_steps(load_config(["conf=tiny", "recipe=structure_verifier"]))
    with pytest.raises(UserError, match="task=math has not"):
        check_steps(load_config(["conf=qwen3_4b", "recipe=structure_verifier"]))
    assert MathTask().spoil("1+1?", "2", random.Random(0)) is None


@pytest.mark.parametrize("task", [ArithmeticTask(), LadderTask(), MathTask()])
def test_a_verifier_sees_question_and_solution(task):
    text = " ".join(m["content"] for m in task.verifier_messages("Q?", "S!"))
    assert "Q?" in text and "S!" in text


def test_a_verifier_learns_after_the_votes_and_drops_what_it_does_not_believe(tmp_path: Path):
    attempt = Attempt(load_config([*OVERRIDES, *SETTINGS, "recipe=verifier"]), tmp_path)
    attempt.solver.skill = 0.4  # so that majorities are wrong at times
    attempt.go()
    for iteration in (1, 2):
        folder = tmp_path / f"iteration-0{iteration}"
        examples = read_records(folder / "verifier-examples.parquet", VerifierExample)
        assert sum(e.is_right for e in examples) * 2 == len(examples) > 0
        kept = read_records(folder / "curriculum.parquet", CurriculumItem)
        verdicts = read_records(folder / "verdicts.parquet", Verdict)
        assert [v.question for v in verdicts] == [i.question for i in kept]
        right = {i.question for i in kept if i.label == ArithmeticTask().solve(i.question)}
        assert confirmed(verdicts) == right  # the fake verifier knows
        taught = {
            sample.question
            for path in folder.glob("solver/step-*/rollouts.parquet")
            for sample in read_records(path, CurriculumItemOfStep)
        }
        assert taught <= right
    phases = [(p.role, p.iteration, p.initial_model.name) for p in attempt.verifier.phases]
    assert phases == [("verifier", 1, "base"), ("verifier", 2, "verifier-iteration-01")]
    assert len(attempt.verifier.updates) == 4


@dataclass(frozen=True)
class CurriculumItemOfStep:
    """The column of a Solver's rollouts that says which question was taught."""

    question: str


def test_candidates_are_read_once_an_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They come with the texts of all votes."""
    read: list[int] = []
    whole = verifier._candidates

    def once(iteration: int, run: Run) -> list[Candidate]:
        read.append(iteration)
        return whole(iteration, run)

    monkeypatch.setattr(verifier, "_candidates", once)
    Attempt(load_config([*OVERRIDES, *SETTINGS, "recipe=verifier"]), tmp_path).go()
    assert read == [1, 2]


def test_a_verifier_that_is_taught_once_judges_on_with_what_it_has(tmp_path: Path):
    arguments = [*OVERRIDES, *SETTINGS, "recipe=verifier", "ablation=verifier_taught_once"]
    attempt = Attempt(load_config(arguments), tmp_path)
    attempt.solver.skill = 0.4
    attempt.go()
    assert [phase.iteration for phase in attempt.verifier.phases] == [1]
    assert len(list(tmp_path.glob("iteration-*/verdicts.parquet"))) == 2


def test_a_verifier_that_never_learns_judges_from_the_first_iteration(tmp_path: Path):
    arguments = [*OVERRIDES, *SETTINGS, "recipe=verifier", "ablation=frozen_verifier"]
    attempt = Attempt(load_config(arguments), tmp_path)
    attempt.go()
    assert not attempt.verifier.phases and attempt.verifier.requests
    assert len(list(tmp_path.glob("iteration-*/verdicts.parquet"))) == 2
    assert not list(tmp_path.glob("iteration-*/verifier-examples.parquet"))


def test_a_verifier_that_never_learns_takes_no_disk():
    shape = find_shape("Qwen/Qwen3-8B-Base", None)
    assert shape is not None
    learning, frozen, without = (
        plan_disk(load_config(["conf=qwen3_8b", *more]), shape).models
        for more in (["recipe=verifier"], ["recipe=verifier", "ablation=frozen_verifier"], [])
    )
    assert learning > frozen == without


def test_how_a_verifier_learns_needs_a_verifier():
    with pytest.raises(UserError, match=r"learns=never changes nothing .* add recipe=verifier"):
        load_config(["conf=tiny", "ablation=frozen_verifier"])


def test_true_labels_are_not_judged(tmp_path: Path):
    arguments = [*OVERRIDES, *SETTINGS, "recipe=verifier", "ablation=ground_truth_labels"]
    attempt = Attempt(load_config(arguments), tmp_path)
    attempt.go()
    assert not attempt.verifier.requests and not attempt.verifier.phases
    assert not list(tmp_path.glob("iteration-*/verdicts.parquet"))


def test_a_run_without_a_verifier_asks_and_teaches_none(tmp_path: Path):
    attempt = Attempt(load_config(OVERRIDES), tmp_path)
    attempt.go()
    assert not attempt.verifier.requests and not attempt.verifier.phases
    path = tmp_path / "iteration-01/curriculum/step-001/candidates.parquet"
    assert all(c.vote_texts == () for c in read_records(path, Candidate))


@pytest.mark.slow
def test_a_run_that_is_stopped_anywhere_ends_as_one_that_is_not(tmp_path: Path):
    config = load_config([*OVERRIDES, *SETTINGS, "recipe=verifier", "num_iterations=1"])
    Attempt(config, tmp_path / "whole").go()
    expected = read_records(tmp_path / "whole/iteration-01/verdicts.parquet", Verdict)
    kill_at, stopped = 0, True
    while stopped:
        root = tmp_path / f"stopped-{kill_at}"
        try:
            Attempt(config, root).go(kill_at)
            stopped = False
        except Killed:
            Attempt(config, root).go()
        assert read_records(root / "iteration-01/verdicts.parquet", Verdict) == expected
        kill_at += 1
    assert kill_at > 8


def test_a_memory_too_small_to_teach_from_is_refused():
    with pytest.raises(UserError, match=r"verifier.memory=7 must be"):
        load_config(["conf=tiny", "recipe=verifier", "verifier.memory=7"])
