"""Texts in YAML, as a user writes them and as this program keeps a configuration."""

from __future__ import annotations

import io

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where libyaml is installed
_MOST_LEVELS = 20
"""Of sections in a text; ours have four."""
_MOST_SHOWN = 300
"""Characters of a library's reason that is handed on."""


class NotKeysAndValuesError(Exception):
    """A text is no YAML with keys and values. Its own text follows the name of a file: `is not
    valid YAML: line 3: ...`."""


def parse_yaml(text: str) -> DictConfig:
    """Return the keys and values of a YAML text, references such as `${name}` as they are written.

    Raises NotKeysAndValuesError for anything else.
    """
    try:
        _check_depth(text)
        tree = OmegaConf.load(io.StringIO(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise NotKeysAndValuesError(f"is not valid YAML: {where}{reason}") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise NotKeysAndValuesError(f"is not valid YAML: {first_line(error)}") from None
    if not isinstance(tree, DictConfig):
        raise NotKeysAndValuesError("must hold keys and values, not a list")
    return tree


def first_line(error: Exception) -> str:
    """Return the beginning of a library's reason, which may go over many lines."""
    lines = str(error).strip().splitlines()
    return lines[0][:_MOST_SHOWN] if lines else type(error).__name__


def _check_depth(text: str) -> None:
    """Refuse what is nested too deeply: the parser in C would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_LEVELS:
            raise NotKeysAndValuesError(f"is nested in more than {_MOST_LEVELS} levels")
