"""The oracle against values worked out by hand, and the promises about held-out problems and the
corpus."""

import random
import re
from collections import Counter

import pytest

from rzero_ray.tasks import arithmetic
from rzero_ray.tasks.registry import ArithmeticTask, MathTask, held_out_forms

_HELDOUT = frozenset(problem.question for problem in arithmetic.heldout_problems())

PINNED_STRATUM = ("1+9-9+16+8+5+10-4+6", "42")
PINNED_PROBES = ["8+4-9+8-8+6+3", "14-1+7+9+6+4-8", "8+8+2+1+8-15+4"]


def _num_operands(question: str) -> int:
    return len(re.findall(r"[+-]", question)) + 1


def _documents(
    num_documents: int,
    *,
    challenger_share: float = 0.2,
    direct_share: float = 0.5,
    guess_spread: int = 2,
    corruption: float = 0.03,
    excluded: frozenset[str] = _HELDOUT,
) -> list[arithmetic.Document]:
    documents = arithmetic.documents(
        random.Random(1),
        num_documents,
        challenger_share=challenger_share,
        direct_share=direct_share,
        guess_spread=guess_spread,
        corruption=corruption,
        excluded=excluded,
    )
    return list(documents)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("7+5-6", "6"),
        ("1-2", "-1"),
        ("1-2-3+1", "-3"),
        (" 12 +\t7 ", "19"),
        ("007+05", "12"),
        ("999999+1", "1000000"),
        ("5-5", "0"),
        ("+".join(["1"] * 200), "200"),
    ],
)
def test_solve_well_formed(question: str, answer: str) -> None:
    assert arithmetic.solve(question) == answer


@pytest.mark.parametrize(
    "question",
    [
        "",
        "7",
        "+7",
        "-7+5",
        "7+",
        "7++5",
        "7+-5",
        "7*5",
        "7+5=",
        "(7+5)",
        "1000000+1",
        "\u0667+\u0665",  # Arabic-Indic digits, which int() would accept
        "7+five",
        "__import__('os')",
        "1+" * 400 + "1",
    ],
)
def test_solve_malformed(question: str) -> None:
    assert arithmetic.solve(question) is None


def test_solve_agrees_with_python_on_samples() -> None:
    rng = random.Random(0)
    for _ in range(500):
        question = arithmetic.sample_question(rng, rng.randint(2, 8))
        assert arithmetic.solve(question) == str(eval(question))


def test_normalize_makes_equal_questions_equal() -> None:
    assert arithmetic.normalize(" 007 + 05-10 ") == "7+5-10"
    assert arithmetic.normalize("0+00+100") == "0+0+100"
    assert arithmetic.normalize("7+5") != arithmetic.normalize("5+7")


def test_sampled_questions_keep_the_running_value_in_range() -> None:
    rng = random.Random(3)
    operands: Counter[int] = Counter()
    for num_operands in range(2, 9):
        for _ in range(300):
            question = arithmetic.sample_question(rng, num_operands)
            terms = [int(term) for term in re.findall(r"[+-]?\d+", question)]
            assert len(terms) == num_operands
            running = [sum(terms[:count]) for count in range(1, num_operands + 1)]
            assert min(running) >= 0
            assert max(running) <= 99
            operands.update(abs(term) for term in terms)
    assert set(operands) == set(range(1, 21))
    large_share = (
        sum(count for operand, count in operands.items() if operand > 9) / operands.total()
    )
    # A quarter of the operands are drawn from 1-20, of which 11 in 20 exceed 9.
    assert large_share == pytest.approx(0.25 * 11 / 20, abs=0.03)


def test_sample_question_needs_an_operator() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        arithmetic.sample_question(random.Random(0), 1)


def test_heldout_problems_are_fixed_unique_and_balanced() -> None:
    problems = arithmetic.heldout_problems()
    assert problems == arithmetic.heldout_problems()
    assert problems != arithmetic.heldout_problems(seed=1)
    assert len({problem.question for problem in problems}) == 360
    assert Counter(_num_operands(problem.question) for problem in problems) == dict.fromkeys(
        range(2, 8), 60
    )
    assert all(arithmetic.normalize(problem.question) == problem.question for problem in problems)
    assert all(arithmetic.solve(problem.question) == problem.answer for problem in problems)


def test_documents_never_contain_a_heldout_question() -> None:
    documents = _documents(20_000)
    for role in ("challenger", "solver"):
        asked = {document.question for document in documents if document.role == role}
        assert asked.isdisjoint(_HELDOUT)
    # That means something only if an unfiltered corpus of this size meets held-out questions.
    unfiltered = _documents(20_000, excluded=frozenset())
    assert len({document.question for document in unfiltered} & _HELDOUT) > 40


def test_documents_without_noise_are_right_in_every_step() -> None:
    for document in _documents(2000, guess_spread=0, corruption=0.0):
        answer = arithmetic.solve(document.question)
        assert document.completion.endswith(f"\\boxed{{{answer}}}")
        if document.role == "challenger":
            assert document.prompt == "<challenger>="
            question = f"<question>{document.question}</question>"
            assert document.completion == f"{question}\\boxed{{{answer}}}"
        else:
            assert document.prompt == f"<solver>{document.question}="
            for step in document.completion.split(";")[:-1]:
                left, result = step.split("=")
                assert arithmetic.solve(left) == result


def test_guesses_spread_evenly_and_only_beyond_two_operands() -> None:
    errors: dict[int, Counter[int]] = {2: Counter(), 3: Counter()}
    for document in _documents(40_000, direct_share=1.0, guess_spread=2):
        num_operands = _num_operands(document.question)
        value = int(arithmetic.solve(document.question) or "-1")
        # Away from zero, where the guess is cut off.
        if num_operands in errors and value >= 2:
            guess = re.search(r"\\boxed\{(\d+)\}$", document.completion)
            assert guess is not None
            errors[num_operands][int(guess[1]) - value] += 1
    assert set(errors[2]) == {0}
    assert set(errors[3]) == {-2, -1, 0, 1, 2}
    total = errors[3].total()
    for count in errors[3].values():
        assert count / total == pytest.approx(0.2, abs=0.03)


def test_document_shares_and_corruption_are_the_requested_ones() -> None:
    documents = _documents(20_000, challenger_share=0.15, direct_share=0.6, corruption=0.1)
    solver = [document for document in documents if document.role == "solver"]
    assert 1 - len(solver) / len(documents) == pytest.approx(0.15, abs=0.01)
    direct = [document for document in solver if document.completion.startswith("\\boxed")]
    assert len(direct) / len(solver) == pytest.approx(0.6, abs=0.015)
    steps = [step.split("=") for document in solver for step in document.completion.split(";")[:-1]]
    num_wrong = sum(arithmetic.solve(left) != result for left, result in steps)
    assert num_wrong / len(steps) == pytest.approx(0.1, abs=0.01)
    challenger = [document for document in documents if document.role == "challenger"]
    mean_operands = sum(_num_operands(document.question) for document in challenger) / len(
        challenger
    )
    assert mean_operands == pytest.approx(4.04, abs=0.1)


def test_the_strata_are_pinned_longer_than_the_corpus_and_right():
    strata = arithmetic.strata_problems()
    assert {name: len(problems) for name, problems in strata.items()} == {
        f"{n} operands": 20 for n in (9, 10, 11, 12)
    }
    for name, problems in strata.items():
        for problem in problems:
            assert len(re.findall(r"[0-9]+", problem.question)) == int(name.split()[0])
            assert arithmetic.solve(problem.question) == problem.answer
    first = strata["9 operands"][0]
    assert (first.question, first.answer) == PINNED_STRATUM
    assert arithmetic.STRATA_OPERANDS.start > arithmetic.MAX_OPERANDS


def test_nothing_may_be_trained_on_a_held_out_problem_of_either_kind():
    forms = held_out_forms(ArithmeticTask())
    assert len(forms) == 360 + 80
    assert arithmetic.strata_problems()["12 operands"][3].question in forms
    assert held_out_forms(MathTask()) == set()


def test_the_probes_prompts_are_pinned():
    """What verifies weights must not move when held-out problems are added."""
    questions = [problem.question for problem in ArithmeticTask().heldout()[-3:]]
    assert questions == PINNED_PROBES
