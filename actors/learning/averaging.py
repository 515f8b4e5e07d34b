"""The average of two models of one shape: what votes changes more slowly than what learns."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rzero_ray.disk.errors import one_line_disk_errors
from rzero_ray.disk.files import remove_folder


def average_models(older: Path, newer: Path, decay: float, folder: Path) -> None:
    """Write decay x `older` + (1 - decay) x `newer` to `folder`, which appears when it is whole.

    All are folders in Hugging Face format. Weights are averaged in float32 and written in the type
    of `newer`, on the CPU: two models lie in the host's memory. Raises RunError where the disk
    refuses.
    """
    model, old = _load(newer), _load(older)
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), old.parameters(), strict=True):
            ours.copy_(torch.lerp(ours.float(), theirs.float(), decay))
    partial = folder.with_name(f".{folder.name}.partial")
    with one_line_disk_errors(folder):
        remove_folder(partial, folder.parent)
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(newer).save_pretrained(partial)
        remove_folder(folder, folder.parent)
        partial.rename(folder)


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
