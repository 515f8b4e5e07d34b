"""Symbolic comparison of LaTeX answers in a child process that can be killed.

The child is `symbolic_child`; this is its owner: limits, verdicts, kills.
"""

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rzero_ray.answers.forms import MAX_ANSWER_CHARS
from rzero_ray.answers.symbolic_child import FRAME_HEADER, write_frame

WALL_LIMIT_S = 120.0
"""Wall-clock seconds for one comparison. A backstop for a child that waits rather than computes,
far behind the limit of processor time, which alone decides on a busy machine; normal is 10 ms."""

CPU_LIMIT_S = 1.0
"""Processor seconds for one comparison, so that a verdict does not depend on how busy the machine
is. Nothing honest takes over .1 s."""

ADDRESS_SPACE_BYTES = 1 << 30
"""Address space of the child. sympy and its grammar load in 70 MB; 1 GiB leaves room and protects
the node."""

START_LIMIT_S = 120.0
"""Seconds for a child to import sympy: 0.7 on an idle core, far more on a cold network file
system."""

PAIR_CACHE_SIZE = 65_536
"""Verdicts kept per comparer; a verdict is two short strings, so this is some tens of megabytes at
most."""

COMPARISONS_PER_CHILD = 10_000
"""A child is replaced after this many comparisons: sympy's caches grow, and its address space is
limited."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one comparison came to."""

    is_equal: bool
    cpu_s: float
    """Processor seconds that it took, those for another child after a kill included. The same when
    the verdict is remembered."""


class ChildDied(Exception):
    """The child ended or overran its limit; `num_parsed` answers of the pair had been read by
    then."""

    def __init__(self, num_parsed: int) -> None:
        super().__init__(f"child died after reading {num_parsed} of 2 answers")
        self.num_parsed = num_parsed


class SymbolicComparer:
    """Compares LaTeX answers in one long-lived child process that it kills when a comparison
    overruns.

    A comparison that kills the child counts as "not equal". The child is started on first use,
    replaced after a kill, and replaced in a forked process; it ends when this process ends. Safe to
    share between threads (comparisons queue).

    An answer that was being read when it overran is not read again: it would overrun beside any
    other. Where both had been read, the verdict is that of the pair alone, so that no hostile
    answer spoils the honest ones that it is compared with; what such pairs cost is for the budget
    of their vote (`equality.BudgetedEquality`).
    """

    def __init__(
        self,
        wall_limit_s: float = WALL_LIMIT_S,
        cpu_limit_s: float = CPU_LIMIT_S,
        address_space_bytes: int = ADDRESS_SPACE_BYTES,
        cache_size: int = PAIR_CACHE_SIZE,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        """Limits are those of the module's constants of the same names. ValueError when one is not
        positive."""
        if min(wall_limit_s, cpu_limit_s, address_space_bytes, cache_size, start_limit_s) <= 0:
            raise ValueError("every limit of SymbolicComparer must be positive")
        self.num_killed = 0
        """Comparisons that ended with the child dead: over a limit, or crashed."""
        self.num_compared = 0
        """Comparisons that reached the child, killed ones included."""
        self.num_waited = 0
        """Comparisons that the wall-clock limit ended: the child neither answered nor used up its
        processor time."""
        self._cpu_limit_s = cpu_limit_s
        self._wall_limit_s = wall_limit_s
        self._start_limit_s = start_limit_s
        self._arguments = [str(address_space_bytes)]
        self._start_cpu_s = 0.0
        self._cache_size = cache_size
        self._verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._unreadable: set[str] = set()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        self._num_served = 0
        self._end_child: weakref.finalize[..., SymbolicComparer] | None = None

    def compare(self, a: str, b: str) -> bool:
        """Say whether two LaTeX formulas are found equal within the limits."""
        return self.judge(a, b).is_equal

    def judge(self, a: str, b: str, cpu_left_s: float = math.inf) -> Verdict:
        """Compare two LaTeX formulas within the limits, and within what is left of a budget.

        A verdict that a spent budget cut short is not remembered.
        """
        if a == b or max(len(a), len(b)) > MAX_ANSWER_CHARS:
            return Verdict(a == b, 0.0)
        pair = (a, b) if a <= b else (b, a)
        limit_s = min(self._cpu_limit_s, cpu_left_s)
        with self._lock:
            verdict = self._verdicts.get(pair)
            if verdict is None:
                num_killed = self.num_killed
                verdict = self._judge(pair, limit_s)
                if self.num_killed > num_killed and limit_s < self._cpu_limit_s:
                    return verdict
                self._verdicts[pair] = verdict
                if len(self._verdicts) > self._cache_size:
                    self._verdicts.popitem(last=False)
            self._verdicts.move_to_end(pair)
            return verdict

    def close(self) -> None:
        """Kill the child, if there is one. The comparer stays usable: the next comparison starts
        another."""
        self._child = None
        if self._end_child is not None:
            self._end_child()

    def _judge(self, pair: tuple[str, str], limit_s: float) -> Verdict:
        if not self._unreadable.isdisjoint(pair):
            return Verdict(is_equal=False, cpu_s=0.0)
        self.num_compared += 1
        try:
            return self._ask(pair, limit_s)
        except ChildDied as death:
            self.close()
            self.num_killed += 1
            self._unreadable.update(pair[death.num_parsed :][:1])
            if len(self._unreadable) > self._cache_size:
                self._unreadable.clear()
            return Verdict(is_equal=False, cpu_s=limit_s + self._start_cpu_s)

    def _ask(self, pair: tuple[str, str], limit_s: float) -> Verdict:
        child = self._ready_child()
        deadline = time.monotonic() + self._wall_limit_s
        num_parsed = 0
        request = {"first": pair[0], "second": pair[1], "cpu_limit_s": limit_s}
        try:
            write_frame(cast(BinaryIO, child.stdin), request)
            while "equal" not in (reply := _receive(child, deadline)):
                num_parsed = reply["parsed"]
        except (OSError, TimeoutError, EOFError) as error:
            self.num_waited += isinstance(error, TimeoutError)
            raise ChildDied(num_parsed) from error
        self._num_served += 1
        return Verdict(reply["equal"], reply["cpu_s"])

    def _ready_child(self) -> "subprocess.Popen[bytes]":
        """Return a child that waits for a request, starting or replacing it when needed."""
        if self._owner_pid != os.getpid():  # after a fork the pipes belong to the parent's child
            self._child, self._owner_pid = None, os.getpid()
        worn_out = self._num_served >= COMPARISONS_PER_CHILD
        if self._child is not None and (worn_out or self._child.poll() is not None):
            self.close()
        if self._child is None:
            self._child, self._num_served = self._start_child(), 0
            # Runs at most once: on close, when the comparer is collected, or at exit.
            self._end_child = weakref.finalize(self, _end_child, self._child, os.getpid())
        return self._child

    def _start_child(self) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            # -P: the working directory must not shadow a module of the standard library.
            [sys.executable, "-P", "-m", "rzero_ray.answers.symbolic_child", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_child_environment(),
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
        )
        try:
            reply = _receive(child, time.monotonic() + self._start_limit_s)
        except (TimeoutError, EOFError) as error:
            reply = {"error": f"no reply within {self._start_limit_s} s ({type(error).__name__})"}
        if "error" in reply:
            child.kill()
            child.wait()
            raise RuntimeError(f"rzero_ray.answers.symbolic_child did not start: {reply['error']}")
        self._start_cpu_s = float(reply["cpu_s"])
        return child


def _child_environment() -> dict[str, str]:
    """Only what Python needs to start: a process that reads model text gets no tokens and no
    device."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
    package_root = str(Path(__file__).resolve().parents[2])
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)]),
        "PYTHONHASHSEED": "0",  # sympy orders by hash in places: the same pair, the same verdict
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _end_child(child: "subprocess.Popen[bytes]", owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return  # a forked process holds a copy of the handle, not the child
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _receive(child: "subprocess.Popen[bytes]", deadline: float) -> dict[str, Any]:
    """Read one frame. TimeoutError after `deadline` (monotonic seconds), EOFError when the child
    has ended."""
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    (length,) = FRAME_HEADER.unpack(_read_exactly(descriptor, FRAME_HEADER.size, deadline))
    return json.loads(_read_exactly(descriptor, length, deadline))


def _read_exactly(descriptor: int, size: int, deadline: float) -> bytes:
    # The file object's buffer is never used, so polling the descriptor sees every byte.
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = b""
    while len(data) < size:
        remaining_ms = (deadline - time.monotonic()) * 1_000
        if remaining_ms <= 0 or not poller.poll(remaining_ms):
            raise TimeoutError
        chunk = os.read(descriptor, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
