"""YAML files and `key.path=value` arguments to dataclasses.

A key that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rzero_ray.config.renames import RENAMED_KEYS, SHORT_KEYS, spelled_out
from rzero_ray.config.rules import a_path, check_value, declared_keys
from rzero_ray.text.files import read_text
from rzero_ray.text.yaml_text import NotKeysAndValuesError, first_line, parse_yaml
from rzero_ray.types import UserError

C = TypeVar("C")

_MOST_SHOWN = 300
"""Characters of a refused argument that its line repeats."""
_MOST_DIGITS = 300
_LARGEST_NUMBER = 10**_MOST_DIGITS
"""What a floating-point number can hold, about."""
_REFERENCE = re.compile(r"\$\{[^${}:]*\}")
"""A reference to another key, such as `${name}`."""
_MISSING = "???"
"""What OmegaConf takes for no value at all."""


def build(schema: type[C], *sources: DictConfig) -> C:
    """Return the dataclass that the sources describe; later ones win. UserError on a bad value."""
    for source in sources:
        for key, value in as_written(source).items():
            _check_plain(key, value)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_structured(schema), *sources))
    except OmegaConfBaseException as error:
        raise _bad_value(error.full_key, error) from None
    assert isinstance(config, schema)
    return config


@cache
def _structured(schema: type) -> DictConfig:
    """Return a schema as OmegaConf has it: half of a load is making one, and `merge` copies it."""
    return cast(DictConfig, OmegaConf.structured(schema))


def read_arguments(overrides: Sequence[tuple[str, str]], schema: type) -> DictConfig:
    """Return `key.path=value` arguments as a tree, each value of the type of its key.

    A value is taken as it is typed: no quotes, lists or line ends of YAML have a meaning in it.
    Raises UserError for a key that `schema` has not, or a value that is of another type.
    """
    tree = OmegaConf.create()
    for key, value in _spelled_out(overrides, schema):
        _check_key(key, f"argument {key}", schema)
        OmegaConf.update(tree, key, _typed(key, value, schema))
    return tree


def _spelled_out(overrides: Sequence[tuple[str, str]], schema: type) -> Iterator[tuple[str, str]]:
    for key, value in overrides:
        longer = spelled_out({key: value})
        yield from (
            longer if longer.keys() <= declared_keys(schema).keys() else {key: value}
        ).items()


def _typed(key: str, value: str, schema: type) -> Any:
    """Return the value of an argument in the type of its key."""
    name = key.rpartition(".")[2]
    if value.lower().lstrip("+-") in (".inf", ".nan"):  # as YAML writes them
        value = value.replace(".", "")
    try:
        alone = make_dataclass("Alone", [(name, declared_keys(schema)[key].type)])
        typed = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(alone), {name: value}))
    except OmegaConfBaseException as error:
        raise _bad_value(key, error) from None
    return as_written(typed)[name]


def check_keys(tree: DictConfig, name: str, schema: type) -> None:
    """Raise UserError when the file `name` holds a key that `schema` has not."""
    for key, value in as_written(tree).items():
        _check_key(key, f"{key} in {name}", schema)
        if value is None:
            raise UserError(
                f"{key} in {name} has no value (YAML reads nothing, null and ~ as none); write one "
                "behind it, a text in quotation marks"
            )
        if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
            raise UserError(f"{key} in {name} is a number of more than {_MOST_DIGITS} digits")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {key path: value} of every leaf of a tree, such as `dataclasses.asdict(config)`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        leaves |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return leaves


def find_conf(name: str) -> Path:
    """Return the file of a conf given by name (in `conf/`) or by path.

    `conf/` is looked for in the current folder (an unpacked Ray job), then beside the package (a
    checkout), then inside it (an installed wheel).
    """
    check_value("conf", name, a_path())
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise UserError(f"conf={name}: no such file; give a name in conf/ or a path to a YAML file")
    for folder in _conf_folders():
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    known = conf_names(str(Path(name).parent))
    raise UserError(f"no {name}.yaml in conf/{nearest(Path(name).name, known)}")


def conf_names(folder: str) -> list[str]:
    """Return the names of the confs in a folder of `conf/`, such as `ablation`, in order."""
    return sorted(
        {path.stem for conf in _conf_folders() for path in (conf / folder).glob("*.yaml")}
    )


def _conf_folders() -> tuple[Path, ...]:
    package = Path(__file__).resolve().parents[1]
    return Path("conf"), package.parent / "conf", package / "conf"


def split_pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return the keys and values of `key=value` arguments."""
    pairs = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not (separator and key.strip()):
            raise UserError(f"argument {argument[:_MOST_SHOWN]!r} is not of the form key=value")
        pairs.append((key, value))
    return pairs


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the value of `conf=`, where there is one, and the other `key=value` arguments."""
    pairs = split_pairs(arguments)
    confs = [value for key, value in pairs if key == "conf"]
    return confs[-1] if confs else None, [pair for pair in pairs if pair[0] != "conf"]


def read_yaml(path: Path) -> DictConfig:
    """Return a file's keys and values, short keys spelled out. UserError when it holds none."""
    try:
        tree = parse_yaml(read_text(path))
    except NotKeysAndValuesError as error:
        raise UserError(f"{path} {error}") from None
    for key in as_written(tree).keys() & SHORT_KEYS.keys():
        value = OmegaConf.select(tree, key)
        OmegaConf.update(tree, key, dict.fromkeys(SHORT_KEYS[key], value), merge=False)
    return tree


def _bad_value(key: str | None, error: Exception) -> UserError:
    return UserError(f"bad value for {key or 'a key'}: {first_line(error)}")


def _check_plain(key: str, value: object) -> None:
    """Refuse a value that OmegaConf would make another of, references such as `${name}` excepted.

    A function's result, above all that of `oc.env`, would be written to `config.yaml` and the
    report, and the environment is where secrets are. Its name may be put together from other keys.
    """
    if value == _MISSING:
        raise UserError(f"{key}={_MISSING} is no value, OmegaConf leaves such a key out; give one")
    left = str(value)
    while (shorter := _REFERENCE.sub("", left)) != left:
        left = shorter
    if "${" in left:
        raise UserError(
            f"{key} takes its value from a function such as oc.env, which is not allowed, because "
            "a run writes its configuration down and the environment holds secrets; a value may "
            'refer to other keys, as in ${name}, and a command line to variables, as in "$NAME"'
        )


def as_written(tree: DictConfig) -> dict[str, Any]:
    """Return {key path: value} of a tree, references such as `${name}` as they are written."""
    return flatten(cast(dict[str, Any], OmegaConf.to_container(tree)))


def _check_key(key: str, where: str, schema: type) -> None:
    known = list(declared_keys(schema))
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"{where}: {key} is a section; set one of its keys, such as {inside[0]}")
    if RENAMED_KEYS.get(key) in known:
        raise UserError(f"{where}: {key} is now {RENAMED_KEYS[key]}")
    raise UserError(f"unknown key: {where}{nearest(key, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error about an unknown name: `; the nearest is KNOWN`."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {near[0]}" if near else ""


def split_names(names: str) -> list[str]:
    return [name.strip() for name in str(names).split(",") if name.strip()]
