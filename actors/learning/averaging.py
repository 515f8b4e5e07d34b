"""The average of two models of one shape: what votes changes more slowly than what learns."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from actors.learning.model_files import write_model


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
    write_model(folder, model, newer)


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
