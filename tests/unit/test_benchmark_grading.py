import pytest
from hypothesis import given
from hypothesis import strategies as st

from rzero_ray.answers.choices import grade_choice, grade_text, plurality, read_choice, text_form

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


NUMBERS = ["5", "6", "7", "8"]
NAMED = (
    *("Answer: C", "Option C: 7", "The answer is C", "**C**", "`C`", '"C"', "C;", "{C}", r"\{C\}"),
    *("\uff23", "C 7", "C, 7", "C = 7", r"C \quad 7", r"\boldsymbol{C}", r"\underline{C}"),
    *(r"\textsf{C}", r"\(C\)", "The answer is (C)", "C,", "C. 7", "(C), 7", "choice (C)"),
    *("Option (C): 7", "C - 7", "C \u2013 7", r"\text{(C) } 7", "**Answer: C**", r"C\ 7", "7"),
    *("The correct answer is option C.", r"\textcolor{red}{C}", r"\left(C\right)"),
    *("I choose C", "My answer is C"),
)
NOT_NAMED = (
    *("C, D", "CD", "C. 8", "C and D", "C or D", "CAT", "C = 9", "(C)(D)", "C/D", "not C", "A cat"),
    *("I think", "C: 8", "(C) or (D)", "A. 5; C. 7", "A. 5 B. 6", "A. is wrong; C", "x"),
)


@pytest.mark.parametrize("text", NAMED)
def test_every_notation_of_a_letter(text: str) -> None:
    assert read_choice(text, NUMBERS) == "C"


@pytest.mark.parametrize("text", NOT_NAMED)
def test_no_letter_is_chosen_that_was_not_named_alone(text: str) -> None:
    assert read_choice(text, NUMBERS) is None
