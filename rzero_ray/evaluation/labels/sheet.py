"""The sheet that a person fills in: `audit-human.csv`, written once, read back and checked.

Questions are a model's text: a cell that a spreadsheet would take for a formula begins with an
apostrophe, which reading takes off again.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.answers.parsing import fault_in
from rzero_ray.disk.files import write_text_durably
from rzero_ray.evaluation.labels.agreement import RIGHT, UNKNOWN, WRONG
from rzero_ray.text.files import read_csv
from rzero_ray.types import CurriculumItem, UserError

COLUMNS = ("question", "label", "answer", "right")
_SIGNS = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"
"""With what a formula begins; the last four are full-width signs."""
_NO_PLAIN_TEXT = re.compile(rf"['\t\r\n]|\s*{_SIGNS}")
"""How a cell begins that a spreadsheet would not take for plain text."""
_SPLIT = re.compile(rf"([;\t\r\n])(?=[\s']*{_SIGNS})")
"""Where a spreadsheet that splits lines at semicolons or tabs would begin another cell, with a
formula: quotation marks mean something to it at the beginning of a line alone."""
_GUARDED_SPLIT = re.compile(rf"([;\t\r\n])'(?=[\s']*{_SIGNS})")
_VERDICTS = {
    **dict.fromkeys(("yes", "y", "true", "1", RIGHT), RIGHT),
    **dict.fromkeys(("no", "n", "false", "0", WRONG), WRONG),
    **dict.fromkeys(("?", UNKNOWN), UNKNOWN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """What a person wrote of one label: an answer, a verdict, or nothing yet."""

    item: CurriculumItem
    answer: str | None
    verdict: str | None
    """`right`, `wrong` or `unknown`; None where nothing was written."""


def write_sheet(path: Path, items: Sequence[CurriculumItem]) -> None:
    """Write a sheet to fill in; one that exists, and may be half filled in, is left alone."""
    if os.path.lexists(path):
        return
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for item in items:
        writer.writerow([_guard(item.question), _guard(item.label), "", ""])
    write_text_durably(path, stream.getvalue())


def read_sheet(path: Path, items: Sequence[CurriculumItem]) -> list[SheetRow]:
    """Read a sheet back, in its own order; rows may be missing. It writes nothing.

    Raises UserError, in one line, for a file that is no such sheet, a value that means nothing, a
    row that appears twice or is not among `items`.
    """
    lines = read_csv(path)
    head = [cell.strip().lower() for cell in lines[0]] if lines else []
    missing = [name for name in COLUMNS[:2] if name not in head]
    if not {"answer", "right"} & set(head):
        missing.append("answer or right")
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)} in its first line; its columns are "
            f"{', '.join(COLUMNS)}, separated by commas"
        )
    known = {(_key(item.question), _key(item.label)): item for item in items}
    # Of two that differ in white space alone, each is found where the editor has kept that.
    known |= {(item.question, item.label): item for item in items}
    seen: set[int] = set()
    return [
        _read_row(f"{path}, row {number}", dict(zip(head, cells, strict=False)), known, seen)
        for number, cells in enumerate(lines[1:], start=2)
        if any(cell.strip() for cell in cells)
    ]


def _read_row(
    where: str,
    cells: dict[str, str],
    known: dict[tuple[str, str], CurriculumItem],
    seen: set[int],
) -> SheetRow:
    question, label = _unguard(cells.get("question", "")), _unguard(cells.get("label", ""))
    item = known.get((question, label)) or known.get((_key(question), _key(label)))
    if item is None:
        raise UserError(
            f"{where}: this question with this label is not in the run's curriculum; a spreadsheet "
            "may have turned it into a date or a number: open the columns as text"
        )
    if id(item) in seen:
        raise UserError(f"{where}: this question has a row already; delete one of them")
    seen.add(id(item))
    answer = _unguard(cells.get("answer", "").strip())
    mark = cells.get("right", "").strip().lower()
    if answer and mark:
        raise UserError(f"{where}: both answer and right are filled in; leave one of them empty")
    if mark and mark not in _VERDICTS:
        raise UserError(f"{where}: right={mark[:40]!r} is unknown; write yes, no or ?")
    fault = fault_in(answer) if answer else None
    if fault is not None:
        raise UserError(f"{where}: answer={answer[:40]!r} {fault}")
    return SheetRow(item=item, answer=answer or None, verdict=_VERDICTS.get(mark))


def _guard(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    guarded = _SPLIT.sub(r"\1'", text)
    return f"'{guarded}" if _NO_PLAIN_TEXT.match(text) else guarded


def _unguard(text: str) -> str:
    """Return what `_guard` was given."""
    return _GUARDED_SPLIT.sub(r"\1", text.removeprefix("'"))


def _key(text: str) -> str:
    """Return a cell without differences that editors make: line ends and white space."""
    return " ".join(text.split())
