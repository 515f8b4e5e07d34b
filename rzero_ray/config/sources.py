"""YAML files and `key.path=value` arguments to dataclasses.

A key that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rzero_ray.config.renames import RENAMED_KEYS
from rzero_ray.types import UserError

C = TypeVar("C")


def build(schema: type[C], *sources: DictConfig) -> C:
    """Return the dataclass that the sources describe; later ones win. UserError on a bad value."""
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *sources))
    except OmegaConfBaseException as error:
        raise UserError(f"bad value for {error.full_key}: {_first_line(error)}") from None
    assert isinstance(config, schema)
    return config


def read_arguments(overrides: Sequence[tuple[str, str]], schema: type) -> DictConfig:
    """Return `key.path=value` arguments as a tree. UserError for a key that `schema` has not."""
    tree = OmegaConf.create()
    for key, value in overrides:
        _check_key(key, f"argument {key}={value}", schema)
        OmegaConf.update(tree, key, _parse_value(key, value))
    return tree


def check_keys(tree: DictConfig, name: str, schema: type) -> None:
    """Raise UserError when the file `name` holds a key that `schema` has not."""
    for key in leaf_keys(tree):
        _check_key(key, f"{key} in {name}", schema)


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
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise UserError(f"conf={name}: no such file; give a name in conf/ or a path to a YAML file")
    package = Path(__file__).resolve().parents[1]
    folders = [Path("conf"), package.parent / "conf", package / "conf"]
    for folder in folders:
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    parent = Path(name).parent
    known = sorted({p.stem for f in folders for p in (f / parent).glob("*.yaml")})
    raise UserError(f"no {name}.yaml in conf/{nearest(Path(name).name, known)}")


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the value of `conf=`, where there is one, and the other `key=value` arguments."""
    conf: str | None = None
    overrides: list[tuple[str, str]] = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            raise UserError(f"argument {argument!r} is not of the form key=value")
        if key == "conf":
            conf = value
        else:
            overrides.append((key, value))
    return conf, overrides


def read_yaml(path: Path) -> DictConfig:
    """Return a file's keys and values. UserError when it holds none."""
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # any parser error of any YAML library means: not a YAML file
        raise UserError(f"{path} is not valid YAML: {_first_line(error)}") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path} must hold keys and values, not a list")
    return tree


def _parse_value(key: str, value: str) -> Any:
    if not value:
        return ""  # to YAML it would be null, which no key takes
    try:
        return OmegaConf.select(OmegaConf.create(f"value: {value}"), "value")
    except Exception:  # as above
        raise UserError(f"argument {key}={value}: the value is not valid YAML") from None


def leaf_keys(tree: DictConfig) -> list[str]:
    return list(flatten(cast(dict[str, Any], OmegaConf.to_container(tree))))


def _schema_keys(cls: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        path = f"{prefix}{item.name}"
        section = hints[item.name]
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            yield from _schema_keys(section, f"{path}.")
        else:
            yield path


@cache
def _known_keys(schema: type) -> list[str]:
    return list(_schema_keys(schema))


def _check_key(key: str, where: str, schema: type) -> None:
    known = _known_keys(schema)
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"{where}: {key} is a section; set one of its keys, such as {inside[0]}")
    if key in RENAMED_KEYS:
        raise UserError(f"{where}: {key} is now {RENAMED_KEYS[key]}")
    raise UserError(f"unknown key: {where}{nearest(key, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error about an unknown name: `; the nearest is KNOWN`."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {near[0]}" if near else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def split_names(names: str) -> list[str]:
    return [name.strip() for name in str(names).split(",") if name.strip()]
