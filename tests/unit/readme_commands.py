"""The commands in the code blocks of all .md files, and what our programs make of them."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from rzero_ray.config.arguments import (
    AuditArguments,
    CompareArguments,
    ReportArguments,
    ScaleArguments,
    load_own,
)
from rzero_ray.config.audits import AuditConfig
from rzero_ray.config.evaluation import load_evaluation_config
from rzero_ray.config.load import load_config
from rzero_ray.config.sources import flatten, split_names, split_pairs
from rzero_ray.run.scale import read_request
from rzero_ray.study.arms import load_arm
from rzero_ray.study.command import parse as parse_study
from tests.bench.__main__ import BENCHMARKS, ONLY_NAMED
from tests.faults.__main__ import FAULTS, LONG

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (
    *("bash", "source", "python", "rzero", "ray", "prometheus", "curl", "grafana-server"),
    *("docker", "sed", "kubectl", "sbatch", "srun", "mkdir", "export", "for"),
)
"""What a command begins with, also in `.venv/bin/`. A block that begins with anything else is not
of commands."""


@dataclass(frozen=True)
class Command:
    """A command as it is typed, on one line and without its comment."""

    text: str
    place: str
    """`file:line`."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Yield the code blocks of a Markdown text as (number, line): fenced ones, and those that are
    indented by four after an empty line."""
    block: list[tuple[int, str]] = []
    fence, is_after_empty = "", True
    for number, line in enumerate([*text.splitlines(), "end"], start=1):
        found = re.match(r"\s*(```|~~~)", line)
        if found is not None and (not fence or found[1] == fence):
            fence = "" if fence else found[1]
        elif fence:
            block.append((number, line))
            continue
        elif line.startswith("    ") and (block or is_after_empty):
            block.append((number, line[4:]))
            continue
        elif not line.strip() and block and not fence:
            is_after_empty = True
            continue
        if block:
            yield block
        block, is_after_empty = [], not line.strip()


def is_of_commands(block: Sequence[tuple[int, str]]) -> bool:
    """Return whether a block begins with a program, or a variable that is set for one."""
    lines = [line for _, line in block if not line.startswith("#")]
    word = re.sub(r"^(\w+=\S*\s+)*", "", lines[0]) if lines else ""
    name = word.split()[0].removeprefix(".venv/bin/") if word.split() else ""
    return name in PROGRAMS or re.match(r"\w+=\$\(", lines[0] if lines else "") is not None


@cache
def command_blocks() -> list[tuple[str, list[tuple[int, str]]]]:
    """Return (file, block) for all blocks of commands."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [
        (name, block)
        for name in listed.stdout.split()
        for block in blocks((ROOT / name).read_text())
        if is_of_commands(block)
    ]


def commands_of(name: str, block: Sequence[tuple[int, str]]) -> Iterator[Command]:
    """Yield the commands of a block."""
    begun, place = "", ""
    for number, line in block:
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        place = place if begun else f"{name}:{number}"
        begun = f"{begun} {line.removesuffix(chr(92)).strip()}".strip()
        if begun and not line.endswith("\\"):
            yield Command(re.sub(r"\s+&$", "", begun), place)
            begun = ""


@cache
def commands() -> list[Command]:
    """Return the commands of all files."""
    return [command for name, block in command_blocks() for command in commands_of(name, block)]


# Parsing.


def _train(words: Sequence[str]) -> None:
    load_config([word for word in words if word != "--dry-run"])


def _audit(words: Sequence[str]) -> None:
    _, rest = load_own(AuditArguments, split_pairs(words), "")
    assert {key for key, _ in rest} <= flatten(asdict(AuditConfig())).keys()


def _compare(words: Sequence[str]) -> None:
    _, rest = load_own(CompareArguments, split_pairs(words), "")
    load_config(["method=labelled_grpo", *(f"{key}={value}" for key, value in rest)])


def _report(words: Sequence[str]) -> None:
    pairs = split_pairs(words)
    load_own(ReportArguments, pairs, "")
    assert {key for key, _ in pairs} <= {item.name for item in fields(ReportArguments)}


def _scale(words: Sequence[str]) -> None:
    _, rest = load_own(ScaleArguments, split_pairs(words), "")
    assert [read_request(key, value) for key, value in rest]


def _study(words: Sequence[str]) -> None:
    own, passed = parse_study(words)
    conf = own.gate or dict(passed).get("conf", "ladder")
    overrides = [f"{key}={value}" for key, value in passed if key != "conf"]
    arms = [*split_names(own.arms), *re.findall(r"[^,:]+", own.compare)]
    for arm in {"plain", *arms}:
        load_arm(arm, conf, overrides)


PARSERS: dict[str, Callable[[Sequence[str]], object]] = {
    "train": _train,
    "evaluate": lambda words: load_evaluation_config(list(words)),
    "audit": _audit,
    "compare": _compare,
    "report": _report,
    "scale": _scale,
    "study": _study,
}


def settings_of(module: str) -> set[str]:
    """Return the keys that a benchmark or a fault can be told, without importing it."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SETTINGS":
            parts = list(ast.walk(node.value))
            dicts = [part for part in parts if isinstance(part, ast.Dict)]
            keys = {ast.literal_eval(key) for of in dicts for key in of.keys if key is not None}
            named = [
                part
                for part in parts
                if isinstance(part, ast.Attribute) and part.attr == "SETTINGS"
            ]
            others = [settings_of(f"tests.bench.{ast.unparse(part.value)}") for part in named]
            return keys.union(*others)
    return set()


def _measure(package: str, known: Sequence[str], words: Sequence[str]) -> None:
    """Refuse names and keys that `python -m tests.bench` or `tests.faults` does not know."""
    words = [word for word in words if not word.startswith("--") and not word.endswith(".json")]
    names = [word for word in words if "=" not in word]
    assert set(names) <= set(known)
    keys = set[str]().union(*(settings_of(f"{package}.{name}") for name in names or known))
    assert {word.partition("=")[0] for word in words if "=" in word} <= keys


def _python(module: str, rest: Sequence[str]) -> None:
    if module == "rzero_ray":
        PARSERS[rest[0]](rest[1:])
    elif module == "rzero_ray.driver":
        _train(rest)
    elif module == "tests.bench":
        _measure(module, (*BENCHMARKS, *ONLY_NAMED), rest)
    elif module == "tests.faults":
        _measure(module, (*FAULTS, *LONG), rest)
    elif module.startswith("tests."):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def parsed(words: Sequence[str]) -> bool:
    """Have the part of a command that is this project's parsed; returns whether there is one."""
    for place, word in enumerate(words):
        rest = words[place + 1 :]
        program = word.removeprefix(".venv/bin/")
        if program == "rzero":
            PARSERS[rest[0]](rest[1:])
            return True
        if program == "python" and rest[:1] == ["-m"]:
            _python(rest[1], rest[2:])
            return True
        if word in ("launch/local.sh", "launch/slurm.sh"):
            _train(rest if any(w.startswith("conf=") for w in rest) else ["conf=tiny", *rest])
            return True
        if word.startswith("launch/"):
            assert (ROOT / word).is_file(), word
    return False
