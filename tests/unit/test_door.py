"""The one door: subcommands, their help, and what it says of a name that it does not know."""

import pytest

from rzero_ray.__main__ import COMMANDS, help_text, main

_LINES, _COLUMNS = 24, 100
"""A screen."""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_that_fits_a_screen(name: str, capsys: pytest.CaptureFixture[str]):
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: ")
    assert len(lines) <= _LINES, f"{len(lines)} lines"
    assert max(map(len, lines)) <= _COLUMNS


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_it_lists_them(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == help_text()
    assert all(f"rzero {name}" in shown for name in COMMANDS)


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["evalute", "model=tiny"]) == 2
    error = capsys.readouterr().err
    assert error == "rzero_ray: error: unknown command evalute; the nearest is evaluate\n"


def test_train_is_the_driver(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "conf=tiny", "sover.num_steps=1"]) == 2
    assert "the nearest is solver.num_steps" in capsys.readouterr().err
