"""A model on disk in Hugging Face format, which is there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from rzero_ray.disk.errors import one_line_disk_errors
from rzero_ray.disk.files import remove_folder


def write_model(
    path: Path,
    model: PreTrainedModel,
    tokenizer_of: Path,
    state: dict[str, Tensor] | None = None,
    write_beside: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a model with the tokenizer of the folder `tokenizer_of`; `path` is replaced at the end.

    `state` are the weights to write, where the model's own are parts of them; `write_beside` adds
    files of its own to the folder. Raises RunError where the disk refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    with one_line_disk_errors(path):
        remove_folder(partial, path.parent)
        model.save_pretrained(partial, state_dict=state)
        AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(partial)
        write_beside(partial)
        remove_folder(path, path.parent)
        partial.rename(path)
