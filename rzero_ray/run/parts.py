"""What a step has made so far, kept while it goes on: a crash then costs minutes and not hours.

A step of a large model takes hours, and its file is written when all of it is there; a Parquet file
that is not closed cannot be read. So groups of records that are ready go into small files of their
own, which a run that is taken up again reads in place of making them anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.manifest import number_in
from rzero_ray.run.parquet import read_records, write_records

PARTS = "parts"
"""The folder of a step in which its parts are; `Run` removes it when the step is finished."""
RECORDS_A_PART = 64
"""As soon as so many records are ready they are written: of an 8B model they take some minutes."""


class Grouped(Protocol):
    """A record that says which of a step's groups it is of."""

    @property
    def prompt_index(self) -> int:
        """The number of the group, from 0."""
        ...


R = TypeVar("R", bound=Grouped)


async def gather_in_parts(
    step: Path,
    record_type: type[R],
    num_groups: int,
    make: Callable[[int], Coroutine[Any, Any, Sequence[R]]],
) -> list[list[R]]:
    """Return what `make` returns of 0 .. `num_groups` - 1, all under way at once, in their order.

    Groups in the parts of the folder `step` are read and not made; others are written there while
    the rest is made. A group has at least one record. Raises DamagedFileError for a part that is
    damaged.
    """
    folder = step / PARTS
    paths = sorted(folder.glob("part-*.parquet"))
    groups: dict[int, list[R]] = {}
    for path in paths:
        for record in await asyncio.to_thread(read_records, path, record_type):
            groups.setdefault(record.prompt_index, []).append(record)
    # Parts are written beside each other: a stop may have left the second without the first.
    numbers = itertools.count(number_in(paths[-1].stem) + 1 if paths else 1)
    ready: list[R] = []

    async def one(group: int) -> None:
        groups[group] = list(await make(group))
        ready.extend(groups[group])
        if len(ready) >= RECORDS_A_PART:
            part = ready.copy()
            ready.clear()
            path = folder / f"part-{next(numbers):05d}.parquet"
            await asyncio.to_thread(write_records, path, part, record_type)

    await gather_all(one(group) for group in range(num_groups) if group not in groups)
    return [groups[group] for group in range(num_groups)]
