"""What an engine needs of a model's folder beside the weights, for nodes that do not see it.

A learner gives every engine its weights anyway, so no disk has to bring them to all nodes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.nodes import WEIGHT_SUFFIXES, Evidence, of_model
from rzero_ray.types import UserError

_INDEX = ".index.json"
"""Ends the names of files that say which weights are where."""
_MOST_BYTES = 256 << 20
"""A larger file is nothing that an engine reads beside the weights: a tokenizer has tens of MB."""


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """The files of a model's folder, without those of its weights: its configuration, tokenizer and
    chat template."""

    evidence: Evidence
    """By what a node knows the folder, where it sees it."""
    contents: Mapping[str, bytes]
    """By name. Folders in the folder are left out: nothing that is loaded lies in them."""

    @classmethod
    def read(cls, folder: Path) -> SmallFiles:
        """Read the files of a model's folder."""
        return cls(
            of_model(folder),
            {path.name: path.read_bytes() for path in folder.iterdir() if _is_small(path)},
        )

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """Give a folder of this node that has these files in the block; an engine that has started
        reads none of them any more. A UserError of the block names the model's own folder."""
        with tempfile.TemporaryDirectory(prefix="rzero-model-") as name:
            for file, content in self.contents.items():
                (Path(name) / file).write_bytes(content)
            try:
                yield Path(name)
            except UserError as error:
                raise UserError(str(error).replace(name, str(self.evidence.folder))) from None


def _is_small(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix not in WEIGHT_SUFFIXES
        and not path.name.endswith(_INDEX)
        and path.stat().st_size <= _MOST_BYTES
    )
