"""The kinds of answers: how each is read, and which it can be equal to.

A new kind is a file with a class and a reader, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rzero_ray.answers.kinds import (
    assignment,
    clock,
    expression,
    figure,
    finite_set,
    listing,
    matrix,
    nothing,
    number,
    option,
    quantity,
    ratio,
    region,
    relation,
    sequence,
    words,
)
from rzero_ray.answers.kinds.assignment import Assignment
from rzero_ray.answers.kinds.clock import Clock
from rzero_ray.answers.kinds.expression import Expression
from rzero_ray.answers.kinds.figure import Figure
from rzero_ray.answers.kinds.finite_set import FiniteSet
from rzero_ray.answers.kinds.listing import Listing
from rzero_ray.answers.kinds.matrix import Matrix
from rzero_ray.answers.kinds.nothing import Nothing
from rzero_ray.answers.kinds.number import Number
from rzero_ray.answers.kinds.option import Option
from rzero_ray.answers.kinds.quantity import Quantity
from rzero_ray.answers.kinds.ratio import Ratio
from rzero_ray.answers.kinds.region import Combination, Interval
from rzero_ray.answers.kinds.relation import Relation
from rzero_ray.answers.kinds.sequence import Sequence
from rzero_ray.answers.kinds.value import Equality, ReadPart, Value
from rzero_ray.answers.kinds.words import Words

Reader = Callable[[str, ReadPart], Value | None]
Comparison = Callable[[Any, Any, Equality], bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of answer."""

    type: type[Value]
    readers: tuple[Reader, ...] = ()
    """Each returns a value, or None for a text that it does not read."""
    meets: dict[type[Value], Comparison] = field(default_factory=dict)
    """How it compares with each kind that it can be equal to. Pairs that stand in no row are equal
    by text only."""


def _with(comparison: Comparison, *kinds: type[Value]) -> dict[type[Value], Comparison]:
    return dict.fromkeys(kinds, comparison)


_SCALARS = (Number, Quantity, Expression, Words, Matrix, Sequence, Ratio)

# In the order of reading: the first reader that reads a text decides.
KINDS = (
    Kind(Nothing, (nothing.read,)),
    Kind(Clock, (clock.read,)),
    Kind(Number, (number.read,), _with(number.same_number, Number)),
    Kind(
        Option,
        (option.read,),
        _with(option.same_option, Option) | _with(option.same_letter, Words, Expression),
    ),
    Kind(
        Quantity,
        (quantity.read,),
        _with(quantity.same_quantity, Quantity) | _with(quantity.same_amount, Number, Expression),
    ),
    Kind(
        Listing,
        (relation.read_alternatives, listing.read),
        _with(listing.same_listing, Listing)
        | _with(listing.same_system, Sequence)
        | _with(listing.same_named_tuple, Assignment),
    ),
    Kind(
        Relation,
        (relation.read_builder, relation.read),
        _with(relation.same_relation, Relation)
        | _with(relation.same_solution, Assignment)
        | _with(relation.same_set_of_solutions, Interval, Combination, Sequence)
        | _with(relation.same_result, Number, Expression, Quantity),
    ),
    Kind(
        Combination,
        (region.read_combination,),
        _with(region.same_combination, Combination)
        | _with(region.same_region, Interval, Sequence, FiniteSet),
    ),
    Kind(
        Interval,
        (region.read_interval,),
        _with(region.same_interval, Interval) | _with(region.same_ends, Sequence),
    ),
    Kind(Ratio, (ratio.read,), _with(ratio.same_quotient, Number)),
    Kind(
        FiniteSet,
        (finite_set.read,),
        _with(finite_set.same_set, FiniteSet)
        | _with(finite_set.same_members, Listing)
        | _with(finite_set.same_member, *_SCALARS),
    ),
    Kind(Sequence, (sequence.read,), _with(sequence.same_sequence, Sequence)),
    Kind(
        Matrix,
        (matrix.read,),
        _with(matrix.same_matrix, Matrix) | _with(matrix.same_vector, Sequence),
    ),
    Kind(Figure, (figure.read,), _with(figure.same_corners, Words)),
    Kind(Words, (words.read,)),
    Kind(
        Expression,
        (expression.read,),
        _with(expression.same_expression, Expression, Number) | _with(matrix.same_product, Matrix),
    ),
    Kind(
        Assignment,
        (),  # read by `relation`
        _with(assignment.same_assignment, Assignment)
        | _with(assignment.same_value, *_SCALARS, FiniteSet, Interval, Combination, Clock),
    ),
)

READERS = tuple(reader for kind in KINDS for reader in kind.readers)


def _turned(comparison: Comparison) -> Comparison:
    return lambda first, second, equality: comparison(second, first, equality)


MEETS: dict[tuple[type[Value], type[Value]], Comparison] = {
    pair: oriented
    for kind in KINDS
    for other, comparison in kind.meets.items()
    for pair, oriented in (
        ((other, kind.type), _turned(comparison)),
        ((kind.type, other), comparison),
    )
}
"""The comparison of each ordered pair of kinds that can be equal."""
