r"""The killable child of `symbolic.SymbolicComparer`: compares two LaTeX answers with math-verify.

Run as `python -P -m rzero_ray.answers.symbolic_child`; it speaks length-prefixed JSON over its
standard input and output:

    parent -> child   {"first": str, "second": str} child  -> parent  {"ready": true} once; then for
    each request {"parsed": 1}, {"parsed": 2}, {"equal": bool}
                      or, when it cannot start, {"error": str}

The two "parsed" frames tell the parent which answer was being read if it has to kill this process.

Nothing here trusts the text. Limits: CPU seconds for each comparison (SIGXCPU kills this process
even inside C code), address space, no new files (RLIMIT_FSIZE 0), no core dump. Only math-verify's
LaTeX grammar reads the text; the Python `eval` that sympy reaches for any string is replaced by a
reader of number literals, and an audit hook refuses processes, sockets and files opened for
writing, should a library ever find another way to them.
"""

import json
import logging
import math
import os
import re
import resource
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

FRAME_HEADER = struct.Struct(">I")
"""Every frame is a 4-byte big-endian length and that many bytes of JSON."""

PARSE_CACHE_SIZE = 256
"""Parsed answers kept: one vote compares each answer with every other one, and parsing is most of
the cost."""

PROBE_DIGITS = 20
"""Significant digits of the numeric probe."""

PROBE_TOLERANCE = 1e-3
"""Relative difference that settles a comparison; math-verify rounds to 6 decimals at the most."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)")

_FORBIDDEN_EVENTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.",
    "pty.",
    "socket.",
    "shutil.",
)
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def write_frame(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message and flush it. `ensure_ascii` keeps lone surrogates and NULs in model text
    transportable."""
    payload = json.dumps(message, ensure_ascii=True).encode("ascii")
    stream.write(FRAME_HEADER.pack(len(payload)) + payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None at end of file (the parent closed the pipe or died)."""
    header = stream.read(FRAME_HEADER.size)
    if len(header) < FRAME_HEADER.size:
        return None
    (length,) = FRAME_HEADER.unpack(header)
    payload = stream.read(length)
    return json.loads(payload) if len(payload) == length else None


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the protocol's pipes to ourselves: a library that prints must not corrupt a frame."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return requests, replies


def _limit_resources(address_space_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow_cpu(seconds: float) -> None:
    """Let this process use `seconds` more CPU time, rounded up to the kernel's whole seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _refuse_side_effects(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: no processes, no sockets, no files opened for writing."""
    if event.startswith(_FORBIDDEN_EVENTS):
        raise PermissionError(event)
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITE_FLAGS:
        raise PermissionError(event)


def _forbid_eval() -> None:
    """Replace sympy's Python-`eval` of strings by a reader of number literals.

    Without this, model text is one grammar slip away from `eval`: latex2sympy2 gives the text of
    its number tokens to `sympy.Number`, which gives any string to `sympify`, which evals it.
    """
    import sympy
    from sympy.parsing import sympy_parser

    def read_literal(text: str, *_args: object, **_kwargs: object) -> sympy.Number:
        if _INTEGER.fullmatch(text):
            return sympy.Integer(int(text))
        if _DECIMAL.fullmatch(text):
            return sympy.Float(text)
        raise ValueError("text is never evaluated as Python")

    # Both are looked up in the module at each call of `sympify`, so replacing them reaches it.
    sympy_parser.parse_expr = read_literal
    sympy_parser.eval_expr = read_literal


def _load_math_verify() -> tuple[
    Callable[[str], list[Any]], Callable[[list[Any], list[Any]], bool]
]:
    """Return (parse, same): math-verify with its LaTeX grammar only and without its own SIGALRM
    timeouts."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # ExprExtractionConfig, math-verify's other default, must stay out: it evaluates Python. The
    # answer is already out of its box, and `equality` has dealt with units (math-verify drops a
    # variable that looks like one: 2m would be 2).
    normalization = NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=True,
        boxed="none",
        equations=False,
    )
    config = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normalization)]

    @lru_cache(maxsize=PARSE_CACHE_SIZE)
    def parse_latex(text: str) -> list[Any]:
        return parse(
            f"${text}$", extraction_config=config, fallback_mode="no_fallback", parsing_timeout=0
        )

    def same(first: list[Any], second: list[Any]) -> bool:
        if len(first) == len(second) == 1 and _differ_clearly(first[0], second[0]):
            return False
        # math-verify is not symmetric ("x>1" against an interval); we need a symmetric relation.
        return bool(
            verify(first, second, timeout_seconds=0) or verify(second, first, timeout_seconds=0)
        )

    return parse_latex, same


def _differ_clearly(first: Any, second: Any) -> bool:
    """Say whether two expressions have clearly different values at one fixed point.

    Most pairs in a vote differ, and this spares them `simplify`, which is 100 times slower and is
    what adversarial answers make hang. Only a clear, finite, numeric difference counts; names
    (compared by case), percentages, sets, relations and matrices are left to math-verify.
    """
    import sympy

    for side in (first, second):
        if not isinstance(side, sympy.Expr) or isinstance(side, sympy.MatrixExpr):
            return False
        if side.is_Symbol or side.has(sympy.UnevaluatedExpr):
            return False
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    # Distinct values between 1 and 2, where logarithms, roots and powers are all tame.
    point = {
        symbol: 1 + sympy.Rational(37 + 11 * k, 101 + 23 * k) for k, symbol in enumerate(symbols)
    }
    try:
        left, right = (complex(side.subs(point).evalf(PROBE_DIGITS)) for side in (first, second))
    except Exception:  # no number at this point (f(x), poles, sympy's gaps): undecided
        return False
    difference = abs(left - right)
    return math.isfinite(difference) and difference > PROBE_TOLERANCE * (1 + abs(left))


def serve(cpu_limit_s: float, address_space_bytes: int) -> None:
    """Answer requests until the parent closes the pipe."""
    requests, replies = _take_over_pipes()
    try:
        _limit_resources(address_space_bytes)
        logging.disable(logging.CRITICAL)
        parse_latex, same = _load_math_verify()
        # Loads what sympy imports lazily, some of which needs the `eval` that is about to go.
        if not same(parse_latex("x^2-1"), parse_latex("(x-1)(x+1)")):
            raise RuntimeError("math-verify does not find x^2-1 and (x-1)(x+1) equal")
        _forbid_eval()
    except (
        Exception
    ) as error:  # reported to the parent, which raises it: a broken install is not model output
        write_frame(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    os.dup2(1, 2)  # /dev/null: from here on only model text could cause output
    sys.addaudithook(_refuse_side_effects)
    write_frame(replies, {"ready": True})

    while (request := read_frame(requests)) is not None:
        _allow_cpu(cpu_limit_s)
        equal = False
        # Whatever the text provokes (RecursionError, MemoryError, sympy's own errors), the answers
        # are not shown equal.
        try:
            first = parse_latex(request["first"])
            write_frame(replies, {"parsed": 1})
            second = parse_latex(request["second"])
            write_frame(replies, {"parsed": 2})
            equal = bool(first and second and same(first, second))
        except Exception:
            equal = False
        write_frame(replies, {"equal": equal})


if __name__ == "__main__":
    serve(cpu_limit_s=float(sys.argv[1]), address_space_bytes=int(sys.argv[2]))
