"""The only module that knows how vLLM samples; how weights reach it is in `actors.weights`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from actors.sampling.options import EngineOptions
from actors.sampling.tokenization import ChatTokenizer
from actors.weights.vllm_backend import BACKEND
from rzero_ray.types import Completion, RunError, SampleRequest, Weights

_CPU_BATCHED_TOKENS = 4096
"""Tokens of one engine step on a CPU."""

_VLLM_BACKENDS = {"object_store": BACKEND, "nccl": "nccl", "cuda_ipc": "ipc"}
"""vLLM's name of each value of `EngineOptions.weight_backend`."""


class VllmEngine:
    """An engine: vLLM's `AsyncLLM`, which samples, scores, and takes new weights while it runs."""

    def __init__(self, options: EngineOptions) -> None:
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=options.model,
                skip_tokenizer_init=True,
                dtype=options.dtype,  # type: ignore[arg-type]
                max_model_len=options.max_model_len,
                max_num_seqs=options.max_num_seqs,
                kv_cache_memory_bytes=options.kv_cache_bytes,
                gpu_memory_utilization=options.gpu_memory_utilization,
                enforce_eager=options.enforce_eager,
                # vLLM refuses it on a CPU, where sleeping frees nothing but works all the same.
                enable_sleep_mode=options.takes_turns and not options.on_cpu,
                # A prompt prefilled in parts draws a token too many and rewinds the request's
                # random generator, which torch cannot do on a CPU: the engine would die.
                enable_chunked_prefill=False if options.on_cpu else None,
                max_num_batched_tokens=(
                    max(_CPU_BATCHED_TOKENS, options.max_model_len) if options.on_cpu else None
                ),
                enable_prefix_caching=True,
                # Log-probabilities of the distribution that was sampled from: after temperature.
                logprobs_mode="processed_logprobs",
                # Hugging Face's generation config would add its own temperature and top_p.
                generation_config="vllm",
                distributed_executor_backend="uni",
                weight_transfer_config=WeightTransferConfig(
                    backend=_VLLM_BACKENDS[options.weight_backend]
                ),
                worker_extension_cls="actors.weights.vllm_backend.WorkerExtension",
                disable_log_stats=True,
            )
        )
        self._request_ids = itertools.count()
        self._published: dict[str, Weights] = {}
        """What was published into the engine, by the name that vLLM knows it by."""
        self._salt = "initial"

    async def connect(self, init_info: dict[str, Any]) -> None:
        """Make the engine ready to take weights; `init_info` is the backend's."""
        request = WeightTransferInitRequest(init_info=init_info)
        await self._llm.init_weight_transfer_engine(request)

    async def disconnect(self) -> None:
        """Leave the learner's group; sampling goes on."""
        await self._llm.shutdown_weight_transfer_engine()

    async def generate(
        self, prompt_ids: Sequence[int], request: SampleRequest, tokenizer: ChatTokenizer
    ) -> list[Completion]:
        """Answer a request whose prompt is `prompt_ids`; sample k is drawn with `seed + k`."""
        params = SamplingParams(
            n=request.num_samples,
            seed=request.seed,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            top_k=request.sampling.top_k,
            max_tokens=request.sampling.max_tokens,
            stop_token_ids=list(tokenizer.stop_token_ids),
            # They are up to a third of what a token of a small model costs.
            logprobs=0 if request.reads_tokens else None,
            flat_logprobs=True,  # lists of numbers, not a dictionary and an object per token
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = await self._run(prompt_ids, params)
        outputs = sorted(final.outputs, key=lambda output: output.index)
        prompt = np.asarray(prompt_ids, dtype=np.int32)
        return [self._completion(prompt, output, tokenizer) for output in outputs]

    async def prompt_logprobs(self, prompt_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return [len - 1] log-probabilities of each prompt token after the first."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = await self._run(prompt_ids, params)
        assert final.prompt_logprobs is not None
        rows = final.prompt_logprobs[1:]
        picked = (row[token].logprob for row, token in zip(rows, prompt_ids[1:], strict=True))
        return np.fromiter(picked, dtype=np.float32, count=len(rows))

    async def pause(self) -> None:
        """Freeze running requests; they go on, with the weights they find, after `resume`."""
        # Not `pause_generation`: it sleeps 20 ms after the same call, so that outputs of aborted
        # requests come first. Here none is aborted, and a small model reloads in twice that time.
        await self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=False)

    async def resume(self) -> None:
        """Go on with frozen requests."""
        await self._llm.resume_generation()

    async def sleep(self) -> None:
        """Move the weights to the host's memory and drop the KV cache with all its prefixes."""
        await self._llm.sleep(level=1)

    async def wake(self, parts: Sequence[str]) -> None:
        """Take memory for `parts` (of `PARTS`) again; once it has all, the engine samples."""
        await self._llm.wake_up(list(parts))

    async def start_weight_update(self) -> None:
        """Begin a reload."""
        await self._llm.start_weight_update()

    async def update_weights(self, bucket: dict[str, Any]) -> None:
        """Load one bucket, in the form of the backend's update info."""
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=bucket))

    async def finish_weight_update(self, version: Weights) -> None:
        """End the reload: from now on the engine samples `version`."""
        await self._llm.finish_weight_update(weight_version=version.name)
        self._published[version.name] = version
        self._salt = version.name

    def num_unfinished(self) -> int:
        """Return how many sequences are being sampled or wait to be."""
        return self._llm.output_processor.get_num_unfinished_requests()

    def shutdown(self) -> None:
        """End the engine's process."""
        self._llm.shutdown()

    async def _run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Any:
        # The salt keeps prefixes computed with other weights apart.
        prompt = {"prompt_token_ids": list(prompt_ids), "cache_salt": self._salt}
        final = None
        request_id = str(next(self._request_ids))
        try:
            async for output in self._llm.generate(prompt, params, request_id):  # type: ignore[arg-type]
                final = output
        except EngineDeadError:
            raise RunError(
                "vLLM's engine process died; why is in the log of this actor (in the dashboard, or "
                "under /tmp/ray/session_latest/logs)"
            ) from None
        assert final is not None
        return final

    def _completion(
        self, prompt_ids: NDArray[np.int32], output: CompletionOutput, tokenizer: ChatTokenizer
    ) -> Completion:
        token_ids = np.asarray(output.token_ids, dtype=np.int32)
        logprobs = np.empty(0, dtype=np.float32)
        if output.logprobs is not None:
            rows: Any = output.logprobs  # one position per token, in each the sampled token alone
            logprobs = np.asarray(rows.logprobs, dtype=np.float32)
            assert len(logprobs) == len(token_ids)
        return tokenizer.to_completion(
            prompt_ids,
            token_ids,
            logprobs,
            finished=output.finish_reason == "stop",
            weight_versions=[
                (self._published.get(span.version), span.start, span.end)
                for span in output.weight_versions or ()
            ],
        )
