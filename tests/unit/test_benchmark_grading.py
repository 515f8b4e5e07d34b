import pytest
from hypothesis import given
from hypothesis import strategies as st

from rzero_ray.answers.choices import grade_choice, grade_text, plurality, text_form

OPTIONS = ("Paris", "London", "Rome", "1/2", "rome")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"\boxed{A} no, \boxed{B}", "B"),  # the last box
        (r"\boxed{(c)}", "C"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"\boxed{Option D.}", "D"),
        (r"\boxed{B. London}", "B"),
        (r"\boxed{B. the capital of England}", "B"),
        (r"\boxed{London}", "B"),
        (r"\boxed{\text{ paris. }}", "A"),
        (r"\boxed{0.5}", "D"),  # the same number as 1/2
        (r"\boxed{Rome}", None),  # the text of two options
        (r"\boxed{F}", None),  # no such option
        (r"\boxed{Bonn}", None),  # the official rule reads B: a letter that occurs
        (r"\boxed{A. London}", None),  # contradicts itself
        (r"\boxed{A, B}", None),
        ("the answer is A", None),  # no box
        (r"\boxed{}", None),
    ],
)
def test_a_choice_is_read_or_left_unanswered_never_guessed(response: str, letter: str | None):
    assert grade_choice(response, "B", OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("(A)", "A"),
        ("a", "(A)"),
        ("**Yes**", "yes"),
        ("5.0", "5"),
        ("1,000", "1000"),
        ("[1, 2]", "1,2"),
        ("'red', blue.", "red, blue"),
        (r"\text{Unknown}", "unknown"),
        ("which one?", "which one"),
        ("first line\nsecond line", "first line"),
    ],
)
def test_texts_match_by_the_documented_fuzzy_rules(answer: str, reference: str):
    assert grade_text(f"\\boxed{{{answer}}}", reference) == reference
    assert text_form(answer) == text_form(reference)  # and so in both directions


@pytest.mark.parametrize(("answer", "reference"), [("B", "A"), ("51", "5"), ("yes, no", "yes")])
def test_other_texts_do_not_match(answer: str, reference: str):
    assert grade_text(f"\\boxed{{{answer}}}", reference) == text_form(answer) != reference


def test_the_plurality_is_the_most_frequent_answer():
    assert plurality(["b", None, "a", "b", None, None]) == "b"
    assert plurality(["b", "a"]) == "a"
    assert plurality([None]) is None


@given(st.text(alphabet=r"ABab\boxedtext{}()[]$.* 1/", max_size=60))
def test_any_text_is_read_without_an_exception(text: str):
    assert grade_choice(text, "A", OPTIONS) in (None, *"ABCDE")
    grade_text(text, "a")
