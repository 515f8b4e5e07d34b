"""What a sampler does with texts, on an engine that answers from a rule."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from actors.sampling.packing import PackedCompletions, unpack
from actors.sampling.sampler import Sampler
from actors.sampling.tokenization import ChatTokenizer
from actors.waiting import within
from rzero_ray.tasks.prompts import math_solver_messages
from rzero_ray.types import (
    RunError,
    SampleRequest,
    Sampling,
    TooLongError,
    UserError,
    WeightVersion,
)
from tests.unit import tokenizer_shapes as shapes

VERSION = WeightVersion(role="solver", iteration=1, num_steps=1)


class FakeEngine:
    """Answers every prompt with the same tokens, in the form of `vllm_engine.VllmEngine`."""

    def __init__(self, *answers: list[int]) -> None:
        self._answers = answers
        self.stop_token_ids: list[int] = []

    async def generate(self, prompt_ids, request, tokenizer):
        self.stop_token_ids = tokenizer.stop_token_ids
        return [
            tokenizer.to_completion(
                np.asarray(prompt_ids, dtype=np.int32),
                np.asarray(answer, dtype=np.int32),
                np.full(len(answer), -1.0, dtype=np.float32),
                finished=False,
                weight_versions=[(VERSION, 0, len(answer))],
            )
            for answer in self._answers
        ]


def _sampler(folder: Path, *answers: list[int], max_model_len: int = 1000) -> Sampler:
    sampler = object.__new__(Sampler)
    sampler._asleep, sampler._refusal, sampler._num_ended = set(), None, 0
    sampler._tokenizer, sampler._engine = ChatTokenizer(folder), FakeEngine(*answers)
    sampler._max_model_len = max_model_len
    return sampler


def _request(question: str) -> SampleRequest:
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=8)
    messages = math_solver_messages(question)
    return SampleRequest(messages=messages, num_samples=2, seed=0, sampling=sampling)


def _answer(sampler: Sampler, *questions: str) -> list[PackedCompletions | RunError]:
    """Return the sampler's answers to one call, in the order of the questions."""

    async def go() -> dict[int, PackedCompletions | RunError]:
        requests = [_request(question) for question in questions]
        return {k: found async for part in sampler.sample(requests) for k, found in part}

    answers = asyncio.run(go())
    assert len(answers) == len(questions)
    return [answers[k] for k in range(len(questions))]


def test_completions_are_cut_one_by_one_and_stop_where_the_template_says(tmp_path):
    shapes.bare(tmp_path)
    encode = ChatTokenizer(tmp_path)._tokenizer.encode
    own, whole = (
        encode(text, add_special_tokens=False)
        for text in ("\\boxed{4}\nuser: 2+2?\nassistant: \\boxed{9}", "\\boxed{5}")
    )
    sampler = _sampler(tmp_path, own, whole)
    cut, left = unpack(*_answer(sampler, "1+1?"))
    assert (cut.text.strip(), cut.finished) == ("\\boxed{4}", True)
    assert len(cut.token_ids) == len(cut.logprobs) == cut.weight_versions[0][2] < len(own)
    assert (left.text, left.finished) == ("\\boxed{5}", False)
    assert left.token_ids.tolist() == whole
    assert sampler._engine.stop_token_ids == sampler._tokenizer.stop_token_ids


def test_a_prompt_without_room_for_an_answer_is_refused(tmp_path):
    shapes.qwen_base(tmp_path)
    length = len(ChatTokenizer(tmp_path).render(math_solver_messages("1+1?")))
    sampler = _sampler(tmp_path, [1], max_model_len=length + 1)
    # The others of its call are answered.
    fits, too_long, fits_too = _answer(sampler, "1+1?", "1+1+1+1+1+1?", "1+1?")
    assert isinstance(fits, PackedCompletions) and isinstance(fits_too, PackedCompletions)
    assert isinstance(too_long, TooLongError)
    (too_long,) = _answer(_sampler(tmp_path, [1], max_model_len=length), "1+1?")
    assert re.search(f"of {length} tokens .* model.max_model_len={length}", str(too_long))


def test_a_sampler_says_at_its_start_why_it_has_no_engine():
    sampler = object.__new__(Sampler)
    sampler._refusal = UserError("the chat template cannot be rendered")
    with pytest.raises(UserError, match="the chat template"):
        asyncio.run(sampler.start())


@pytest.mark.parametrize("error", [UserError("one line"), TooLongError("one line")])
def test_errors_of_ours_come_from_an_actor_as_they_are(error: RunError | UserError):
    async def fail() -> None:
        raise RayTaskError("sample", "a page", error).as_instanceof_cause()

    with pytest.raises(type(error), match=r"^one line$"):
        asyncio.run(within(5.0, "a sampler", fail()))
