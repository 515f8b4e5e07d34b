"""What `fuzz` runs: libFuzzer calls one function with mutated texts, in this process.

python -m tests.bench.fuzz_target parsers|grader [libFuzzer's options] [corpus folder]
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

import atheris

with atheris.instrument_imports(include=["rzero_ray.answers", "latex2sympy2_extended"]):
    from rzero_ray.answers import choices, parsing, symbolic_child, symbolic_equality
    from rzero_ray.answers.equality import BudgetedEquality
    from rzero_ray.answers.forms import canonical, read
    from rzero_ray.answers.symbolic import CPU_LIMIT_S

LIMIT_S = 8.0
"""Processor seconds after which a text counts as a hang."""

_OPTIONS = ("5", "red", r"\frac{1}{2}", "x")
_slowest_s = 0.0
_escapes: list[str] = []


class _Overran(BaseException):
    """The child would have been killed here. No `Exception`, so that nothing on the way takes it
    for an error of sympy's."""


def parsers(data: bytes) -> None:
    """Read one text by every parser and as every kind; compare it with itself in its parts."""
    text = data.decode("utf-8", "surrogateescape")
    parsing.parse_question(text)
    parsing.parse_challenge(text)
    parsing.has_think_format(text)
    parsing.has_chain_of_thought(text)
    answer = parsing.parse_answer(text)
    for part in (text, answer or ""):
        choices.read_choice(part, _OPTIONS)
        choices.text_form(part)
        form = canonical(part)
        if read(part).text != form:
            raise AssertionError("one text has two canonical forms")
    first, _, second = text.partition("\n")
    # No budget: the parent's own rules, without the child.
    rules = BudgetedEquality(cpu_budget_s=0.0)
    if rules.equivalent(first, second) != rules.equivalent(second, first):
        raise AssertionError("equality is not symmetric")


def grader(data: bytes) -> None:
    """Compare two formulas as the child does, cut off where the child would be killed."""
    first, _, second = data.decode("utf-8", "replace").partition("\n")
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        symbolic_equality.compare(first, second, lambda num_parsed: None)
    except _Overran:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if _escapes:
        raise AssertionError(f"a text reached {_escapes}")


def _overrun(number: int, frame: FrameType | None) -> NoReturn:
    raise _Overran


def _note_escape(event: str, args: tuple[Any, ...]) -> None:
    try:
        symbolic_child.refuse_side_effects(event, args)
    except PermissionError:
        _escapes.append(event)
        raise


def _timed(target: Any) -> Any:
    def timed(data: bytes) -> None:
        global _slowest_s
        start = time.process_time()
        target(data)
        taken = time.process_time() - start
        if taken > _slowest_s:
            _slowest_s = taken
            print(f"slowest text took {taken:.2f} s", flush=True)
        if taken > LIMIT_S:
            raise AssertionError(f"a text took {taken:.1f} s")

    return timed


def main() -> None:
    """Fuzz the target that the first argument names."""
    target = {"parsers": parsers, "grader": grader}[sys.argv.pop(1)]
    atheris.Setup(sys.argv, _timed(target))
    if target is grader:
        symbolic_equality.compare(r"|x|\le 1", "[-1,1]", lambda num_parsed: None)
        symbolic_child.forbid_eval()
        sys.addaudithook(_note_escape)
        signal.signal(signal.SIGPROF, _overrun)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
