"""What a sampler packs, the driver unpacks."""

import numpy as np
import pytest

from actors.sampling.packing import pack, unpack
from rzero_ray.types import Completion, WeightVersion


@pytest.mark.parametrize("lengths", [(3,), (2, 0, 5), (0,)])
def test_completions_come_back_as_they_were(lengths: tuple[int, ...]):
    completions = [
        Completion(
            prompt_ids=np.array([1, 2], dtype=np.int32),
            token_ids=np.arange(k, k + length, dtype=np.int32),
            logprobs=np.full(length, -0.5 * k, dtype=np.float32),
            text=f"text {k}",
            num_tokens=length,
            finished=bool(k % 2),
            weight_versions=(
                (None, 0, k),
                (WeightVersion(role="solver", iteration=1, num_steps=k), k, length),
            ),
        )
        for k, length in enumerate(lengths)
    ]
    back = unpack(pack(completions, reads_tokens=True))
    assert len(back) == len(completions)
    for ours, theirs in zip(back, completions, strict=True):
        assert ours.prompt_ids.tolist() == theirs.prompt_ids.tolist()
        assert ours.token_ids.tolist() == theirs.token_ids.tolist()
        assert ours.logprobs.tolist() == theirs.logprobs.tolist()
        assert (ours.token_ids.dtype, ours.logprobs.dtype) == (np.int32, np.float32)
        assert (ours.text, ours.finished, ours.weight_versions) == (
            theirs.text,
            theirs.finished,
            theirs.weight_versions,
        )


def test_of_what_reads_no_tokens_texts_lengths_and_ends_are_sent():
    full = Completion(
        text="text",
        num_tokens=3,
        finished=False,
        prompt_ids=np.array([1, 2], dtype=np.int32),
        token_ids=np.arange(3, dtype=np.int32),
        logprobs=np.empty(0, dtype=np.float32),
        weight_versions=((None, 0, 3),),
    )
    packed = pack([full, full], reads_tokens=False)
    assert packed.tokens is None
    for completion in unpack(packed):
        assert (completion.text, completion.num_tokens, completion.finished) == ("text", 3, False)
        assert not completion.weight_versions
        assert not len(completion.prompt_ids) + len(completion.token_ids) + len(completion.logprobs)
