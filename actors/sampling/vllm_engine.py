"""An engine: what a sampler asks of vLLM, in vLLM's terms. How weights reach it: `actors.weights`.

Where vLLM runs is the matter of `vllm_process` and `vllm_thread`, which both implement `Vllm`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from vllm import RequestOutput, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind

from actors.sampling.options import EngineOptions
from actors.sampling.tokenization import ChatTokenizer
from actors.sampling.vllm_process import VllmProcess
from actors.sampling.vllm_thread import VllmThread
from actors.weights.vllm_backend import BACKEND
from rzero_ray.types import Completion, RunError, SampleRequest, Weights

_CPU_BATCHED_TOKENS = 4096
"""Tokens of one engine step on a CPU."""

_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
_MOST_ALLOWED = 1024
"""Ids in `SamplingParams.allowed_token_ids` above which vLLM's newer runner, which it takes on GPUs
unless told otherwise, fails with all requests."""

_VLLM_BACKENDS = {"object_store": BACKEND, "nccl": "nccl", "cuda_ipc": "ipc"}
"""vLLM's name of each value of `EngineOptions.weight_backend`."""


class Vllm(Protocol):
    """vLLM, wherever it runs. Its calls are made from one event loop and may overlap."""

    async def run(self, prompt: TokensPrompt, params: SamplingParams) -> RequestOutput:
        """Return a request's output once it has ended; `params` must be `FINAL_ONLY`.

        Cancelled, vLLM drops the request. Raises what vLLM has against it, or EngineFailedError
        when vLLM has failed.
        """
        ...

    def num_unfinished(self) -> int:
        """Return how many sequences are being sampled or wait to be."""
        ...

    async def pause(self) -> None:
        """Freeze running requests; they go on, with the weights they find, after `resume`."""
        ...

    async def resume(self) -> None:
        """Go on with frozen requests."""
        ...

    async def sleep(self) -> None:
        """Move the weights to the host's memory and drop the KV cache with all its prefixes."""
        ...

    async def wake(self, parts: Sequence[str]) -> None:
        """Take memory for `parts` (of `PARTS`) again; once it has all, the engine samples."""
        ...

    async def tell_worker(self, method: str, **arguments: Any) -> None:
        """Call a method of vLLM's worker, which holds the model."""
        ...

    async def set_weight_version(self, name: str) -> None:
        """Have vLLM record `name` with each token that it samples from now on."""
        ...

    def check(self) -> None:
        """Raise EngineFailedError where vLLM has failed."""
        ...

    def shutdown(self) -> None:
        """End vLLM: its process, or its thread."""
        ...


class VllmEngine:
    """An engine: samples, scores, and takes new weights while it runs."""

    def __init__(self, options: EngineOptions) -> None:
        arguments = _arguments(options)
        self._on_cpu = options.on_cpu
        self._vllm: Vllm = VllmThread(arguments) if options.in_process else VllmProcess(arguments)
        self._published: dict[str, Weights] = {}
        """What was published into the engine, by the name that vLLM knows it by."""
        self._num_publications = 0
        self._is_connected = False
        self._is_reloading = False
        """From the beginning of a reload to its end: one that fails has none."""

    async def connect(self, init_info: dict[str, Any]) -> None:
        """Make the engine ready to take weights; `init_info` is the backend's.

        It leaves the group in which it is still, where nobody has had it disconnect.
        """
        if self._is_connected:
            await self.disconnect()
        self._is_connected = True
        await self._vllm.tell_worker("init_weight_transfer_engine", init_info=init_info)

    async def disconnect(self) -> None:
        """Leave the learner's group; sampling goes on."""
        await self._drop_reload()
        await self._vllm.tell_worker("shutdown_weight_transfer_engine")
        self._is_connected = False

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
            allowed_token_ids=self._allowed(request, tokenizer),
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

    def _allowed(self, request: SampleRequest, tokenizer: ChatTokenizer) -> list[int] | None:
        """Return the ids that may be drawn, None where these are all.

        Raises RunError for more than vLLM's engine on GPUs would survive.
        """
        vocabulary = request.sampling.vocabulary
        if vocabulary is None:
            return None
        allowed = tokenizer.allowed_tokens(vocabulary).tolist()
        is_limited = not self._on_cpu and os.environ.get(_RUNNER) != "0"
        if is_limited and len(allowed) > _MOST_ALLOWED:
            raise RunError(
                f"challenger.vocabulary_keep={vocabulary.keep} leaves {len(allowed)} tokens, and "
                f"vLLM's newer runner takes {_MOST_ALLOWED}; start Ray with {_RUNNER}=0"
            )
        return allowed

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
        found: Any = final.prompt_logprobs
        rows = found[1:]
        picked = (row[token].logprob for row, token in zip(rows, prompt_ids[1:], strict=True))
        return np.fromiter(picked, dtype=np.float32, count=len(rows))

    async def pause(self) -> None:
        """Freeze running requests; they go on, with the weights they find, after `resume`."""
        await self._vllm.pause()

    async def resume(self) -> None:
        """Go on with frozen requests."""
        await self._vllm.resume()

    async def sleep(self) -> None:
        """Move the weights to the host's memory and drop the KV cache with all its prefixes."""
        await self._vllm.sleep()

    async def wake(self, parts: Sequence[str]) -> None:
        """Take memory for `parts` (of `PARTS`) again; once it has all, the engine samples."""
        await self._vllm.wake(parts)

    async def start_weight_update(self) -> None:
        """Begin a reload; one that a failed publication has left is dropped."""
        await self._drop_reload()
        self._is_reloading = True
        await self._vllm.tell_worker("start_weight_update")

    async def _drop_reload(self) -> None:
        if self._is_reloading:
            await self._vllm.tell_worker("drop_weight_update")
            self._is_reloading = False

    async def update_weights(self, bucket: dict[str, Any]) -> None:
        """Load one bucket, in the form of the backend's update info."""
        await self._vllm.tell_worker("update_weights", update_info=bucket)

    async def finish_weight_update(self, version: Weights) -> None:
        """End the reload: from now on the engine samples `version`."""
        await self._vllm.tell_worker("finish_weight_update")
        self._is_reloading = False
        await self._vllm.set_weight_version(version.name)
        self._published[version.name] = version
        self._num_publications += 1

    def num_unfinished(self) -> int:
        """Return how many sequences are being sampled or wait to be."""
        return self._vllm.num_unfinished()

    def check(self) -> None:
        """Raise EngineFailedError where vLLM has failed."""
        self._vllm.check()

    def shutdown(self) -> None:
        """End vLLM: its process, or its thread."""
        self._vllm.shutdown()

    async def _run(self, prompt_ids: Sequence[int], params: SamplingParams) -> RequestOutput:
        # The salt keeps prefixes computed with other weights apart. It is no name of a version: an
        # engine that serves several runs is given the same name with other weights.
        prompt = TokensPrompt(
            prompt_token_ids=list(prompt_ids), cache_salt=f"weights-{self._num_publications}"
        )
        return await self._vllm.run(prompt, params)

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


def _arguments(options: EngineOptions) -> AsyncEngineArgs:
    return AsyncEngineArgs(
        model=options.model,
        load_format=options.load_format,
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
        tensor_parallel_size=options.tensor_parallel,
        distributed_executor_backend="uni" if options.tensor_parallel == 1 else "mp",
        weight_transfer_config=WeightTransferConfig(backend=_VLLM_BACKENDS[options.weight_backend]),
        worker_extension_cls="actors.weights.vllm_backend.WorkerExtension",
        disable_log_stats=not options.metrics_name,
        # All else that vLLM says of the model in its metrics is the path of its folder.
        served_model_name=options.metrics_name or None,
    )
