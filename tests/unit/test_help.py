"""What the evaluation's commands say under --help: on one screen, of keys that exist."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from rzero_ray.__main__ import main
from rzero_ray.config.arguments import StudyArguments
from rzero_ray.config.audits import AuditConfig
from rzero_ray.config.config import Config
from rzero_ray.config.evaluation import EvaluationConfig
from rzero_ray.config.renames import SHORT_KEYS
from rzero_ray.config.sources import flatten

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "evaluate": {"conf", *SHORT_KEYS, *flatten(asdict(EvaluationConfig()))},
    "audit": {"run_dir", "iteration", "task", *flatten(asdict(AuditConfig()))},
    "study": {"conf", *flatten(asdict(StudyArguments())), *flatten(asdict(Config()))},
    "compare": {"conf", "seeds", "root", *flatten(asdict(Config()))},
}
"""By command, the keys that it takes."""


@pytest.mark.parametrize("command", KEYS)
def test_help_fits_a_screen(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert lines[0].startswith(f"usage: python -m rzero_ray {command} ")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith("Exit codes: 0 done, ")


@pytest.mark.parametrize("command", KEYS)
def test_help_names_keys_that_exist_and_where_all_are_documented(
    command: str, capsys: pytest.CaptureFixture[str]
):
    main([command, "--help"])
    text = capsys.readouterr().out
    keys = {*re.findall(r"(?<![\w.])([a-z_]+(?:\.[a-z_]+)*)=", text)} - {"key"}
    assert keys and keys <= KEYS[command]
    (module,) = re.findall(r"All keys and their defaults: .*?(rzero_ray/\S+\.py)\.", text)
    assert (ROOT / module).is_file()
