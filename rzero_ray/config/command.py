"""What the project's commands share: help, one-line errors, exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

from rzero_ray.disk.errors import disk_error
from rzero_ray.types import RunError, UserError


def print_error(text: str) -> None:
    """Say in one line what the user has to change."""
    print(f"rzero_ray: error: {text}", file=sys.stderr)


def run_command(
    arguments: Sequence[str] | None,
    help_text: Callable[[], str],
    work: Callable[[list[str]], object],
    advice: str = "",
) -> int:
    """Do a command's work and return its exit code.

    0 done, 1 failed and `advice` says what the same command does next time, 2 the command is wrong,
    130 stopped by Ctrl-C or SIGTERM (`ray job stop`). `arguments` None stands for the process's.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(help_text())
        return 0
    # Ctrl-C is what asyncio turns into an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    advice = f"; {advice}" if advice else ""
    try:
        work(arguments)
    except UserError as error:
        print_error(str(error))
        return 2
    except RunError as error:
        print(f"rzero_ray: failed: {error}{advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"rzero_ray: stopped{advice}", file=sys.stderr)
        return 130
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        print(f"rzero_ray: failed: {reason}{advice}", file=sys.stderr)
        return 1
    return 0
