"""A sampler: one vLLM engine that answers prompts with the weights of whichever role it holds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.fleet.life import Lives, Whereabouts, whereabouts
from actors.process import large_imports
from actors.sampling.options import PARTS, EngineOptions
from actors.sampling.packing import FinishedRequests, PackedCompletions, pack
from actors.sampling.small_files import SmallFiles
from actors.weights.buckets import BucketLayout
from actors.weights.staging import StagingArea
from rzero_ray.tasks.base_model import where_it_is
from rzero_ray.types import (
    Message,
    RunError,
    SampleRequest,
    TooLongError,
    UserError,
    Vocabulary,
    Weights,
)

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 10.0
"""Seconds after which a call without an answer of its own says that the engine is at work."""


class Sampler(Lives):
    """An async actor: requests overlap, and the engine batches them."""

    def __init__(
        self, name: str, options: EngineOptions, small_files: SmallFiles | None = None
    ) -> None:
        """With `small_files` the engine starts without weights where its node does not see the
        model's folder; without, it has to have that (`base_model.where_it_is`)."""
        self._name = name
        self._max_model_len = options.max_model_len
        self._weight_backend = options.weight_backend
        self._asleep: set[str] = set()
        """The `PARTS` of the engine that sleep."""
        self._paused_since = 0.0
        self._num_reloads = 0
        self._attempt = 0
        """The learner that may load weights: the latest of those that have asked."""
        self._num_ended = 0
        """Requests that have ended, of all calls."""
        self._staging = StagingArea()
        self._refusal: UserError | None = None
        """Why there is no engine. Said by `start`: Ray makes a page of an error in here."""
        self._has_weights = small_files is None or small_files.evidence.is_seen()
        try:
            if small_files is None or self._has_weights:
                folder = where_it_is(Path(options.model))
                self._start_engine(replace(options, model=str(folder)))
            else:
                with small_files.unpacked() as folder:
                    self._start_engine(replace(options, model=str(folder), load_format="dummy"))
        except UserError as error:
            self._refusal = error

    def _start_engine(self, options: EngineOptions) -> None:
        with large_imports():
            # Imported here: the driver imports this module only to name the class.
            from actors.sampling.tokenization import ChatTokenizer

            self._tokenizer = ChatTokenizer(options.model)
            from actors.sampling.vllm_engine import VllmEngine

            self._engine = VllmEngine(options)

    def __repr__(self) -> str:
        return self._name

    async def pulse(self) -> None:
        """Return: the process runs, and so does its event loop. Raises EngineFailedError where vLLM
        in it has failed."""
        if self._refusal is None:
            self._engine.check()

    async def start(self) -> Whereabouts:
        """Make the engine ready for weights; returns where it runs, and whether it has some.

        Raises UserError where the model's tokenizer or chat template cannot be used.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._weight_backend == "object_store":  # the others connect when the learner does
            await self.connect_weights({})
        return whereabouts(has_weights=self._has_weights)

    async def sleep(self) -> None:
        """Give the device's memory back; requests have to wait for `wake`."""
        if self._asleep == set(PARTS):  # of a turn that was not passed on
            return
        await self._engine.sleep()
        self._asleep = set(PARTS)

    async def wake(self, parts: Sequence[str]) -> None:
        """Take memory for `parts` again; with all of `PARTS` the engine samples."""
        await self._engine.wake(parts)
        self._asleep -= set(parts)

    async def sample(self, requests: Sequence[SampleRequest]) -> AsyncIterator[FinishedRequests]:
        """Answer requests; yields those that have ended, with their places, as soon as one has.

        Yields nothing ended from time to time, while the engine ends requests of other calls: they
        were there before, and these have to wait. An engine that ends nothing is silent.

        Requests overlap. One whose prompt is refused does not keep the others from their answers.
        Cancelled, the engine drops those that have not ended.
        """
        self._check_awake()
        places = {
            asyncio.create_task(self._answer(request)): k for k, request in enumerate(requests)
        }
        ended: asyncio.Queue[asyncio.Task[PackedCompletions]] = asyncio.Queue()
        for task in places:
            task.add_done_callback(ended.put_nowait)
        num_left, num_seen = len(places), self._num_ended
        try:
            while num_left:
                tasks = await _ended_within(_HEARTBEAT_S, ended)
                num_left -= len(tasks)
                self._num_ended += len(tasks)
                if tasks or self._num_ended > num_seen:
                    yield [(places[task], _answer_or_refusal(task)) for task in tasks]
                num_seen = self._num_ended
        finally:
            for task in places:
                task.cancel()

    async def _answer(self, request: SampleRequest) -> PackedCompletions:
        prompt_ids = self._tokenizer.render(request.messages)
        if len(prompt_ids) >= self._max_model_len:
            raise TooLongError(
                f"a prompt of {len(prompt_ids)} tokens leaves no room for an answer within "
                f"model.max_model_len={self._max_model_len}"
            )
        completions = await self._engine.generate(prompt_ids, request, self._tokenizer)
        return pack(completions, request.reads_tokens)

    async def num_unfinished(self) -> int:
        """Return how many sequences the engine still has to finish."""
        return self._engine.num_unfinished()

    async def prompt_logprobs(
        self, prompts: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float32]]:
        """Return the log-probabilities of each prompt's tokens after the first."""
        self._check_awake()
        return await asyncio.gather(
            *(self._engine.prompt_logprobs(prompt.tolist()) for prompt in prompts)
        )

    async def tokenize(
        self, exchanges: Sequence[tuple[Sequence[Message], str]]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Return the ids of each rendered prompt and of its answer (`protocols.Policy`)."""
        return [
            (
                np.asarray(self._tokenizer.render(messages), dtype=np.int32),
                np.asarray(self._tokenizer.encode_answer(answer), dtype=np.int32),
            )
            for messages, answer in exchanges
        ]

    async def allowed_tokens(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """Return the ids of a vocabulary, in order."""
        return self._tokenizer.allowed_tokens(vocabulary)

    async def score(
        self, sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    ) -> list[NDArray[np.float32]]:
        """Return the log-probabilities of each completion's tokens after its prompt.

        Of the distribution at temperature 1: vLLM leaves prompt tokens out of its sampling
        processors. A text as long as the model allows leaves no room for the token that vLLM
        must sample, so its last token goes unscored.
        """
        prompts = [
            np.concatenate(pair)[: self._max_model_len - 1].astype(np.int32) for pair in sequences
        ]
        scores = await self.prompt_logprobs(prompts)
        return [
            score[len(prompt) - 1 :] for score, (prompt, _) in zip(scores, sequences, strict=True)
        ]

    async def render(self, chats: Sequence[SampleRequest]) -> list[NDArray[np.int32]]:
        """Return the prompt ids of requests, without answering them."""
        return [np.asarray(self._tokenizer.render(c.messages), dtype=np.int32) for c in chats]

    def device(self) -> tuple[str, tuple[str, ...]]:
        """Return the node and the GPUs of it that this sampler has."""
        context = ray.get_runtime_context()
        return context.get_node_id(), tuple(context.get_accelerator_ids().get("GPU", ()))

    async def stage_bucket(
        self, slot: int, layout: BucketLayout, tensors: Sequence[NDArray[np.uint8]]
    ) -> dict[str, Any]:
        """Write a bucket where the engines of this node can map it; returns its update info."""
        path = await asyncio.to_thread(self._staging.write, slot, layout, tensors)
        return layout.update_info(path)

    # New weights, whatever the backend: connect once, then per publication start, update as often
    # as there are parts, finish. The calls of one sampler overlap, so `after` takes the result of
    # the call that must have ended before: the number of the reload, by which calls of a reload
    # that was given up are told from those of the next one.

    async def connect_weights(self, init_info: dict[str, Any]) -> None:
        """Make the engine ready for weights; `init_info` is the backend's."""
        await self._engine.connect(init_info)

    async def disconnect_weights(self) -> None:
        """Leave the learner's group."""
        await self._engine.disconnect()

    async def start_weight_update(self, attempt: int, staged: object = None) -> int:
        """Stop sampling, keeping what is under way, and begin a reload; returns its number.

        One that was begun before and has not ended is given up. `attempt` is the learner's: one in
        whose place there is a newer one, and which does not know it yet, is refused.
        """
        if attempt < self._attempt:
            raise RunError(f"{self._name} takes no weights of a learner that has been replaced")
        self._attempt = attempt
        self._num_reloads += 1
        number = self._num_reloads
        self._paused_since = time.monotonic()
        with self._one_line_failure():
            await self._engine.pause()
            await self._engine.start_weight_update()
        return number

    async def update_weights(self, update_info: dict[str, Any], after: int | None = None) -> int:
        """Load one part of the weights; `update_info` is the backend's."""
        number = self._current_reload(after)
        with self._one_line_failure():
            await self._engine.update_weights(update_info)
        return number

    async def finish_weight_update(self, version: Weights, after: int | None = None) -> float:
        """End the reload and sample on, with the new version; returns the seconds stood still."""
        self._current_reload(after)
        with self._one_line_failure():
            await self._engine.finish_weight_update(version)
            await self._engine.resume()
        return time.monotonic() - self._paused_since

    def _current_reload(self, number: int | None) -> int:
        """Return the number of the reload under way. RunError where `number` is an earlier one."""
        if number not in (None, self._num_reloads):
            raise RunError(f"{self._name} was told to load weights that were given up meanwhile")
        return self._num_reloads

    @contextmanager
    def _one_line_failure(self) -> Iterator[None]:
        """Raise what vLLM has against new weights as RunError. The engine then stands still until a
        later publication has reached its end."""
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            logger.exception("new weights could not be loaded")
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise RunError(
                f"{self._name} could not load new weights ({what}); its traceback is in the log of "
                "this actor (in the dashboard, or under /tmp/ray/session_latest/logs)"
            ) from None

    def _check_awake(self) -> None:
        """An engine that sleeps would keep a request waiting until its deadline."""
        if self._asleep:
            asleep = ", ".join(sorted(self._asleep))
            raise RunError(f"{self._name} was asked while asleep ({asleep}): a bug")

    async def stop(self) -> None:
        """End the engine, and remove what weights passed through."""
        self._staging.close()
        if self._refusal is None:
            self._engine.shutdown()


async def _ended_within(
    seconds: float, ended: asyncio.Queue[asyncio.Task[PackedCompletions]]
) -> list[asyncio.Task[PackedCompletions]]:
    """Return all that have ended as soon as one has; nothing where none does in this time."""
    tasks = []
    with suppress(TimeoutError):
        tasks.append(await asyncio.wait_for(ended.get(), seconds))
    while not ended.empty():
        tasks.append(ended.get_nowait())
    return tasks


def _answer_or_refusal(
    task: asyncio.Task[PackedCompletions],
) -> PackedCompletions | RunError | UserError:
    """Return how a task has ended; a bug is raised, so that its traceback reaches the driver."""
    try:
        return task.result()
    except (RunError, UserError) as error:
        return error
