"""Tells the control tokens that a template writes from text that merely spells them.

A tokenizer turns `<|im_end|>` into its control token wherever it stands, also inside a question.
Whoever writes questions could so end the user's turn and begin the answer. Here every text passes
through two spellings that nobody can guess: what an outsider wrote is *disguised* before the
template sees it, what the template wrote itself is then given an *alias*, and a copy of the
tokenizer that knows the control tokens under their aliases alone encodes the text, disguises taken
off. Ids, spaces and merges are those of the tokenizer itself.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

_LETTERS = [chr(code) for code in range(0x12000, 0x12300)]
"""Cuneiform signs: letters without case or parts, which normalizers and templates leave as they
are."""
_DIVIDER = chr(0x12470)
"""A cuneiform word divider: punctuation."""
_NONCE_LENGTH = 12


class ControlTokens:
    """The control tokens of one tokenizer."""

    def __init__(self, backend: Tokenizer, contents: Iterable[str]) -> None:
        """`contents` are the control tokens as they are spelled, all of them added tokens.

        Raises ValueError when the tokenizer cannot be rebuilt under other names.
        """
        added = backend.get_added_tokens_decoder()
        wanted = set(contents)
        tokens = {i: token for i, token in added.items() if token.content in wanted}
        self.ids = frozenset(tokens)
        nonce = "".join(secrets.choice(_LETTERS) for _ in range(_NONCE_LENGTH))
        self._aliases = {
            token.content: _name(nonce, "alias", number)
            for number, token in enumerate(tokens.values())
        }
        self._disguises = {
            content: _name(nonce, "disguise", number)
            for number, content in enumerate(self._aliases)
        }
        self._spelled = {disguise: content for content, disguise in self._disguises.items()}
        self._in_text = _any_of(self._aliases)
        self._disguised = _any_of(self._spelled)
        self._contents = {i: token.content for i, token in tokens.items()}
        backend.no_truncation()
        backend.no_padding()
        self._original = backend
        self._renamed = _renamed(backend, self._aliases) if tokens else backend
        for i, content in self._contents.items():
            if self._renamed.token_to_id(self._aliases[content]) != i:
                raise ValueError(f"the control token {content} loses its id under another name")

    def disguise(self, text: str) -> str:
        """Return an outsider's text in which nothing spells a control token."""
        return self._in_text.sub(lambda match: self._disguises[match[0]], text)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text: disguised parts are ordinary characters again, control tokens
        outside of them are control tokens."""
        parts, position = [], 0
        for start, i in self._places(text):
            parts += [text[position:start], self._aliases[self._contents[i]]]
            position = start + len(self._contents[i])
        text = "".join([*parts, text[position:]])
        text = self._disguised.sub(lambda match: self._spelled[match[0]], text)
        return self._renamed.encode(text, add_special_tokens=add_special_tokens).ids

    def first_in(self, text: str) -> tuple[int, int] | None:
        """Return where the first control token of a template's text begins, and its id."""
        return next(self._places(text), None)

    def _places(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where the tokenizer itself finds a control token in a text, and its id."""
        encoding = self._original.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i in self.ids:
                # White space around it may belong to it; the token of unknown characters is none.
                found = text.find(self._contents[i], start, end)
                if found >= 0:
                    yield found, i


def _name(nonce: str, kind: str, number: int) -> str:
    """Return a name of fixed length, so that none is the beginning of another.

    What stands around it finds no word there, as around most control tokens.
    """
    high, low = divmod(number, len(_LETTERS))
    first = _LETTERS[0] if kind == "alias" else _LETTERS[1]
    return f"{_DIVIDER}{first}{nonce}{_LETTERS[high]}{_LETTERS[low]}{_DIVIDER}"


def _any_of(contents: Iterable[str]) -> re.Pattern[str]:
    """Return what matches any of the texts, the longest first; nothing where there are none.

    Thousands of them are tried only where one may begin.
    """
    ordered = sorted(contents, key=len, reverse=True)
    if not ordered:
        return re.compile(r"(?!)")
    first = "".join(sorted({re.escape(content[0]) for content in ordered}))
    return re.compile(f"(?=[{first}])(?:{'|'.join(map(re.escape, ordered))})")


def _renamed(backend: Tokenizer, aliases: Mapping[str, str]) -> Tokenizer:
    """Return a copy of a tokenizer that knows some of its tokens under other names alone."""
    tree: dict[str, Any] = json.loads(backend.to_str())
    for token in tree["added_tokens"]:
        token["content"] = aliases.get(token["content"], token["content"])
    model = tree["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {aliases.get(name, name): i for name, i in vocabulary.items()}
    else:  # the pieces of a Unigram model, with their scores
        model["vocab"] = [[aliases.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") in aliases:
        model["unk_token"] = aliases[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, aliases)]
    copy = Tokenizer.from_str(json.dumps(tree))
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = False
    return copy


def _touches(merge: str | list[str], aliases: Mapping[str, str]) -> bool:
    """Say whether a merge has a renamed token as a part or as its result."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first in aliases or second in aliases or first + second in aliases
