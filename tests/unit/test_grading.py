"""Answers are compared by value, in bounded time, and no answer is ever run."""

import gc
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.forms import MAX_ANSWER_CHARS, canonical, plain_number
from rzero_ray.answers.symbolic import SymbolicComparer, Verdict

# About 8 s on an idle core; the limit is for a machine that many share. One hang would be forever.
ADVERSARIAL_TIME_LIMIT_S = 240.0
FRAGMENTS = (r"\frac", r"\text{", r"\%", " cm", r"\{", r"\}", r"\frac{1}{2}", " or ", "yes")
BOMB = "9^{9^{9^{9}}}"

SAME = [
    ("5", "5.0"),
    ("5.", "5"),
    ("$5$", "5"),
    (r"\( 5 \)", "5"),
    (r"\[5\]", "5"),
    ("{5}", "5"),
    ("+3", "3"),
    ("-0", "0"),
    ("−3", "-3"),
    ("007", "7"),
    (".5", "0.50"),
    ("1/2", r"\frac12"),
    ("0.5", r"\dfrac{1}{2}"),
    (r"\tfrac{3}{4}", "0.75"),
    (r"\frac{-1}{2}", r"-\frac{1}{2}"),
    (r"3\frac{1}{2}", "7/2"),
    ("3 1/2", "3.5"),
    ("½", "0.5"),
    ("1,000", "1000"),
    ("1{,}000", "1000"),
    (r"5\,000", "5000"),
    ("1,234,567.50", "1234567.5"),
    (r"1.5\times10^{3}", "1500"),
    ("1.5e3", "1500"),
    ("2^{10}", "1024"),
    (r"\$5", "5"),
    (r"50\%", "50"),
    ("50%", "0.5"),
    (r"50\%", r"\frac12"),
    (r"45^\circ", "45"),
    ("45°", r"45^{\circ}"),
    (r"90^\circ", "90 degrees"),
    (r"5\text{ cm}", "5"),
    ("5 cm", r"5\mathrm{cm}"),
    (r"10\text{ cm}^2", "10"),
    ("10 square units", "10"),
    (r"5\sqrt{2}\text{ units}", r"5\sqrt2"),
    ("(A)", "A"),
    ("A.", "a"),
    (r"\text{(A)}", "A"),
    ("Yes", "yes"),
    (r"\text{Monday}", "monday"),
    (r"\text{The answer is yes}", "the answer is yes"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\sqrt2", r"\sqrt{2}"),
    ("sqrt(2)", "√2"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt2}{2}"),
    (r"\left(1,2\right)", "(1, 2)"),
    ("(0.5,3)", r"(\frac12, 3)"),
    (r"(\sqrt8,1)", r"(2\sqrt2,1)"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\{1,1,2\}", r"\{1,2\}"),
    ("1,2", "2,1"),
    (r"1 \text{ or } 2", "1,2"),
    ("x=1 or x=2", "x=2,x=1"),
    ("[0,1)", "[0, 1.0)"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"),
    ("0<x<1", "(0,1)"),
    (r"\pi/2", r"\frac{\pi}{2}"),
    ("2π", r"2\pi"),
    ("pi/2", r"\frac{\pi}{2}"),
    (r"\infty", "infinity"),
    (r"\varnothing", r"\emptyset"),
    ("x²", "x^{2}"),
    ("x^2-1", "(x-1)(x+1)"),
    (r"\frac{x}{2}", "0.5x"),
    ("y=2x+1", "y = 1+2x"),
    ("x=5", "5"),
    ("x = 0.5", r"x=\frac{1}{2}"),
    ("x=1,x=2", "1,2"),
    ("y=2x+1", "2x+1"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\sin^2 x+\cos^2 x", "1"),
    ("1+2i", "2i+1"),
    ("f(x)+1", "1+f(x)"),
    ("5!", "120"),
    (r"\log_2 8", "3"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\ 2\end{pmatrix}"),
    ("", ""),
    ("🙂", "🙂"),
]
DIFFERENT = [
    ("5", "6"),
    ("-5", "5"),
    ("1/3", "0.333333"),
    ("0.1", "0.10000000000000001"),
    ("50", "0.5"),
    (r"50\%", "5"),
    ("5 cm", "5 m"),
    ("1 km", "1000 m"),
    ("2m", "2"),
    ("x", "y"),
    ("x+1", "x+2"),
    ("x=5", "y=5"),
    ("x=5", "6"),
    (r"\sqrt{2}", r"\sqrt{3}"),
    (r"\pi", "3.14"),
    ("A", "B"),
    ("yes", "no"),
    ("cat", "dog"),
    ("1 2", "12"),
    ("1, 234", "1234"),
    ("(1,2)", "(2,1)"),
    ("(3,1)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(1,2,3)"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("10^{5}", "10^{6}"),
    (r"\sqrt2", "1.4"),
    (r"\frac{1}{0}", "0"),
    ("", "0"),
]


@pytest.fixture(scope="module")
def comparer() -> Iterator[SymbolicComparer]:
    """One child for the whole file, with a small CPU limit so that bombs cost little."""
    shared = SymbolicComparer(cpu_limit_s=1.0)
    yield shared
    shared.close()


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same_value(a: str, b: str, comparer: SymbolicComparer) -> None:
    assert equivalent(a, b, comparer)
    assert equivalent(b, a, comparer)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_value(a: str, b: str, comparer: SymbolicComparer) -> None:
    assert not equivalent(a, b, comparer)
    assert not equivalent(b, a, comparer)


def testdefault_comparer_is_made_once() -> None:
    assert equivalent(r"\sqrt{8}", r"2\sqrt{2}")


def test_canonical_by_hand() -> None:
    assert canonical(r"\frac{2}{4}") == "1/2"
    assert canonical("1,000.50") == "2001/2"
    assert canonical(r"50\%") == "50 %"
    assert canonical(r"\{3, 1, 2, 1\}") == r"\{1, 2, 3\}"
    assert canonical(r"\left( \frac12, x \right]") == "(1/2, x]"
    assert canonical(r"\text{ Not Prime }.") == "not prime"
    assert canonical("") == ""


@pytest.mark.parametrize("answer", sorted({answer for pair in SAME + DIFFERENT for answer in pair}))
def test_canonical_is_idempotent(answer: str) -> None:
    assert canonical(canonical(answer)) == canonical(answer)


def test_plain_number() -> None:
    assert plain_number(r"-\frac{6}{4}") == Fraction(-3, 2)
    assert plain_number("1e400") == 10**400
    assert plain_number("9^{999}") == 9**999
    assert plain_number("\u0663") == 3  # a digit of another script
    for answer in ("1e401", "9^{99999}", "1/0", "9" * 300, "5 cm", "x", "", "0x10", "1_000"):
        assert plain_number(answer) is None, answer


def test_plain_numbers_never_reach_the_child() -> None:
    lonely = SymbolicComparer()
    assert not equivalent("1/3", "0.5", lonely)
    assert not equivalent("(1,2)", "(1,3)", lonely)
    assert not equivalent("cats", "5", lonely)
    assert lonely.num_compared == 0


def test_long_answers_are_compared_by_text() -> None:
    lonely = SymbolicComparer()
    long = "x+" * MAX_ANSWER_CHARS
    assert equivalent(long + "1", "  " + long + "1\n", lonely)
    assert not equivalent(long + "1", long + "2", lonely)
    assert not equivalent("9" * 1_000_000, "5", lonely)
    assert not lonely.compare("x" * 1_000_000, "5")
    assert lonely.num_compared == 0


# --- adversarial answers ---------------------------------------------------------------------


def adversarial_answers(target: Path) -> list[str]:
    """Text that tries to hang, crash or exhaust the grader, or to run and make `target`."""
    code = [
        f"__import__('os').system('touch {target}')",
        f"open('{target}','w')",
        f"eval(\"open('{target}','w')\")",
        f"exec('import os; os.mknod({str(target)!r})')",
        f"().__class__.__bases__[0].__subclasses__()[0]('{target}')",
        f"lambda: open('{target}', 'w')",
        f"[open('{target}','w') for x in [1]]",
        f"import os; os.system('touch {target}')",
        f"Symbol('x').__class__.__init__.__globals__['os'].system('touch {target}')",
        f"sympify(\"open('{target}','w')\")",
        f"$(touch {target})",
        f"`touch {target}`",
        f"; touch {target}",
        r"\input{/etc/passwd}",
        r"\write18{touch " + str(target) + "}",
        r"\immediate\write18{touch " + str(target) + "}",
        r"\openout1=" + str(target),
    ]
    wrappers = ("{}", r"\text{{{}}}", r"\frac{{{}}}{{1}}", "{}+1", "x_{{{}}}", r"\mathrm{{{}}}")
    wrapped = [wrapper.format(line) for line in code for wrapper in wrappers]
    bombs = [
        BOMB,
        "9^{9^{9}}",
        "9^9^9^9",
        "(9^9)^{9^9}",
        "10^{10^{10}}-10^{10^{10}}+1",
        "2^{10000000000}",
        "99999999999!",
        "((9!)!)!",
        "9!!!!!!!!",
        r"\binom{10^9}{5\cdot10^8}",
        r"\sum_{i=1}^{10^{12}} \frac{1}{i^{i}}",
        r"\prod_{i=1}^{10^{9}} i",
        r"\int_0^1 x^{x^{x^{x}}} dx",
        r"\int \frac{\sin(x^7)\ln(x)}{e^{x^3}+x^{x}} dx",
        r"\lim_{x\to 0} \frac{\sin(\sin(\sin(x^{9})))}{x^{x}}",
        "(x+y+z+w)^{500}-(x+y+z)^{500}",
        "(a+b)^{99999}",
        r"\sqrt[100003]{x^{99991}+1}",
        r"\cos^{200}(x)+\sin^{200}(x)",
        r"\sin(10^{10^{9}})",
        r"\gcd(9^{9^{8}},3)",
        r"x^{100000}+x^{99999}=0",
        r"\begin{pmatrix}" + r"1&2&3&4\\" * 8 + r"\end{pmatrix}^{1000000}",
        "1e999999999",
        "1e-999999999",
        "0." + "0" * 250 + "1",
        "9" * 1_900,
        "1/" + "9" * 300,
    ]
    nested = [
        "{" * 10_000 + "x" + "}" * 10_000,
        "(" * 900 + ")" * 900,
        "(" * 1_000,
        "{" * 12 + "x" + "}" * 12,
        "(" * 12 + "x" + ")" * 12,
        r"\frac{1}{" * 100 + "x" + "}" * 100,
        r"\sqrt{" * 11 + "x" + "}" * 11,
        "x^{" * 11 + "x" + "}" * 11,
        "|" * 100,
        r"\left" * 300,
        r"\text{" * 300 + "}" * 300,
        r"\{" * 500 + r"\}" * 500,
        "-" * 1_000 + "1",
        "1" + "+1" * 150,
        "1" + "/1" * 150,
        ",".join("x" for _ in range(500)),
        r"\{" + ",".join(rf"\sqrt{{{n}}}" for n in range(16)) + r"\}",
    ]
    odd = [
        "",
        " ",
        "\x00",
        "\ud800",
        "\udcff\ud800",
        "\u202e5",
        "\u200b",
        "١٢٣",
        "²³",
        "½½",
        "Ⅷ",
        "🙂" * 500,
        "\n" * 1_000,
        "5\n\n6",
        "$" * 1_000,
        "%" * 50,
        "\\" * 999,
        "^" * 40,
        "_" * 40,
        "&",
        "#1",
        "~" * 40,
        "''''''",
        '"',
        ",",
        ",,,",
        "(,)",
        "()",
        "[]",
        r"\{\}",
        "{}",
        "(1,]",
        "[1,2",
        "]1,2[",
        "=",
        "==",
        "<>",
        "x=y=z=1",
        "nan",
        "inf",
        "-inf",
        "NaN+1",
        "zoo",
        "oo-oo",
        r"\infty-\infty",
        r"\frac{0}{0}",
        "0/0",
        "0^0",
        "0^{-1}",
        "1/0",
        r"\frac{1}",
        r"\frac",
        r"\sqrt",
        r"\sqrt[]{}",
        r"\begin{cases}",
        r"\end{matrix}",
        r"\begin{matrix}\end{matrix}",
        r"\unknowncommand{5}",
        r"\def\x{\x\x}\x",
        r"\boxed{5}",
        r"\boxed{\boxed{",
        "None",
        "True",
        "null",
        "...",
        "1.2.3",
        "1,23,4",
        "1e",
        "--5",
        "5%%",
        "5 cm m",
        "x" * 1_000_000,
        "9" * 1_000_000,
        r"\frac{1}{2}" * 90_000,
        " " * 1_000_000,
    ]
    return wrapped + bombs + nested + odd


def test_adversarial_answers_neither_hang_nor_crash_nor_run(
    tmp_path: Path, comparer: SymbolicComparer
) -> None:
    target = tmp_path / "made_by_an_answer"
    answers = adversarial_answers(target)
    assert len(answers) >= 200
    kills_before, start = comparer.num_killed, time.perf_counter()
    for answer in answers:
        assert equivalent(answer, answer, comparer)
        forward = equivalent(answer, "x+1", comparer)
        assert forward == equivalent("x+1", answer, comparer)
        assert isinstance(canonical(answer), str)
    seconds, kills = time.perf_counter() - start, comparer.num_killed - kills_before
    print(f"\n{len(answers)} adversarial answers: {seconds:.1f} s, {kills} kills")
    assert seconds < ADVERSARIAL_TIME_LIMIT_S
    assert not target.exists()
    assert equivalent(r"\sqrt{8}", r"2\sqrt{2}", comparer)


def test_code_given_to_the_child_itself_is_not_run(
    tmp_path: Path, comparer: SymbolicComparer
) -> None:
    """The same text without the screen of `equivalent` in front of the child."""
    target = tmp_path / "made_by_an_answer"
    for answer in adversarial_answers(target)[:102]:
        assert not comparer.compare(answer, "x+1")
    assert not target.exists()


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*"0123456789.,/-+%()[]{}\\^_$xAa =", *FRAGMENTS])).map("".join),
    st.lists(st.sampled_from([*"0123456789./-%(), x=", *FRAGMENTS])).map("".join),
)
def test_equivalence_is_symmetric_and_total(a: str, b: str) -> None:
    class Unequal(SymbolicComparer):
        """The child is tested elsewhere; here only the parent's own rules are."""

        def judge(self, a: str, b: str, cpu_left_s: float = math.inf) -> Verdict:
            return Verdict(is_equal=False, cpu_s=0.0)

    stub = Unequal()
    assert equivalent(a, b, stub) == equivalent(b, a, stub)
    assert equivalent(a, a, stub)
    if canonical(a) == canonical(b):
        assert equivalent(a, b, stub)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.fractions(), st.integers(min_value=0, max_value=6))
def test_numbers_compare_as_fractions(value: Fraction, digits: int) -> None:
    numerator, denominator = value.numerator, value.denominator
    latex = rf"\frac{{{numerator}}}{{{denominator}}}"
    assert plain_number(latex) == plain_number(f"{numerator}/{denominator}") == value
    decimal = f"{numerator / 10**digits:.{digits}f}"
    assert plain_number(decimal) == Fraction(decimal)


# --- the child -------------------------------------------------------------------------------


def test_wall_clock_limit_kills_and_counts() -> None:
    hasty = SymbolicComparer(wall_limit_s=0.05)
    assert not hasty.compare(BOMB, "x+1")
    assert hasty.num_killed == 1
    assert not hasty.compare("x+1", BOMB)  # cached: no second kill
    assert (hasty.num_killed, hasty.num_compared) == (1, 1)
    hasty.close()


def test_explosive_numbers_are_not_sent_to_the_child() -> None:
    lonely = SymbolicComparer()
    for answer in (BOMB, "9^9^9", "(9^9)^{9^{9}}", "x^{100000}", "((9!)!)!", "99999999!"):
        assert equivalent(answer, answer + " ", lonely)
        assert not equivalent(answer, "x+1", lonely)
    assert lonely.num_compared == 0


def test_an_answer_that_cannot_be_read_is_not_tried_again() -> None:
    hasty = SymbolicComparer(wall_limit_s=0.3)
    bombs = [f"{base}^{{9^{{9^{{9}}}}}}" for base in range(2, 5)]
    for first in bombs:
        for second in bombs:
            assert hasty.compare(first, second) == (first == second)
    assert 2 <= hasty.num_killed <= 3
    hasty.close()


def test_cpu_limit_kills_and_the_next_comparison_works(comparer: SymbolicComparer) -> None:
    bomb = r"\int_0^1 x^{x^{x^{x}}} \sin(x^{x}) dx + " + BOMB
    before, start = comparer.num_killed, time.perf_counter()
    comparer.compare(bomb, "x+7")
    assert time.perf_counter() - start < 60
    assert comparer.num_killed - before <= 1
    assert comparer.compare(r"\sqrt{18}", r"3\sqrt{2}")


def test_a_dead_child_is_replaced(comparer: SymbolicComparer) -> None:
    assert comparer.compare(r"\sqrt{12}", r"2\sqrt{3}")
    child = comparer._child
    assert child is not None
    child.kill()
    child.wait()
    before = comparer.num_killed
    assert comparer.compare(r"\sqrt{20}", r"2\sqrt{5}")
    assert comparer.num_killed == before  # it died idle: no comparison was lost


def test_verdicts_are_cached_and_bounded() -> None:
    small = SymbolicComparer(cache_size=2)
    for n in (2, 3, 5):
        small.compare(rf"\sqrt{{{n}}}", "x")
    assert small.num_compared == 3
    small.compare("x", r"\sqrt{5}")
    assert small.num_compared == 3
    small.compare("x", r"\sqrt{2}")
    assert small.num_compared == 4
    small.close()


def test_a_dropped_comparer_ends_its_child() -> None:
    dropped = SymbolicComparer()
    dropped.compare("x", "y")
    child = dropped._child
    assert child is not None
    del dropped
    gc.collect()
    assert child.poll() is not None


def test_threads_share_one_child(comparer: SymbolicComparer) -> None:
    results: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda n=n: results.append(comparer.compare(rf"\sqrt{{{n}}}^2+x", f"x+{n}"))
        )
        for n in range(2, 8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        SymbolicComparer(wall_limit_s=0)


def test_child_that_cannot_start_is_an_error() -> None:
    broken = SymbolicComparer(address_space_bytes=1)
    with pytest.raises(RuntimeError, match="did not start"):
        broken.compare("x", "y")


def test_plain_script_from_another_directory(tmp_path: Path) -> None:
    """No `__main__` guard, a working directory whose sympy.py must not be used, no zombie."""
    (tmp_path / "sympy.py").write_text("raise SystemExit('shadowed')")
    root = str(Path(__file__).resolve().parents[2])
    script = tmp_path / "scripts" / "use_it.py"
    script.parent.mkdir()
    script.write_text(
        "from rzero_ray.answers.equality import equivalent, default_comparer\n"
        "assert equivalent('x^2-1', '(x-1)(x+1)')\n"
        "print(default_comparer()._child.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_a_hostile_answer_spoils_no_honest_one() -> None:
    """What a pair was killed for is not held against either of its answers."""
    hasty = SymbolicComparer(cpu_limit_s=0.3)
    honest = r"\frac{\sqrt{3}}{2}"
    for upper in (7, 8, 9):
        slow = rf"\int_{{0}}^{{{upper}}} \frac{{\sin x}}{{x^{{7}}+x+1}}dx"
        assert not hasty.compare(honest, slow)
    assert hasty.num_killed >= 2
    assert hasty.compare(honest, r"\sqrt{\frac{3}{4}}")
    hasty.close()


@pytest.mark.parametrize(
    "text",
    [
        r"\foo" + r" cm^{2}" * 40,
        "x=5" + " cm^{2}" * 40,
        "5" + r"\text{ cm}" * 100,
        "{" * 990 + "x" + "}" * 990,
        "," * 1_999 + "x",
        "=" * 1_999 + "5",
        r"\left(" * 200 + "1" + r"\right)" * 200,
        "+".join([r"\frac{3^{9000}}{7^{5000}}"] * 20),
        r"\text{" + "a b " * 400 + "}",
        "1 and " * 300 + "2",
        r"\pm" * 500,
        "x=" * 900 + "1",
    ],
)
def test_reading_is_linear(text: str) -> None:
    """The parent reads any text in milliseconds: no budget covers it."""
    start = time.process_time()
    canonical(text[:MAX_ANSWER_CHARS])
    assert time.process_time() - start < 1.0
