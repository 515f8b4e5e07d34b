"""The ladder's oracle against values worked out by hand and by other means, what its questions
share, and the promises about held-out problems and the corpus."""

import random
import re
from collections import Counter
from itertools import islice

import pytest

from rzero_ray.answers.equality import equivalent
from rzero_ray.method.judging import LocalJudge
from rzero_ray.tasks.ladder import questions
from rzero_ray.tasks.ladder.corpus import Mixture, documents
from rzero_ray.tasks.registry import ArithmeticTask, LadderTask, MathTask, held_out_forms
from rzero_ray.types import BenchmarkProblem

TASK = LadderTask()
PINNED = (
    "addsub:4[+3][+2]",
    "seven:8[7v-8][7v-5][7v-8][7v-2][7v-7][7v-5][7v-1][7v-2][7v-1][7v-4][7v-7][7v-1]",
)
EVERYTHING = Mixture(
    challenger_share=0.3,
    challenger_weights=(0.3, 0.3, 0.2, 0.1, 0.1),
    solver_weights=(0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1),
    shortcuts=(0, 0, 0.5, 0.5, 0.5, 0.5, 0.5),
)


def _formula(operation: str, value: int) -> int:
    """The result of an operation by Python's own arithmetic on its text."""
    inside = operation[1:-1]
    text = f"v{inside}" if inside[0] in "+-" else re.sub(r"([0-9])v", r"\1*v", inside)
    return eval(text, {"v": value}) % 10


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("triple:7[3v+1][3v+4]", "20"),
        ("addsub:9[+3]", "92"),
        ("addsub:0[-1][+1]", "90"),
        ("reflect:3[1-v][8-v]", "80"),
        ("mix:2[-2][9v]", "00"),
        ("times:7[3v]", "71"),
        (" seven: 4\n[7v-8] [7v-2]", "08"),
    ],
)
def test_solve_by_hand(question: str, answer: str):
    assert questions.solve(question) == answer


@pytest.mark.parametrize(
    "question",
    [
        "",
        "addsub:",
        "addsub:7",
        "7[+3]",
        "addsub:7[3v+1]",  # of another family
        "coin:7[?1][?2]",  # well formed, but chance
        "mix:7[?1]",
        "addsub:17[+3]",
        "addsub:7[+3]=",
        "nofamily:7[+3]",
        "addsub:7[+9]",
        "addsub:\u0667[+3]",  # an Arabic-Indic digit, which int() would accept
        "addsub:7" + "[+3]" * 200,
    ],
)
def test_texts_without_an_answer(question: str):
    assert questions.solve(question) is None


def test_the_oracle_agrees_with_the_formulas_in_the_tokens():
    rng = random.Random(0)
    for _ in range(2000):
        family = rng.choice((*questions.PLAIN_FAMILIES, questions.MIX))
        question = questions.sample_question(rng, family, rng.randint(1, 18))
        values = [question.start]
        for operation in question.operations:
            values.append(_formula(operation, values[-1]))
        assert questions.solve(question.text) == f"{values[-2]}{values[-1]}"
        assert questions.parse(question.text) == question


def test_every_operation_permutes_the_values_and_belongs_to_one_family():
    assert all(sorted(table) == list(range(10)) for table in questions.TABLES.values())
    owners = Counter(o for f in questions.PLAIN_FAMILIES for o in questions.OPERATIONS[f])
    assert set(owners.values()) == {1}
    assert questions.OPERATIONS["mix"] == tuple(questions.TABLES)


def test_the_family_token_does_not_make_another_question():
    same = ("triple:7[3v+1]", "mix: 7 [3v+1]", "addsub:7[3v+1]", "mix:triple:7[3v+1]", "7[3v+1]")
    assert {TASK.normalize(question) for question in same} == {"7[3v+1]"}
    assert TASK.normalize("triple:7[3v+1]") != TASK.normalize("triple:7[3v+2]")


def test_heldout_problems_are_fixed_balanced_and_a_part_of_what_is_reserved():
    problems, reserved = TASK.heldout(), TASK.reserved()
    assert (len(problems), len(reserved)) == (330, 660)
    assert set(problems) < set(reserved)
    groups = Counter(TASK.skeleton(problem.question) for problem in problems)
    assert len(groups) == 55 and set(groups.values()) == {6}
    assert Counter(TASK.stratum(problem.question) for problem in problems) == {
        "2-3": 60,
        "4-5": 60,
        "6-7": 60,
        "8-9": 60,
        "10-12": 90,
    }
    assert all(questions.solve(problem.question) == problem.answer for problem in problems)
    assert len({TASK.normalize(problem.question) for problem in reserved}) == 660
    assert (problems[0].question, problems[-1].question) == PINNED


def test_nothing_may_be_trained_on_a_reserved_problem_under_any_family():
    forms = held_out_forms(TASK)
    assert len(forms) == 660
    question = TASK.reserved()[10].question
    assert TASK.normalize(f"mix:{question.partition(':')[2]}") in forms


def test_documents_never_contain_a_reserved_question():
    asked = [
        document.question for document in islice(documents(random.Random(1), EVERYTHING), 30000)
    ]
    forms = held_out_forms(TASK)
    assert not forms & {TASK.normalize(question.text) for question in asked}
    # That means something only if a corpus of this size would meet held-out questions.
    rng = random.Random(1)
    drawn = (questions.sample_question(rng, rng.choice(questions.PLAIN_FAMILIES), 2) for _ in asked)
    assert len(forms & {TASK.normalize(question.text) for question in drawn}) > 20


def test_documents_answer_as_they_say():
    shares: dict[int, list[bool]] = {}
    for document in islice(documents(random.Random(2), EVERYTHING), 20000):
        question, values = document.question, document.question.running_values()
        if document.prompt == "<challenger>=":
            assert document.completion == f"<question>{question.text}</question>"
            continue
        assert document.prompt == f"<solver>{question.text}="
        steps = [f"{o}{v}" for o, v in zip(question.operations, values[1:], strict=True)]
        whole, short = (
            f"{question.start}{''.join(steps[: n - 1])}\\boxed{{{values[n - 2]}{values[n - 1]}}}"
            for n in (len(values), len(values) - 1)
        )
        assert document.completion in (whole, short)
        shares.setdefault(len(steps), []).append(document.completion == short)
    for length, is_short in shares.items():
        expected = 0.5 if length >= 4 else 0.0
        assert sum(is_short) / len(is_short) == pytest.approx(expected, abs=0.06)


def test_coins_are_kept_out_unless_they_are_asked_for():
    few = islice(documents(random.Random(3), EVERYTHING), 2000)
    assert "coin" not in {document.question.family for document in few}
    mixture = Mixture(coin_share=0.5, challenger_weights=(1,), solver_weights=(1,))
    some = list(islice(documents(random.Random(3), mixture), 2000))
    coins = [document for document in some if document.question.family == "coin"]
    assert len(coins) / len(some) == pytest.approx(0.5, abs=0.05)
    answered = [document for document in coins if document.prompt != "<challenger>="]
    moves = Counter(
        ((int(result) - int(value)) % 10, int(summand))
        for document in answered
        for value, summand, result in re.findall(
            r"(?=([0-9])\[\?([0-9])\]([0-9]))", document.completion
        )
    )
    assert set(moves) == {(sign * a % 10, a) for a in (1, 2, 3, 4) for sign in (1, -1)}


def test_a_mixture_of_impossible_shares_is_refused():
    with pytest.raises(ValueError, match="coin_share"):
        Mixture(coin_share=1.5, challenger_weights=(1,), solver_weights=(1,))


@pytest.mark.parametrize(
    ("task", "question", "skeleton", "stratum"),
    [
        (TASK, "triple: 7[3v+1][3v+4]", "triple:2", "2-3"),
        (TASK, "mix:7[+1]", "mix:1", "1"),
        (TASK, "coin:7[?1][?2]", "coin:2", "coin"),
        (TASK, "addsub:0" + "[+1]" * 13, "addsub:13", "13+"),
        (TASK, "addsub:7[3v+12]", "#[#v+#]", ""),
        (ArithmeticTask(), " 12+7-3", "#+#-#", "3 operands"),
        (ArithmeticTask(), "12+", "#+", ""),
        (MathTask(), "What is 12.5 plus 7?", "what is #.# plus # ?", ""),
        (MathTask(), "What  is 3.25 plus 11?", "what is #.# plus # ?", ""),
    ],
)
def test_skeletons_and_strata(task, question: str, skeleton: str, stratum: str):
    assert task.skeleton(question) == skeleton
    assert task.stratum(question) == stratum


def test_the_words_of_a_question_are_its_tokens():
    assert TASK.words("triple:7 [3v+1][+3]x") == ["triple:", "7", "[3v+1]", "[+3]", "x"]
    assert TASK.words("") == []


def test_answers_with_a_leading_zero_are_voted_and_graded_as_they_are_written():
    judge = LocalJudge(TASK)
    texts = ["4[7v-8]0[7v-2]8\\boxed{08}"] * 3 + ["\\boxed{80}", "no box"]
    ballot = judge.vote(texts, "by_value")
    assert (ballot.label, ballot.num_agree, ballot.num_votes) == ("08", 3, 4)
    truth = TASK.solve("seven:4[7v-8][7v-2]")
    assert truth is not None
    assert judge.grade(texts, truth) == ["08", "08", "08", "80", None]
    assert judge.mark(texts, BenchmarkProblem(question="", answer=truth)).majority == "08"


def test_no_two_of_the_hundred_answers_are_equal():
    answers = [f"{number:02d}" for number in range(100)]
    assert all(equivalent(a, b) == (a == b) for a in answers[:12] for b in answers)
