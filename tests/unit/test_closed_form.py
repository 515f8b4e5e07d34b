"""Numeric values of closed forms, by hand and against the symbolic comparer."""

import math
import random
from fractions import Fraction

import pytest

from rzero_ray.answers.closed_form import differ_clearly, exact_value, value_of
from rzero_ray.answers.forms import canonical
from rzero_ray.answers.symbolic import SymbolicComparer


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        (r"\frac{\sqrt{2}}{2}", math.sqrt(2) / 2),
        (r"2\sqrt{3}-1", 2 * math.sqrt(3) - 1),
        (r"\frac{\pi}{6}", math.pi / 6),
        (r"-2^{3}", -8.0),
        (r"\sqrt[3]{27}", 3.0),
        (r"3\cdot(1+2)/9", 1.0),
        (r"(2)(3)", 6.0),
        (r"4^{-1/2}", 0.5),
        ("--2", 2.0),
    ],
)
def test_values_by_hand(latex: str, value: float) -> None:
    assert value_of(latex) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        r"1/2\pi",  # half of pi, or one over two pi
        r"3\frac{1}{2}",  # a mixed number, or a product
        "x(y+1)",  # a function, or a product
        "x^10",  # TeX's x^1 0
        "2 3",
        "e^{2}",
        "i+1",
        r"\sqrt{-1}",
        r"\frac{1}{0}",
        r"9^{9^{9}}",
        r"\sin x",
        "x=5",
        "(1,2)",
        "",
        "{",
        "((",
        r"\frac{1}",
    ],
)
def test_what_has_no_value(text: str) -> None:
    assert value_of(text) is None
    assert not differ_clearly(text, "7")


def test_letters_have_different_values_and_lone_letters_are_names() -> None:
    assert differ_clearly("x+1", "y+1")
    assert differ_clearly("2x^2", "2x^3")
    assert not differ_clearly("x", "5")
    assert not differ_clearly("x^2-1", "(x-1)(x+1)")


def test_rational_values_are_exact_and_others_are_left_to_the_child_when_close() -> None:
    assert differ_clearly(r"\frac{1}{3}", "0." + "3" * 40)
    assert differ_clearly(r"2^{-64}", r"2^{-65}")
    assert differ_clearly(r"\frac{1}{25!}", r"\frac{1}{26!}")
    assert differ_clearly(r"\sqrt{2}", "1.4142")
    assert not differ_clearly(r"\sqrt{2}", "1.4142135623")
    assert not differ_clearly(r"\frac{\pi}{10^{12}}", r"\frac{2\pi}{10^{12}}")


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        (r"\binom{5}{2}", Fraction(10)),
        (r"17\bmod 5", Fraction(2)),
        (r"1-\frac{1}{2^{100}}", 1 - Fraction(1, 2**100)),
        (r"\lfloor 2.5\rfloor", Fraction(2)),
        (r"\gcd(12,18)", Fraction(6)),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
        (r"|-3|", Fraction(3)),
        (r"5!", Fraction(120)),
    ],
)
def test_exact_values(latex: str, value: Fraction) -> None:
    assert exact_value(latex) == value


@pytest.mark.parametrize("text", [r"9^{99999}", "99999!", r"2^{2^{40}}", r"\pi", "5!!", "!5"])
def test_what_has_no_exact_value(text: str) -> None:
    assert exact_value(text) is None


def test_agrees_with_the_symbolic_comparer() -> None:
    """No two expressions that the comparer finds equal are told apart by their values."""
    rng = random.Random(0)
    comparer = SymbolicComparer()
    expressions = [canonical(_expression(rng, depth=2)) for _ in range(120)]
    num_told_apart = num_equal = 0
    for _ in range(250):
        a, b = rng.choice(expressions), rng.choice(expressions)
        if rng.random() < 0.3:
            b = f"{a}+0" if rng.random() < 0.5 else f"1\\cdot({a})"
        equal = comparer.compare(a, b)
        apart = differ_clearly(a, b)
        assert not (equal and apart), (a, b)
        num_told_apart += apart
        num_equal += equal
    comparer.close()
    assert num_told_apart > 100
    assert num_equal > 40


def _expression(rng: random.Random, depth: int) -> str:
    if depth == 0:
        return rng.choice(["2", "3", "7", "10", r"\pi", "x", "n", "1.5"])
    left, right = _expression(rng, depth - 1), _expression(rng, depth - 1)
    return rng.choice(
        [
            f"{left}+{right}",
            f"{left}-{right}",
            f"({left})({right})",
            f"\\frac{{{left}}}{{{right}}}",
            f"\\sqrt{{{left}}}",
            f"({left})^{{2}}",
            f"{rng.randint(2, 9)}\\sqrt{{{right}}}",
        ]
    )
