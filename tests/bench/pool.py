"""The sampler pool against a bare `vllm.LLM.generate`: same model, prompts, samples and settings.

Each side has a process and an engine of its own, both alive at once; they take turns, so that a
machine that slows down slows both. The bare side gets token ids and makes no text; the pool renders
chats, makes text, and moves everything to the driver.

`model=`, `prompts=`, `samples=` and `max_tokens=` are for a GPU, which the two sides share.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from actors.process import engine_environment
from actors.sampling.options import EngineOptions
from actors.sampling.tokenization import ChatTokenizer
from rzero_ray.tasks.registry import ArithmeticTask, make_task
from rzero_ray.types import SampleRequest, Sampling
from tests.bench import engines
from tests.bench.harness import Figure, cpu_seconds, device, tiny_model

SETTINGS = engines.SETTINGS | {"prompts": "200", "samples": "10", "max_tokens": "112"}
_REPEATS = 5
_END_S = 60.0
_BATCHED_TOKENS = 4096
"""As `vllm_engine` sets it on a CPU."""


def run(settings: Mapping[str, str]) -> list[Figure]:
    """Alternate the two sides; the first turn of each is warm-up."""
    sides = {name: _start_side(name, settings) for name in ("bare", "pool")}
    try:
        turns = [
            {name: _turn(side, k) for name, side in sides.items()} for k in range(_REPEATS + 1)
        ]
    finally:
        for side in sides.values():
            _end(side)
    rates = {
        name: statistics.median(turn[name][1] / turn[name][0] for turn in turns[1:])
        for name in sides
    }
    ratio = statistics.median(
        (turn["pool"][1] / turn["pool"][0]) / (turn["bare"][1] / turn["bare"][0])
        for turn in turns[1:]
    )
    work = {
        name: statistics.median(1e6 * turn[name][2] / turn[name][1] for turn in turns[1:])
        for name in sides
    }
    return [
        Figure(
            name="pool, CPU time per token against bare vllm.LLM.generate",
            value=work["pool"] / work["bare"],
            unit="x",
            details=f"{work['pool']:.0f} against {work['bare']:.0f} microseconds in driver and "
            "sampler, or in the caller, engines included",
        ),
        Figure(
            name="pool, tokens/s against bare vllm.LLM.generate",
            value=ratio,
            unit="x",
            target="at least .95",
            details=f"{rates['pool']:,.0f} against {rates['bare']:,.0f} tokens/s; "
            f"{settings['samples']} samples of each of {settings['prompts']} prompts a turn, "
            f"median of {_REPEATS} turns",
        ),
    ]


def requests(turn: int, settings: Mapping[str, str] = SETTINGS) -> list[SampleRequest]:
    """Return the requests of a turn: other seeds each time."""
    problems = ArithmeticTask().heldout()
    task = make_task("math" if settings["model"] else "arithmetic")
    sampling = Sampling(
        temperature=1.0, top_p=1.0, top_k=-1, max_tokens=int(settings["max_tokens"])
    )
    return [
        SampleRequest(
            messages=task.solver_messages(problems[k % len(problems)].question),
            num_samples=int(settings["samples"]),
            seed=1_000_000 * turn + 100 * k,
            sampling=sampling,
        )
        for k in range(int(settings["prompts"]))
    ]


def _start_side(name: str, settings: Mapping[str, str]) -> subprocess.Popen[str]:
    environment = os.environ | engine_environment(
        1, on_cpu=device() == "cpu", backend="object_store"
    )
    side = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.pool", name, json.dumps(dict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    _read(side, "ready")
    return side


def _end(side: subprocess.Popen[str]) -> None:
    """Let a side end by itself: a killed engine leaves shared memory behind."""
    assert side.stdin is not None
    side.stdin.close()
    try:
        side.wait(_END_S)
    except subprocess.TimeoutExpired:
        side.kill()


def _turn(side: subprocess.Popen[str], turn: int) -> tuple[float, int, float]:
    """Return the seconds, the tokens and the seconds of processor time of one turn."""
    assert side.stdin is not None
    side.stdin.write(f"{turn}\n")
    side.stdin.flush()
    _, seconds, tokens, work = _read(side, "done").split()
    return float(seconds), int(tokens), float(work)


def _read(side: subprocess.Popen[str], word: str) -> str:
    """Return the next line that starts with `word`; libraries print lines of their own."""
    assert side.stdout is not None
    for line in side.stdout:
        if line.startswith(word):
            return line
    raise RuntimeError(f"a side of the pool benchmark ended before it was {word}")


def _options(settings: Mapping[str, str]) -> EngineOptions:
    model = Path(settings["model"]) if settings["model"] else tiny_model()
    return engines.engine_options(model, settings, num_on_gpu=2)


def _serve_bare(settings: Mapping[str, str]) -> None:
    from vllm import LLM, SamplingParams

    options = _options(settings)
    tokenizer = ChatTokenizer(options.model)
    engine = LLM(
        model=options.model,
        skip_tokenizer_init=True,
        dtype=options.dtype,  # type: ignore[arg-type]
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        kv_cache_memory_bytes=options.kv_cache_bytes,
        gpu_memory_utilization=options.gpu_memory_utilization,
        enforce_eager=options.enforce_eager,
        enable_chunked_prefill=False if options.on_cpu else None,
        max_num_batched_tokens=_BATCHED_TOKENS if options.on_cpu else None,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        distributed_executor_backend="uni",
        disable_log_stats=True,
    )
    print("ready", flush=True)
    for line in sys.stdin:
        asked = requests(int(line), settings)
        prompts = [{"prompt_token_ids": tokenizer.render(r.messages)} for r in asked]
        params = [
            SamplingParams(
                n=r.num_samples,
                seed=r.seed,
                temperature=1.0,
                max_tokens=r.sampling.max_tokens,
                stop_token_ids=tokenizer.stop_token_ids,
                logprobs=0,
                detokenize=False,
            )
            for r in asked
        ]
        before = cpu_seconds(os.getpid())
        start = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        tokens = sum(len(o.token_ids) for output in outputs for o in output.outputs)
        _report(seconds, tokens, cpu_seconds(os.getpid()) - before)


def _serve_pool(settings: Mapping[str, str]) -> None:
    import ray

    from actors.fleet.member import Member
    from actors.sampling.pool import PooledSampler, SamplerPool

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    actors, sampler_pids = engines.start_samplers(_options(settings), count=1)
    pool = SamplerPool(
        [
            PooledSampler(
                Member(f"bench/sampler-{k}", actor), home="solver", role="solver", model=None
            )
            for k, actor in enumerate(actors)
        ],
        deadline_s=600,
    )

    async def turn(index: int) -> tuple[float, int]:
        start = time.perf_counter()
        asked = requests(index, settings)
        groups = await asyncio.gather(*(pool.sample("solver", r) for r in asked))
        seconds = time.perf_counter() - start
        return seconds, sum(len(c.token_ids) for group in groups for c in group)

    def work() -> float:
        """Return the processor time so far of this process, without Ray's own below it, and of the
        samplers."""
        return time.process_time() + sum(map(cpu_seconds, sampler_pids))

    print("ready", flush=True)
    for line in sys.stdin:
        before = work()
        seconds, tokens = asyncio.run(turn(int(line)))
        _report(seconds, tokens, work() - before)
    ray.get([actor.stop.remote() for actor in actors], timeout=_END_S)
    ray.shutdown()


def _report(seconds: float, tokens: int, work: float) -> None:
    print(f"done {seconds} {tokens} {work}", flush=True)


if __name__ == "__main__":
    {"bare": _serve_bare, "pool": _serve_pool}[sys.argv[1]](json.loads(sys.argv[2]))
