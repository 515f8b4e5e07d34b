"""Parsing is total, linear, and takes the last well-formed block."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rzero_ray.answers.parsing import (
    MAX_QUESTION_CHARS,
    Challenge,
    has_chain_of_thought,
    has_think_format,
    parse_answer,
    parse_challenge,
    parse_question,
    parse_strict_question,
    spoken,
)

LINEAR_TIME_LIMIT_S = 5.0  # 1 MB takes about 0.3 s; quadratic work would take hours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<question>What is 1+1?</question>", "What is 1+1?"),
        ("think <question> a\nb </question> \\boxed{2}", "a\nb"),
        ("<question>draft</question> no, <question>final</question>", "final"),
        ("<question>a</question> <question>cut off", "a"),
        ("<question>a <question>b</question>", "b"),
        ("<question>a</question></question>", "a"),
        ("<question>a</question> text </question>", "a"),
        ("</question>a<question>", None),
        ("<question></question>", None),
        ("<question> \n </question>", None),
        ("<question>a</question><question> </question>", None),
        ("question", None),
        ("", None),
        ("<question>数 x²</question>", "数 x²"),
        ("<question>" + "q" * MAX_QUESTION_CHARS + "</question>", "q" * MAX_QUESTION_CHARS),
        ("<question>" + "q" * (MAX_QUESTION_CHARS + 1) + "</question>", None),
    ],
)
def test_parse_question(text: str, expected: str | None) -> None:
    assert parse_question(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"first \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a\\}", "a\\\\"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{outer \boxed{inner}}", r"inner"),
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5} }", "5"),
        (r"\boxed{ {1 }", None),
        (r"\boxed{", None),
        (r"\boxed{}", None),
        (r"\boxed{  }", None),
        (r"\framebox{5}", "5"),
        (r"is \boxed{42}. I put it in \boxed{}.", "42"),
        (r"\boxed{42}\boxed{ }", "42"),
        (r"\boxed{7} \boxed{\boxed{}}", "7"),
        (r"\boxed{7}, then \boxed{...}", "7"),
        (r"\boxed{...}", None),
        (r"$\boxed{1}$, $\boxed{2}$", "1, 2"),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3"),
        (r"\boxed{1} \text{ or } \boxed{2}", "1, 2"),
        (r"\boxed{1} \quad \boxed{2}", "1, 2"),
        (r"x=\boxed{1}, y=\boxed{2}", "1, 2"),
        (r"\boxed{1}, so \boxed{2}", "2"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{5}, \boxed{5.0}", "5.0"),
        (r"\boxed 5", None),
        (r"\\boxed{5}", None),  # an escaped backslash, then plain text
        ("5", None),
        ("", None),
    ],
)
def test_parse_answer(text: str, expected: str | None) -> None:
    assert parse_answer(text) == expected


def test_parse_challenge_needs_both_blocks_in_order() -> None:
    both = r"<question>1+1?</question> \boxed{2}"
    assert parse_challenge(both) == Challenge("1+1?", "2")
    assert parse_challenge("<question>1+1?</question>") is None
    assert parse_challenge(r"\boxed{2} <question>1+1?</question>") is None
    assert parse_challenge(r"\boxed{2}") is None
    assert parse_challenge(r"<question>is \boxed{2} right?</question>") is None
    assert parse_challenge(r"<question> </question> \boxed{2}") is None
    assert parse_challenge("") is None


def test_has_chain_of_thought() -> None:
    assert has_chain_of_thought(r"Since 1+1=2, \boxed{2}")
    assert has_chain_of_thought(r"\boxed{1} then \boxed{2}")
    assert has_chain_of_thought("reasoning that was cut off")
    assert not has_chain_of_thought(r"  \boxed{2} trailing")
    assert not has_chain_of_thought(" \n")


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        "}" * 1_000_000,
        r"\boxed{" * 150_000,
        r"\boxed" + " " * 1_000_000,
        "\\" * 1_000_000,
        r"\boxed{" + "{" * 10_000 + "1" + "}" * 10_000 + "}",
        r"\boxed{" * 10_000 + "1" + "}" * 10_000,
        "<question>" * 100_000,
        "</question>" * 100_000,
        "<question></question>" * 50_000,
        r"\boxed{" + "9" * 1_000_000 + "}",
        "<think>" * 150_000,
        "</think>" * 150_000,
        "<think></think>" * 80_000,
        r"<think>\boxed{1}</think>" * 50_000,
    ],
)
def test_adversarial_text_takes_linear_time(text: str) -> None:
    start = time.perf_counter()
    parse_answer(text)
    parse_question(text)
    parse_challenge(text)
    has_chain_of_thought(text)
    has_think_format(text)
    assert time.perf_counter() - start < LINEAR_TIME_LIMIT_S


def test_nested_braces_are_kept_whole() -> None:
    inner = "{" * 10_000 + "1" + "}" * 10_000
    assert parse_answer(r"\boxed{" + inner + "}") == inner


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*"{}\\bx </>1\n", r"\boxed{", "<question>", "</question>", "<think>", "</think>"]
        )
    ).map("".join)
)
def test_parsing_is_total(text: str) -> None:
    answer, question = parse_answer(text), parse_question(text)
    assert answer is None or (answer == answer.strip() != "" and answer in text)
    assert question is None or (question == question.strip() != "" and question in text)
    challenge = parse_challenge(text)
    assert challenge is None or challenge.question == question


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"<think>a</think> so \boxed{1}", True),
        (r" <think></think>\boxed{1} ", True),
        (r"so <think>a</think> \boxed{1}", False),  # the tags come first
        (r"<think>\boxed{1}</think>", False),  # the box comes after
        (r"<think>a \boxed{1}", False),
        (r"\boxed{1}", False),
        ("", False),
    ],
)
def test_think_format(text: str, expected: bool) -> None:
    assert has_think_format(text) is expected


def test_the_strict_question_has_an_answer_after_it() -> None:
    assert parse_strict_question(r"<question>q</question> \boxed{1}") == "q"
    assert parse_strict_question("<question>q</question>") is None
    assert parse_question("<question>q</question>") == "q"


@pytest.mark.parametrize(
    ("text", "said", "answer"),
    [
        (r"<think>\boxed{1}</think> \boxed{2}", r" \boxed{2}", "2"),
        (r"<think>maybe \boxed{1}", "", None),  # cut off while it thinks
        (r"<think>\boxed{1}</think>", "", None),  # and said nothing
        (r"\boxed{1}</think>\boxed{2}", r"\boxed{2}", "2"),  # the prompt opened the thought
        (r"\boxed{1}</think> so", " so", None),
        (r"\boxed{1} <think>no, \boxed{2}", r"\boxed{1} ", "1"),
        (r"<think>a</think>\boxed{1}<think>\boxed{2}</think>\boxed{3}", r"\boxed{3}", "3"),
        (r"<think>a</think>\boxed{1}<think>\boxed{2}", r"\boxed{1}", "1"),
        (r"<think>a<think>b</think>\boxed{1}", r"\boxed{1}", "1"),
        (r"<think>\boxed{</think>1}", "1}", None),  # a box does not cross the end of a thought
        (r"\boxed{4}", r"\boxed{4}", "4"),
        ("", "", None),
    ],
)
def test_an_answer_is_what_is_said_after_the_thoughts(text, said, answer) -> None:
    assert spoken(text) == said
    assert parse_answer(text) == answer


def test_a_question_in_a_thought_is_no_question() -> None:
    draft, final = "<question>draft</question> \\boxed{1}", "<question>q</question> \\boxed{2}"
    thought = f"<think>{draft}</think>"
    for parse in (parse_question, parse_strict_question):
        assert parse(thought) is None
        assert parse(f"<think>{draft}") is None
        assert parse(f"{draft}</think>{final}") == "q"
        assert parse(f"{thought}{final}") == "q"
        assert parse(f"{final}<think>{draft}") == "q"
    assert parse_challenge(f"<think>{draft}</think><question>q</question>") is None
    assert parse_challenge(f"<question>q</question><think>{draft}</think>\\boxed{{2}}") is None
    assert parse_challenge(f"{thought}{final}") == Challenge("q", "2")


def test_a_thought_is_a_chain_of_thought() -> None:
    assert has_chain_of_thought(r"<think>1+1=2</think>\boxed{2}")
    assert has_chain_of_thought(r"<think>1+1=2, \boxed{2}")
    assert not has_chain_of_thought("<think>\n\n</think>\n\n\\boxed{2}")
    assert not has_chain_of_thought(r"\boxed{2}<think>1+1=2")


def test_the_official_format_is_about_tags_and_a_box_wherever_it_stands() -> None:
    assert has_think_format(r"<think>a</think>b<think>\boxed{1}")
    assert has_think_format(r"<think>a</think>\boxed{1}<think>b</think>c")
