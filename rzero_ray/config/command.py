"""What the project's commands share: help, one-line errors, exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from rzero_ray.disk.errors import disk_error
from rzero_ray.text.characters import printable
from rzero_ray.types import BudgetSpentError, RunError, UserError

_ALONE = {
    # Ray's servers then listen on this machine alone. Its option for the address does not do that.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A signal while Ray starts would wait half a minute for services that are not there yet.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
"""What a Ray of this process's own is told, which reads it when it is imported."""


def print_error(text: str) -> None:
    """Say what the user has to change: one line, or one and a table."""
    _say(f"rzero_ray: error: {text}")


def run_command(
    arguments: Sequence[str] | None,
    help_text: Callable[[], str],
    work: Callable[[list[str]], object],
    advice: str = "",
) -> int:
    """Do a command's work and return its exit code.

    0 done, 1 failed and `advice` says what the same command does next time, 2 the command is wrong,
    3 the run's budget is spent, 130 stopped: by Ctrl-C, by SIGTERM (`ray job stop`), by a terminal
    that was closed, or because the reader of the output has ended. `arguments` None stands for the
    process's.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prepare_output()
    _end_in_order()
    if os.environ.get("RAY_ADDRESS") == "local":
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
    advice = f"; {advice}" if advice else ""
    try:
        if "--help" in arguments or "-h" in arguments:
            print(help_text())
        else:
            work(arguments)
        sys.stdout.flush()  # what cannot be written is told here, not by Python as it ends
    except UserError as error:
        print_error(str(error))
        return 2
    except RunError as error:
        _say(f"rzero_ray: failed: {error}{advice}")
        return 1
    except BudgetSpentError as error:
        _say(f"rzero_ray: ended: {error}")
        return 3
    except KeyboardInterrupt:
        _say(f"rzero_ray: stopped{advice}")
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python writes what is left as it ends
        _say(f"rzero_ray: stopped: nobody reads the output any more{advice}")
        return 130
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        _say(f"rzero_ray: failed: {reason}{advice}")
        return 1
    return 0


def prepare_output() -> None:
    """Have output be no reason to fail: a stream may be closed (`>&-`), or lack characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the process's life
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _end_in_order() -> None:
    """Have every signal that asks for the end bring the same orderly one, wherever this runs.

    Ctrl-C is what asyncio turns into an orderly end. A shell starts what it puts into the
    background with SIGINT and SIGQUIT ignored, and asyncio leaves them ignored. A closed terminal
    does not end what `nohup` has started.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)
