"""The one door: `python -m rzero_ray COMMAND ...`, installed as `rzero COMMAND ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rzero_ray.config.command import prepare_output, print_error
from rzero_ray.config.sources import nearest


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand; its module is imported when it is called, because the others need not wait."""

    summary: str
    main: Callable[[Sequence[str]], int]


def _train(arguments: Sequence[str]) -> int:
    from rzero_ray.driver import main

    return main(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    from rzero_ray.evaluation.benchmarks.command import main

    return main(arguments)


def _audit(arguments: Sequence[str]) -> int:
    from rzero_ray.evaluation.labels.command import main

    return main(arguments)


def _compare(arguments: Sequence[str]) -> int:
    from rzero_ray.study.compare import main

    return main(arguments)


def _study(arguments: Sequence[str]) -> int:
    from rzero_ray.study.command import main

    return main(arguments)


def _preflight(arguments: Sequence[str]) -> int:
    from rzero_ray.preflight.command import main

    return main(arguments)


def _report(arguments: Sequence[str]) -> int:
    from rzero_ray.run.report.command import main

    return main(arguments)


def _scale(arguments: Sequence[str]) -> int:
    from rzero_ray.run.scale import main

    return main(arguments)


COMMANDS = {
    "train": Command("run the co-evolution, or teach labelled data; resumes a run", _train),
    "preflight": Command("rehearse a run: can its model start it, what does it take", _preflight),
    "evaluate": Command("measure models on benchmarks", _evaluate),
    "audit": Command("have an oracle judge the labels of a run", _audit),
    "compare": Command("compare R-Zero with learning from labels", _compare),
    "study": Command("compare arms of the method over base models", _study),
    "scale": Command("change how many engines a run has while it runs", _scale),
    "report": Command("write a run's report again, compare runs, or serve a browser", _report),
}


def help_text() -> str:
    """Return what `rzero --help` prints."""
    lines = [f"  rzero {name:9} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rzero COMMAND [key=value ...]        (or python -m rzero_ray COMMAND ...)",
            "",
            *lines,
            "",
            "`rzero COMMAND --help` says more; `python -m rzero_ray.driver` is `rzero train`.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns its exit code, 2 where there is no such command."""
    prepare_output()
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""][:-1] or ["--help"]
    if name in ("--help", "-h"):
        print(help_text())
        return 0
    if name not in COMMANDS:
        print_error(f"unknown command {name}{nearest(name, list(COMMANDS))}")
        return 2
    return COMMANDS[name].main(rest)


if __name__ == "__main__":
    sys.exit(main())
