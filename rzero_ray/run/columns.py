"""The fields of a record as columns: which Arrow type each has, and the way there and back.

Arrays are put one after the other with the places where they end, and are read as views of the
column, so that no token becomes a Python number. Arrow arrays are made from buffers: what makes
them from Python lists imports pandas, for a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import chain, pairwise
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of fields."""

    arrow_type: pa.DataType
    to_arrow: Callable[[Sequence[Any]], pa.Array]
    """Takes at least one value; None stands for a missing one."""
    from_arrow: Callable[[pa.Array], list[Any]]
    """Raises ValueError or TypeError for what no field can hold, such as a null among numbers."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a record."""

    name: str
    kind: Kind
    may_be_null: bool
    may_be_missing: bool
    """Whether a file may lack it: the field has a default."""


@cache
def columns_of(record_type: type) -> tuple[Column, ...]:
    """Return a record's fields as columns, in their order.

    Raises TypeError for a field of a type that is no column.
    """
    hints = get_type_hints(record_type)
    return tuple(
        Column(
            name=field.name,
            kind=_kind(hints[field.name]),
            may_be_null=NoneType in get_args(hints[field.name]),
            may_be_missing=field.default is not MISSING,
        )
        for field in fields(record_type)
    )


def arrow_numbers(values: ArrayLike, arrow_type: pa.DataType) -> pa.Array:
    """Return numbers, none of them missing, as an Arrow array; an array of the type is not copied.

    Raises TypeError where they are of another kind, such as fractions for integers.
    """
    numbers = np.asarray(values)
    wanted = arrow_type.to_pandas_dtype()
    if len(numbers):  # what is empty may be of any kind
        numbers = numbers.astype(wanted, casting="same_kind", copy=False)
    content = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(arrow_type, len(numbers), [None, content])


def _kind(hint: Any) -> Kind:
    options = [option for option in get_args(hint) if option is not NoneType]
    if get_origin(hint) is UnionType and len(options) == 1 and options[0] in _PLAIN:
        return _PLAIN[options[0]]
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is np.ndarray:
        number = get_args(get_args(hint)[1])[0]
        if number in _ARRAYS:
            return _ARRAYS[number]
    if get_origin(hint) is tuple:
        return _tuples(_kind(options[0]), NoneType in get_args(options[0]))
    raise TypeError(f"{hint} is no type of a column")


# Texts and numbers.


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    """Return the bits of the values that are there; None where all are."""
    is_there = np.array([value is not None for value in values], dtype=bool)
    return None if is_there.all() else _bits(is_there)


def _bits(flags: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _ends(lengths: Sequence[int]) -> pa.Buffer:
    """Return where each of several things begins, and the last one ends."""
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{ends[-1]:,} bytes or tokens are too many for a part of a column")
    return pa.py_buffer(ends.astype(np.int32))


def _texts_to_arrow(values: Sequence[str | None]) -> pa.Array:
    encoded = [b"" if value is None else value.encode() for value in values]
    content = pa.py_buffer(b"".join(encoded))
    buffers = [_validity(values), _ends([len(text) for text in encoded]), content]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _numbers_to_arrow(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    found = arrow_numbers([0 if value is None else value for value in values], arrow_type)
    buffers = [_validity(values), found.buffers()[1]]
    return pa.Array.from_buffers(arrow_type, len(values), buffers)


def _flags_to_arrow(values: Sequence[bool | None]) -> pa.Array:
    flags = np.array([bool(value) for value in values], dtype=bool)
    return pa.Array.from_buffers(pa.bool_(), len(values), [_validity(values), _bits(flags)])


def _numbers_from_arrow(array: pa.Array) -> list[Any]:
    return array.to_pylist() if array.null_count else _view(array).tolist()


def _view(array: pa.Array) -> NDArray[Any]:
    """Return the numbers of an array without a missing one, not copied."""
    if array.null_count:
        raise ValueError("a number is missing in a list")
    end = array.offset + len(array)
    dtype, content = array.type.to_pandas_dtype(), array.buffers()[1]
    if not end:
        return np.empty(0, dtype)
    return np.frombuffer(content, dtype, count=end)[array.offset :]


_PLAIN: dict[type, Kind] = {
    str: Kind(pa.string(), _texts_to_arrow, pa.Array.to_pylist),
    int: Kind(pa.int64(), lambda v: _numbers_to_arrow(v, pa.int64()), _numbers_from_arrow),
    float: Kind(pa.float64(), lambda v: _numbers_to_arrow(v, pa.float64()), _numbers_from_arrow),
    bool: Kind(pa.bool_(), _flags_to_arrow, pa.Array.to_pylist),
}


# Lists.


def _list_of(items: pa.Array, lengths: Sequence[int]) -> pa.Array:
    offsets = pa.Array.from_buffers(pa.int32(), len(lengths) + 1, [None, _ends(lengths)])
    return pa.ListArray.from_arrays(offsets, items)


def _cuts(array: pa.ListArray) -> list[slice]:
    """Return where each list lies in `array.values`."""
    return [slice(start, end) for start, end in pairwise(_view(array.offsets).tolist())]


def _arrays(number: pa.DataType) -> Kind:
    """Return the kind of one-dimensional arrays."""

    def to_arrow(values: Sequence[NDArray[Any]]) -> pa.Array:
        return _list_of(arrow_numbers(np.concatenate(values), number), [len(v) for v in values])

    def from_arrow(array: pa.ListArray) -> list[NDArray[Any]]:
        numbers = _view(array.values)
        return [numbers[cut] for cut in _cuts(array)]

    return Kind(pa.list_(number), to_arrow, from_arrow)


_ARRAYS: dict[type, Kind] = {np.int32: _arrays(pa.int32()), np.float32: _arrays(pa.float32())}


def _tuples(of: Kind, may_hold_none: bool) -> Kind:
    """Return the kind of tuples of any length."""

    def to_arrow(values: Sequence[tuple[Any, ...]]) -> pa.Array:
        items = list(chain.from_iterable(values))
        found = of.to_arrow(items) if items else pa.nulls(0, of.arrow_type)
        return _list_of(found, [len(value) for value in values])

    def from_arrow(array: pa.ListArray) -> list[tuple[Any, ...]]:
        if array.values.null_count and not may_hold_none:
            raise ValueError("an item is missing in a list")
        items = of.from_arrow(array.values)
        return [tuple(items[cut]) for cut in _cuts(array)]

    return Kind(pa.list_(of.arrow_type), to_arrow, from_arrow)
