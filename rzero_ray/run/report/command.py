"""Write a run's `summary.json` and `report.html` again, compare runs, or serve a browser.

The run may be finished, stopped, or at work: nothing else in its directory is changed.

  rzero report run_dir=DIR                writes both files
  rzero report run_dir=DIR compare=B,C    writes DIR/comparison.html: the runs side by side, with
                                          paired differences on the same held-out problems;
                                          B and C are only read (`--compare B C` is the same)
  rzero report run_dir=DIR serve=true     prints a link that opens the browser, until Ctrl-C:
                                          iterations and phases, as they come; each question from
                                          its prompt over votes, reward and band to the steps that
                                          trained on it; each rollout token by token;
                                          with compare= the comparison, too
  port=N                                  where it is served, on 127.0.0.1 alone; 0 is any free port
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rzero_ray.config.arguments import ReportArguments, load_own
from rzero_ray.config.command import run_command
from rzero_ray.config.config import Config, resolve_folder
from rzero_ray.config.sources import nearest, split_pairs
from rzero_ray.run.directory import load_stored_config
from rzero_ray.run.inspection import check_places, lost_rows
from rzero_ray.run.report.writing import write_report
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.base_model import find_model
from rzero_ray.types import UserError

USAGE = "python -m rzero_ray report run_dir=DIR [compare=DIR,DIR] [serve=true [port=N]]"
_KEYS = [item.name for item in fields(ReportArguments)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(arguments, lambda: f"usage: {USAGE}\n\n{__doc__}", _report)


def _report(arguments: list[str]) -> None:
    pairs = split_pairs(_spelled_out(arguments))
    for key, _ in pairs:
        if key not in _KEYS:
            raise UserError(f"unknown key {key}{nearest(key, _KEYS)}; usage: {USAGE}")
    own, _ = load_own(ReportArguments, pairs, USAGE)
    root = resolve_folder(own.run_dir)
    config = load_stored_config(root)
    others = [resolve_folder(name.strip()) for name in own.compare.split(",") if name.strip()]
    if own.serve:
        _serve(config, root, others, own.port)
    elif others:
        _compare(root, others)
    else:
        _write(config, root)


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--serve` and `--compare B C` as keys and values."""
    found, names = [], None
    for argument in arguments:
        if argument == "--compare":
            names = []
        elif names is not None and argument.partition("=")[0] not in (*_KEYS, "--serve"):
            names.append(argument)
        else:
            found.append("serve=true" if argument == "--serve" else argument)
    if names == []:
        raise UserError(f"--compare names no run directory; usage: {USAGE}")
    return found + ([f"compare={','.join(names)}"] if names else [])


def _compare(root: Path, others: Sequence[Path]) -> None:
    # Imported here: it reads graded answers with libraries that a report needs none of.
    from rzero_ray.run.report.comparison.page import write_comparison

    check_places(root)
    print(f"comparison {write_comparison(root, others)}")


def _serve(config: Config, root: Path, others: Sequence[Path], port: int) -> None:
    # Imported here: a server's libraries are slow to import, and a report needs none of them.
    from rzero_ray.run.report.serving.application import Browser
    from rzero_ray.run.report.serving.server import serve

    browser = Browser(config, root, _base_model(config), others)
    serve(browser, port, lambda link: print(link, flush=True))


def _base_model(config: Config) -> Path:
    return find_model(config.model) or Path(config.model.path)


def _write(config: Config, root: Path) -> None:
    run = StoredRun(config, root, _base_model(config))
    check_places(root)
    for text in lost_rows(run):
        print(f"rzero_ray: warning: {text}", file=sys.stderr)
    _, page = write_report(run)
    print(f"summary {root / 'summary.json'}\nreport  {page}")
