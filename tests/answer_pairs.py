"""The tables of answer pairs that the tests and the benchmarks share."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "unit" / "data"


def read_rows(name: str) -> list[tuple[str, ...]]:
    """Return the stripped cells of each line of a table; lines end at LF only."""
    lines = (_FOLDER / name).read_text(encoding="utf-8").split("\n")
    return [tuple(cell.strip() for cell in line.split("\t")) for line in lines if line]
