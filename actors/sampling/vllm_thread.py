"""vLLM in the sampler's own process, stepped by a thread: where there is no core for a second one.

It saves what two processes cost each other (every token's log-probability is pickled on its way),
and a second import of vLLM and torch, in time as in memory. The price: a crash of native code takes
the actor with it, which the driver is told as the actor's death.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from vllm import RequestOutput, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import TokensPrompt
from vllm.v1.engine.llm_engine import LLMEngine

from actors.sampling.vllm_metrics import stat_loggers
from actors.waiting import EngineFailedError

T = TypeVar("T")
_Answer = asyncio.Future[RequestOutput]

logger = logging.getLogger(__name__)

_END_S = 5.0
"""How long a shutdown waits for the step under way and the engine's end."""


class VllmThread:
    """Implements `vllm_engine.Vllm` on vLLM's `LLMEngine`, which works only while it is stepped.

    The thread alone touches vLLM. Whatever is asked for becomes an errand of the thread, which runs
    errands between two steps, in the order in which they came, and rests while there is nothing to
    step.
    """

    def __init__(self, arguments: EngineArgs) -> None:
        """Needs `VLLM_ENABLE_V1_MULTIPROCESSING=0` in the environment (`actors.process`).

        vLLM seeds the process's generators, Python's, numpy's and torch's, with a seed of its own.
        """
        self._llm = LLMEngine.from_engine_args(arguments, stat_loggers=stat_loggers(arguments))
        self._request_ids = itertools.count()
        self._answers: dict[str, _Answer] = {}
        """What is waited for, by the id of its request."""
        self._errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._paused = False
        self._refusal = ""
        """Why nothing can be asked any more."""
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="vllm", daemon=True)
        self._thread.start()

    async def run(self, prompt: TokensPrompt, params: SamplingParams) -> RequestOutput:
        """See `vllm_engine.Vllm`."""
        request_id = str(next(self._request_ids))
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._send(partial(self._add, request_id, prompt, params, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self._errands.put(partial(self._drop, request_id))
            raise

    def num_unfinished(self) -> int:
        """See `vllm_engine.Vllm`."""
        return self._llm.get_num_unfinished_requests()  # a length, which any thread may read

    async def pause(self) -> None:
        """See `vllm_engine.Vllm`."""
        await self._call(self._set_paused, True)

    async def resume(self) -> None:
        """See `vllm_engine.Vllm`."""
        await self._call(self._set_paused, False)

    async def sleep(self) -> None:
        """See `vllm_engine.Vllm`."""
        await self._call(self._sleep)

    async def wake(self, parts: Sequence[str]) -> None:
        """See `vllm_engine.Vllm`."""
        await self._call(self._llm.wake_up, list(parts))

    async def tell_worker(self, method: str, **arguments: Any) -> None:
        """See `vllm_engine.Vllm`."""
        await self._call(partial(self._llm.collective_rpc, method, kwargs=arguments))

    async def set_weight_version(self, name: str) -> None:
        """See `vllm_engine.Vllm`."""
        await self._call(self._llm.set_weight_version, name)

    def check(self) -> None:
        """See `vllm_engine.Vllm`."""
        if self._refusal:
            raise EngineFailedError(self._refusal)

    def shutdown(self) -> None:
        """See `vllm_engine.Vllm`."""
        if not self._ended:
            self._refusal = "the engine was shut down"
            self._errands.put(self._end)
            self._thread.join(_END_S)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Have the thread call `function`; returns its result, or raises its error."""
        future: Future[T] = Future()
        self._send(partial(self._run_call, future, partial(function, *arguments)))
        return await asyncio.wrap_future(future)

    def _send(self, errand: Callable[[], None]) -> None:
        if self._refusal:
            raise EngineFailedError(self._refusal)
        self._errands.put(errand)

    # All that follows runs on the thread.

    def _work(self) -> None:
        while not self._ended:
            try:
                self._run_errands()
                if self._has_steps():
                    self._finish(self._llm.step())
            except BaseException as error:  # whoever waits is told, whatever it is
                self._fail(error)

    def _run_errands(self) -> None:
        """Run the errands that have come; with nothing to step, wait for the next one."""
        with suppress(queue.Empty):
            while not self._ended:
                self._errands.get(block=not self._has_steps())()

    def _has_steps(self) -> bool:
        return not (self._paused or self._refusal) and self._llm.has_unfinished_requests()

    def _add(
        self, request_id: str, prompt: TokensPrompt, params: SamplingParams, answer: _Answer
    ) -> None:
        """Hand a request to vLLM; one that it refuses is the error of that request alone."""
        try:
            if self._refusal:
                raise EngineFailedError(self._refusal)
            self._llm.add_request(request_id, prompt, params)
        except Exception as error:
            _deliver([(answer, error)])
        else:
            self._answers[request_id] = answer

    def _drop(self, request_id: str) -> None:
        """Forget a request that nobody waits for; vLLM gives no output for one it drops."""
        if self._answers.pop(request_id, None) is not None:
            self._llm.abort_request([request_id])

    def _finish(self, outputs: Iterable[Any]) -> None:
        """Answer the requests that a step has ended: outputs of others do not leave vLLM."""
        ended = [(self._answers.pop(output.request_id, None), output) for output in outputs]
        _deliver([(answer, output) for answer, output in ended if answer is not None])

    def _run_call(self, future: Future[T], function: Callable[[], T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            if self._refusal:
                raise EngineFailedError(self._refusal)
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused

    def _sleep(self) -> None:
        # vLLM drops what it works on, and would not say so here.
        self._llm.abort_request(list(self._answers))
        self._end_all("the engine was put to sleep while it sampled: a bug")
        self._llm.sleep(level=1)

    def _fail(self, error: BaseException) -> None:
        logger.error("vLLM failed", exc_info=error)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        self._refusal = (
            f"vLLM failed ({what}); its traceback is in the log of this actor (in the dashboard, "
            "or under /tmp/ray/session_latest/logs)"
        )
        self._end_all(self._refusal)

    def _end(self) -> None:
        self._ended = True
        self._end_all(self._refusal)
        self._llm.renderer.shutdown()
        self._llm.engine_core.shutdown()

    def _end_all(self, why: str) -> None:
        answers, self._answers = self._answers, {}
        _deliver([(answer, EngineFailedError(why)) for answer in answers.values()])


def _deliver(ended: Iterable[tuple[_Answer, RequestOutput | Exception]]) -> None:
    """Give requests their outcome, each in the event loop that waits for it, all of one at once."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Any]] = defaultdict(list)
    for answer, outcome in ended:
        by_loop[answer.get_loop()].append((answer, outcome))
    for loop, pairs in by_loop.items():
        with suppress(RuntimeError):  # in a closed loop nobody waits any more
            loop.call_soon_threadsafe(_settle, pairs)


def _settle(pairs: Iterable[tuple[_Answer, RequestOutput | Exception]]) -> None:
    for answer, outcome in pairs:
        if answer.done():  # cancelled
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
