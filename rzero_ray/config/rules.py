"""What values a key may have: a rule is declared with the key, and checked at load.

    num_steps: Annotated[int, count()] = 5

`check_rules` looks at every key of a configuration, whichever command it belongs to. What must hold
between several keys is for `checks`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from rzero_ray.text.characters import printable
from rzero_ray.types import UserError

LARGEST_SEED = 2**63 - 1
LONGEST_S = 10_000_000.0
"""Seconds of the longest deadline: nothing waits for ever."""
MOST_ACTORS = 1_000
"""Actors of one kind."""
LOWEST_TEMPERATURE = 0.01
"""Of rollouts and samples: vLLM draws at this one where a lower one above 0 is asked for, while the
learner divides by what was asked."""
HIGHEST_TEMPERATURE = 2
"""vLLM's own limit."""
_MOST_SHOWN = 80
"""Characters of a refused value that its line shows."""
_LONGEST_NAME = 255
"""Bytes of a file's name, the limit of Linux's file systems."""
_LONGEST_PATH = 4095
"""Bytes of a path, the limit of Linux."""
_LONGEST_RUN_NAME = 100
_MOST_NUMBERS = 1_000
"""Of a list such as the base models of a study."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """Which values of a key mean something."""

    allowed: str
    """What follows `KEY=VALUE must be` in the line that refuses a value."""
    holds: Callable[[Any], bool]
    may_be_shown: bool = True
    """False where a value may hold a secret: no line repeats it then."""


def between(low: float, high: float) -> Rule:
    """Return the rule of a number with two ends, which are allowed."""
    return Rule(f"from {low:,} to {high:,}", lambda value: low <= value <= high)


def above(low: float, high: float) -> Rule:
    """Return the rule of a number with two ends, of which the upper one is allowed."""
    return Rule(f"above {low:,} and at most {high:,}", lambda value: low < value <= high)


def below(low: float, high: float) -> Rule:
    """Return the rule of a number with two ends, of which the lower one is allowed."""
    return Rule(f"at least {low:,} and below {high:,}", lambda value: low <= value < high)


def a_share() -> Rule:
    """Return the rule of a part of a whole."""
    return between(0, 1)


def count(least: int = 1, most: int = 1_000_000_000) -> Rule:
    """Return the rule of a number of things. Its `most` is what no machine could do or hold."""
    return between(least, most)


def positive() -> Rule:
    """Return the rule of a number without a greatest one, which is not 0."""
    return Rule("a finite number above 0", lambda value: 0 < value < math.inf)


def at_least(low: float) -> Rule:
    """Return the rule of a number without a greatest one."""
    return Rule(f"a finite number, at least {low:,}", lambda value: low <= value < math.inf)


def limit() -> Rule:
    """Return the rule of a limit that infinity (`.inf`) turns off."""
    return Rule("at least 0; .inf is no limit", lambda value: value >= 0)


def either(value: float, rule: Rule) -> Rule:
    """Return the rule of a key of which one value means something of its own."""
    return Rule(f"{value:,}, or {rule.allowed}", lambda v: v == value or rule.holds(v))


def one_of(*values: int) -> Rule:
    """Return the rule of a key with few values."""
    *most, last = map(str, values)
    return Rule(f"{', '.join(most)} or {last}", lambda value: value in values)


def gpus() -> Rule:
    """Return the rule of what one actor has of GPUs: Ray gives a part of one, or whole ones."""
    return Rule(
        "from 0 to 1, or a whole number up to 64",
        lambda value: 0 <= value <= 1 or (value <= 64 and value == int(value)),
    )


def line() -> Rule:
    """Return the rule of a text that is shown: one line, of characters that can be shown."""
    return Rule("one line of printable characters", str.isprintable)


def names() -> Rule:
    """Return the rule of names with commas between."""
    return Rule(
        "names with commas between, each once",
        lambda value: (
            all(name.isidentifier() for name in value.split(","))
            and len(set(value.split(","))) == value.count(",") + 1
        ),
    )


def run_name() -> Rule:
    """Return the rule of a name that becomes part of a folder's name."""
    return Rule(
        f"a name of 1 to {_LONGEST_RUN_NAME} printable characters without / and \\",
        lambda value: (
            0 < len(value.encode("utf-8", "replace")) <= _LONGEST_RUN_NAME
            and value.isprintable()
            and not set("/\\") & set(value)
            and value.strip() not in ("", ".", "..")
        ),
    )


def a_path() -> Rule:
    """Return the rule of a file or folder that has to be named."""
    return Rule(f"a path: {_PATH}", lambda value: bool(value.strip()) and _is_path(value))


def optional_path() -> Rule:
    """Return the rule of a file or folder that may be left out."""
    return Rule(f"empty or a path: {_PATH}", _is_path)


_PATH = (
    f"of this machine, no address, printable, no name in it over {_LONGEST_NAME} bytes, and ~USER "
    "only of a user who is here"
)
_ADDRESS = re.compile(r"://.*", re.DOTALL)
"""What may hold a password: no line repeats it."""


def _is_path(value: str) -> bool:
    if not value.isprintable():  # lone surrogates are not printable either
        return False
    if _ADDRESS.search(value):  # a folder `s3:` would be made of it
        return False
    encoded = value.encode()
    if len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_NAME:
        return False
    try:
        Path(value).expanduser()
    except RuntimeError:  # no such user, or one without a home
        return False
    return True


def optional_store() -> Rule:
    """Return the rule of a folder, here or at an address, that may be left out."""
    return Rule(
        "empty, a path of this machine, or SCHEME://FOLDER as fsspec knows it, printable, without "
        "a password, a question mark or a #: keys belong where the scheme's package looks for them "
        "(the value is not shown, because it may hold one)",
        lambda value: not value or _is_path(value) or _is_store(value),
        may_be_shown=False,
    )


def _is_store(value: str) -> bool:
    scheme, found, rest = value.partition("://")
    user = rest.partition("@")[0] if "@" in rest else ""
    return (
        bool(found and rest)
        and re.fullmatch(r"[a-z][a-z0-9+]{0,20}", scheme, re.ASCII) is not None
        and value.isprintable()
        and len(value.encode()) <= _LONGEST_PATH
        and not set(" ?#\\") & set(value)
        and "::" not in value
        and ":" not in user
    )


def chat_address() -> Rule:
    """Return the rule of an endpoint's address: without anything in it that could be a secret."""
    return Rule(
        "empty or http://HOST[:PORT]/PATH or https://..., without a user, a password, a question "
        "mark or a #: the key belongs into the environment variable that key_env names (the value "
        "is not shown, because it may hold one)",
        lambda value: not value or _is_chat_address(value),
        may_be_shown=False,
    )


def _is_chat_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
        named = bool(host and host.encode("idna"))
    except ValueError:  # a port over 65535, brackets that do not match, no name of a host
        return False
    return (
        parts.scheme in ("http", "https")
        and named
        and port != 0
        and value.isprintable()
        and not set(" @?#\\") & set(value)
    )


def variable_name() -> Rule:
    """Return the rule of an environment variable's name."""
    return Rule(
        "the name of an environment variable: letters, digits and _ (the value is not shown, "
        "because it may be a key)",
        lambda value: re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", value, re.ASCII) is not None,
        may_be_shown=False,
    )


def whole_numbers() -> Rule:
    """Return the rule of a text of numbers with commas between."""
    return Rule(
        "whole numbers from 0 to 999,999,999 with commas between",
        lambda value: re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", value, re.ASCII) is not None,
    )


def optional_numbers() -> Rule:
    """Return the rule of a text that `read_numbers` reads."""
    return Rule(
        "empty, or whole numbers from 0 to 999,999,999 with commas between, or FIRST..LAST of "
        f"them, at most {_MOST_NUMBERS:,} in all and none twice",
        lambda value: not value or _are_numbers(value),
    )


def _are_numbers(value: str) -> bool:
    try:
        numbers = read_numbers(value)
    except ValueError:
        return False
    return 0 < len(numbers) == len(set(numbers))


def read_numbers(text: str) -> list[int]:
    """Return the numbers of `0,1,5..9`; ValueError for another text, or too many of them."""
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:\.\.(\d{1,9}))?\s*", part, re.ASCII)
        if found is None:
            raise ValueError(f"{part!r} is no number")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if last - first >= _MOST_NUMBERS - len(numbers):
            raise ValueError(f"more than {_MOST_NUMBERS} numbers")
        numbers += range(first, last + 1)
    return numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """What a configuration says of one of its keys."""

    type: Any
    """What its values are: int, float, str, bool, or a Literal of texts."""
    rule: Rule | None
    """None where it declares none: a truth value, or one of a few names."""


@cache
def declared_keys(schema: type) -> Mapping[str, Key]:
    """Return {key path: what is declared of it} of every key of a dataclass."""
    keys: dict[str, Key] = {}
    for name, hint in get_type_hints(schema, include_extras=True).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            keys |= {f"{name}.{inner}": key for inner, key in declared_keys(hint).items()}
        else:
            kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            rule = next((extra for extra in extras if isinstance(extra, Rule)), None)
            keys[name] = Key(kind, rule)
    return keys


def check_rules(config: Any) -> None:
    """Raise UserError for the first key of a configuration whose value its rule does not allow."""
    for name, key in declared_keys(type(config)).items():
        if key.rule is not None:
            check_value(name, reduce(getattr, name.split("."), config), key.rule)


def check_value(key: str, value: Any, rule: Rule) -> None:
    """Raise UserError, in one line, for a value that a rule does not allow."""
    if rule.holds(value):
        return
    text = _ADDRESS.sub("://...", printable(str(value)))
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}... ({len(text):,} characters)"
    raise UserError(f"{key}{f'={text}' if rule.may_be_shown else ''} must be {rule.allowed}")
