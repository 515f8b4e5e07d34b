r"""Matrices, vectors and arrays: equal by shape and element by element, whatever their brackets.

A column or a row equals the tuple of its elements. Determinants (`vmatrix`) are formulas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rzero_ray.answers.kinds import expression
from rzero_ray.answers.kinds.expression import Expression
from rzero_ray.answers.kinds.sequence import Sequence
from rzero_ray.answers.kinds.value import Equality, ReadPart, Value, same_in_order

_ENVIRONMENT = re.compile(
    r"[(\[]? ?\\begin ?\{(?P<name>[pbB]?(?:small)?matrix|array)\} ?(?:\{[lcr| ]*\})?"
    r"(?P<body>(?:(?!\\begin|\\end).)*)\\end ?\{(?P=name)\} ?[)\]]?",
    re.DOTALL,
)
MAX_ELEMENTS = 64
"""Larger matrices are compared by text."""


@dataclass(frozen=True, slots=True)
class Matrix(Value):
    """A rectangle of values."""

    rows: tuple[tuple[Value, ...], ...]


def read(text: str, read_part: ReadPart) -> Matrix | None:
    """Read one LaTeX environment of rows and columns."""
    match = _ENVIRONMENT.fullmatch(text)
    if match is None:
        return None
    lines = [line for line in match["body"].split("\\\\") if line.strip()]
    cells = [[cell.strip() for cell in line.split("&")] for line in lines]
    if (
        not cells
        or len({len(row) for row in cells}) > 1
        or len(cells) * len(cells[0]) > MAX_ELEMENTS
    ):
        return None
    rows = tuple(tuple(read_part(cell) for cell in row) for row in cells)
    inner = r" \\ ".join(" & ".join(cell.text for cell in row) for row in rows)
    return Matrix(rf"\begin{{pmatrix}}{inner}\end{{pmatrix}}", rows)


def same_matrix(first: Matrix, second: Matrix, equality: Equality) -> bool:
    """Compare row by row."""
    return len(first.rows) == len(second.rows) and all(
        same_in_order(left, right, equality)
        for left, right in zip(first.rows, second.rows, strict=True)
    )


def same_vector(first: Matrix, second: Sequence, equality: Equality) -> bool:
    """Compare a column or a row with a tuple in round brackets."""
    if second.brackets != ("(", ")"):
        return False
    if len(first.rows) == 1:
        return same_in_order(first.rows[0], second.items, equality)
    if len(first.rows[0]) > 1:
        return False
    return same_in_order(tuple(row[0] for row in first.rows), second.items, equality)


def same_product(first: Expression, second: Matrix, equality: Equality) -> bool:
    """Compare with a formula of matrices that has to be worked out."""
    left, right = (
        expression.latex_of(first),
        expression.latex_of(expression.read_formula(second.text)),
    )
    return r"\begin" in left and bool(right) and equality.same_latex(left, right)
