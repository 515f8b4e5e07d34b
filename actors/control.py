"""How a command reaches the driver of a run that is under way, from any node of its cluster.

The driver of each run has a mailbox, a small actor beside it that is named after the run directory.
A command finds it there, leaves a request and waits for the driver's answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.waiting import LOSSES, get_within
from rzero_ray.types import RunError, UserError

logger = logging.getLogger(__name__)

_NAMESPACE = "rzero"
_ANSWER_S = 60.0
"""How long a driver may take to answer a command."""
_JOB_S = 300.0
"""How long a command may take that runs on the cluster: its environment may have to be made."""
_PAUSE_S = 1.0
_MOST_CALLS = 100
"""Commands that wait for an answer at a time, and the driver."""

Answer = Callable[[Any], str]
"""Does what a request asks and says what it did; raises UserError or RunError where it cannot."""


class Mailbox:
    """Requests of commands on their way to a driver, and its answers on their way back."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._requests: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[tuple[bool, str]]] = {}

    async def ask(self, request: Any) -> tuple[bool, str]:
        """Return whether the driver did what it was asked, and what it says."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._requests.put((number, request))
        try:
            return await self._answers[number]
        finally:
            del self._answers[number]

    async def next(self) -> tuple[int, Any]:
        """Return the next request and its number, once there is one."""
        return await self._requests.get()

    async def answer(self, number: int, is_done: bool, text: str) -> None:
        """Give the driver's answer to whoever waits for it."""
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result((is_done, text))


async def answer_commands(run_dir: str, answer: Answer) -> None:
    """Answer the commands that concern the run in `run_dir`, until cancelled."""
    mailbox = _open_mailbox(run_dir)
    try:
        while True:
            try:
                number, request = await mailbox.next.remote()
            except LOSSES:  # it is started anew, empty
                await asyncio.sleep(_PAUSE_S)
                continue
            is_done, text = _answered(answer, request)
            mailbox.answer.remote(number, is_done, text)
    finally:
        with suppress(Exception):  # it may be gone, with Ray
            ray.kill(mailbox)


def _answered(answer: Answer, request: Any) -> tuple[bool, str]:
    try:
        return True, answer(request)
    except (UserError, RunError) as error:
        return False, str(error)
    except Exception as error:
        logger.exception("a command could not be answered")
        return False, f"the driver failed at it ({type(error).__name__}: {error}), see its log"


def _open_mailbox(run_dir: str) -> Any:
    with suppress(ValueError):  # nobody else has the run: that of a driver that was killed
        ray.kill(ray.get_actor(run_dir, namespace=_NAMESPACE))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: Any = {
        "name": run_dir,
        "namespace": _NAMESPACE,
        "num_cpus": 0,
        "max_concurrency": _MOST_CALLS,
        "max_restarts": -1,
        "scheduling_strategy": here,
    }
    return ray.remote(**options)(Mailbox).remote()


def ask_driver(run_dir: str, request: Any) -> str:
    """Have the driver of the run in `run_dir` do something; returns what it says.

    Raises UserError where no driver of this run is on the cluster that is joined, or it refuses.
    """
    try:
        mailbox: Any = ray.get_actor(run_dir, namespace=_NAMESPACE)
    except ValueError:
        raise UserError(
            f"no driver of run_dir={run_dir} is at work on the Ray at "
            f"{ray.get_runtime_context().gcs_address}; name the run directory as the driver prints "
            "it at its start, and the cluster by RAY_ADDRESS"
        ) from None
    answer = mailbox.ask.remote(request)
    ((is_done, text),) = get_within(_ANSWER_S, "the run's driver to answer", [answer])
    if not is_done:
        raise UserError(text)
    return text


async def run_on_cluster(address: str, command: str) -> str:
    """Run a command on the head node of the cluster whose dashboard is at `address`; returns what
    it prints. Raises UserError with that where it fails, or where nobody answers at the address."""
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=command)
    except (ConnectionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"RAY_ADDRESS={address} takes no job: {reason}") from None
    seconds = 0.0
    while not (status := client.get_job_status(job)).is_terminal():
        if seconds > _JOB_S:
            raise RunError(f"waited {_JOB_S:.0f} s for job {job} ({command}) on {address}")
        await asyncio.sleep(_PAUSE_S)
        seconds += _PAUSE_S
    text = client.get_job_logs(job).strip()
    if status is not JobStatus.SUCCEEDED:
        raise UserError(text or f"job {job} ended as {status} without a word")
    return text
