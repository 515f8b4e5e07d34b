r"""The killable child of `symbolic.SymbolicComparer`: compares two LaTeX formulas.

Run as `python -P -m rzero_ray.answers.symbolic_child`; it speaks length-prefixed JSON over its
standard input and output. Once, when it is ready, it sends its processor time so far, or what keeps
it from starting:

    child  -> parent  {"cpu_s": float}  or  {"error": str}

Then for each request the two "parsed" frames tell the parent which formula was being read if it has
to kill this process, and the last one what the comparison took:

    parent -> child   {"first": str, "second": str, "cpu_limit_s": float}
    child  -> parent  {"parsed": 1}, {"parsed": 2}, {"equal": bool, "cpu_s": float}

Nothing here trusts the text. Limits: processor seconds for each comparison (a timer ends this
process even inside C code), address space, no new files (RLIMIT_FSIZE 0), no core dump. Only
latex2sympy's grammar reads the text; the Python `eval` that sympy reaches for any string is
replaced by a reader of number literals, and an audit hook refuses processes, sockets and files
opened for writing, should a library ever find another way to them.
"""

import json
import logging
import os
import re
import resource
import signal
import struct
import sys
import time
from typing import Any, BinaryIO

FRAME_HEADER = struct.Struct(">I")
"""Every frame is a 4-byte big-endian length and that many bytes of JSON."""

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
    """Let this process use `seconds` of processor time from now on; the timer's signal ends it."""
    signal.setitimer(signal.ITIMER_PROF, max(seconds, 0.001))


def refuse_side_effects(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: no processes, no sockets, no files opened for writing."""
    if event.startswith(_FORBIDDEN_EVENTS):
        raise PermissionError(event)
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITE_FLAGS:
        raise PermissionError(event)


def forbid_eval() -> None:
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


def serve(address_space_bytes: int) -> None:
    """Answer requests until the parent closes the pipe."""
    requests, replies = _take_over_pipes()
    try:
        _limit_resources(address_space_bytes)
        logging.disable(logging.CRITICAL)
        from rzero_ray.answers import symbolic_equality

        # Loads what sympy imports lazily, some of which needs the `eval` that is about to go.
        for first, second in _WARM_UP:
            if not symbolic_equality.compare(first, second, lambda num_parsed: None):
                raise RuntimeError(f"sympy does not find {first} and {second} equal")
        forbid_eval()
    except (
        Exception
    ) as error:  # reported to the parent, which raises it: a broken install is not model output
        write_frame(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    os.dup2(1, 2)  # /dev/null: from here on only model text could cause output
    sys.addaudithook(refuse_side_effects)
    write_frame(replies, {"cpu_s": time.process_time()})

    while (request := read_frame(requests)) is not None:
        start = time.process_time()
        _allow_cpu(request["cpu_limit_s"])
        equal = symbolic_equality.compare(
            request["first"],
            request["second"],
            lambda num_parsed: write_frame(replies, {"parsed": num_parsed}),
        )
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_frame(replies, {"equal": equal, "cpu_s": time.process_time() - start})


_WARM_UP = (
    ("x^{2}-1", "(x-1)(x+1)"),
    (r"|x|\le 1", "[-1,1]"),
    (r"\sqrt{2}\sin(1)", r"\sqrt{2}\sin(\frac{2}{2})"),
    (r"\int_{0}^{1} x dx", r"\sum_{k=1}^{\infty} \frac{1}{3^{k}}"),
    (r"2\begin{pmatrix}1\\ 2\end{pmatrix}", r"\begin{pmatrix}2\\ 4\end{pmatrix}"),
    (r"\lim_{x\to 0} \frac{\sin x}{x}", r"\binom{n}{n}"),
)

if __name__ == "__main__":
    serve(address_space_bytes=int(sys.argv[1]))
