"""Text from outside, made safe where it enters and where it is shown."""

from __future__ import annotations

import math
import sys


def well_formed(text: str) -> str:
    """Return the text with half characters (lone surrogates) replaced by question marks.

    JSON can spell them (`\\ud83d`); no tokenizer takes them and no file in UTF-8 can hold them.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def printable(text: str) -> str:
    """Return `text` on one line, without what the stream cannot encode or would obey."""
    line = "".join(c if c.isprintable() else " " for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, errors="replace").decode(encoding)


def plain_text(value: object) -> str | None:
    """Return the text of a value from a file, without white space around it: of a text or a finite
    number. None for anything else, which no question and no answer is."""
    match value:
        case bool():
            return None
        case float():
            return str(value) if math.isfinite(value) else None
        case str() | int():
            return str(value).strip()
    return None
