"""vLLM in a process of its own beside the sampler's: the two overlap where each has a core."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from vllm import RequestOutput, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from actors.sampling.vllm_metrics import stat_loggers
from actors.waiting import EngineFailedError

_DEAD = (
    "vLLM's engine process died; why is in the log of this actor (in the dashboard, or under "
    "/tmp/ray/session_latest/logs)"
)


class VllmProcess:
    """Implements `vllm_engine.Vllm` on vLLM's `AsyncLLM`."""

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=stat_loggers(arguments))
        self._request_ids = itertools.count()

    async def run(self, prompt: TokensPrompt, params: SamplingParams) -> RequestOutput:
        """See `vllm_engine.Vllm`."""
        final = None
        try:
            async for output in self._llm.generate(prompt, params, str(next(self._request_ids))):
                final = output
        except EngineDeadError:
            raise EngineFailedError(_DEAD) from None
        assert final is not None
        return final

    def num_unfinished(self) -> int:
        """See `vllm_engine.Vllm`."""
        return self._llm.output_processor.get_num_unfinished_requests()

    async def pause(self) -> None:
        """See `vllm_engine.Vllm`."""
        # Not `pause_generation`: it sleeps 20 ms after the same call, so that outputs of aborted
        # requests come first. Here none is aborted, and a small model reloads in twice that time.
        await self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=False)

    async def resume(self) -> None:
        """See `vllm_engine.Vllm`."""
        await self._llm.resume_generation()

    async def sleep(self) -> None:
        """See `vllm_engine.Vllm`."""
        await self._llm.sleep(level=1)

    async def wake(self, parts: Sequence[str]) -> None:
        """See `vllm_engine.Vllm`."""
        await self._llm.wake_up(list(parts))

    async def tell_worker(self, method: str, **arguments: Any) -> None:
        """See `vllm_engine.Vllm`."""
        await self._llm.collective_rpc(method, kwargs=arguments)

    async def set_weight_version(self, name: str) -> None:
        """See `vllm_engine.Vllm`."""
        await self._llm.update_weight_version(name)

    def check(self) -> None:
        """See `vllm_engine.Vllm`."""
        if self._llm.errored:
            raise EngineFailedError(_DEAD)

    def shutdown(self) -> None:
        """See `vllm_engine.Vllm`."""
        self._llm.shutdown()
