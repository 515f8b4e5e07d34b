"""vLLM in its sampler's process does what vLLM in a process of its own does. No Ray here."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from actors.process import engine_environment
from actors.sampling.options import EngineOptions
from actors.sampling.tokenization import ChatTokenizer
from actors.weights.object_store import cut_buckets
from actors.weights.staging import StagingArea
from rzero_ray.method.vocabulary import FORMAT_TEXTS
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import (
    Completion,
    RunError,
    SampleRequest,
    Sampling,
    Vocabulary,
    WeightVersion,
)
from tests.faults.runs import shared_memory

pytestmark = pytest.mark.slow  # each engine is in a child of its own, which imports vLLM

T = TypeVar("T")

TASK = ArithmeticTask()
MAX_MODEL_LEN = 192
BUCKET_BYTES = 1 << 19
DEADLINE_S = 240
MOVED, BACK = (WeightVersion(role="solver", iteration=1, num_steps=k) for k in (1, 2))


@dataclass
class Found:
    """What an engine has done."""

    sampled: list[list[Completion]]
    scores: NDArray[np.float32]
    refusal: Exception
    beside_refusal: list[Completion]
    greedy: list[list[int]]
    """Of the base model, of the moved weights, and of the base model again."""
    during_update: list[Completion]
    num_unfinished: int
    """Some seconds after all requests were cancelled."""
    left: list[str]
    """Threads, processes and shared memory that are there after `shutdown` and were not before."""


def in_child(work: Callable[..., T], *arguments: Any) -> T:
    """Call `work` in a fresh process, whose environment is that of an engine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine_environment(1, on_cpu=True, backend="object_store").items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result(timeout=DEADLINE_S)


def _engine(model: Path, in_process: bool) -> Any:
    from actors.sampling.vllm_engine import VllmEngine

    return VllmEngine(
        EngineOptions(
            model=str(model),
            dtype="float32",
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=256,
            kv_cache_bytes=1 << 28,
            gpu_memory_utilization=0.8,
            enforce_eager=True,
            on_cpu=True,
            in_process=in_process,
            weight_backend="object_store",
        )
    )


def _requests(
    num_prompts: int, num_samples: int, temperature: float = 1.0, reads_tokens: bool = True
) -> list[SampleRequest]:
    sampling = Sampling(temperature=temperature, top_p=1.0, top_k=-1, max_tokens=96)
    return [
        SampleRequest(
            messages=TASK.solver_messages(problem.question),
            num_samples=num_samples,
            seed=100 * k,
            sampling=sampling,
            reads_tokens=reads_tokens,
        )
        for k, problem in enumerate(TASK.heldout()[-num_prompts:])
    ]


def _present() -> Iterator[str]:
    for thread in threading.enumerate():
        if thread.name != "tqdm_monitor":  # a library's, asleep and a daemon
            yield f"thread {thread.name}"
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for child in family[1:]:
        with suppress(psutil.NoSuchProcess):  # or a zombie, which is one
            if "resource_tracker" not in " ".join(child.cmdline()):  # ends with the process
                yield f"process {child.name()}"
    yield from (str(path) for path in shared_memory(family))


def _use(model: Path, in_process: bool) -> Found:
    """Have an engine do all that samplers ask of one."""
    from actors.sampling import vllm_engine  # its threads and processes come with the engine

    assert vllm_engine
    tokenizer = ChatTokenizer(model)
    before = set(_present())
    engine = _engine(model, in_process)
    area = StagingArea()
    base = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in base.items()
    }

    def start(requests: Sequence[SampleRequest]) -> list[asyncio.Task[list[Completion]]]:
        return [
            asyncio.create_task(engine.generate(tokenizer.render(r.messages), r, tokenizer))
            for r in requests
        ]

    async def ask(requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return await asyncio.gather(*start(requests))

    async def publish(tensors: dict[str, torch.Tensor], version: WeightVersion) -> None:
        await engine.pause()
        await engine.start_weight_update()
        source: Any = tensors.items()
        for layout, parts in cut_buckets(source, torch.float32, BUCKET_BYTES):
            # Each bucket takes the place of the one before it.
            await engine.update_weights(layout.update_info(area.write(0, layout, parts)))
        await engine.finish_weight_update(version)
        await engine.resume()

    async def begin_only(tensors: dict[str, torch.Tensor]) -> None:
        """Give up one publication after its first bucket, and have the next one fail."""
        source: Any = tensors.items()
        layout, parts = next(iter(cut_buckets(source, torch.float32, BUCKET_BYTES)))
        bucket = layout.update_info(area.write(0, layout, parts))
        await engine.pause()
        await engine.start_weight_update()
        await engine.update_weights(bucket)
        await engine.start_weight_update()
        await engine.update_weights(bucket)
        short = [[2] for _ in bucket["shapes"]]
        # Whatever vLLM has against it: one of its assertions, in its own process or here.
        (refusal,) = await asyncio.gather(
            engine.update_weights(bucket | {"shapes": short}), return_exceptions=True
        )
        assert isinstance(refusal, Exception)

    async def greedy() -> list[int]:
        groups = await ask(_requests(12, 1, temperature=0.0))
        return [token for (completion,) in groups for token in completion.token_ids.tolist()]

    async def under_way(requests: Sequence[SampleRequest]) -> list[asyncio.Task[list[Completion]]]:
        """Ask, and return once the first has its answer: the others are being sampled."""
        asked = start(requests)
        done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert done and others
        return asked

    async def go() -> Found:
        await engine.connect({})
        sampled = await ask(
            [*_requests(12, 10), *_requests(8, 1), *_requests(4, 10, reads_tokens=False)]
        )
        scores = await engine.prompt_logprobs(sampled[0][0].prompt_ids.tolist())
        (request,) = _requests(1, 4)
        beside, refusal = await asyncio.gather(
            ask([request]),
            engine.generate([1] * (MAX_MODEL_LEN + 1), request, tokenizer),
            return_exceptions=True,
        )
        assert isinstance(beside, list) and isinstance(refusal, Exception)
        texts = [await greedy()]
        asked = await under_way(_requests(40, 4))
        await publish(moved, MOVED)
        during = [completion for group in await asyncio.gather(*asked) for completion in group]
        texts.append(await greedy())
        await begin_only(base)
        await publish(base, BACK)
        texts.append(await greedy())

        asked = await under_way(_requests(60, 10))
        for task in asked:
            task.cancel()
        deadline = time.monotonic() + 5
        while engine.num_unfinished() and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        return Found(
            sampled=sampled,
            scores=scores,
            refusal=RunError(str(refusal)),
            beside_refusal=beside[0],
            greedy=texts,
            during_update=during,
            num_unfinished=engine.num_unfinished(),
            left=[],
        )

    found = asyncio.run(go())
    area.close()
    engine.shutdown()
    deadline = time.monotonic() + 10  # a process of its own ends when it can
    while (left := set(_present()) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    found.left = sorted(left)
    return found


@pytest.fixture(scope="module")
def beside(base_model: Path) -> Found:
    """What an engine in a process of its own has done."""
    return in_child(_use, base_model, False)


@pytest.fixture(scope="module")
def inside(base_model: Path) -> Found:
    """What an engine in its sampler's process has done."""
    return in_child(_use, base_model, True)


def _bits(groups: Sequence[Sequence[Completion]]) -> list[Any]:
    return [
        (c.text, c.num_tokens, c.finished, c.token_ids.tobytes(), c.logprobs.tobytes())
        for group in groups
        for c in group
    ]


def test_both_sample_the_same_bits(beside: Found, inside: Found):
    assert _bits(inside.sampled) == _bits(beside.sampled)
    assert [len(group) for group in inside.sampled] == [10] * 12 + [1] * 8 + [10] * 4
    assert all(len(c.logprobs) == len(c.token_ids) > 0 for c in inside.sampled[0])
    assert len(set(_bits(inside.sampled[:1]))) > 1
    assert inside.scores.tobytes() == beside.scores.tobytes()
    assert len(inside.scores) == len(inside.sampled[0][0].prompt_ids) - 1


@pytest.fixture(params=["beside", "inside"])
def found(request: pytest.FixtureRequest) -> Found:
    return request.getfixturevalue(request.param)


def test_a_request_that_vllm_refuses_fails_alone(found: Found):
    assert str(MAX_MODEL_LEN) in str(found.refusal)
    assert len(found.beside_refusal) == 4


def test_new_weights_are_loaded_under_running_requests(found: Found):
    base, moved, back = found.greedy
    assert base == back != moved
    spans = [completion.weight_versions for completion in found.during_update]
    for completion, parts in zip(found.during_update, spans, strict=True):
        assert [part[1] for part in parts] == [0, *(part[2] for part in parts[:-1])]
        assert parts[-1][2] == len(completion.token_ids)
    assert any([weights for weights, _, _ in parts] == [None, MOVED] for parts in spans)


def test_cancelled_requests_leave_the_engine(found: Found):
    assert found.num_unfinished == 0


def test_a_shutdown_leaves_nothing_behind(found: Found):
    assert not found.left


def _break(model: Path) -> tuple[list[str], str, float]:
    """Have vLLM fail in a step; returns the errors of those who waited, of who asks later, and the
    seconds that the shutdown then takes."""
    tokenizer = ChatTokenizer(model)
    engine = _engine(model, in_process=True)

    def fail() -> None:
        raise ZeroDivisionError("a bug\nof vLLM")

    async def go() -> tuple[list[str], str]:
        def ask(request: SampleRequest) -> asyncio.Task[list[Completion]]:
            prompt_ids = tokenizer.render(request.messages)
            return asyncio.create_task(engine.generate(prompt_ids, request, tokenizer))

        asked = [ask(request) for request in _requests(8, 4)]
        await asyncio.sleep(0.05)
        engine._vllm._llm.step = fail
        errors = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
        with pytest.raises(RunError) as later:
            await asyncio.wait_for(ask(_requests(1, 1)[0]), 20)
        with pytest.raises(RunError):
            await asyncio.wait_for(engine.pause(), 20)
        assert all(isinstance(error, RunError) for error in errors), errors
        return [str(error) for error in errors], str(later.value)

    errors, later = asyncio.run(go())
    begin = time.monotonic()
    engine.shutdown()
    assert "vllm" not in {thread.name for thread in threading.enumerate()}
    return errors, later, time.monotonic() - begin


def test_an_error_of_a_step_reaches_all_who_wait_and_who_ask_later(base_model: Path):
    errors, later, seconds = in_child(_break, base_model)
    assert len(errors) == 8
    for error in [*errors, later]:
        assert error.startswith("vLLM failed (ZeroDivisionError: a bug of vLLM); its traceback is")
        assert "\n" not in error
    assert seconds < 10


def _draw_from_some(model: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """Sample questions from two vocabularies; return by how much the learner's log-probabilities
    of them differ where it is told the vocabulary, where it is not, and whether all tokens are
    allowed ones."""
    from actors.learning.policy_model import PolicyModel

    tokenizer = ChatTokenizer(str(model))
    engine = _engine(model, in_process=True)
    policy = PolicyModel.load(model, torch.float32, torch.device("cpu"))
    requests = [
        SampleRequest(
            messages=TASK.challenger_messages(),
            num_samples=16,
            seed=100 * seed,
            sampling=Sampling(
                temperature=0.7,
                top_p=1.0,
                top_k=-1,
                max_tokens=32,
                vocabulary=Vocabulary(keep=0.7, seed=seed, always=FORMAT_TEXTS),
            ),
        )
        for seed in (1, 2)
    ]

    async def draw() -> list[list[Completion]]:
        return await asyncio.gather(  # in one batch of the engine
            *(engine.generate(tokenizer.render(r.messages), r, tokenizer) for r in requests)
        )

    try:
        answered = asyncio.run(draw())
    finally:
        engine.shutdown()
    told, untold, are_allowed = [], [], True
    for request, completions in zip(requests, answered, strict=True):
        assert request.sampling.vocabulary is not None
        ids = tokenizer.allowed_tokens(request.sampling.vocabulary)
        allowed_A = torch.from_numpy(ids.astype(np.int64))
        for completion in completions:
            are_allowed &= bool(np.isin(completion.token_ids, ids).all())
            whole = np.concatenate([completion.prompt_ids, completion.token_ids]).astype(np.int64)
            positions = torch.arange(len(completion.prompt_ids) - 1, len(whole) - 1)
            inputs, tokens = torch.from_numpy(whole[None, :-1]), torch.from_numpy(whole)
            for differences, allowed in ((told, allowed_A), (untold, None)):
                scores, entropies = policy(
                    inputs, positions, tokens[positions + 1], 0.7, allowed_A=allowed
                )
                assert torch.isfinite(entropies).all()
                differences.append(np.abs(scores.numpy() - completion.logprobs))
    return np.concatenate(told), np.concatenate(untold), are_allowed


def test_engine_and_learner_have_the_same_log_probabilities_of_some_tokens_alone(base_model: Path):
    told, untold, are_allowed = in_child(_draw_from_some, base_model)
    assert are_allowed
    assert told.max() < 1e-3 < 0.05 < untold.max()
