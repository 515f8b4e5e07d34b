"""Whether each step of a run has the samples that it should: none is missing, none is twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from rzero_ray.config.config import Config


def misfits(root: Path, config: Config) -> list[str]:
    """Return, in words, the finished steps of learning that have another number of samples of some
    prompt than the configuration asks for."""
    sections = {"challenger": config.challenger, "solver": config.solver}
    found = []
    for phase, section in sections.items():
        wanted = dict.fromkeys(range(section.num_prompts), section.samples_per_prompt)
        for path in sorted(root.glob(f"iteration-*/{phase}/step-*/rollouts.parquet")):
            column = pq.read_table(path, columns=["prompt_index"])["prompt_index"]
            samples = Counter(column.to_pylist())
            if samples != wanted:
                off = {k for k in samples | wanted if samples[k] != wanted.get(k, 0)}
                step = path.parent.relative_to(root)
                found.append(f"{step}: {len(off)} prompts without their number of samples")
    return found
